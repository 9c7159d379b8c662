"""Sending files to a node that cannot access them: in pieces, once, and identified by content.

The node stores them in its cache folder, under their original paths, so that code which interprets
the names of files and folders still works. If they take too much space, the files that were not
used for the longest time are removed.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prolu_eval.cache import cache_folder
from prolu_eval.cluster.pool import Fetch, Pool
from prolu_eval.errors import ResultsError

_CHUNK = 64 << 20
# The most bytes of files that are kept on a node, and that are in transit together.
_KEPT, _ON_THE_WAY = 16 << 30, 2 << 30
_MARK = ".used"


@dataclass(frozen=True)
class Parcel:
    """Files that belong together, by absolute path; ``key`` is a hash that identifies them."""

    key: str
    files: tuple[Path, ...]

    @classmethod
    def of(cls, files: Iterable[Path], content: Iterable[str]) -> "Parcel":
        """The parcel of files, identified by ``content``: digests, or other marks of content."""
        absolute = tuple(Path(os.path.abspath(file)) for file in files)  # noqa: PTH100 (links stay)
        parts = [*map(str, absolute), *content]
        return cls(hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32], absolute)


class Shipping:
    """Sends parcels to the workers of a pool; each file is read once while there is room for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sent: OrderedDict[str, tuple[int, list[tuple[str, list[Any]]]]] = OrderedDict()

    def sent(self, parcel: Parcel) -> dict[str, Any]:
        """The part of a message that contains a parcel.

        Raises:
            ResultsError: if a file cannot be read any more.
        """
        if parcel.key not in self._sent:
            files, size = [], 0
            for path in parcel.files:
                pieces, n = self._pieces(path)
                files.append((str(path), pieces))
                size += n
            self._sent[parcel.key] = size, files
        self._sent.move_to_end(parcel.key)
        while sum(n for n, _ in self._sent.values()) > _ON_THE_WAY and len(self._sent) > 1:
            self._sent.popitem(last=False)
        return {"key": parcel.key, "files": self._sent[parcel.key][1]}

    def _pieces(self, path: Path) -> tuple[list[Any], int]:
        pieces, size = [], 0
        try:
            with path.open("rb") as file:
                while content := file.read(_CHUNK):
                    pieces.append(self._pool.put(content))
                    size += len(content)
        except OSError as error:
            reason = f"cannot be sent to a worker ({error.strerror})"
            raise ResultsError(path, reason, "make it readable") from None
        return pieces, size


class Arrivals:
    """The parcels that have arrived on this node, for any of its workers."""

    def __init__(self) -> None:
        self._folder = cache_folder() / "arrived"

    def unpack(self, parcel: Mapping[str, Any], fetch: Fetch) -> None:
        """Write a parcel's files, unless they are on this node already.

        Raises:
            ResultsError: if the files cannot be written.
        """
        folder = self._folder / parcel["key"]
        if folder.exists():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            begun = Path(tempfile.mkdtemp(dir=self._folder, prefix="."))
            try:
                self._write(begun, parcel["files"], fetch)
                with contextlib.suppress(FileExistsError, OSError):  # another worker's may be there
                    begun.rename(folder)
            finally:
                shutil.rmtree(begun, ignore_errors=True)
            self._make_room(folder)
        except OSError as error:
            raise ResultsError(
                self._folder,
                f"cannot keep files that were sent ({error.strerror})",
                "free space on the node, or set PROLU_EVAL_CACHE there to another folder",
            ) from None

    def place(self, key: str, path: Path) -> Path | None:
        """The path of a parcel's file or folder on this node; None if the parcel is not here."""
        place = self._folder / key / path.relative_to("/")
        if not place.exists():
            return None
        with contextlib.suppress(OSError):
            os.utime(self._folder / key / _MARK)
        return place

    def discard(self, key: str) -> None:
        """Remove a parcel whose files are damaged."""
        shutil.rmtree(self._folder / key, ignore_errors=True)

    def original(self, text: str) -> str:
        """The text, with paths of arrived files replaced by their original paths."""
        prefix = f"{self._folder}{os.sep}"
        before, *rest = text.split(prefix)
        return before + "".join(os.sep + part.partition(os.sep)[2] for part in rest)

    @staticmethod
    def _write(folder: Path, files: Sequence[tuple[str, Sequence[Any]]], fetch: Fetch) -> None:
        for name, pieces in files:
            path = folder / Path(name).relative_to("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for piece in pieces:
                    file.write(fetch(piece))
        (folder / _MARK).touch()

    def _make_room(self, newest: Path) -> None:
        """Remove the parcels that were not used for the longest time until the rest is small."""
        used = {}
        for folder in self._folder.iterdir():
            if folder.name.startswith("."):
                continue
            with contextlib.suppress(OSError):
                used[folder] = (folder / _MARK).stat().st_mtime
        sizes = {folder: _size(folder) for folder in used}
        total = sum(sizes.values())
        for folder in sorted(used, key=used.__getitem__):
            if total <= _KEPT:
                return
            if folder != newest and time.time() - used[folder] > 1:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


@functools.lru_cache(maxsize=4096)
def _digest(path: str, size: int, changed: int) -> str:
    del size, changed  # part of the cache's key: they change with the content
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_content(path: Path, digest: str) -> bool:
    """Whether a file is on this node and has a SHA-256."""
    try:
        status = path.stat()
        return _digest(str(path), status.st_size, status.st_mtime_ns) == digest
    except OSError:
        return False
