"""The command line: thin, and quick to answer. Commands import what they need when they run."""

import contextlib
import errno
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import typer

from prolu_eval import __version__
from prolu_eval.arguments import at_home
from prolu_eval.cli.command import Group
from prolu_eval.errors import WRONG_INPUT, Interrupted, ProluEvalError, UsageError
from prolu_eval.plain_text import aligned, printable, wrapped

# What a shell reports of a command that SIGINT or SIGPIPE ended.
INTERRUPTED, READER_GONE = 130, 141
_PROGRAM = "prolu-eval"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
app = typer.Typer(
    name=_PROGRAM,
    cls=Group,
    help="Which sparse autoencoder is better, and did a change make it worse?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def say(sentence: str) -> None:
    """Print a line on stdout."""
    typer.echo(printable(sentence))


def say_table(rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns on stdout, the head first, as wide as the terminal has room for."""
    for line in aligned(rows, terminal_width()):
        typer.echo(line)


def say_paragraph(text: str) -> None:
    """Print a sentence on stdout, broken between words where the terminal ends."""
    typer.echo(wrapped(printable(text), terminal_width()))


def terminal_width() -> int | None:
    """How many characters a line of the terminal holds; None where stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say_document(document: Any) -> None:
    """Print a JSON document on stdout, one that any parser takes: it holds no NaN."""
    from prolu_eval.json_text import dumps

    typer.echo(dumps(document))


def remark(sentence: str) -> None:
    """Print a line on stderr."""
    typer.echo(f"prolu-eval: {printable(sentence)}", err=True)


class _Remarks(logging.Handler):
    """Prints what the package warns of as a remark, as all that is said on stderr is."""

    def emit(self, record: logging.LogRecord) -> None:
        remark(record.getMessage())


@contextlib.contextmanager
def _warnings_as_remarks() -> Iterator[None]:
    handler, logger = _Remarks(logging.WARNING), logging.getLogger("prolu_eval")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


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
    """Run a command line and return its exit code; a user's error is one line on stderr.

    A reader of the output that has seen enough (``| head``) ends the command without a word.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with _warnings_as_remarks():
            return _run(words)
    except BrokenPipeError:
        _drop_output()
        return READER_GONE
    except OSError as error:
        if error.filename is not None:
            remark(
                f"{error.filename}: cannot be used ({error.strerror}); name another, or mend it."
            )
        elif error.errno in _UNWRITABLE:
            _drop_output()
            reason = f"cannot be written ({error.strerror})"
            remark(f"the output: {reason}; free space, or write elsewhere.")
        else:
            raise
        return WRONG_INPUT


def _run(words: Sequence[str]) -> int:
    try:
        _refuse_empty(words)
        app([_at_home(word) for word in words], prog_name=_PROGRAM)
    except ProluEvalError as error:
        remark(str(error))
        return error.exit_code
    except SystemExit as stop:  # Typer makes one of other endings
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        if stop.code == INTERRUPTED:
            remark(_interrupted(stop))
        return int(stop.code or 0)
    except Exception as error:
        from prolu_eval.installation import broken_installation

        if (broken := broken_installation(error)) is None:
            raise
        remark(str(broken))
        return broken.exit_code
    return 0


def _refuse_empty(words: Sequence[str]) -> None:
    if "" in words:  # a path of it would be the current folder
        raise UsageError("an argument", "is empty", "name a file, a folder or a value")


def _at_home(word: str) -> str:
    """An argument in which ``~`` at the start of a path is the home folder.

    Shells do that themselves for ``--out ~/runs``, but not all for ``--out=~/runs``.
    """
    name, equals, value = word.partition("=")
    return f"{name}={at_home(value)}" if equals and name.startswith("--") else at_home(word)


def _interrupted(stop: SystemExit) -> str:
    """What to say of an interrupted command: its own sentence, where it has one."""
    cause: BaseException | None = stop
    while cause is not None:
        if isinstance(cause, Interrupted):
            return f"interrupted: {cause.sentence}."
        cause = cause.__cause__ or cause.__context__
    return "interrupted; run the command again to continue."


def _drop_output() -> None:
    """Let what is still buffered go nowhere, lest the interpreter tries to write it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def entry_point() -> None:
    """The console script. Being terminated ends it as Ctrl-C does: what is measured stays."""
    signal.signal(signal.SIGTERM, _interrupt)
    for library in ("HF_HUB", "DATASETS"):  # what fails is said once, by us
        os.environ.setdefault(f"{library}_VERBOSITY", "critical")
    sys.exit(main())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# Each module registers its command on `app`, in the order of a user's work.
for _name in (
    "demo",
    "synthetic",
    "sweep",
    "inspect",
    "evaluate",
    "frontier",
    "biases",
    "stability",
    "report",
    "baseline",
    "compare",
    "convert",
    "releases",
    "publish",
    "metrics",
):
    import_module(f"prolu_eval.cli.{_name}")
