"""`prolu-eval frontier`: evaluate what is missing, print the frontier, write the report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, options
from prolu_eval.cli.evaluate import describe, exit_code, report_failures

if TYPE_CHECKING:
    from prolu_eval.analysis import Group
    from prolu_eval.evaluation import Options, Outcome

X = Annotated[str, typer.Option("-x", "--x", help="First objective.")]
Y = Annotated[str, typer.Option("-y", "--y", help="Second objective.")]
ReportPath = Annotated[
    Path | None, typer.Option(help="Where to write the report [default: RUNS/report.html]")
]


@app.command()
def frontier(
    runs: options.Runs,
    x: X = "l0",
    y: Y = "ce_degradation",
    report: ReportPath = None,
    model: options.Model = None,
    hook: options.Hook = None,
    tokens: options.Tokens = None,
    split: options.SplitOption = None,
    n_tokens: options.NTokens = 131_072,
    context_length: options.ContextLength = None,
    special_tokens: options.SpecialTokens = "exclude",
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    results: options.ResultsFolder = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate what has no result yet, print the Pareto frontier, and write the report."""
    from prolu_eval.analysis import maximised

    maximised(x, y)
    chosen = options.evaluation_options(
        model=model,
        hook=hook,
        tokens=tokens,
        split=split,
        n_tokens=n_tokens,
        context_length=context_length,
        special_tokens=special_tokens,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        results=results,
    )
    raise typer.Exit(answer(runs, chosen, x=x, y=y, report=report, as_json=as_json, quiet=quiet))


def answer(
    runs: list[Path],
    chosen: "Options",
    *,
    x: str,
    y: str,
    report: Path | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Evaluate, print and report; the exit code."""
    from prolu_eval.analysis import comparable
    from prolu_eval.analysis import frontier as compute_frontier
    from prolu_eval.evaluation import evaluate
    from prolu_eval.report import frontier_text, write_report

    outcomes = evaluate(runs, chosen, progress=not quiet)
    report_failures(outcomes)
    measured = [outcome.result for outcome in outcomes if outcome.result is not None]
    if not measured:
        return exit_code(outcomes)
    path = write_report(
        measured, report or default_report(runs), x=x, y=y, command=command_line(runs, x, y)
    )
    groups = [(group, compute_frontier(group, x, y)) for group in comparable(measured)]
    if as_json:
        parts = [
            {
                "group": group.title,
                "frontier": found.frontier,
                "hypervolume": found.hypervolume,
                "reference": found.reference,
                "variants": {v.label: asdict(v) for v in found.variants},
                "runs": _runs(group, outcomes),
            }
            for group, found in groups
        ]
        # One group, the usual case, is the document itself; several stand apart in it.
        content: dict[str, Any] = parts[0] if len(parts) == 1 else {"groups": parts}
        document = {"x": x, "y": y, **content, "report": str(path)}
        typer.echo(json.dumps(document, indent=1))
    else:
        for group, found in groups:
            typer.echo(frontier_text(group, found) + "\n")
        typer.echo(f"Report: {path}")
    return exit_code(outcomes)


def default_report(runs: list[Path]) -> Path:
    """report.html in the one folder of runs, or here."""
    return runs[0] / "report.html" if len(runs) == 1 and runs[0].is_dir() else Path("report.html")


def command_line(runs: list[Path], x: str, y: str) -> str:
    """The command that makes the same report again."""
    import shlex

    return f"prolu-eval frontier {shlex.join(str(run) for run in runs)} -x {x} -y {y}"


def _runs(group: "Group", outcomes: "list[Outcome]") -> list[dict[str, Any]]:
    names = {result.run.name for result in group.results}
    return [describe(outcome) for outcome in outcomes if outcome.name in names]
