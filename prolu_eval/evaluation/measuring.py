"""Measuring the runs of a group shard by shard, beside other processes that may do the same."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from filelock import FileLock

from prolu_eval.errors import EvaluationError, ProluEvalError, ResultsError
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.grouping import portions
from prolu_eval.evaluation.parts import Parts, name_of
from prolu_eval.evaluation.sums import Measurement
from prolu_eval.results import Result, read_result, write_result, write_scalars
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder

# Seconds between two looks at what another process is measuring.
_POLL = 0.2


@dataclass(frozen=True)
class Home:
    """A run to be measured, and where its parts and results lie.

    ``fingerprints`` name its results on the first shards, by the number of shards; ``known`` are
    the numbers for which there was a result from the start.
    """

    run: Run
    folder: Path
    parts: Parts
    checkpoint: dict[str, str]
    fingerprints: Mapping[int, str]
    known: frozenset[int] = frozenset()

    @classmethod
    def at(
        cls, folder: Path, run: Run, checkpoint: dict[str, str], names: Mapping[int, str]
    ) -> "Home":
        """The home of a run whose results lie in a folder, as it is now."""
        known = frozenset(n for n, name in names.items() if (folder / f"{name}.json").exists())
        parts = Parts(folder / f"{names[max(names)]}.parts")
        return cls(run, folder, parts, checkpoint, names, known)

    def result(self, n_shards: int) -> Result | None:
        """The stored result on the first shards; one that cannot be read is as good as none.

        A run that has another name since bears it from now on, in the file too where it can be
        written.
        """
        path = self._path(n_shards)
        if not path.exists():
            return None
        try:
            result = read_result(path, arrays="stored")
        except ResultsError:
            path.unlink(missing_ok=True)
            return None
        if result.run.name == self.run.name:
            return result
        now = {"name": self.run.name, "path": str(self.run.path)}
        result = result.model_copy(update={"run": result.run.model_copy(update=now)})
        with contextlib.suppress(ResultsError):
            write_scalars(result, path)
        return result

    def finished(self) -> int | None:
        """The number of shards for which another process has meanwhile stored a result, if any."""
        others = self.fingerprints.keys() - self.known
        return next((n for n in others if self._path(n).exists()), None)

    def write(self, result: Result, n_shards: int) -> Result:
        """Store a result; what it returns reads its arrays when they are asked for.

        Whatever an interrupted writer left behind is removed.
        """
        for left_behind in self.folder.glob(f".{self.fingerprints[n_shards]}.*"):
            left_behind.unlink(missing_ok=True)
        return read_result(write_result(result, self.folder), arrays="stored")

    def measured(self, shards: Sequence[range]) -> Measurement | None:
        """The sums over shards, put together from their parts; None if one is missing."""
        found = [self.parts.read(name_of(rows)) for rows in shards]
        parts = [Measurement.restored(arrays) for arrays in found if arrays is not None]
        return reduce(add, parts) if len(parts) == len(shards) else None

    def _path(self, n_shards: int) -> Path:
        return self.folder / f"{self.fingerprints[n_shards]}.json"


def measure(
    engine: Engine,
    homes: Sequence[Home],
    shards: Sequence[range],
    *,
    load: Callable[[Run], SparseAutoencoder],
    fail: Callable[[Run, ProluEvalError], None],
    then: Callable[[Home, SparseAutoencoder], None],
    skipped: Callable[[int], Any],
) -> None:
    """Measure runs on shards, as far as that is not done or being done elsewhere.

    Args:
        engine: measures.
        homes: the runs.
        shards: rows of the engine's tokens.
        load: gives the autoencoder of a run, or raises why not.
        fail: told of each run that cannot be measured.
        then: called with each other run and its autoencoder, once all its shards are measured.
        skipped: told of rows that needed no measuring.

    Raises:
        ResultsError: if what is measured cannot be stored.
    """
    by_name = {home.run.name: home for home in homes}
    for portion in portions(home.run for home in homes):
        loaded: dict[str, SparseAutoencoder] = {}
        for run in portion:
            try:
                loaded[run.name] = load(run)
            except ProluEvalError as error:
                fail(run, error)
        started = time.monotonic()
        outstanding = list(shards)
        while outstanding and loaded:
            outstanding = [
                rows
                for rows in outstanding
                if not _measure_shard(engine, by_name, loaded, rows, fail, skipped)
            ]
            if outstanding:
                time.sleep(min(_POLL, time.monotonic() - started))
        for name, sae in loaded.items():
            then(by_name[name], sae)


def _measure_shard(
    engine: Engine,
    homes: Mapping[str, Home],
    loaded: dict[str, SparseAutoencoder],
    rows: range,
    fail: Callable[[Run, ProluEvalError], None],
    skipped: Callable[[int], Any],
) -> bool:
    """Measure what nobody else has or does of a shard; whether all of it is there now."""
    part = name_of(rows)
    complete = True
    with contextlib.ExitStack() as claims:
        mine: dict[str, SparseAutoencoder] = {}
        for name, sae in loaded.items():
            claim = _claim(homes[name], part)
            if isinstance(claim, FileLock):
                claims.callback(claim.release)
                mine[name] = sae
            else:
                complete = complete and claim
        for name, measured in (engine.measure(mine, rows) if mine else {}).items():
            if isinstance(measured, EvaluationError):
                fail(homes[name].run, measured)
                del loaded[name]
            else:
                homes[name].parts.write(part, measured.stored())
    if complete:
        skipped(len(rows) * (len(loaded) - len(mine)))
    return complete


def _claim(home: Home, part: str) -> FileLock | bool:
    """The lock on a part that is to be measured, or else whether the part is there already.

    The part is looked for before the result: whoever stores a result removes its parts afterwards,
    so that what is in neither place when looked at in this order was never measured.
    """
    if home.parts.has(part) or home.finished() is not None:
        return True
    lock = home.parts.claim(part)
    if lock is None:
        return False
    if home.parts.has(part) or home.finished() is not None:
        lock.release()
        return True
    return lock
