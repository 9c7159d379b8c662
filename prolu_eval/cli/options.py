"""Options that several commands share, and the evaluation that they describe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.errors import UsageError

if TYPE_CHECKING:
    from prolu_eval.evaluation import Options

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs, or single checkpoints.")]
Model = Annotated[
    str | None,
    typer.Option(help="'embedded', a local folder or a hub name [default: what the runs say]"),
]
Hook = Annotated[str | None, typer.Option(help="Hook point [default: what the runs say]")]
Tokens = Annotated[
    str | None,
    typer.Option(
        help="Text file or folder, dataset folder or name, .npy or .safetensors of token ids "
        "[default: the held-out part of the runs' own dataset]"
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split-tokens",
        help="train, heldout or all documents of the tokens "
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
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64")]
ResultsFolder = Annotated[
    Path | None,
    typer.Option("--results", help="Keep results here [default: evaluation/ beside each run]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no remarks.")]

_CHOICES = {
    "split": ("train", "heldout", "all"),
    "special_tokens": ("exclude", "include"),
    "dtype": ("float32", "bfloat16", "float16", "float64"),
}


def evaluation_options(**chosen: Any) -> "Options":
    """The evaluation that options describe.

    Raises:
        UsageError: if one is none of its choices, or the device is not there.
    """
    from prolu_eval.evaluation import Options

    for name, choices in _CHOICES.items():
        value = chosen.get(name)
        if value is not None and value not in choices:
            option = "--split-tokens" if name == "split" else f"--{name.replace('_', '-')}"
            raise UsageError(option, f"{value!r} is no choice", f"choose {', '.join(choices)}")
    check_device(chosen.get("device"))
    return Options(**chosen)


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
