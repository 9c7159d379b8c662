"""The embedded default: a small language model and text like that on which it was trained.

The model is stored beside this file in Hugging Face format (:data:`MODEL_PATH`). The text is on
every machine that has Python: the source files of the running interpreter's standard library, split
by file into ``train`` and ``heldout`` (:func:`documents`). Neither needs a network.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

MODEL_PATH = Path(__file__).parent / "model"

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

# Folders that are not installed everywhere (tests, idlelib), that do not belong to the interpreter
# (site-packages), or that hold tables rather than source text (encodings, pydoc_data).
_LEFT_OUT = frozenset(
    [
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "encodings",
        "pydoc_data",
        "__pycache__",
        "_vendor",
    ]
)
_HELDOUT_ONE_IN = 10


def split_of(relative_path: str) -> Split:
    """Which split a source file belongs to: a tenth, chosen by the hash of its path, is held out.

    The path is relative to the standard library's folder and written in POSIX style, so that a file
    belongs to the same split on every machine and in every Python version.
    """
    digest = hashlib.sha256(relative_path.encode()).digest()
    return "heldout" if digest[0] % _HELDOUT_ONE_IN == 0 else "train"


def documents(split: Split) -> Iterator[str]:
    """The text of every standard-library source file of a split, in order of path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, files in os.walk(root):
        # Folders that are left out may hold many more files than the others, as site-packages do.
        folders[:] = set(folders) - _LEFT_OUT
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    for path in sorted(found):
        if split_of(path.relative_to(root).as_posix()) == split:
            yield path.read_text(encoding="utf-8", errors="replace")
