"""The benchmark scripts run at a small size, at which their measurements are meaningless."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts can import one another, and their process-wide settings are restored."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    allowed = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = allowed


def test_the_gpu_benchmark_checks_itself_and_measures_on_a_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ["--tiny", "--device", "cpu", "--sequences", "4", "--saes", "2", "--repeats", "1"]
    ran(monkeypatch, "gpu", *options, "--check", "--out", str(tmp_path))
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    verdicts = [line.split(" ")[0] for line in lines if line.startswith(("PASS", "FAIL"))]
    assert verdicts == ["PASS"] * 29, lines
    assert first_column(capsys.readouterr().out) == ["float32", "tf32", "bfloat16", "bfloat16"]


def test_the_forward_benchmark_runs_small(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--device", "cpu", "--d-sae", "128", "--l0", "8", "--tokens", "256"]
    ran(monkeypatch, "forward", *options, "--repeats", "1")
    rows = first_column(capsys.readouterr().out)
    assert rows[:2] == ["relu", "prolu"]
    assert rows[-1] == "batchtopk"


def ran(monkeypatch: pytest.MonkeyPatch, script: str, *options: str) -> None:
    """Run a script with options, in this process."""
    path = str(ROOT / "benchmarks" / f"{script}.py")
    monkeypatch.setattr(sys, "argv", [path, *options])
    runpy.run_path(path, run_name="__main__")


def first_column(printed: str) -> list[str]:
    """The first column of the table that a script prints, without its heading."""
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    return [line.split("|")[1].strip() for line in lines[1:]]
