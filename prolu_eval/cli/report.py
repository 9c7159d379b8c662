"""`prolu-eval report`: the HTML page of stored results, without a model."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolu_eval.cli import app, completion, options, remark, say, say_document
from prolu_eval.cli.command import ANSWER, FIGURES, QUESTION, WRITTEN, Command
from prolu_eval.cli.frontier import (
    At,
    Splits,
    asked,
    command_line,
    default_report,
)
from prolu_eval.errors import UsageError

if TYPE_CHECKING:
    from prolu_eval.analysis import Answer, Question

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Where to write it [default: RUNS/report.html]",
        rich_help_panel=WRITTEN,
    ),
]
StoredTokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar="TEXT",
        rich_help_panel=QUESTION,
        help="Of several evaluations, the one on this text: its name, or the key that is listed "
        "[default: the newest]",
    ),
]
Title = Annotated[
    str, typer.Option(metavar="TEXT", help="Title of the page.", rich_help_panel=WRITTEN)
]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        metavar="METRIC=VALUE|PATH",
        help="METRIC=VALUE: hypervolumes reach up to it [default: a tenth of the range beyond the "
        "worst run]. A file or a folder: show what SAEBench measured beside the runs.",
        rich_help_panel=QUESTION,
        autocompletion=completion.metric_values,
    ),
]
Static = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write the figures into this folder too, for papers.",
        rich_help_panel=FIGURES,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="What --static writes: pdf, svg or png.",
        rich_help_panel=FIGURES,
        autocompletion=completion.words("pdf", "svg", "png"),
    ),
]
Width = Annotated[
    float,
    typer.Option(
        metavar="INCHES",
        help="Width of the figures of --static; a column of a paper with two is 3.25.",
        rich_help_panel=FIGURES,
    ),
]
FontSize = Annotated[
    float,
    typer.Option(metavar="POINTS", help="Size of the text of --static.", rich_help_panel=FIGURES),
]
Font = Annotated[
    str,
    typer.Option(metavar="FAMILY", help="Font of the text of --static.", rich_help_panel=FIGURES),
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Go on, and write the page again whenever results arrive.",
        rich_help_panel=WRITTEN,
    ),
]

# Seconds between two looks at the folders, and between two loads of a watched page.
_POLL, _REFRESH = 2.0, 10


@app.command(cls=Command, rich_help_panel=ANSWER)
def report(
    runs: options.Runs,
    output: Output = None,
    x: options.X = "l0",
    y: options.Y = "ce_degradation",
    z: options.Z = None,
    tokens: StoredTokens = None,
    split_at: Splits = None,
    reference: References = None,
    at: At = None,
    title: Title = "Sparse autoencoders compared",
    static: Static = None,
    kind: Format = "svg",
    width: Width = 6.75,
    font_size: FontSize = 8.0,
    font: Font = "sans-serif",
    watch: Watch = False,
    as_json: options.Json = False,
) -> None:
    """Write the report of results that are stored already; needs neither model nor torch.

    Several folders are compared with each other, variant by variant and in all: variants bear the
    names of their folders.
    """
    reached, files = _apart(reference)
    question = asked(runs, x, y, z, split_at, reached, at)
    path = output or default_report(runs)
    if watch:
        if as_json or static is not None:
            other = "--json" if as_json else "--static"
            raise UsageError(
                "--watch", f"has no end, and so goes not with {other}", "leave one out"
            )
        _watch(runs, path, question, title, tokens, files)
        return
    answers = render(runs, path, question, title, tokens=tokens, references=files)
    figures = None if static is None else _figures(path, static, kind, width, font_size, font)
    if as_json:
        _print_json(answers, question, path, figures)
        return
    say(f"Report: {path}")
    if figures is not None:
        say(f"Figures: {len(figures)} in {static}")


def _apart(given: list[str] | None) -> tuple[list[str], list[Path]]:
    """Values that hypervolumes reach up to, and files of points to show beside the runs."""
    values = [text for text in given or () if "=" in text]
    return values, [Path(text) for text in given or () if "=" not in text]


def _figures(
    page: Path, folder: Path, kind: str, width: float, font_size: float, font: str
) -> list[Path]:
    from prolu_eval.render.static import write_figures

    return write_figures(page, folder, kind, width=width, font_size=font_size, font=font)


def _print_json(
    answers: "list[Answer]",
    question: "Question",
    path: Path,
    figures: list[Path] | None,
) -> None:
    from prolu_eval.render.documents import RunDocument, frontier_document, result_document

    def runs(found: "Answer") -> list[RunDocument]:
        return [result_document(result) for result in found.group.with_chance().results]

    document = frontier_document(answers, question.keys, path, runs, figures=figures)
    say_document(document.to_json())


def render(
    runs: list[Path],
    path: Path,
    question: "Question",
    title: str,
    *,
    tokens: str | None = None,
    refresh: int | None = None,
    references: Sequence[Path] = (),
) -> "list[Answer]":
    """Write the page of folders of runs; what it answers.

    Raises:
        UsageError, ResultsError: as :func:`prolu_eval.results.select`.
    """
    from prolu_eval.analysis import answer
    from prolu_eval.publishing import read_references
    from prolu_eval.render.page import write_report
    from prolu_eval.results import select

    chosen = select(runs, tokens=tokens, titled=True)
    for sentence in chosen.remarks:
        remark(sentence)
    answers = answer(chosen.results, question)
    shown = [f"--reference={file}" for file in references]
    command = shlex.join([*shlex.split(command_line("report", runs, question)), *shown])
    write_report(
        answers,
        path,
        title=title,
        command=shlex.join(
            [*shlex.split(command), *(f"--reference={file}" for file in references)]
        ),
        refresh=refresh,
        references=[point for file in references for point in read_references(file)],
    )
    return answers


def _watch(
    runs: list[Path],
    path: Path,
    question: "Question",
    title: str,
    tokens: str | None,
    references: Sequence[Path],
) -> None:
    """Write the page again whenever results come, go or change, until interrupted."""
    from prolu_eval.results import result_files

    seen: dict[Path, float] = {}
    say(f"Watching; interrupt to end. Report: {path}")
    try:
        while True:
            found = {file: file.stat().st_mtime for file in result_files(runs)}
            if found and found != seen:
                seen = found
                answers = render(
                    runs, path, question, title,
                    tokens=tokens, refresh=_REFRESH, references=references,
                )  # fmt: skip
                n = sum(len(found.group.results) for found in answers)
                typer.echo(f"{time.strftime('%H:%M:%S')}  {n} results")
            time.sleep(_POLL)
    except KeyboardInterrupt:
        return
