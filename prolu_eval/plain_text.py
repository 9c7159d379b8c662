"""Text that is safe to print on one line, whatever the names of files and runs contain."""

from collections.abc import Sequence

# A cell wider than this shifts the rest of its row, instead of widening the column.
_WIDEST = 60


def printable(text: object) -> str:
    """Text in which control characters, line breaks and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """One line for each row, with the cells aligned in columns."""
    table = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max((len(cell) for cell in column if len(cell) <= _WIDEST), default=0)
        for column in zip(*table, strict=True)
    ]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
