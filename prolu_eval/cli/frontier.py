"""`prolu-eval frontier`: evaluate what is missing, print the frontier, write the report."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, options, say, say_document
from prolu_eval.cli.evaluate import exit_code, outcome_document, report_failures

if TYPE_CHECKING:
    from prolu_eval.analysis import Group
    from prolu_eval.evaluation import EvaluationOptions, Outcome

X = Annotated[str, typer.Option("-x", "--x", help="First objective.")]
Y = Annotated[str, typer.Option("-y", "--y", help="Second objective.")]
Z = Annotated[str | None, typer.Option("-z", "--z", help="Third objective, if any.")]
Splits = Annotated[
    list[str] | None,
    typer.Option("--split", help="METRIC=VALUE: answer for runs below and above it too."),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        "--reference", help="METRIC=VALUE: hypervolumes reach up to it [default: the worst run's]"
    ),
]
ReportPath = Annotated[
    Path | None, typer.Option(help="Where to write the report [default: RUNS/report.html]")
]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write the table of runs as CSV.")]
Parquet = Annotated[Path | None, typer.Option(help="Write the table of runs as Parquet.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]


@dataclass(frozen=True)
class Question:
    """What is asked of results: objectives, split points by metric, and the reference point."""

    keys: tuple[str, ...] = ("l0", "ce_degradation")
    splits: dict[str, list[float]] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)

    @classmethod
    def asked(
        cls, x: str, y: str, z: str | None, splits: list[str] | None, reference: list[str] | None
    ) -> "Question":
        """The question that options ask.

        Raises:
            UsageError: if an objective is none, or a split or reference is no METRIC=VALUE.
        """
        from prolu_eval.analysis import maximised
        from prolu_eval.errors import UsageError

        keys = (x, y) if z is None else (x, y, z)
        maximised(*keys)
        at: dict[str, list[float]] = {}
        for metric, value in options.metric_values("--split", splits):
            at.setdefault(metric, []).append(value)
        point = dict(options.metric_values("--reference", reference))
        for metric in point.keys() - set(keys):
            raise UsageError("--reference", f"{metric} is no objective here", "name one that is")
        return cls(keys, at, point)

    def arguments(self) -> list[str]:
        """The options that ask it again."""
        letters = [part for letter, key in zip("xyz", self.keys, strict=False)
                   for part in (f"-{letter}", key)]  # fmt: skip
        splits = [f"--split={k}={v:g}" for k, values in self.splits.items() for v in values]
        return letters + splits + [f"--reference={k}={v:g}" for k, v in self.reference.items()]


@app.command(cls=options.EvaluatingCommand)
def frontier(
    context: typer.Context,
    runs: options.Runs,
    x: X = "l0",
    y: Y = "ce_degradation",
    z: Z = None,
    split_at: Splits = None,
    reference: Reference = None,
    report: ReportPath = None,
    csv: Csv = None,
    parquet: Parquet = None,
    markdown: Markdown = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate what has no result yet, print the Pareto frontier, and write the report."""
    question = Question.asked(x, y, z, split_at, reference)
    raise typer.Exit(
        answer(
            runs, options.chosen(context), question, report=report, csv=csv, parquet=parquet,
            as_markdown=markdown, as_json=as_json, quiet=quiet,
        )
    )  # fmt: skip


def answer(
    runs: list[Path],
    chosen: "EvaluationOptions",
    question: Question,
    *,
    report: Path | None = None,
    csv: Path | None = None,
    parquet: Path | None = None,
    as_markdown: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Evaluate, print and report; the exit code."""
    from prolu_eval.analysis import answer_results
    from prolu_eval.evaluation import evaluate
    from prolu_eval.render.documents import frontier_document
    from prolu_eval.render.markdown import frontier_markdown
    from prolu_eval.render.page import write_report
    from prolu_eval.render.table_files import write_table
    from prolu_eval.render.terminal import frontier_text

    outcomes = evaluate(runs, chosen, progress=not quiet)
    report_failures(outcomes)
    measured = [outcome.result for outcome in outcomes if outcome.result is not None]
    if not measured:
        return exit_code(outcomes)
    groups = answer_results(measured, question.keys, question.splits, question.reference)
    if not as_json:  # before files are written: a full disk hides no answer
        for group, found in groups:
            shown = frontier_markdown if as_markdown else frontier_text
            typer.echo(shown(group, found) + "\n")
    path = write_report(
        groups,
        report or default_report(runs),
        command=command_line("frontier", runs, question),
    )
    for table in (csv, parquet):
        if table is not None:
            write_table(groups, table, parquet=table is parquet)
    if as_json:
        document = frontier_document(
            groups, question.keys, path, lambda group: _runs(group, outcomes)
        )
        say_document(document)
    else:
        say(f"Report: {path}")
    return exit_code(outcomes)


def _runs(group: "Group", outcomes: "list[Outcome]") -> list[dict[str, Any]]:
    names = {result.run.name for result in group.results}
    return [outcome_document(outcome) for outcome in outcomes if outcome.name in names]


def default_report(runs: list[Path]) -> Path:
    """report.html in the one folder of runs, or here."""
    return runs[0] / "report.html" if len(runs) == 1 and runs[0].is_dir() else Path("report.html")


def command_line(command: str, runs: list[Path], question: Question) -> str:
    """The command that makes the same report again."""
    import shlex

    return shlex.join(["prolu-eval", command, *map(str, runs), *question.arguments()])
