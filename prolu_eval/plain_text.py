"""Text that is safe to print on one line, whatever the names of files and runs contain."""

import textwrap
from collections.abc import Sequence

# A cell wider than this shifts the rest of its row, instead of widening the column.
_WIDEST = 60


def printable(text: object) -> str:
    """Text in which control characters, line breaks and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def aligned(rows: Sequence[Sequence[object]], width: int | None = None) -> list[str]:
    """Rows as lines, their cells in columns; the first is the head.

    What is wider than a terminal is not cut. What all rows have in common is said once, above, and
    of the other columns as many stand side by side as there is room for, the rest below, each part
    beginning with what tells rows apart.

    Args:
        rows: of equal length.
        width: of the terminal; None for a line to each row, however long.
    """
    table = [[printable(cell) for cell in row] for row in rows]
    if width is None or not table or _is_within(table, range(len(table[0])), width):
        return _lines(table, range(len(table[0]))) if table else []
    head, *body = table
    keys = _keys(table, width)
    rest = [i for i in range(len(head)) if i not in keys]
    common = [i for i in rest if len(body) > 1 and len({row[i] for row in body}) == 1]
    same = ", ".join(f"{head[i]} {body[0][i]}" for i in common if body[0][i] not in ("", "-"))
    lines = [*wrapped(f"all: {same}", width).split("\n"), ""] if same else []
    parts: list[list[int]] = [[]]
    for column in (i for i in rest if i not in common):
        if parts[-1] and not _is_within(table, [*keys, *parts[-1], column], width):
            parts.append([])
        parts[-1].append(column)
    for n, part in enumerate(parts):
        lines += [*([""] if n else []), *_lines(table, [*keys, *part])]
    return lines


def wrapped(text: str, width: int | None, indent: str = "") -> str:
    """Text in lines that fit a terminal, broken between words.

    Args:
        text: of one line or several.
        width: of the terminal; None for lines as they are.
        indent: what lines after the first of a long one begin with.
    """
    if width is None:
        return text
    filler = textwrap.TextWrapper(
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return "\n".join(filler.fill(line) for line in text.split("\n"))


def _keys(table: Sequence[Sequence[str]], width: int) -> list[int]:
    """The leading columns that tell rows apart, if they leave room; else up to the first named."""
    named = next((i for i, title in enumerate(table[0]) if title), 0)
    for n in range(named + 1, len(table[0])):
        keys = list(range(n))
        if not _is_within(table, keys, 2 * width // 3):
            break
        if len({tuple(row[:n]) for row in table}) == len(table):
            return keys
    return list(range(named + 1))


def _is_within(table: Sequence[Sequence[str]], columns: Sequence[int], width: int) -> bool:
    return all(len(line) <= width for line in _lines(table, columns))


def _lines(table: Sequence[Sequence[str]], columns: Sequence[int]) -> list[str]:
    chosen = [[row[i] for i in columns] for row in table]
    widths = [
        max((len(cell) for cell in column if len(cell) <= _WIDEST), default=0)
        for column in zip(*chosen, strict=True)
    ]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in chosen
    ]
