"""What is kept of a run's measurement: its parts while it lasts, and its results."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

from prolu_eval.errors import ResultsError
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.parts import Parts, name_of
from prolu_eval.evaluation.sums import BESIDES, Measurement, Sums, joined
from prolu_eval.results import (
    EXAMPLE,
    FOLDER,
    Dropped,
    Result,
    Setting,
    file_digests,
    read_result,
    write_result,
    write_scalars,
)
from prolu_eval.runs import Run, is_range


def folder_of_results(run: Run, results: Path | None) -> Path:
    """Where a run's results lie: below a folder that was named, or where the run keeps them."""
    if results is not None:
        return results / run.name
    return run.results or run.folder / FOLDER


@dataclass(frozen=True)
class Record:
    """A run to be measured, and where its parts and results lie.

    ``checkpoint`` are the digests of the run's files. ``fingerprints`` name its results on the
    first shards, by the number of shards; ``known`` are the numbers for which there was a result
    from the start. Results with fewer than ``n_examples`` examples a feature do not do.
    """

    run: Run
    folder: Path
    parts: Parts
    checkpoint: dict[str, str]
    fingerprints: Mapping[int, str]
    n_examples: int = 0
    known: frozenset[int] = frozenset()

    @classmethod
    def of(cls, run: Run, settings: Mapping[int, Setting], options: EvaluationOptions) -> "Record":
        """The record of a run at its hook points on settings, by number of shards, as it is now."""
        folder, n_examples = folder_of_results(run, options.results), options.examples
        if is_range(str(run.hook)):
            n_examples = 0  # none are kept of what reads several hook points
        checkpoint = file_digests(run.files, run.folder)
        fingerprints = {
            n: fingerprint_of(run, checkpoint, setting) for n, setting in settings.items()
        }
        name = fingerprints[max(fingerprints)] + (f"-{n_examples}-examples" if n_examples else "")
        parts = Parts(folder / f"{name}.parts")
        record = cls(run, folder, parts, checkpoint, fingerprints, n_examples)
        return replace(record, known=frozenset(filter(record._is_stored, fingerprints)))

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
        if not self._suffices(result):
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
        return next(filter(self._is_stored, others), None)

    def write(self, result: Result) -> Result:
        """Store a result; what it returns reads its arrays when they are asked for.

        Whatever an interrupted writer left behind is removed.

        Raises:
            ResultsError: if the folder cannot be written to.
        """
        for left_behind in self.folder.glob(f".{result.fingerprint}.*"):
            left_behind.unlink(missing_ok=True)
        return read_result(write_result(result, self.folder), arrays="stored")

    def measured(self, shards: Sequence[range]) -> Measurement | None:
        """The sums over shards, put together from their parts; None if one is missing."""
        total: Measurement | None = None
        for rows in shards:  # one at a time: all parts together may not fit in memory
            arrays = self.parts.read(name_of(rows))
            if arrays is None:
                return None
            part = Measurement.restored(arrays)
            total = part if total is None else total + part
        return total

    def sums(self, shards: Sequence[range]) -> Sums | None:
        """The sums per row over the first shards, from parts or a result; None if some lack.

        A result has sums of the reference too.
        """
        found: list[Sums] = []
        for rows in shards:
            arrays = self.parts.read(name_of(rows), but=BESIDES)
            if arrays is None:
                break
            found.append(arrays)
        else:
            return reduce(joined, found)
        n_rows = shards[-1].stop
        for n in sorted(n for n in self.fingerprints if n >= len(shards)):
            if (result := self.result(n)) is not None:
                return {name: array[:n_rows] for name, array in result.per_sequence().items()}
        return None

    def drop(self, result: Result, dropped: Dropped) -> Result:
        """A stored result, marked as that of a run that left a race; in its file too.

        Raises:
            ResultsError: if the file cannot be written.
        """
        if result.dropped == dropped or result.file is None:
            return result
        marked = result.model_copy(update={"dropped": dropped})
        write_scalars(marked, result.file)
        return marked

    def _path(self, n_shards: int) -> Path:
        return self.folder / f"{self.fingerprints[n_shards]}.json"

    def _is_stored(self, n_shards: int) -> bool:
        """Whether there is a result on the first shards, with as many examples as are wanted."""
        path = self._path(n_shards)
        if not path.exists() or not self.n_examples:
            return path.exists()
        try:
            return self._suffices(read_result(path, arrays="stored"))
        except ResultsError:
            return False

    def _suffices(self, result: Result) -> bool:
        if not self.n_examples:
            return True
        found = result.arrays.get(f"{EXAMPLE}activation")
        return found is not None and found.shape[1] >= self.n_examples


def fingerprint_of(run: Run, checkpoint: dict[str, str], setting: Setting) -> str:
    """The name of a measurement of a run at its hook points, from all that decides it."""
    parts = (*checkpoint.values(), run.part, *run.hooks, setting.comparison_key())
    parts += (run.besides,) if run.besides else ()
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
