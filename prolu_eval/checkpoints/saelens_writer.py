"""Writing autoencoders in SAELens's format, which SAELens 6 loads with ``SAE.load_from_disk``."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from prolu_eval.checkpoints.saelens import CONFIG_FILE, WEIGHTS_FILE
from prolu_eval.errors import CheckpointError
from prolu_eval.results import write_atomically, write_json
from prolu_eval.runs import Run, split_head
from prolu_eval.saes import SparseAutoencoder, as_jumprelu

_ARCHITECTURES = {
    "relu": "standard",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "topk": "topk",
    "abstopk": "abstopk",
    "matching_pursuit": "matching_pursuit",
}
_TRANSCODERS = {
    ("relu", False): "transcoder",
    ("relu", True): "skip_transcoder",
    ("jumprelu", False): "jumprelu_transcoder",
    ("jumprelu", True): "jumprelu_skip_transcoder",
}
_NORMALISATIONS = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm": "constant_norm_rescale",
}

_OPTIONS = ("k", "residual_threshold", "max_iterations", "stop_on_duplicate_support")
_PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
# If there is no version, SAELens assumes a file from before version 6 and drops its metadata.
_LAYOUT = "6.0.0"


def write_saelens(folder: Path, sae: SparseAutoencoder, run: Run) -> None:
    """Write an autoencoder in SAELens's format, after an exact conversion of its variant if needed.

    Raises:
        CheckpointError: if SAELens has no architecture that computes the same.
        ResultsError: if the folder cannot be written to.
    """
    written = _expressible(sae)
    if written is None:
        raise CheckpointError(
            run.path, f"SAELens has no architecture equal to {run.label}", "convert it --to native"
        )
    dtype = str(written.W_dec.dtype).removeprefix("torch.")
    options = {
        name: value for name, value in written.options.model_dump().items() if name in _OPTIONS
    }
    if written.variant in ("topk", "abstopk"):
        options["rescale_acts_by_decoder_norm"] = False
    document: dict[str, Any] = {
        "architecture": _architecture(written),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        **({"d_out": sae.d_out} if sae.transcodes else {}),
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": _NORMALISATIONS[sae.normalisation],
        "reshape_activations": "hook_z" if (run.hook or "").endswith("hook_z") else "none",
        **options,
        "metadata": _metadata(sae, run),
    }
    tensors = {name: p.detach().cpu().contiguous() for name, p in written.named_parameters()}
    if written.skip:
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    write_atomically(folder / WEIGHTS_FILE, save(tensors))
    write_json(folder / CONFIG_FILE, document)


@torch.no_grad()
def _expressible(sae: SparseAutoencoder) -> SparseAutoencoder | None:
    if sae.transcodes:
        if sae.apply_b_dec_to_input:
            return None
        return sae if sae.variant == "relu" else as_jumprelu(sae)
    rectified = getattr(sae.options, "rectify", True)
    if sae.variant in _ARCHITECTURES:
        return sae if rectified else None
    return as_jumprelu(sae)


def _architecture(sae: SparseAutoencoder) -> str:
    if sae.transcodes:
        return _TRANSCODERS[sae.variant, sae.skip]
    return _ARCHITECTURES[sae.variant]


def _metadata(sae: SparseAutoencoder, run: Run) -> dict[str, Any]:
    hook, head = (None, None) if run.hook is None else split_head(run.hook)
    known = {
        "model_name": run.model,
        "hook_name": hook,
        "hook_head_index": head,
        "hook_name_out": run.hook_out,
        "dataset_path": run.dataset,
        "context_size": run.context_length,
        "prepend_bos": run.prepend_bos,
        "training_architecture": sae.variant,
        "sae_lens_version": _LAYOUT,
        "converted_from": {"format": run.format, **run.provenance},
    }
    if run.weight_processing == "processed":
        known["model_from_pretrained_kwargs"] = dict.fromkeys(_PROCESSING, True)
    return {name: value for name, value in known.items() if value is not None}
