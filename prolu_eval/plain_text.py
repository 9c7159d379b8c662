"""Text that is safe to show: one line, whatever the names of files and runs hold."""

from collections.abc import Sequence

# A cell beyond this width shifts the rest of its own row, and widens no other.
_WIDEST = 60


def printable(text: object) -> str:
    """Text with what does not print escaped: control characters, line breaks, bytes of no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Each row as one line, its cells in columns."""
    table = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max((len(cell) for cell in column if len(cell) <= _WIDEST), default=0)
        for column in zip(*table, strict=True)
    ]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
