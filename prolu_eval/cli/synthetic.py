"""`prolu-eval synthetic`: write benchmarks with known features."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, options, say, say_document

Out = Annotated[Path, typer.Option(help="Folder for the benchmarks, one folder each.")]
Preset = Annotated[
    list[str] | None, typer.Option(help="Which of the presets [default: all of them]")
]
Seed = Annotated[int, typer.Option(min=0, help="Of directions and samples.")]
Samples = Annotated[
    int, typer.Option("--n-samples", min=0, help="Held-out samples to write, for other tools.")
]


@app.command()
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
            raise UsageError("--preset", f"{name!r} is none", f"choose {', '.join(PRESETS)}")
    written = []
    for name in names:
        benchmark = PRESETS[name].model_copy(update={"seed": seed})
        folder = write_benchmark(out / name, benchmark, n_samples)
        written.append({"path": str(folder), **benchmark.model_dump()})
        if not (as_json or quiet):
            say(f"{folder}: {benchmark.tests}")
    if as_json:
        say_document({"benchmarks": written})
