"""The arrays of a stored result, which are read from their file when they are used.

The files of thousands of results hold arrays of the same names, types and shapes. safetensors reads
and checks the header of such a file once; files of the same size that begin with exactly the same
header are read without it, which takes a tenth of the time.
"""

import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Array = NDArray[Any]

# The types of arrays, by safetensors' names.
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
# The bytes of the number at the beginning of a file, which is the length of its header.
_LENGTH = 8
# The most layouts that are remembered.
_MOST = 256


class _Place(NamedTuple):
    """An array in a file: its numpy type, its shape, and where its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    start: int


_Layout = Mapping[str, _Place]
_known: dict[tuple[bytes, int], _Layout] = {}


class StoredArrays(Mapping[str, Array]):
    """The arrays of a stored result, read from disk at every access and never kept in memory.

    Raises:
        OSError, SafetensorError: if the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with FileIO(path) as file:
            self._layout = _layout_of(file, path)

    def __getitem__(self, key: str) -> Array:
        if key not in self._layout:
            raise KeyError(key)
        return self.under(key)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    def under(self, prefix: str) -> dict[str, Array]:
        """The arrays whose names begin with a prefix, read together."""
        wanted = [key for key in self._layout if key.startswith(prefix)]
        if not wanted:
            return {}
        with FileIO(self._path) as file:
            layout = _layout_of(file, self._path)  # the file may be another one by now
            return {key: _read(file, layout[key]) for key in wanted}


def _layout_of(file: FileIO, path: Path) -> _Layout:
    """The arrays in a file that was just opened.

    Raises:
        SafetensorError, TypeError: if the file is damaged, or none of a result.
    """
    size = os.fstat(file.fileno()).st_size
    n = int.from_bytes(file.read(_LENGTH), "little")
    header = file.read(n) if n < size else b""
    known = _known.get((header, size))
    if known is None:
        with safe_open(path, framework="numpy") as checked:
            names = list(checked.keys())
        known = _parsed(header, names)
        if len(_known) >= _MOST:
            _known.clear()
        _known[header, size] = known
    return known


def _parsed(header: bytes, names: list[str]) -> _Layout:
    about = json.loads(header)
    if unusual := {about[name]["dtype"] for name in names} - _TYPES.keys():
        raise TypeError(f"arrays are of type {', '.join(sorted(unusual))}, which results never are")
    begin = _LENGTH + len(header)
    return {
        name: _Place(
            _TYPES[about[name]["dtype"]],
            tuple(about[name]["shape"]),
            begin + about[name]["data_offsets"][0],
        )
        for name in names
    }


def _read(file: FileIO, place: _Place) -> Array:
    array = np.empty(place.shape, place.dtype)
    left = array.reshape(-1).view("u1").data
    file.seek(place.start)
    while left:
        n = file.readinto(left)
        if not n:
            raise OSError(f"{file.name!r} ends in the middle")
        left = left[n:]
    return array
