"""What becomes of output: readers that go away, full disks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
