"""The command line: thin, and quick to answer. Commands import what they need when they run."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from prolu_eval import __version__
from prolu_eval.errors import ProluEvalError, UsageError

INTERRUPTED = 130
app = typer.Typer(
    name="prolu-eval",
    help="Which sparse autoencoder is better, and did a change make it worse?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prolu-eval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; a user's error is one line on stderr."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if "" in given:  # a path of it would be the current folder
            raise UsageError("an argument", "is empty", "name a file, a folder or a value")
        app(given)
    except ProluEvalError as error:
        typer.echo(f"prolu-eval: {error}", err=True)
        return error.exit_code
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer makes a KeyboardInterrupt one of these
            typer.echo("prolu-eval: interrupted; run the command again to continue.", err=True)
        return int(stop.code or 0)
    return 0


def entry_point() -> None:
    """The console script. Being terminated ends it as Ctrl-C does: what is measured stays."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# Each module registers its command on `app`, in the order of a user's work.
for _name in (
    "demo",
    "sweep",
    "inspect",
    "evaluate",
    "frontier",
    "biases",
    "report",
    "baseline",
    "compare",
    "convert",
    "metrics",
):
    import_module(f"prolu_eval.cli.{_name}")
