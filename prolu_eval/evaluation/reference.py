"""The clean pass and the ablations, remembered: they depend on model, hook point and tokens alone.

They are kept in the cache folder (:mod:`prolu_eval.cache`), so that other runs on the same tokens,
in whatever folder, need not measure them again.
"""

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from pathlib import Path

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
    """Sums of the clean and ablated passes over all rows, measured now or remembered.

    Raises:
        EvaluationError: if the model's activations are not finite.
    """
    parts = (_VERSION, engine.hook, setting.comparison_key())
    name = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
    path = cache_folder() / "references" / f"{name}.safetensors"
    try:
        return _remembered(engine, path, shards)
    except ResultsError as error:
        logging.getLogger(__name__).warning("%s The ablations are not remembered.", error)
    with tempfile.TemporaryDirectory() as folder:
        return _measured(engine, shards, Parts(Path(folder)))


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
    """The mean activation first, then what is measured with it; each shard by shard."""
    mean = _mean(engine, shards, parts)
    ablations = [
        parts.obtain(f"ablations-{name_of(rows)}", partial(engine.reference, mean, rows))
        for rows in shards
    ]
    return reduce(joined, ablations)


def _mean(engine: Measurer, shards: Sequence[range], parts: Parts) -> NDArray[np.float64]:
    def summed(rows: range) -> Mapping[str, Array]:
        total, count = engine.sum_of_activations(rows)
        return {"total": total, "count": np.array(count)}

    sums = [parts.obtain(f"mean-{name_of(rows)}", partial(summed, rows)) for rows in shards]
    return np.asarray(sum(s["total"] for s in sums) / sum(s["count"] for s in sums))
