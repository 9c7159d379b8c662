"""`prolu-eval baseline`: keep results to compare with."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, completion, options, remark, say_document, say_paragraph, say_table
from prolu_eval.cli.command import ANSWER, QUESTION, WRITTEN, Command, Group
from prolu_eval.errors import UsageError

group = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Keep results to compare with, and change them.",
)
app.add_typer(group, name="baseline", rich_help_panel=ANSWER)

BaselineFile = Annotated[
    Path,
    typer.Option(
        "--baseline",
        "-b",
        metavar="FILE",
        help="The baseline's JSON file.",
        rich_help_panel=QUESTION,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Only runs whose names match this shell pattern; may be given several times.",
        rich_help_panel=QUESTION,
        autocompletion=completion.run_names,
    ),
]


@group.command(cls=Command)
def save(
    runs: options.Runs,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The JSON file to write.",
            rich_help_panel=WRITTEN,
        ),
    ],
    only: Only = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a baseline that is there.", rich_help_panel=WRITTEN),
    ] = False,
) -> None:
    """Save the results of runs as a baseline: a JSON file to review, and sums beside it."""
    from prolu_eval.baseline import refuse_overwriting, save_baseline
    from prolu_eval.comparison.pairs import is_selected
    from prolu_eval.comparison.reading import read_results

    if not force:
        refuse_overwriting(output)
    results = read_results(runs, warn=remark)
    chosen = [result for result in results if is_selected(result.run.name, only or ())]
    if not chosen:
        raise UsageError("--only", "leaves no run", "name patterns that runs' names match")
    save_baseline(chosen, output)
    typer.echo(f"Wrote {len(chosen)} runs to {output}", err=True)


@group.command(cls=Command)
def show(
    baseline: Annotated[Path, typer.Argument(metavar="FILE", help="The baseline's JSON file.")],
    as_json: options.Json = False,
) -> None:
    """Show what a baseline holds."""
    from prolu_eval.baseline import load_baseline
    from prolu_eval.estimates import Estimate

    results = load_baseline(baseline)
    if as_json:
        runs = [result.model_dump(mode="json") for result in results]
        say_document({"baseline": str(baseline), "runs": runs})
        return
    keys = ("l0", "ce_degradation", "nmse")
    unknown = Estimate(value=None)
    rows = [(r.run.name, *(f"{r.metrics.get(k, unknown):se}" for k in keys)) for r in results]
    say_table([("run", *keys), *rows])
    for setting in dict.fromkeys(result.setting for result in results):
        say_paragraph(
            f"on {setting.tokens}: {setting.n_sequences} sequences of {setting.context_length}, "
            f"model {setting.model} ({setting.model_fingerprint[:8]}), {setting.dtype}, special "
            f"tokens {setting.special_tokens}d, metric version {setting.metric_version}"
        )


@group.command(cls=Command)
def update(
    runs: options.Runs,
    baseline: BaselineFile,
    only: Only = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Drop chosen runs that have no result any more.",
            rich_help_panel=WRITTEN,
        ),
    ] = False,
) -> None:
    """Replace a baseline's runs by their current results, and add new ones."""
    from prolu_eval.baseline import load_baseline, save_baseline, updated
    from prolu_eval.comparison.pairs import is_selected
    from prolu_eval.comparison.reading import read_results

    old = load_baseline(baseline)
    results = read_results(runs, settings={result.setting for result in old}, warn=remark)
    new = [result for result in results if is_selected(result.run.name, only or ())]
    before, now = {r.run.name: r for r in old}, {r.run.name for r in results}
    gone = [n for n in before if prune and is_selected(n, only or ()) and n not in now]
    if not new and not gone:
        raise UsageError("--only", "leaves no run", "name patterns that runs' names match")
    changed = sum(
        r.run.name in before and before[r.run.name].fingerprint != r.fingerprint for r in new
    )
    added = sum(r.run.name not in before for r in new)
    merged = updated(old, new, prune=gone)
    if not merged:
        raise UsageError("--prune", "leaves no run", "delete the baseline's files instead")
    save_baseline(merged, baseline)
    typer.echo(
        f"{baseline}: {changed} changed, {added} added, {len(gone)} dropped, "
        f"{len(merged) - changed - added} kept",
        err=True,
    )
