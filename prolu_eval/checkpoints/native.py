"""The native format: a folder with ``config.json`` and ``sae.safetensors``."""

from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save

from prolu_eval.checkpoints.base import Format, build, fill
from prolu_eval.checkpoints.hook_names import hook_of
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.errors import CheckpointError
from prolu_eval.results import write_atomically, write_json
from prolu_eval.runs import (
    CONFIG_FILE,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    Run,
    RunConfig,
    chance_label,
)
from prolu_eval.saes import SparseAutoencoder


def read_config(path: Path) -> RunConfig:
    """Read a run's config.json.

    Raises:
        CheckpointError: if the file is missing, is no JSON, or does not describe a run.
    """
    document = read_json(path)
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise CheckpointError(
            path, f"has schema {version}, newer than {SCHEMA_VERSION}", "update prolu-eval"
        )
    return validate(RunConfig, document, path)


def _build(config: RunConfig, path: Path) -> SparseAutoencoder:
    return build(
        config.variant,
        config.d_in,
        config.d_sae,
        config.options,
        path,
        d_out=config.d_out,
        skip=config.skip,
        apply_b_dec_to_input=config.apply_b_dec_to_input,
        normalisation=config.normalisation,
    )


def save_run(folder: Path, sae: SparseAutoencoder, config: RunConfig) -> None:
    """Write a run folder, each file atomically and the config last.

    ``config`` describes the training; variant, options, sizes and normalisation are taken from the
    autoencoder instead. The config is written last because a folder without it is no run: if the
    first write is interrupted, the folder is not taken for a finished checkpoint.

    Raises:
        ResultsError: if the folder cannot be written to.
    """
    tensors = {
        name: parameter.detach().cpu().contiguous() for name, parameter in sae.named_parameters()
    }
    config = config.model_copy(
        update={
            "variant": sae.variant,
            "options": sae.options.model_dump(),
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "d_out": sae.d_out if sae.transcodes else None,
            "skip": sae.skip,
            "normalisation": sae.normalisation,
            "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        }
    )
    write_atomically(folder / WEIGHTS_FILE, save(tensors))
    write_json(folder / CONFIG_FILE, config.model_dump(mode="json"))


def write_native(folder: Path, sae: SparseAutoencoder, run: Run) -> None:
    """Write an autoencoder of any format as a native run, with its provenance.

    Raises:
        ResultsError: if the folder cannot be written to.
    """
    kept = ("model", "model_revision", "hook", "hook_out", "dataset", "text_column",
            "context_length", "prepend_bos", "weight_processing", "penalty", "coefficient",
            "learning_rate", "seed", "chance")  # fmt: skip
    config = RunConfig(
        variant=sae.variant,
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        training={"converted_from": {"format": run.format, **run.provenance}},
        **{name: getattr(run, name) for name in kept},
    )
    save_run(folder, sae, config)


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if CONFIG_FILE not in names or "cfg.json" in names:
        return
    if WEIGHTS_FILE in names or _is_native(folder / CONFIG_FILE):
        yield folder


def _is_native(path: Path) -> bool:
    """Whether a config.json, without weights beside it, belongs to a native run."""
    try:
        return {"schema_version", "variant", "d_sae"} <= read_json(path).keys()
    except CheckpointError:
        return False


def _files(folder: Path) -> tuple[Path, ...]:
    return folder / CONFIG_FILE, folder / WEIGHTS_FILE


def _describe(folder: Path) -> list[Run]:
    config = read_config(folder / CONFIG_FILE)
    if not (folder / WEIGHTS_FILE).exists():
        raise CheckpointError(
            folder / WEIGHTS_FILE, "is missing", "restore it, or remove the run's folder"
        )
    sae = _build(config, folder / CONFIG_FILE)
    label = sae.label if config.penalty is None else f"{sae.label}+{config.penalty}"
    return [
        Run(
            name=folder.name,
            path=folder,
            format=FORMAT.name,
            variant=config.variant,
            label=chance_label(label, config.chance),
            d_in=config.d_in,
            d_sae=config.d_sae,
            files=_files(folder),
            hook=hook_of(config.hook),
            hook_out=hook_of(config.hook_out),
            d_out=config.d_out,
            n_weights=sae.n_weights,
            model=config.model,
            model_revision=config.model_revision,
            dataset=config.dataset,
            text_column=config.text_column,
            context_length=config.context_length,
            prepend_bos=config.prepend_bos,
            weight_processing=config.weight_processing,
            penalty=config.penalty,
            coefficient=config.coefficient,
            learning_rate=config.learning_rate,
            seed=config.seed,
            chance=config.chance,
            problems=(f"not converged: {config.not_converged}",) if config.not_converged else (),
            options=sae.options.model_dump(mode="json"),
            provenance={"library": "prolu-eval", "config": config.model_dump(mode="json")},
        )
    ]


def _load(run: Run) -> SparseAutoencoder:
    sae = _build(read_config(run.path / CONFIG_FILE), run.path / CONFIG_FILE)
    return fill(sae, read_safetensors(run.path / WEIGHTS_FILE), run.path / WEIGHTS_FILE)


FORMAT = Format("native", _find, _files, _describe, _load)
