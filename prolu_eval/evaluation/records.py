"""The stored state of a run's measurement: its parts while it lasts, and its results."""

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
    """The folder of a run's results: below ``results`` if it is given, else the run's own."""
    if results is not None:
        return results / run.name
    return run.results or run.folder / FOLDER


@dataclass(frozen=True)
class Record:
    """A run that is measured, and the places of its parts and results.

    ``checkpoint`` are the digests of the run's files. ``fingerprints`` are the names of its results
    on the first shards, by the number of shards; ``known`` are the numbers of shards for which a
    result was stored at the start. Results with fewer than ``n_examples`` examples per feature are
    not used.
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
        """The current record of a run at its hook points, for settings by number of shards."""
        folder, n_examples = folder_of_results(run, options.results), options.examples
        if is_range(str(run.hook)):
            n_examples = 0  # none are kept for autoencoders of several sites
        checkpoint = file_digests(run.files, run.folder)
        fingerprints = {
            n: fingerprint_of(run, checkpoint, setting) for n, setting in settings.items()
        }
        name = fingerprints[max(fingerprints)] + (f"-{n_examples}-examples" if n_examples else "")
        parts = Parts(folder / f"{name}.parts")
        record = cls(run, folder, parts, checkpoint, fingerprints, n_examples)
        return replace(record, known=frozenset(filter(record._is_stored, fingerprints)))

    def result(self, n_shards: int) -> Result | None:
        """The stored result on the first shards; None if there is none or it cannot be read.

        If the run has another name now, the result gets this name, in the file too if it can be
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
        """The number of shards of a result that another process stored meanwhile; else None."""
        others = self.fingerprints.keys() - self.known
        return next(filter(self._is_stored, others), None)

    def write(self, result: Result) -> Result:
        """Store a result, and return it in a form that reads its arrays when they are used.

        Files that an interrupted writer left are removed.

        Raises:
            ResultsError: if the folder cannot be written to.
        """
        for left_behind in self.folder.glob(f".{result.fingerprint}.*"):
            left_behind.unlink(missing_ok=True)
        return read_result(write_result(result, self.folder), arrays="stored")

    def measured(self, shards: Sequence[range]) -> Measurement | None:
        """The measurement over shards, assembled from their parts; None if a part is missing."""
        total: Measurement | None = None
        for rows in shards:  # one at a time: all parts together may not fit in memory
            arrays = self.parts.read(name_of(rows))
            if arrays is None:
                return None
            part = Measurement.restored(arrays)
            total = part if total is None else total + part
        return total

    def sums(self, shards: Sequence[range]) -> Sums | None:
        """The sums per row over the first shards, from parts or a result; None if some are missing.

        Sums from a result include those of the clean and ablated passes.
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
        """Mark a stored result, also in its file, as that of a run that left a race.

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
        """Whether a result on the first shards is stored and has enough examples."""
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
    """The fingerprint of a run's measurement at its hook points: a hash of all that decides it."""
    parts = (*checkpoint.values(), run.part, *run.hooks, setting.comparison_key())
    parts += (run.besides,) if run.besides else ()
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
