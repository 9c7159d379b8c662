"""The benchmark scripts run, at a small size; what they measure then says nothing."""

import subprocess
import sys

from tests.conftest import ROOT


def test_the_gpu_benchmark_runs_small_on_a_cpu() -> None:
    command = ["benchmarks/gpu.py", "--tiny", "--device", "cpu", "--sequences", "4", "--saes", "2",
               "--repeats", "1"]  # fmt: skip
    ran = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == [
        "| float32", "| tf32", "| bfloat16", "| bfloat16",
    ]  # fmt: skip
