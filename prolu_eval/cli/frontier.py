"""`prolu-eval frontier`: evaluate what is missing, print the frontier, write the report."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolu_eval.cli import app, completion, options, say, say_document, terminal_width
from prolu_eval.cli.command import ANSWER, PRINTED, QUESTION, WRITTEN
from prolu_eval.cli.evaluate import (
    exit_code,
    outcome_document,
    remark_precisions,
    remark_race,
    remark_tasks,
    report_failures,
)

if TYPE_CHECKING:
    from prolu_eval.analysis import Answer, Question
    from prolu_eval.evaluation import EvaluationOptions, Outcome
    from prolu_eval.render.documents import RunDocument
    from prolu_eval.results import Result

Splits = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        metavar="METRIC=VALUE",
        help="Answer for the runs below and above this value too; may be given several times.",
        rich_help_panel=QUESTION,
        autocompletion=completion.metric_values,
    ),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        metavar="METRIC=VALUE",
        help="Hypervolumes reach up to this value [default: a tenth of the range beyond the worst "
        "run]",
        rich_help_panel=QUESTION,
        autocompletion=completion.metric_values,
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="METRIC=VALUE",
        help="Say how variants compare at this value, and which of their runs are near it.",
        rich_help_panel=QUESTION,
        autocompletion=completion.metric_values,
    ),
]
ReportPath = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Where to write the report [default: report.html where results go]",
        rich_help_panel=WRITTEN,
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Write the table of runs here, as CSV.",
        rich_help_panel=WRITTEN,
    ),
]
Parquet = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the table of runs here, as Parquet.",
        rich_help_panel=WRITTEN,
    ),
]
Markdown = Annotated[
    bool,
    typer.Option("--markdown", help="Print the answer as Markdown.", rich_help_panel=PRINTED),
]

# Runs that a folder must hold to be compared with others as a folder.
_SEVERAL = 2


def asked(
    runs: list[Path],
    x: str,
    y: str,
    z: str | None,
    splits: list[str] | None,
    reference: list[str] | None,
    at: list[str] | None,
) -> "Question":
    """The question that options ask, of several folders about these.

    A folder beside names on the hub holds one's own runs: all stand on one frontier.

    Raises:
        UsageError: if an objective is none, or a METRIC=VALUE is not that, or of no objective.
    """
    from prolu_eval.analysis import Question
    from prolu_eval.hub import is_hub_name

    return Question.asked(
        x, y, z,
        splits=options.metric_values("--split", splits),
        reference=options.metric_values("--reference", reference),
        at=options.metric_values("--at", at),
        grouping="folder" if len(runs) > 1 and not any(map(is_hub_name, runs)) else "variant",
    )  # fmt: skip


@app.command(cls=options.EvaluatingCommand, rich_help_panel=ANSWER)
def frontier(
    context: typer.Context,
    runs: options.OptionalRuns = None,
    x: options.X = "l0",
    y: options.Y = "ce_degradation",
    z: options.Z = None,
    split_at: Splits = None,
    reference: Reference = None,
    at: At = None,
    report: ReportPath = None,
    csv: Csv = None,
    parquet: Parquet = None,
    markdown: Markdown = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate what has no result yet, print the Pareto frontier, and write the report.

    Several folders are compared with each other, variant by variant and in all. A folder and names
    such as saelens:RELEASE/SAE_ID stand on one frontier.
    """
    named = runs or []
    question = asked(named, x, y, z, split_at, reference, at)
    chosen = options.chosen(context, *question.keys)
    raise typer.Exit(
        evaluate_and_answer(
            named, chosen, question, report=report, csv=csv, parquet=parquet,
            as_markdown=markdown, as_json=as_json, quiet=quiet,
        )
    )  # fmt: skip


def evaluate_and_answer(
    runs: list[Path],
    chosen: "EvaluationOptions",
    question: "Question",
    *,
    report: Path | None = None,
    csv: Path | None = None,
    parquet: Path | None = None,
    as_markdown: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Evaluate, print and report; the exit code.

    This loads torch even where every result is stored. Whether one is current is decided by what
    the run's files, the model's weights and the text's token ids are now, all of which are read as
    a measurement reads them: checkpoints are described by the modules that hold them, and the ids
    come from the model's tokenizer. Dates or names of files would do without, and would take a
    text, a tokenizer or a model that has changed for the one that was measured. What is stored is
    answered without torch by ``prolu-eval report`` and :func:`prolu_eval.frontier`.
    """
    from prolu_eval.evaluation import evaluate

    outcomes = evaluate(runs, chosen, progress=not quiet)
    if not quiet:
        remark_precisions(outcomes)
        remark_tasks(outcomes, chosen)
        remark_race(outcomes)
    try:
        _answer(
            outcomes, runs, chosen, question, report=report, csv=csv, parquet=parquet,
            as_markdown=as_markdown, as_json=as_json,
        )  # fmt: skip
    finally:
        report_failures(outcomes)
    return exit_code(outcomes)


def _answer(
    outcomes: "list[Outcome]",
    runs: list[Path],
    chosen: "EvaluationOptions",
    question: "Question",
    *,
    report: Path | None,
    csv: Path | None,
    parquet: Path | None,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Print the answer from what was measured, and write the report and the tables."""
    from prolu_eval.analysis import answer
    from prolu_eval.render.documents import frontier_document
    from prolu_eval.render.markdown import frontier_markdown
    from prolu_eval.render.page import write_report
    from prolu_eval.render.table_files import write_table
    from prolu_eval.render.terminal import frontier_text

    by = _by_folder if question.grouping == "folder" else _by_release
    measured = by(runs, outcomes)
    if not measured:
        if as_json:
            others = [outcome_document(outcome) for outcome in outcomes]
            document = frontier_document([], question.keys, None, lambda _: [], others=others)
            say_document(document.to_json())
        return
    answers = answer(measured, question)
    if not as_json:  # before files are written: a full disk hides no answer
        for found in answers:
            shown = (
                frontier_markdown(found) if as_markdown else frontier_text(found, terminal_width())
            )
            typer.echo(shown + "\n")
    path = write_report(
        answers,
        report or default_report(runs, chosen.results),
        command=command_line("frontier", runs, question),
    )
    for table in (csv, parquet):
        if table is not None:
            write_table(answers, table, parquet=table is parquet)
    if as_json:
        others = [outcome_document(outcome) for outcome in outcomes if outcome.result is None]
        document = frontier_document(
            answers, question.keys, path, lambda found: _runs(found, outcomes), others=others
        )
        say_document(document.to_json())
    else:
        say(f"Report: {path}")


def _measured(outcomes: "list[Outcome]") -> "list[Result]":
    return [outcome.result for outcome in outcomes if outcome.result is not None]


def _by_release(paths: list[Path], outcomes: "list[Outcome]") -> "list[Result]":
    """Results whose variants bear the name of their release, if there is anything beside it."""
    from prolu_eval.hub import is_hub_name, origin
    from prolu_eval.results import prefix_label_with_release

    if len(paths) == 1:
        return _measured(outcomes)
    named = {origin(path): path for path in paths if is_hub_name(path)}
    found = []
    for outcome in outcomes:
        if outcome.result is not None:
            path = next((p for t, p in named.items() if outcome.name.startswith(f"{t}/")), None)
            found.append(
                outcome.result if path is None else prefix_label_with_release(outcome.result, path)
            )
    return found


def _by_folder(folders: list[Path], outcomes: "list[Outcome]") -> "list[Result]":
    """Results whose variants bear the name of their folder, if each folder holds several runs.

    Single runs named one by one, and folders on the hub, are no folders to be compared.
    """
    from prolu_eval.results import prefix_label_with_folder
    from prolu_eval.run_names import folder_titles

    titles = {folder.resolve(): title for folder, title in folder_titles(folders).items()}
    found = []
    for outcome in outcomes:
        if outcome.result is not None:
            place = outcome.path.resolve()
            homes = [home for home in (place, *place.parents) if home in titles]
            found.append((outcome.result, titles[homes[0]] if homes else ""))
    n_runs = Counter(title for _, title in found)
    if len(n_runs) < len(titles) or min(n_runs.values()) < _SEVERAL or "" in n_runs:
        return _measured(outcomes)
    return [prefix_label_with_folder(result, title) for result, title in found]


def _runs(answer: "Answer", outcomes: "list[Outcome]") -> "list[RunDocument]":
    names = {result.run.name for result in answer.group.with_chance().results}
    return [outcome_document(outcome) for outcome in outcomes if outcome.name in names]


def default_report(runs: list[Path], results: Path | None = None) -> Path:
    """report.html where results go: in their own folder, in the one folder of runs, or here."""
    if results is not None:
        return results / "report.html"
    return runs[0] / "report.html" if len(runs) == 1 and runs[0].is_dir() else Path("report.html")


def command_line(command: str, runs: list[Path], question: "Question") -> str:
    """The command that makes the same report again."""
    import shlex

    return shlex.join(["prolu-eval", command, *map(str, runs), *question.arguments()])
