"""The kernels' tests run in a separate process, because the interpreter is chosen at import."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")


def test_the_kernels_interpreted() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/kernels/interpreted.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed" in ran.stdout
