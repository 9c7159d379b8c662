"""The tables and figures in reports/ follow from the results there: ``nox -s slow``."""

import subprocess
import sys
from pathlib import Path

import pytest

REPORTS = Path(__file__).parent.parent / "reports"


@pytest.mark.parametrize("name", ["embedded", "stories260k"])
def test_tables_and_figures_are_what_the_script_makes(name: str, tmp_path: Path) -> None:
    script = REPORTS / "reproduction.py"
    subprocess.run([sys.executable, script, "tables", name, "--out", tmp_path], check=True)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    committed = [REPORTS / f"tables-{name}.md", *REPORTS.glob(f"figures/{name}-*")]
    assert written == sorted(path.relative_to(REPORTS) for path in committed)
    for path in written:
        assert (tmp_path / path).read_text() == (REPORTS / path).read_text(), path
