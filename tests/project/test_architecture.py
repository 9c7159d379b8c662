"""The architecture page names existing files, and its two walks visit none of them twice."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "prolu_eval"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# Two thirds of the 18 files that either way passed in 0.1.0.
MOST = 12
WAYS = ("The checkpoint's way", "The conditions' way", "From a stored row to a figure")


@pytest.mark.parametrize("title", WAYS)
def test_a_way_passes_few_files_and_none_twice(title: str) -> None:
    section = PAGE.partition(f"# {title}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (\d+) \| `([^`]+)`", section, re.MULTILINE)
    steps = [file for _, file in rows]
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert 4 <= len(steps) <= MOST
    assert len(steps) == len(set(steps))


def test_every_file_named_is_there() -> None:
    """Files of 0.1.0, which are named for comparison, are excepted."""
    text = re.sub(r"### What it was in 0\.1\.0\n.*?\n## ", "", PAGE, flags=re.DOTALL)
    named = re.findall(r"`([\w/]+\.(?:py|js|j2|json))`", text)
    assert len(named) > 20
    assert [name for name in named if not (PACKAGE / name).is_file()] == []
