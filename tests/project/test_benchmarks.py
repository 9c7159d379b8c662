"""The benchmark scripts run, at a small size; what they measure then says nothing."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_the_gpu_benchmark_runs_small_on_a_cpu() -> None:
    command = ["benchmarks/gpu.py", "--tiny", "--device", "cpu", "--sequences", "4", "--saes", "2",
               "--repeats", "1"]  # fmt: skip
    assert first_column(*command) == ["float32", "tf32", "bfloat16", "bfloat16"]


def test_the_gpu_benchmark_checks_itself_on_a_cpu(tmp_path: Path) -> None:
    command = ["benchmarks/gpu.py", "--tiny", "--device", "cpu", "--check", "--precisions",
               "--out", str(tmp_path)]  # fmt: skip
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    verdicts = [line.split(" ")[0] for line in lines if line.startswith(("PASS", "FAIL"))]
    assert verdicts == ["PASS"] * 29, lines


def test_the_forward_benchmark_runs_small() -> None:
    command = ["benchmarks/forward.py", "--device", "cpu", "--d-sae", "128", "--l0", "8"]
    rows = first_column(*command, "--tokens", "256", "--repeats", "1")
    assert rows[:2] == ["relu", "prolu"]
    assert rows[-1] == "batchtopk"


def first_column(*command: str) -> list[str]:
    """The first column of the table that a script prints, without its heading."""
    ran = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("| ")]
    return [line.split("|")[1].strip() for line in lines[1:]]
