"""The tables and figures in reports/ follow from the results there: ``nox -s slow``."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

REPORTS = Path(__file__).parent.parent.parent / "reports"
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@pytest.mark.parametrize("name", ["embedded", "stories260k", "smollm2"])
def test_tables_and_figures_are_what_the_script_makes(name: str, tmp_path: Path) -> None:
    script = REPORTS / "reproduction.py"
    subprocess.run([sys.executable, script, "tables", name, "--out", tmp_path], check=True)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    committed = [REPORTS / f"tables-{name}.md", *REPORTS.glob(f"figures/{name}-*")]
    assert written == sorted(path.relative_to(REPORTS) for path in committed)
    for path in written:
        assert_alike((tmp_path / path).read_text(), (REPORTS / path).read_text(), path)


@pytest.mark.parametrize("script", ["truth"])
def test_tables_of_known_features_are_what_the_script_makes(script: str, tmp_path: Path) -> None:
    for folder in ("results", "sweeps"):
        (tmp_path / folder).symlink_to(REPORTS / folder)
    for name in (f"{script}.py", "collected.py"):
        (tmp_path / name).write_bytes((REPORTS / name).read_bytes())
    subprocess.run([sys.executable, tmp_path / f"{script}.py"], check=True)
    path = Path(f"tables-{script}.md")
    assert_alike((tmp_path / path).read_text(), (REPORTS / path).read_text(), path)


def assert_alike(found: str, expected: str, path: Path) -> None:
    """Assert the same words and numbers, up to last digits, which depend on the processor."""
    assert _NUMBER.sub("#", found) == _NUMBER.sub("#", expected), path
    measured, committed = (
        np.array(_NUMBER.findall(text), dtype=np.float64) for text in (found, expected)
    )
    tolerance = 0.11 if path.suffix == ".svg" else 0  # a tenth of a pixel
    np.testing.assert_allclose(measured, committed, 1e-4, tolerance, err_msg=str(path))
