"""Checks of the arguments of public functions, made before any work."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from prolu_eval.errors import UsageError

PathLike = str | os.PathLike[str]
_T = TypeVar("_T")


def of_type(value: object, kind: type[_T], what: str, remedy: str) -> _T:
    """The value, if it is of a type; True and False do not count as numbers.

    Raises:
        UsageError: if it is not; ``what`` names the argument, ``remedy`` says what to give.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(what, f"is of type {type(value).__name__}", remedy)
    return value


def as_texts(value: object, what: str, remedy: str) -> list[str]:
    """A list of texts, from one text or several.

    Raises:
        UsageError: if one of them is not a text.
    """
    items = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return [of_type(item, str, what, remedy) for item in items]


def as_path(value: object, what: str) -> Path:
    """A path, from a text or a path; ``~`` at its start is the user's home folder.

    Raises:
        UsageError: if the value is neither; ``what`` names the argument.
    """
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise UsageError(what, f"{value!r} is not a path", "name a file or a folder")
    return Path(at_home(found))


def at_home(text: str) -> str:
    """A text with the home folder in the place of a leading ``~`` or ``~/``."""
    return str(Path(text).expanduser()) if text == "~" or text.startswith("~/") else text


def as_paths(value: "PathLike | Iterable[object]", what: str) -> list[Path]:
    """A list of paths, from one path or several.

    Raises:
        UsageError: if there is no path, or if one is neither a text nor a path.
    """
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        return [as_path(value, what)]
    paths = [as_path(item, what) for item in value]
    if not paths:
        raise UsageError(what, "no path is given", "name a folder, or several")
    return paths
