"""Options that several commands share, and the evaluation that they describe."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.errors import UsageError

if TYPE_CHECKING:
    from prolu_eval.evaluation import Options

Runs = Annotated[
    list[Path],
    typer.Argument(help="Folders of runs, single checkpoints, or hub:owner/name[/folder]."),
]
Model = Annotated[
    str | None,
    typer.Option(help="'embedded', a local folder or a hub name [default: what the runs say]"),
]
Hook = Annotated[str | None, typer.Option(help="Hook point [default: what the runs say]")]
Tokens = Annotated[
    str | None,
    typer.Option(
        help="Text or JSON lines, JSON, CSV, TSV, Parquet (or packed: .gz, .zst), a folder of "
        "these, a dataset's folder or name, .npy or .safetensors of token ids "
        "[default: the held-out part of the runs' own dataset]"
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the text or the token ids [default: input_ids, tokens, text or content]"
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split-tokens",
        help="train, heldout or all of the tokens "
        "[default: all of --tokens, heldout of a run's own dataset]",
    ),
]
NTokens = Annotated[int, typer.Option(min=1, help="Evaluate on so many tokens, at most.")]
ContextLength = Annotated[
    int | None, typer.Option(min=2, help="Tokens per sequence [default: what the runs say, or 128]")
]
SpecialTokens = Annotated[
    str, typer.Option(help="exclude: special positions pass unreplaced and uncounted; or include")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Sequences per batch [default: what fits the device]")
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, ... [default: cuda where there is one]")
]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Spread a model over several devices: auto or balanced (needs accelerate)"),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="float32, tf32 (float32, matrix products on CUDA rounded to TF32), bfloat16, float16 "
        "or float64"
    ),
]
PrependBos = Annotated[
    bool | None, typer.Option(help="Begin sequences with BOS or not [default: what the runs say]")
]
Packing = Annotated[
    str, typer.Option(help="concatenate: sequences run on into the next document; or separate")
]
WeightProcessing = Annotated[
    str | None,
    typer.Option(
        help="none, or processed: activations of the weights as TransformerLens processes them "
        "[default: what the runs say, or none]"
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the autoencoders' encoding.")]
TargetSe = Annotated[
    list[str] | None,
    typer.Option(
        help="METRIC=VALUE, e.g. ce_degradation=0.002: evaluate until every run's standard error "
        "is that small, on at most --n-tokens tokens"
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        help="I/N, from 0/N: measure one of N shares of the tokens only. Results appear when all "
        "are measured, by several machines on one folder or one after another"
    ),
]
ShardTokens = Annotated[int, typer.Option(min=1, help="Save what is measured every so many tokens")]
ResultsFolder = Annotated[
    Path | None,
    typer.Option(
        "--results",
        help="Keep results here [default: evaluation/ beside each run; of hub: runs, results/ in "
        "the cache folder]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no remarks.")]

# The options of every command that evaluates, and their defaults.
_EVALUATION: dict[str, tuple[Any, Any]] = {
    "model": (Model, None),
    "hook": (Hook, None),
    "tokens": (Tokens, None),
    "text_column": (TextColumn, None),
    "split": (SplitOption, None),
    "n_tokens": (NTokens, 131_072),
    "context_length": (ContextLength, None),
    "prepend_bos": (PrependBos, None),
    "packing": (Packing, "concatenate"),
    "special_tokens": (SpecialTokens, "exclude"),
    "weight_processing": (WeightProcessing, None),
    "batch_size": (BatchSize, None),
    "device": (Device, None),
    "device_map": (DeviceMap, None),
    "dtype": (Dtype, "float32"),
    "compile": (Compile, False),
    "target_se": (TargetSe, None),
    "shard": (Shard, None),
    "shard_tokens": (ShardTokens, 16_384),
    "results": (ResultsFolder, None),
}
_CHOICES = {
    "split": ("train", "heldout", "all"),
    "special_tokens": ("exclude", "include"),
    "dtype": ("float32", "tf32", "bfloat16", "float16", "float64"),
    "packing": ("concatenate", "separate"),
    "weight_processing": ("none", "processed"),
}


def with_evaluation(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options of an evaluation and passes them on as one: ``chosen``."""

    @wraps(command)
    def taking(**values: Any) -> None:
        chosen = evaluation_options(**{name: values.pop(name) for name in _EVALUATION})
        command(chosen=chosen, **values)

    own = [p for p in signature(command).parameters.values() if p.name != "chosen"]
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _EVALUATION.items()
    ]
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own] + shared
    taking.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    taking.__annotations__ = {p.name: p.annotation for p in parameters}
    return taking


def evaluation_options(**chosen: Any) -> "Options":
    """The evaluation that options describe.

    Raises:
        UsageError: if one is none of its choices, malformed, or the device is not there.
    """
    from prolu_eval.evaluation import Options

    for name, choices in _CHOICES.items():
        value = chosen.get(name)
        if value is not None and value not in choices:
            option = "--split-tokens" if name == "split" else f"--{name.replace('_', '-')}"
            raise UsageError(option, f"{value!r} is no choice", f"choose {', '.join(choices)}")
    check_device(chosen.get("device"))
    if "target_se" in chosen:
        chosen["target_se"] = dict(metric_values("--target-se", chosen["target_se"]))
    if chosen.get("shard") is not None:
        chosen["shard"] = _share(chosen["shard"])
    return Options(**chosen)


def metric_values(option: str, texts: list[str] | None) -> list[tuple[str, float]]:
    """Metrics and numbers of an option that may be given several times, as METRIC=VALUE.

    Raises:
        UsageError: if one is not that.
    """
    from prolu_eval.metrics import METRICS

    found = []
    for text in texts or ():
        metric, _, value = text.partition("=")
        if metric not in METRICS:
            raise UsageError(option, f"{metric!r} is no metric", "see `prolu-eval metrics`")
        try:
            found.append((metric, float(value)))
        except ValueError:
            raise UsageError(option, f"{text!r} has no number", "write METRIC=VALUE") from None
    return found


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    try:
        return int(index), int(count)
    except ValueError:
        raise UsageError("--shard", f"{text!r} is no share", "give e.g. 0/4") from None


def check_device(device: str | None) -> None:
    """See that a device can be used.

    Raises:
        UsageError: if torch does not know it, or it is not there.
    """
    import torch

    if device is None:
        return
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError("--device", f"{device!r} cannot be used ({reason})", "try cpu") from None
