"""The project's Markdown: which files there are, and the code blocks in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import ROOT

DOCS = ROOT / "docs"
# Every page that people read; reports/tables-*.md are what a program printed.
PAGES = sorted(
    [
        *ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / ".github").rglob("*.md"),
        ROOT / "reports" / "README.md", ROOT / "reports" / "baseline" / "README.md",
    ]
)  # fmt: skip
_REMARK = re.compile(r"<!-- ([\w ]+): (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and what the comment directly before it says of it."""

    page: Path
    line: int
    language: str
    text: str
    remarks: dict[str, str]

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, text: str | None = None) -> Iterator[Block]:
    """The code blocks of a page (or of a text for it), in order; indented ones have no language."""
    remarks: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse(text or page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info.split() else ""
            yield Block(page, (token.map or [0])[0] + 1, language, token.content, remarks)
        remarks = dict(_REMARK.findall(token.content)) if token.type == "html_block" else {}


def inline_code(page: Path) -> Iterator[tuple[int, str]]:
    """The code within sentences and tables of a page: the line that it is near, and its text."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield (token.map or [0])[0] + 1, child.content
