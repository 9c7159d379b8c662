"""`prolu-eval compare`: did anything get worse than the baseline?"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolu_eval.cli import app, completion, options, remark, say_document, terminal_width
from prolu_eval.cli.baseline import Only
from prolu_eval.cli.command import ANSWER, PRINTED, QUESTION, WRITTEN, Command
from prolu_eval.errors import UsageError

if TYPE_CHECKING:
    from prolu_eval.comparison import Comparison


@app.command(cls=Command, rich_help_panel=ANSWER)
def compare(
    runs: options.Runs,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            "-b",
            metavar="FILE",
            help="The baseline's JSON file [default: the first of two folders]",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=AMOUNT",
            help="How much worse a metric may get; the metrics named are those judged "
            "[default: ce_degradation=+2%,l0=+2%,hypervolume=-2%]",
            rich_help_panel=QUESTION,
            autocompletion=completion.tolerances,
        ),
    ] = None,
    frontier: Annotated[
        str,
        typer.Option(
            metavar="X,Y",
            help="Two metrics with tolerances whose frontier is judged; or none.",
            rich_help_panel=QUESTION,
            autocompletion=completion.two_metrics,
        ),
    ] = "l0,ce_degradation",
    match: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="Match runs by name, by configuration, or by the groups of a regular expression "
            "on names.",
            rich_help_panel=QUESTION,
            autocompletion=completion.words("name", "configuration"),
        ),
    ] = "name",
    only: Only = None,
    unpaired: Annotated[
        bool,
        typer.Option(
            "--unpaired",
            help="Compare results on different tokens too.",
            rich_help_panel=QUESTION,
        ),
    ] = False,
    alpha: Annotated[
        float,
        typer.Option(
            metavar="RATE",
            help="Error rate of all tests together.",
            rich_help_panel=QUESTION,
        ),
    ] = 0.05,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write GitHub-flavoured Markdown here.", rich_help_panel=WRITTEN
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write JUnit XML here.", rich_help_panel=WRITTEN),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page with both frontiers here.",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    show_all: Annotated[
        bool,
        typer.Option("--all", help="Show every row, those that pass too.", rich_help_panel=PRINTED),
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs with a baseline; exit code 1 if one got worse or cannot be compared.

    Of two folders without a baseline, the second is judged by the first.
    A regression is worse by more than its tolerance and significantly worse than no change.
    Tests are paired by sequence and corrected for their number (Holm).
    Under GitHub Actions the job summary and annotations are written too.
    """
    from prolu_eval.interface import compare as compare_runs
    from prolu_eval.render.terminal import comparison_text

    runs, baseline = _sides(runs, baseline)
    found = compare_runs(
        runs,
        baseline,
        tolerance=tolerance,
        frontier=frontier,
        match=match,
        only=only or (),
        unpaired=unpaired,
        alpha=alpha,
        warn=remark,
    )
    if not baseline.is_dir():
        found = found.with_update(_update_command(found, runs, baseline, only))
    if as_json:
        say_document(found.to_json())
    elif not quiet:
        text = comparison_text(found, everything=show_all, width=terminal_width())
        typer.echo(text, nl=False)
    else:
        typer.echo(found.headline)
    _write(found, markdown, junit, html)
    _tell_github(found, baseline)
    raise typer.Exit(found.exit_code)


def _sides(runs: list[Path], baseline: Path | None) -> tuple[list[Path], Path]:
    """What is judged, and by what."""
    if baseline is not None:
        return runs, baseline
    if len(runs) != 2:
        remedy = "pass --baseline FILE, or two folders, the second of which is judged by the first"
        raise UsageError("--baseline", "is not given", remedy)
    return runs[1:], runs[0]


def _update_command(
    found: "Comparison", runs: list[Path], baseline: Path, only: list[str] | None
) -> str:
    """What makes the baseline that of these runs; names that are gone are dropped."""
    words = ["prolu-eval", "baseline", "update", *map(str, runs), "--baseline", str(baseline)]
    if set(found.missing_runs) - set(found.unevaluated_runs) or found.matched_by != "name":
        words += ["--prune"]
    for pattern in only or ():
        words += ["--only", pattern]
    return shlex.join(words)


def _write(
    found: "Comparison",
    markdown_path: Path | None,
    junit_path: Path | None,
    html_path: Path | None,
) -> None:
    from prolu_eval.results import write_atomically

    if markdown_path:
        from prolu_eval.render.markdown import comparison_markdown

        write_atomically(markdown_path, comparison_markdown(found).encode())
    if junit_path:
        from prolu_eval.render.junit import comparison_junit

        write_atomically(junit_path, comparison_junit(found))
    if html_path:
        from prolu_eval.render.comparison_page import comparison_page

        write_atomically(html_path, comparison_page(found).encode())


def _tell_github(found: "Comparison", baseline: Path) -> None:
    from prolu_eval.render import github

    if github.running(os.environ):
        github.tell(found, os.environ)
        for line in github.annotations(found, baseline, os.environ):
            typer.echo(line, err=True)
