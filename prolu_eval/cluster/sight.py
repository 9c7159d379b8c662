"""Identifying models and texts by content, so that a node can check whether it has the same."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prolu_eval.cluster.parcels import Arrivals, Parcel
from prolu_eval.lm.loading import folder_fingerprint
from prolu_eval.runs import EMBEDDED_MODEL
from prolu_eval.tokens.sources import identity

MODEL, TOKENS = "model", "tokens"
UNSEEN, LACKED = "unseen", "lacked"


class UnseenError(Exception):
    """Things that a node cannot access, by their names in messages.

    ``folders`` are the largest folders that do not exist on the node, with runs among them.
    """

    def __init__(self, what: list[str], folders: Collection[str] = ()) -> None:
        self.what, self.folders = what, folders
        super().__init__(", ".join(what))


def described(what: str, name: str) -> dict[str, Any] | None:
    """A description that identifies a local model's folder or text; None if it is not local."""
    path = Path(os.path.abspath(name))  # noqa: PTH100 (links stay)
    if name == EMBEDDED_MODEL or (content := content_of(what, path)) is None:
        return None
    return {"path": str(path), "content": content, "key": Parcel.of([path], [content]).key}


def parcel_of(what: str, description: Mapping[str, Any]) -> Parcel:
    """The files of a model's folder, or of a text."""
    path = Path(description["path"])
    if path.is_file():
        files = [path]
    else:
        below = path.iterdir() if what == MODEL else path.rglob("*")
        files = sorted(file for file in below if file.is_file())
    return Parcel(description["key"], tuple(files))


def content_of(what: str, path: Path) -> str | None:
    """A hash that identifies the content of a model's folder or of a source of tokens."""
    if not path.exists():
        return None
    try:
        return folder_fingerprint(path) if what == MODEL else identity(str(path))
    except OSError:
        return None


def find_here(
    wanted: Mapping[str, tuple[str, Mapping[str, Any] | None]],
    local_paths: dict[str, str],
    arrivals: Arrivals,
) -> None:
    """Find a model and a text on this node.

    Args:
        wanted: the name of each, and its description by :func:`described` on the sending machine.
        local_paths: by name, the paths on this node; the paths that are found are added.
        arrivals: the parcels that have arrived.

    Raises:
        UnseenError: if one is neither at the same path as elsewhere, nor among the parcels.
    """
    unseen = []
    for what, (name, description) in wanted.items():
        if description is None:
            continue
        here = Path(description["path"])
        if content_of(what, here) == description["content"]:
            local_paths[name] = str(here)
        elif (place := arrivals.place(description["key"], here)) is not None:
            local_paths[name] = str(place)
        else:
            unseen.append(what)
    if unseen:
        raise UnseenError(unseen)
