"""What the public functions are given, before anything is done with it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from prolu_eval.errors import UsageError

PathLike = str | os.PathLike[str]
_T = TypeVar("_T")


def of_type(value: object, kind: type[_T], what: str, remedy: str) -> _T:
    """A value that is of some type; a truth value is no number.

    Raises:
        UsageError: if it is not; ``what`` says of what, ``remedy`` what to give.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(what, f"is of type {type(value).__name__}", remedy)
    return value


def as_texts(value: object, what: str, remedy: str) -> list[str]:
    """Texts from one or several.

    Raises:
        UsageError: if one is no text.
    """
    items = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return [of_type(item, str, what, remedy) for item in items]


def as_path(value: object, what: str) -> Path:
    """A path from text or a path.

    Raises:
        UsageError: if it is neither; ``what`` says of what.
    """
    if isinstance(value, str | Path):
        return Path(value)
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise UsageError(what, f"{value!r} is no path", "name a file or a folder")
    return Path(found)


def as_paths(value: "PathLike | Iterable[object]", what: str) -> list[Path]:
    """Paths from one or several.

    Raises:
        UsageError: if there is none, or one is neither text nor a path.
    """
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        return [as_path(value, what)]
    paths = [as_path(item, what) for item in value]
    if not paths:
        raise UsageError(what, "are none", "name a folder, or several")
    return paths
