"""`prolu-eval stability`: do trainings that differ in the seed find the same features?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, options, remark, say, say_document, say_paragraph, say_table
from prolu_eval.cli.command import CHECKPOINTS, QUESTION, WRITTEN, Command
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT
from prolu_eval.estimates import Estimate, number, unrounded

if TYPE_CHECKING:
    from prolu_eval.evaluation.stability import Stability

Threshold = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar="COSINE",
        help="Cosine from which a feature counts as found again.",
        rich_help_panel=QUESTION,
    ),
]
Errors = Annotated[
    bool,
    typer.Option(
        "--errors",
        help="Also measure what the stable features alone reconstruct, in the model that the runs "
        "name.",
        rich_help_panel=QUESTION,
    ),
]
NTokens = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens that --errors are measured on.",
        rich_help_panel=QUESTION,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the stability of each feature here, as .safetensors.",
        rich_help_panel=WRITTEN,
    ),
]


@app.command(cls=Command, rich_help_panel=CHECKPOINTS)
def stability(
    runs: options.Runs,
    threshold: Threshold = 0.7,
    errors: Errors = False,
    n_tokens: NTokens = 16_384,
    output: Output = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Match the features of runs that differ in the seed alone, and say how many are found again.

    Beside it stands what random dictionaries of the same shape give.
    """
    from prolu_eval.devices import devices_of
    from prolu_eval.evaluation import EvaluationOptions
    from prolu_eval.evaluation.stability import stability as compared

    devices_of(device)
    chosen = EvaluationOptions(device=device, n_tokens=n_tokens)
    found, failed = compared(runs, chosen, threshold=threshold, errors=errors)
    code = DONE if not failed else CHECK_FAILED if found else WRONG_INPUT
    if output is not None and found:
        _write(output, found)
    if as_json:
        say_document({
            "threshold": threshold,
            "configurations": [_document(s) for s in found],
            "failed": [{"run": b.name, "path": str(b.path), "error": b.error} for b in failed],
        })  # fmt: skip
    elif found:
        _print(found, threshold, errors=errors)
        if output is not None:
            say(f"Features: {output}")
    for broken in failed:
        remark(f"{broken.name} skipped: {broken.error}")
    raise typer.Exit(code)


def _print(found: "list[Stability]", threshold: float, *, errors: bool) -> None:
    head = ["variant", "coefficient", "seeds", "mean cosine", "chance",
            f"found at {unrounded(threshold)}", "chance"]  # fmt: skip
    if errors:
        head += ["nmse, all", "stable alone", "as many at random"]
    rows = [head, *(_row(s) for s in found)]
    say_table(rows)
    say_paragraph("Intervals leave out a seed at a time; two seeds have none.")
    if not all(s.exact for s in found):
        say_paragraph(
            "Dictionaries of more than 4,096 features are matched greedily; chance is that of the "
            "nearest feature."
        )


def _row(found: "Stability") -> list[str]:
    cells = [
        found.label,
        unrounded(found.coefficient),
        str(len(found.runs)),
        f"{found.cosine}",
        number(found.chance.cosine),
        f"{found.found:%}",
        f"{Estimate(value=found.chance.found):%}",
    ]
    if found.kept:
        kept = found.kept[found.runs[0]]
        cells += [f"{part:v}" for part in (kept.whole, kept.stable, kept.random)]
    return cells


def _document(found: "Stability") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "variant": found.label,
        "coefficient": found.coefficient,
        "runs": list(found.runs),
        "cosine": found.cosine.to_json(),
        "nearest": found.nearest.to_json(),
        "found": found.found.to_json(),
        "chance": asdict(found.chance),
        "exact": found.exact,
        "kept": {
            name: {part: getattr(kept, part).to_json() for part in ("whole", "stable", "random")}
            for name, kept in found.kept.items()
        },
    }


def _write(path: Path, found: "list[Stability]") -> None:
    from safetensors.numpy import save

    from prolu_eval.results import write_atomically

    arrays = {name: values for s in found for name, values in s.features.items()}
    write_atomically(path, save(arrays))
