"""`prolu-eval synthetic`: write benchmarks with known features."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, completion, options, say, say_document
from prolu_eval.cli.command import TRAIN, WRITTEN, Command
from prolu_eval.spelling import suggesting

Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="FOLDER",
        help="Folder for the benchmarks, one folder each.",
        rich_help_panel=WRITTEN,
    ),
]
Preset = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Which of the presets; may be given several times [default: all of them]",
        rich_help_panel=WRITTEN,
        autocompletion=completion.presets,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Seed of directions and samples.", rich_help_panel=WRITTEN
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--n-samples",
        min=0,
        metavar="N",
        help="Held-out samples to write, for other tools.",
        rich_help_panel=WRITTEN,
    ),
]


@app.command(cls=Command, rich_help_panel=TRAIN)
def synthetic(
    out: Out = Path("bench"),
    preset: Preset = None,
    seed: Seed = 0,
    n_samples: Samples = 16_384,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write benchmarks: activations from known dictionaries, to train and evaluate on.

    A sweep trains on one with `--model synthetic:PRESET`, or `--model synthetic:FOLDER` for one
    that was written here, whose benchmark.json may be changed.
    """
    from prolu_eval.errors import UsageError
    from prolu_eval.synthetic import PRESETS
    from prolu_eval.synthetic.writing import write_benchmark

    names = list(dict.fromkeys(preset or PRESETS))
    for name in names:
        if name not in PRESETS:
            remedy = suggesting(name, PRESETS, f"choose {', '.join(PRESETS)}")
            raise UsageError("--preset", f"{name!r} is none", remedy)
    written = []
    for name in names:
        benchmark = PRESETS[name].model_copy(update={"seed": seed})
        folder = write_benchmark(out / name, benchmark, n_samples)
        written.append({"path": str(folder), **benchmark.model_dump()})
        if not (as_json or quiet):
            say(f"{folder}: {benchmark.tests}")
    if as_json:
        say_document({"benchmarks": written})
