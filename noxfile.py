"""Sessions: `nox -s demo` runs the main job, `nox -s tests` the tests; `nox -l` lists them all."""

import os
import shutil
import sys

import nox

TORCH = "torch==2.13.0"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True


def install(session: nox.Session, *packages: str) -> None:
    """Install torch by its pin, before anything that would pull another build, then the rest."""
    session.install(TORCH)
    session.install(*packages)


@nox.session
def demo(session: nox.Session) -> None:
    """Train the four sweeps on the embedded model, evaluate them, and write the report."""
    install(session, ".")
    session.run("prolu-eval", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but those that need other libraries."""
    install(session, "-e", ".[test]")
    _provide_chromium(session)
    session.run("pytest", "-n", str(min(4, os.cpu_count() or 1)), *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's checks and format."""
    session.install("ruff==0.17.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strictly."""
    install(session, "-e", ".[test,types]")
    session.run("mypy")


@nox.session
def oldest_transformer_lens(session: nox.Session) -> None:
    """The tests that touch TransformerLens, on the oldest version that is supported."""
    install(session, "transformer-lens>=3.9,<4", "-e", ".[test]")
    session.run("pytest", "-n", "2", "tests/test_lm.py", "tests/test_evaluation.py")


def _provide_chromium(session: nox.Session) -> None:
    """In CI, install Debian's chromium; elsewhere the browser tests skip where there is none."""
    if os.environ.get("CI") and sys.platform == "linux" and not shutil.which("chromium"):
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "chromium", external=True, silent=True)
