"""Output under difficulties: readers that go away, full disks, and names with any characters."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval.checkpoints.native import save_run
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu
from tests.helpers.cli import run

FULL = Path("/dev/full")


def ending(stdout: int, *arguments: str, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    """Exit code and stderr of a command that writes to a descriptor, which is closed here."""
    command = [sys.executable, "-m", "prolu_eval", *arguments]
    ran = subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False)
    os.close(stdout)
    return ran.returncode, ran.stderr


def pipe_without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("arguments", [("metrics",), ("metrics", "--json"), ("--help",)])
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(
    arguments: tuple[str, ...],
) -> None:
    assert ending(pipe_without_reader(), *arguments) == (141, "")


def test_an_error_that_nobody_reads_ends_a_command_too() -> None:
    code, _ = ending(pipe_without_reader(), "inspect", "absent", stderr=subprocess.STDOUT)
    assert code == 141


def test_one_line_is_enough_for_head() -> None:
    command = f"{sys.executable} -m prolu_eval metrics --json | head -n 1"
    ran = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("{\n", "")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [("metrics",), ("--help",)])
def test_output_that_cannot_be_written_is_an_error(arguments: tuple[str, ...]) -> None:
    code, err = ending(os.open(FULL, os.O_WRONLY), *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert "the output: cannot be written (No space left on device); free space" in err


# A name may hold anything but a slash and NUL, up to 255 bytes.
NAMES = ["a\nb", "a\tb", "\x1b[31mred\x1b]0;title\x07", "c\rd", "e\u2028f", "g\u202eh", "i\\nj",
         "i\nj", "x" * 255, "naïve 名 🙂", " leading", "-n", "|*`<b>"]  # fmt: skip
UNDECODABLE = os.fsdecode(b"bad\xff")


@pytest.fixture
def named(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Path:
    """Runs with such names, whose configurations contain such text too."""
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 96, 320))
    for i, name in enumerate(NAMES):
        sae = Relu(32, 40)
        torch.nn.init.normal_(sae.W_enc, generator=torch.Generator().manual_seed(i))
        config = RunConfig(
            variant="", d_in=1, d_sae=1, hook="blocks.1.hook_resid_post", context_length=32,
            model=str(tiny_model("llama")), dataset=str(tmp_path / "ids.npy"),
            penalty="l1\x1b[2J\n", coefficient=i,
        )  # fmt: skip
        save_run(tmp_path / "runs" / name, sae, config)
    return tmp_path / "runs"


def assert_plain(text: str) -> None:
    """Assert that a text has only lines of printable characters."""
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)


def test_names_are_one_line_each_and_never_reach_the_terminal_raw(
    named: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--device", "cpu", "--split-tokens", "all", "--quiet")
    base, table = tmp_path / "base.json", tmp_path / "table.csv"
    commands = {
        "inspect": ("inspect", named),
        "evaluate": ("evaluate", named, *options),
        "frontier": ("frontier", named, *options, "--csv", table),
        "markdown": ("frontier", named, *options, "--markdown"),
        "biases": ("biases", named),
        "report": ("report", named),
        "save": ("baseline", "save", named, "-o", base),
        "show": ("baseline", "show", base),
        "compare": ("compare", named, "-b", base, "--all", "--markdown", tmp_path / "compare.md"),
    }
    printed = {}
    for name, arguments in commands.items():
        ran = run(capfd, *arguments)
        assert ran.code == 0, (name, ran.err)
        assert_plain(ran.out)
        assert_plain(ran.err)
        printed[name] = ran.out
    for name in ("inspect", "evaluate", "biases", "show"):
        lines = printed[name].splitlines()
        assert len(lines) >= 1 + len(NAMES)
        assert sum(r"a\nb" in line for line in lines) == 1, name
        assert sum(r"\x1b[31mred" in line for line in lines) == 1, name
    assert_plain((tmp_path / "compare.md").read_text().replace("️", ""))  # an emoji's style
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NAMES) == len(table.read_text().splitlines()) - 1
    assert len({row["name"] for row in rows}) == len(NAMES)
    document = run(capfd, "evaluate", named, *options, "--json").json()
    assert {Path(r["path"]).name for r in document["runs"]} == set(NAMES)
    assert {r["status"] for r in document["runs"]} == {"cached"}


def test_a_long_name_shifts_its_own_row_alone(named: Path, capfd: Any) -> None:
    lines = run(capfd, "inspect", named).out.splitlines()
    assert max(len(line) for line in lines if "xxx" not in line and "!" not in line) < 200


def test_a_name_that_is_no_text_is_refused_and_the_rest_done(
    named: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (named / "a\nb").rename(named / UNDECODABLE)
    ran = run(capfd, "evaluate", named, "--device", "cpu", "--split-tokens", "all", "--quiet")
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert r"bad\udcff skipped: " in last
    assert "has a name that is no UTF-8" in last
    for command in ("inspect", "biases", "report"):
        ran = run(capfd, command, named / UNDECODABLE)
        assert ran.code == 2
        assert_plain(ran.err + ran.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect",), ("evaluate",), ("biases",), ("report",), ("frontier",), ("sweep",),
        ("convert",), ("baseline", "show"), ("baseline", "save", "-o", "base.json"),
        ("compare", "-b"),
        ("evaluate", "runs", "--model"), ("evaluate", "runs", "--tokens"),
        ("evaluate", "runs", "--results"), ("frontier", "runs", "--report"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x" * 300, "no\x1b[31m\nsuch", UNDECODABLE])
def test_arguments_that_name_nothing_are_one_line(
    arguments: tuple[str, ...],
    name: str,
    named: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(named.parent)
    more = {"convert": ("out", "--to", "native"), "compare": ("runs",)}.get(arguments[0], ())
    if arguments[-1] in ("--results", "--report") and "x" not in name:
        pytest.skip("folders of such a name can be made")
    ran = run(capfd, *arguments, name, *more)
    assert ran.code == 2
    assert_plain(ran.err + ran.out)
    assert "Traceback" not in ran.err
    if "-o" not in arguments and "runs" not in arguments:
        assert ran.err.count("\n") == 1, ran.err
