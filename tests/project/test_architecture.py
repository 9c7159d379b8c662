"""The architecture page names files that are there, and its ways enter none of them twice."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "architecture.md"


def test_the_ways_pass_files_that_are_there_and_none_twice() -> None:
    text = PAGE.read_text(encoding="utf-8")
    steps = re.findall(r"^\| \d+ \| `([^`]+)`", text, re.MULTILINE)
    assert len(steps) > 4
    assert len(steps) == len(set(steps))
    for step in steps:
        assert (ROOT / "prolu_eval" / step).is_file(), step
