"""Measuring runs shard by shard, while other processes may measure the same runs."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from filelock import FileLock

from prolu_eval.checkpoints import load_run
from prolu_eval.errors import EvaluationError, ProluEvalError
from prolu_eval.evaluation.conditions import portions
from prolu_eval.evaluation.measurer import Measurer
from prolu_eval.evaluation.parts import name_of
from prolu_eval.evaluation.records import Record
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder

# Seconds between two checks for the parts that another process is measuring.
_POLL = 0.2


@dataclass(frozen=True)
class Measured:
    """A run that is measured on all shards, and its autoencoder."""

    record: Record
    sae: SparseAutoencoder


@dataclass(frozen=True)
class Failed:
    """A run that could not be measured, and why."""

    record: Record
    error: ProluEvalError


def measure(
    engine: Measurer,
    records: Sequence[Record],
    shards: Sequence[range],
    skipped: Callable[[int], Any] = lambda _: None,
    *,
    waits: bool = True,
) -> Iterator[Measured | Failed]:
    """Measure runs on shards, except for parts that are stored or that another process measures.

    Args:
        engine: the engine that measures.
        records: the runs.
        shards: ranges of rows of the engine's tokens.
        skipped: a function that is called with the number of rows that needed no measuring.
        waits: whether to wait for parts that other processes are measuring; if not, a run may be
            yielded before all of its shards are measured.

    Yields:
        Each run once, as soon as it is measured or has failed.

    Raises:
        EvaluationError: if a single row does not fit in the device's memory.
        ResultsError: if a part cannot be stored.
    """
    by_name = {record.run.name: record for record in records}
    for portion in portions([record.run for record in records]):
        loaded: dict[str, SparseAutoencoder] = {}
        for run in portion:
            try:
                loaded[run.name] = load(run, engine)
            except ProluEvalError as error:
                yield Failed(by_name[run.name], error)
        started = time.monotonic()
        outstanding = list(shards)
        own: dict[range, set[str]] = {rows: set() for rows in shards}
        while outstanding and loaded:
            incomplete = []
            for rows in outstanding:
                shard = _measure_shard(engine, by_name, loaded, rows)
                for name, reason in shard.failed.items():
                    del loaded[name]
                    yield Failed(by_name[name], reason)
                own[rows] |= shard.measured
                if not shard.complete:
                    incomplete.append(rows)
                else:
                    skipped(len(rows) * len(loaded.keys() - own[rows]))
            outstanding = incomplete
            if outstanding and not waits:
                break
            if outstanding:
                skipped(0)  # helpers may have reported rows
                time.sleep(min(_POLL, time.monotonic() - started))
        for name, sae in loaded.items():
            yield Measured(by_name[name], sae)


@dataclass(frozen=True)
class _Shard:
    """The result of measuring a shard: the runs that were measured here, and those that failed.

    ``complete`` says whether all parts that other processes measure are stored now.
    """

    measured: Set[str]
    failed: Mapping[str, EvaluationError]
    complete: bool


def load(run: Run, engine: Measurer) -> SparseAutoencoder:
    """The autoencoder of a run.

    Raises:
        CheckpointError: if it cannot be read, or does not suit its hook points.
        ModelError: if a transcoder's input site cannot be read to replace its output site.
    """
    sae = load_run(run)
    engine.check(run, sae)
    return sae


def _measure_shard(
    engine: Measurer,
    records: Mapping[str, Record],
    loaded: Mapping[str, SparseAutoencoder],
    rows: range,
) -> _Shard:
    """Measure the runs on a shard that no other process has measured or is measuring."""
    part = name_of(rows)
    complete = True
    failed: dict[str, EvaluationError] = {}
    with contextlib.ExitStack() as claims:
        mine: dict[str, SparseAutoencoder] = {}
        for name, sae in loaded.items():
            claim = claimed(records[name], part)
            if isinstance(claim, FileLock):
                claims.callback(claim.release)
                mine[name] = sae
            else:
                complete = complete and claim
        for name, measured in (engine.measure_saes(mine, rows) if mine else {}).items():
            if isinstance(measured, EvaluationError):
                failed[name] = measured
            else:
                records[name].parts.write(part, measured.stored())
    return _Shard(mine.keys() - failed.keys(), failed, complete)


def claimed(record: Record, part: str) -> FileLock | bool:
    """The lock on a part that has to be measured, or else whether it is measured already.

    The part is looked for first and the result second. A process that stores a result removes its
    parts only afterwards, so a part that is found in neither place was never measured.
    """
    if record.parts.has(part) or record.finished() is not None:
        return True
    lock = record.parts.claim(part)
    if lock is None:
        return False
    if record.parts.has(part) or record.finished() is not None:
        lock.release()
        return True
    return lock
