"""The sums of the clean pass and the ablations, which depend only on model, hook point and tokens.

They are kept in the cache folder (:mod:`prolu_eval.cache`), so that they are not measured again for
other runs on the same tokens, in whatever folder these are.
"""

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from prolu_eval.cache import cache_folder
from prolu_eval.errors import ResultsError
from prolu_eval.evaluation.measurer import Measurer
from prolu_eval.evaluation.parts import Parts, name_of
from prolu_eval.evaluation.sums import Sums, joined
from prolu_eval.results import Array, Setting, write_atomically

_VERSION = 1


def reference(engine: Measurer, setting: Setting, shards: Sequence[range]) -> Sums:
    """Sums of the clean and ablated passes over all rows, from the cache or measured now.

    Raises:
        EvaluationError: if the model's activations are not finite.
    """
    path = _path(engine.hook, setting)
    try:
        return _remembered(engine, path, shards)
    except ResultsError as error:
        logging.getLogger(__name__).warning("%s The ablations are not remembered.", error)
    with tempfile.TemporaryDirectory() as folder:
        return _measured(engine, shards, Parts(Path(folder)))


def _path(hook: str, setting: Setting) -> Path:
    parts = (_VERSION, hook, setting.comparison_key())
    name = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
    return cache_folder() / "references" / f"{name}.safetensors"


class Pieces:
    """The same sums, assembled from pieces that workers measure, one per shard.

    Pieces are stored when they arrive, in the same way as those of :func:`reference`. If the cache
    folder cannot be written to, they are stored in a temporary folder.

    Args:
        hook, columns: those of the engine.
        setting: the setting of the evaluation.
        shards: all shards of the rows.

    Attributes:
        path: the file that the sums are kept in, once all pieces are there.
    """

    def __init__(
        self, hook: str, columns: Sequence[str], setting: Setting, shards: Sequence[range]
    ) -> None:
        self.path, self._columns, self._shards = _path(hook, setting), columns, shards
        self._parts = Parts(self.path.with_suffix(".parts"))
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def whole(self) -> Sums | None:
        """The sums over all rows; None while a piece is missing."""
        if (found := _read(self.path, self._columns)) is not None:
            return found
        pieces = [self._parts.read(f"ablations-{name_of(rows)}") for rows in self._shards]
        if any(piece is None for piece in pieces):
            return None
        found = reduce(joined, [piece for piece in pieces if piece is not None])
        try:
            write_atomically(self.path, save(dict(found)))
        except ResultsError as error:
            logging.getLogger(__name__).warning("%s The ablations are not remembered.", error)
        else:
            self._parts.remove()
        return found

    def mean(self) -> NDArray[np.float64] | None:
        """The mean activation; None while a piece of it is missing. [d]"""
        pieces = [self._parts.read(f"mean-{name_of(rows)}") for rows in self._shards]
        found = [piece for piece in pieces if piece is not None]
        return _mean_of(found) if len(found) == len(pieces) else None

    def missing(self, kind: Literal["mean", "ablations"]) -> list[int]:
        """The shards whose piece of the mean, or of the ablations, is missing."""
        named = [f"{kind}-{name_of(rows)}" for rows in self._shards]
        return [i for i, name in enumerate(named) if not self._parts.has(name)]

    def keep(
        self, kind: Literal["mean", "ablations"], shard: int, piece: Mapping[str, Array]
    ) -> None:
        """Store the piece of a shard."""
        name = f"{kind}-{name_of(self._shards[shard])}"
        try:
            self._parts.write(name, piece)
        except ResultsError:
            if self._folder is not None:
                raise
            self._folder = tempfile.TemporaryDirectory()
            self._parts = Parts(Path(self._folder.name))
            self._parts.write(name, piece)


def _remembered(engine: Measurer, path: Path, shards: Sequence[range]) -> Sums:
    parts = Parts(path.with_suffix(".parts"))
    columns = engine.reference_columns
    if (found := _read(path, columns)) is None:
        with parts.whole():
            if (found := _read(path, columns)) is None:
                found = _measured(engine, shards, parts)
                write_atomically(path, save(dict(found)))
    parts.remove()
    return found


def _read(path: Path, columns: Sequence[str]) -> Sums | None:
    try:
        found = load_file(path)
    except (OSError, SafetensorError):
        return None
    return found if found.keys() == set(columns) else None


def _measured(engine: Measurer, shards: Sequence[range], parts: Parts) -> Sums:
    """Measure the mean activation first and then the sums that need it, shard by shard."""
    mean = _mean(engine, shards, parts)
    ablations = [
        parts.obtain(f"ablations-{name_of(rows)}", partial(engine.reference, mean, rows))
        for rows in shards
    ]
    return reduce(joined, ablations)


def _mean(engine: Measurer, shards: Sequence[range], parts: Parts) -> NDArray[np.float64]:
    def summed(rows: range) -> Mapping[str, Array]:
        return piece_of_mean(engine, rows)

    return _mean_of(
        [parts.obtain(f"mean-{name_of(rows)}", partial(summed, rows)) for rows in shards]
    )


def piece_of_mean(engine: Measurer, rows: range) -> dict[str, Array]:
    """The sum of the activations over rows and their number, as a piece of the mean.

    Raises:
        EvaluationError: if an activation is not finite, or the device's memory is too small.
    """
    total, count = engine.sum_of_activations(rows)
    return {"total": total, "count": np.array(count)}


def _mean_of(pieces: Sequence[Mapping[str, Array]]) -> NDArray[np.float64]:
    return np.asarray(sum(p["total"] for p in pieces) / sum(p["count"] for p in pieces))
