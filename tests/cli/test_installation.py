"""Packages that are missing or broken: one line with the package, the reason and the command."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prolu_eval.installation import broken_installation
from tests.helpers.cli import run

# Packages by name, each with the module that it consists of.
PACKAGES = {
    "fakelens": "from faketransformers import no_such_name",
    "faketransformers": "",
    "fakevision": "raise RuntimeError('operator fakevision::nms does not exist')",
    "fakebinary": "raise ImportError('libfake.so.12: cannot open shared object file')",
    "fakeneedy": "import fakeabsent.part",
    "fakelazy": "def load():\n    try:\n        import fakevision\n    except Exception as error:\n"
    "        raise ModuleNotFoundError('Could not import module X') from error",
    "fakeasking": "def load():\n    raise ImportError('\\nX requires the fakeabsent library.\\n')",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, source in PACKAGES.items():
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    for name in PACKAGES:
        sys.modules.pop(name, None)


def use(name: str) -> Any:
    """Import a package, and call what it loads later, if anything."""
    return getattr(importlib.import_module(name), "load", lambda: None)()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "fakelens",
            "fakelens: is installed, but cannot be imported (cannot import name 'no_such_name' "
            "from 'faketransformers' ({site}/faketransformers/__init__.py)); reinstall it with "
            "`pip install --force-reinstall fakelens faketransformers`.",
        ),
        (
            "fakevision",
            "fakevision: is installed, but cannot be imported (operator fakevision::nms does not "
            "exist); reinstall it with `pip install --force-reinstall fakevision`.",
        ),
        (
            "fakebinary",
            "fakebinary: is installed, but cannot be imported (libfake.so.12: cannot open shared "
            "object file); reinstall it with `pip install --force-reinstall fakebinary`.",
        ),
        (
            "fakeneedy",
            "fakeabsent: is not installed, and fakeneedy needs it; install it with "
            "`pip install fakeabsent`.",
        ),
        (
            "fakelazy",
            "fakevision: is installed, but cannot be imported (operator fakevision::nms does not "
            "exist); reinstall it with `pip install --force-reinstall fakevision`.",
        ),
        (
            "fakeasking",
            "fakeasking: lacks a package (X requires the fakeabsent library); install what it "
            "names with pip.",
        ),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(packages: Path, name: str, told: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever a broken package raises)
        use(name)
    assert str(broken_installation(caught.value)) == told.format(site=packages)


def test_what_is_reinstalled_is_of_a_version_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("transformer_lens")
    assert str(broken_installation(caught.value)).endswith(
        "install it with `pip install 'transformer-lens<5,>=3.9'`."
    )


def test_other_errors_are_no_broken_installations() -> None:
    for error in (ValueError("x"), OSError(2, "x", "file"), KeyError("y")):
        assert broken_installation(error) is None


@pytest.mark.parametrize(
    "place",
    ["prolu_eval.evaluation.runner.conditions_of", "prolu_eval.lm.loading._network"],
)
def test_commands_say_it_in_one_line(
    packages: Path,
    tmp_path: Path,
    tiny_run: Callable[[Path], Path],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    runs = tiny_run(tmp_path / "runs")
    monkeypatch.setattr(place, lambda *_, **__: use("fakelens"))
    ran = run(capfd, "evaluate", runs, "--device", "cpu", "--quiet")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "fakelens: is installed, but cannot be imported" in ran.err
    assert run(capfd, "evaluate", "--help").code == 0


def test_a_defect_is_no_broken_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("prolu_eval.checkpoints.discover_all", fail)
    with pytest.raises(KeyError):
        run(capfd, "inspect", tmp_path)
