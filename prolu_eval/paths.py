"""Folders and files as the public functions are given them."""

import os
from collections.abc import Iterable
from pathlib import Path

from prolu_eval.errors import UsageError

PathLike = str | os.PathLike[str]


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
