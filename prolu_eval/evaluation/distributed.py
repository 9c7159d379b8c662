"""An evaluation over the workers of a cluster, which this process drives and whose parts it stores.

One worker prepares each group of runs under the same conditions, and reports the rows and shards on
which they are measured. The rest of the work is divided into units by the
:class:`~prolu_eval.evaluation.schedule.Schedule`. Workers send back what they measure as parts,
which are stored here in the same way as when one process measures. Any worker, or this process, may
therefore end at any time; the next call continues from the stored parts. A unit is sent only to a
worker with room for it, so that the memory used does not grow with the number of runs.
"""

import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import torch
from filelock import FileLock

from prolu_eval.checkpoints.modules import FORMAT as MODULE
from prolu_eval.cluster.address import check_device, shares_of
from prolu_eval.cluster.parcels import Parcel, Shipping
from prolu_eval.cluster.pool import (
    ERROR,
    WARNINGS,
    Answered,
    Event,
    Gone,
    Joined,
    Message,
    Pool,
    Worker,
    error_of,
    last_line,
)
from prolu_eval.cluster.rates import Rates
from prolu_eval.cluster.sight import LACKED, MODEL, TOKENS, UNSEEN, described, parcel_of
from prolu_eval.errors import CheckpointError, EvaluationError, ProluEvalError, ResultsError
from prolu_eval.evaluation.conditions import Conditions
from prolu_eval.evaluation.extra_measures import ExtraMeasures, with_tasks
from prolu_eval.evaluation.locks import room_for_locks
from prolu_eval.evaluation.measuring import claimed
from prolu_eval.evaluation.options import EvaluationOptions, as_document
from prolu_eval.evaluation.outcomes import Outcome, failed, settled
from prolu_eval.evaluation.parts import name_of
from prolu_eval.evaluation.preparation import Precision
from prolu_eval.evaluation.probing import TasksDone
from prolu_eval.evaluation.racing import Race
from prolu_eval.evaluation.records import Record
from prolu_eval.evaluation.reference import Pieces
from prolu_eval.evaluation.rounds import Round, next_round
from prolu_eval.evaluation.schedule import Kind, Schedule, Unit
from prolu_eval.evaluation.sums import Sums
from prolu_eval.evaluation.worker import OUT_OF_MEMORY, UNREADY, absolute
from prolu_eval.progress import Progress
from prolu_eval.results import Result, Setting, file_digests
from prolu_eval.runs import Run
from prolu_eval.tokens import TokenRows

SERVICE = "prolu_eval.evaluation.worker:EvaluationWorker"
# Seconds to wait for events before looking again for parts that other processes stored.
_PATIENCE = 0.5
# How often a unit may fail with an error that is not the fault of a run.
_TRIES = 3


@contextmanager
def workers_on(options: EvaluationOptions) -> Iterator[Pool]:
    """The workers that ``--on`` names, until the block ends.

    Raises:
        UsageError: if the cluster cannot be reached, or the device is one of a single machine.
    """
    check_device(options.device)
    from prolu_eval.cluster.on_ray import RayPool

    pool = RayPool(str(options.on), SERVICE, config_of(options), shares_of(options.ray))
    try:
        yield pool
    finally:
        pool.close()


def config_of(options: EvaluationOptions) -> dict[str, Any]:
    """The configuration from which workers of an evaluation are created."""
    document = as_document(replace(options, on=None, ray=None, slurm=None, device=None))
    return {"options": document, "device": options.device, "folder": os.getcwd()}  # noqa: PTH109


@dataclass(frozen=True)
class _Prepared:
    """What a worker reported about a group: the same as ``Prepared``, but without an engine."""

    shards: Sequence[range]
    settings: Mapping[int, Setting]
    precision: Precision
    rows: TokenRows
    columns: tuple[str, ...]
    references: dict[int, Sums] = field(default_factory=dict)

    def reference(self, n_shards: int) -> Sums:
        """The sums over the first shards, which were assembled before."""
        return self.references[n_shards]


@dataclass
class _Group:
    """Runs under the same conditions, and the state of their evaluation.

    ``measured`` are runs that wait for the sums of the clean and ablated passes. ``to_refer`` are
    the numbers of first shards for which these sums are needed, one after the other; ``pieces`` are
    those of the first of them. ``about``, ``mean``, ``sums`` (by number of shards) and ``modules``
    (of the user's own runs) are references to values that are sent to workers. ``beaten`` are the
    runs that have left a race, each with the number of its shards and the run that beats it, and
    ``stored`` are the runs whose stored results are being completed, with their status.
    ``asked`` are the pieces that workers were asked for and have not sent, by kind and shard.
    ``refused`` are the nodes on which a unit or a run has failed.
    """

    key: int
    conditions: Conditions
    runs: dict[str, Run]
    prepared: _Prepared | None = None
    records: dict[str, Record] = field(default_factory=dict)
    round: Round | None = None
    shards: Sequence[int] = ()
    measured: list[str] = field(default_factory=list)
    to_refer: deque[int] = field(default_factory=deque)
    pieces: Pieces | None = None
    asked: set[tuple[Kind, int]] = field(default_factory=set)
    mean: Any = None
    about: Any = None
    sums: dict[int, Any] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)
    race: Race | None = None
    beaten: dict[str, tuple[int, str]] = field(default_factory=dict)
    stored: dict[str, Literal["ok", "cached"]] = field(default_factory=dict)
    tries: Counter[object] = field(default_factory=Counter)
    refused: dict[object, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def ready(self) -> _Prepared:
        """The rows and shards on which its runs are measured, once they are known."""
        if self.prepared is None:
            raise RuntimeError(f"{self.conditions} are not prepared")
        return self.prepared

    @property
    def now(self) -> Round:
        """The group's current round, once it has begun."""
        if self.round is None:
            raise RuntimeError(f"{self.conditions} are in no round")
        return self.round

    def n_shards(self, name: str) -> int:
        """The number of first shards that a run's result is on."""
        return self.beaten[name][0] if name in self.beaten else self.now.n_shards

    @property
    def running(self) -> list[Record]:
        """The records of the runs that are still to be measured, as far as is known."""
        left = self.runs.keys() - self.beaten.keys() - self.stored.keys()
        return [self.records[name] for name in self.runs if name in left]


@dataclass
class _Held:
    """A worker's state: its group, and the runs whose autoencoders it has loaded."""

    worker: Worker
    group: int | None = None
    names: frozenset[str] = frozenset()

    def forget(self) -> None:
        """Assume that the worker has nothing loaded."""
        self.group, self.names = None, frozenset()


@dataclass
class _Sent:
    """A unit that was sent to a worker, and the locks on the parts that it measures."""

    worker: Worker
    unit: Unit
    message: dict[str, Any]
    claims: Sequence[FileLock]
    n_unseen: int = 0

    def release(self) -> None:
        """Release the locks, so that others can measure these parts."""
        for claim in self.claims:
            claim.release()


class Distribution:
    """An evaluation of groups of runs over a pool of workers.

    Args:
        together: the runs, by their conditions.
        options: how to evaluate.
        pool: the workers.
        progress: whether to show the progress.
        extra: what is measured in addition.
    """

    def __init__(
        self,
        together: Mapping[Conditions, Sequence[Run]],
        options: EvaluationOptions,
        pool: Pool,
        progress: bool,
        extra: ExtraMeasures | None = None,
    ) -> None:
        self._options, self._pool = options, pool
        self._extra = pool.put(extra) if extra is not None and extra.measures else None
        self._shipping, self._schedule, self._rates = Shipping(pool), Schedule(), Rates()
        self._groups = {
            key: _Group(key, conditions, {run.name: run for run in together[conditions]})
            for key, conditions in enumerate(sorted(together))
        }
        self._to_add = deque(self._groups.values())
        self._workers: dict[int, _Held] = {}
        self._sent: dict[int, _Sent] = {}
        self._done: deque[Outcome] = deque()
        self._busy: list[tuple[_Group, Unit, Sequence[str]]] = []
        self._told: set[str] = set()
        self._lacked: dict[str, set[str]] = defaultdict(set)  # folders that nodes do not have
        self._content = cache(described)
        self._shown = Progress("evaluation", "row", shown=progress)
        self._most_locks = room_for_locks()

    def outcomes(self) -> Iterator[Outcome]:
        """The outcome of each run, as soon as it is known.

        Raises:
            EvaluationError: if no worker can be started.
            ResultsError: if parts or results cannot be stored.
        """
        yield from self._put_modules()
        with self._shown:
            try:
                while self._groups:
                    self._hand_out()
                    events = self._pool.events(_PATIENCE)
                    for event in events:
                        self._take(event)
                        self._hand_out()
                    if not events:
                        self._look_for_others()
                    while self._done:
                        yield self._done.popleft()
            finally:
                for sent in self._sent.values():
                    sent.release()

    def _put_modules(self) -> Iterator[Outcome]:
        """Put the user's own modules where workers get them; yield runs that cannot be sent."""
        for group in list(self._groups.values()):
            for run in [run for run in group.runs.values() if run.format == MODULE]:
                try:
                    group.modules[run.name] = self._pool.put(run.loader)
                except ProluEvalError:
                    raise
                except Exception as error:  # noqa: BLE001 (whatever pickling the user's code raises)
                    reason = f"cannot be sent to workers ({last_line(error)})"
                    remedy = "keep only tensors and plain values in it, or leave out --on"
                    del group.runs[run.name]
                    yield failed(run, CheckpointError(run.name, reason, remedy))
            if not group.runs:
                del self._groups[group.key]
                self._to_add.remove(group)

    # Handing out

    def _hand_out(self) -> None:
        """Send a unit to each worker that has room for one."""
        for held in list(self._workers.values()):
            while self._groups and (unit := self._next(held)) is not None:
                group = self._groups[unit.group]
                if self._is_for_another(held, group, unit):
                    self._schedule.again(unit)
                    break
                if unit.kind == "measure":
                    self._send_measuring(held, group, unit)
                elif self._is_wanted(group, unit):
                    self._send(held, group, unit, ())

    def _next(self, held: _Held) -> Unit | None:
        if sum(len(sent.claims) for sent in self._sent.values()) > self._most_locks:
            return None
        while self._to_add and self._schedule.wants_more():
            group = self._to_add.popleft()
            self._schedule.add_group(group.key, group.conditions.model, len(group.runs))
        return self._schedule.next(held.worker.id)

    def _is_for_another(self, held: _Held, group: _Group, unit: Unit) -> bool:
        """Whether a unit has failed on a worker's node, and there is another node to try."""
        nodes = group.refused.get(_what(unit)) or group.refused.get(unit.names)
        return nodes is not None and held.worker.node in nodes and self._has_others(nodes)

    def _has_others(self, nodes: Set[str]) -> bool:
        """Whether there are workers on other nodes."""
        return any(held.worker.node not in nodes for held in self._workers.values())

    def _is_wanted(self, group: _Group, unit: Unit) -> bool:
        """Whether a unit still has to be done, and can be."""
        if unit.kind == "assemble":
            return self._has_sums(group, unit)
        if unit.kind in ("mean", "ablations") and not (
            group.pieces is not None
            and unit.shard in group.pieces.missing(unit.kind)
            and (unit.kind == "mean" or group.mean is not None)
        ):
            self._schedule.done(unit, 0)
            group.asked.discard((unit.kind, unit.shard))
            if not group.asked:  # another process stored the last piece
                self._refer(group)
            return False
        return True

    def _send_measuring(self, held: _Held, group: _Group, unit: Unit) -> None:
        """Send the runs of a unit that no other process has measured or is measuring."""
        claims, mine, busy = [], [], []
        for name in unit.names:
            claim = claimed(group.records[name], name_of(group.ready.shards[unit.shard]))
            if isinstance(claim, FileLock):
                claims.append(claim)
                mine.append(name)
            elif claim:
                self._schedule.stored(group.key, name, unit.shard)
            else:
                busy.append(name)
        if busy:
            self._busy.append((group, unit, busy))
        if mine:
            self._send(held, group, replace(unit, names=tuple(mine)), claims)
        else:
            self._schedule.done(replace(unit, names=()), 0)
        for name in set(unit.names) - {*mine, *busy}:
            self._shown.found(len(group.ready.shards[unit.shard]))
            self._conclude(group, name)

    def _send(self, held: _Held, group: _Group, unit: Unit, claims: Sequence[FileLock]) -> None:
        message = self._message(held, group, unit)
        call = self._pool.submit(held.worker, message)
        self._sent[call] = _Sent(held.worker, unit, message, claims)

    def _message(self, held: _Held, group: _Group, unit: Unit) -> dict[str, Any]:
        """The message for a unit, including all data that the worker does not have yet."""
        message: dict[str, Any] = {"do": unit.kind, "group": group.key, "names": unit.names}
        if unit.kind == "prepare":
            held.forget()
            return message | self._preparing(group)
        if unit.shard >= 0:
            message["rows"] = group.ready.shards[unit.shard]
        if unit.kind in ("mean", "ablations"):
            message["n_shards"] = group.to_refer[0]
        if unit.kind == "ablations":
            message["mean"] = group.mean
        if unit.kind == "assemble":
            message |= self._assembling(group, unit.names[0])
        if unit.kind == "complete":
            record = group.records[unit.names[0]]
            result = record.result(group.now.n_shards)
            message["tasks"] = {} if result is None else result.tasks
            held.names -= {*unit.names}  # it is loaded anew, and not kept
        if held.group != group.key:
            message["begin"] = group.about
            held.group, held.names = group.key, frozenset()
        if unit.names:
            wanted = {*unit.portion, *unit.names} & group.runs.keys()
            new = wanted - held.names if not set(unit.names) <= held.names else set()
            message["load"] = [_sent(group.records[name]) for name in sorted(new)]
            message["modules"] = {
                name: group.modules[name] for name in sorted(new) if name in group.modules
            }
            alone = unit.kind == "measure" or self._schedule.lacks_memory(group.key)
            kept = wanted if alone or group.tries[_what(unit)] else wanted | held.names
            if new and unit.kind != "complete":
                held.names = frozenset(kept)
            message["hold"] = held.names
            unseen = [name for name in sorted(new) if self._is_lacked(held, group, name)]
            message["parcels"] = [self._files(group, name) for name in unseen]
        return message

    def _is_lacked(self, held: _Held, group: _Group, name: str) -> bool:
        """Whether a run's files are surely not on a worker's node, as a folder with them is not.

        A node that has the folder is asked about each file. It may lack a single one, or have a
        copy that is damaged.
        """
        lacked = self._lacked[held.worker.node]
        if not lacked or name in group.modules:
            return False
        path = absolute(group.runs[name], os.getcwd()).path  # noqa: PTH109
        return not lacked.isdisjoint(map(str, (path, *path.parents)))

    def _preparing(self, group: _Group) -> dict[str, Any]:
        runs = list(group.runs.values())
        about = self._about(group) | {"runs": [_without_module(run) for run in runs]}
        if self._options.dtype == "auto":
            about["digests"] = {run.name: file_digests(run.files, run.folder) for run in runs}
            about["modules"] = group.modules
        return about

    def _about(self, group: _Group) -> dict[str, Any]:
        conditions = group.conditions
        return {
            "conditions": conditions,
            "model": self._content(MODEL, conditions.model),
            "tokens": self._content(TOKENS, conditions.tokens),
            "extra": self._extra,
        }

    def _assembling(self, group: _Group, name: str) -> dict[str, Any]:
        n = group.n_shards(name)
        sums = group.records[name].measured(group.ready.shards[:n])
        if sums is None:
            raise RuntimeError(f"{name} was found to be measured")
        return {"n_shards": n, "sums": sums.stored(), "reference": group.sums[n]}

    def _has_sums(self, group: _Group, unit: Unit) -> bool:
        """Whether all parts of a run can be read; if not, arrange for the missing ones."""
        (name,) = unit.names
        record, n = group.records[name], group.n_shards(name)
        if (result := record.result(n)) is not None:  # stored by another process
            self._schedule.done(unit, 0)
            record.parts.remove()
            self._finish(group, name, "ok", result)
            return False
        shards = group.ready.shards[:n]
        lost = [i for i in range(n) if record.parts.read(name_of(shards[i])) is None]
        if lost:
            self._schedule.done(unit, 0)
            self._schedule.add_missing(group.key, [name], lost)
        return not lost

    # Taking back

    def _take(self, event: Event) -> None:
        match event:
            case Joined(worker):
                self._workers[worker.id] = _Held(worker)
                self._schedule.join(worker.id)
            case Gone(worker, reason, out_of_memory):
                self._lose(worker, reason, out_of_memory=out_of_memory)
            case Answered(worker, call, answer):
                sent = self._sent.pop(call, None)
                if sent is not None:
                    self._warn(answer.get(WARNINGS, ()))
                    self._answered(sent, answer)

    def _answered(self, sent: _Sent, answer: Message) -> None:
        unit, group = sent.unit, self._groups.get(sent.unit.group)
        if group is None or (unit.names and not group.runs.keys() & set(unit.names)):
            self._schedule.done(unit, 0)
            sent.release()
        elif UNSEEN in answer and sent.n_unseen < _TRIES:
            self._ship(sent, group, answer)
        elif UNREADY in answer:
            sent.release()
            self._workers[sent.worker.id].forget()
            self._schedule.again(unit)
        elif OUT_OF_MEMORY in answer and self._in_less_memory(group, unit):
            sent.release()
            self._workers[sent.worker.id].forget()
        elif ERROR in answer or UNSEEN in answer:
            sent.release()
            self._workers[sent.worker.id].forget()
            self._refused(sent, group, answer)
        else:
            self._store(sent, group, answer)

    def _store(self, sent: _Sent, group: _Group, answer: Message) -> None:
        unit = sent.unit
        match unit.kind:
            case "prepare":
                self._schedule.done(unit, 0)
                self._begin(group, answer)
            case "mean" | "ablations":
                self._schedule.done(unit, answer["seconds"])
                group.asked.discard((unit.kind, unit.shard))
                if group.pieces is not None and group.to_refer[0] == sent.message["n_shards"]:
                    group.pieces.keep(unit.kind, unit.shard, answer["piece"])
                    self._count(sent.worker, len(group.ready.shards[unit.shard]))
                self._refer(group)
            case "measure":
                self._store_parts(sent, group, answer)
            case "assemble":
                self._schedule.done(unit, 0)
                self._store_result(group, unit.names[0], answer)
            case "complete":
                self._schedule.done(unit, 0)
                self._store_tasks(group, unit.names[0], answer["tasks"])

    def _store_parts(self, sent: _Sent, group: _Group, answer: Message) -> None:
        unit, rows = sent.unit, group.ready.shards[sent.unit.shard]
        parts = {name: part for name, part in answer["parts"].items() if name in group.runs}
        for name, part in parts.items():
            group.records[name].parts.write(name_of(rows), part)
        sent.release()
        measured = replace(unit, names=tuple(parts))
        stored = self._schedule.done(measured, answer["seconds"])
        for name, told in answer["failed"].items():
            if name in group.runs:
                self._failed_on(sent.worker, group, name, error_of(told))
        self._count(sent.worker, len(stored) * len(rows))
        for name in stored:
            self._conclude(group, name)

    def _store_result(self, group: _Group, name: str, answer: Message) -> None:
        record, n = group.records[name], group.n_shards(name)
        with record.parts.whole():
            result = record.result(n) or record.write(answer["result"])
        record.parts.remove()
        self._finish(group, name, "ok", result)

    def _store_tasks(self, group: _Group, name: str, done: Mapping[str, TasksDone]) -> None:
        """Complete a stored result with a run's measurement on tasks, and count it as finished."""
        record, n = group.records[name], group.now.n_shards
        status = group.stored[name]
        with record.parts.whole():
            result = record.result(n)
            if result is not None and done:
                result, status = record.write(with_tasks(result, done)), "ok"
        record.parts.remove()
        if result is None:
            gone = ResultsError(record.folder, "has lost the result", "run the same command again")
            self._settle(group, failed(record.run, gone))
        else:
            self._settle(group, settled(record.run, status, result))

    def _finish(
        self, group: _Group, name: str, status: Literal["ok", "cached"], result: Result
    ) -> None:
        """Count a run as finished whose result is stored, or measure it on tasks first."""
        outcome = settled(group.records[name].run, status, result)
        if group.race is not None and name in group.beaten:
            why = group.race.dropped(result, group.beaten[name][1])
            left = group.records[name].drop(result, why)
            self._settle(group, replace(outcome, status="dropped", result=left))
        elif self._extra is not None:
            group.stored[name] = status
            self._schedule.complete(group.key, name)
        else:
            self._settle(group, outcome)

    # The stages of a group

    def _begin(self, group: _Group, answer: Message) -> None:
        """Start measuring a group, once a worker has reported its rows and shards."""
        ids, counted = (torch.from_numpy(answer[name].copy()) for name in ("ids", "counted"))
        group.prepared = _Prepared(
            answer["shards"],
            answer["settings"],
            answer["precision"],
            TokenRows(ids, counted, answer["source"]),
            tuple(answer["columns"]),
        )
        for name, (scale, besides, provenance) in answer["scales"].items():
            group.runs[name] = replace(
                group.runs[name], activation_scale=scale, besides=besides, provenance=provenance
            )
        begin = self._about(group) | {
            "runs": [run for run in group.runs.values() if run.d_out is not None],
            "tokens": None,
            **{
                name: answer[name] for name in ("precision", "settings", "ids", "counted", "source")
            },
        }
        group.about = self._pool.put(begin)
        settings = group.ready.settings
        group.records = {
            run.name: Record.of(run, settings, self._options) for run in group.runs.values()
        }
        self._shown.total += len(group.ready.rows) * (len(group.records) + 2)
        if self._options.race:
            group.race = Race(group.ready, self._options.race, len(group.runs))
        self._next_round(group)

    def _next_round(self, group: _Group) -> None:
        records = group.running
        group.round = next_round(group.ready, records, self._options, group.round)
        n = group.round.n_shards
        if group.round.last:
            for record in records:
                if (result := record.result(n)) is not None:
                    record.parts.remove()  # its writer may have been killed first
                    self._shown.found(len(group.ready.rows))
                    self._finish(group, record.run.name, "cached", result)
        records = group.running
        if not records:
            return
        group.shards = range(n)
        if self._options.shard is not None:
            index, count = self._options.shard
            group.shards = range(n)[index::count]
        self._add_runs(group, records)
        # A race compares runs by sums of passes over all tokens.
        self._want_reference(group, len(group.ready.shards) if group.race is not None else n)
        self._finish_round(group)

    def _add_runs(self, group: _Group, records: Sequence[Record]) -> None:
        shards = group.ready.shards
        if group.race is not None and not group.now.last:
            lacking = {r.run.name for r in group.race.lacking(records, group.now.n_shards)}
        else:
            lacking = {record.run.name for record in records}
        missing = {}
        for record in records:
            name, there = record.run.name, record.parts.names()
            missing[name] = [
                i for i in group.shards if name in lacking and name_of(shards[i]) not in there
            ]
            done = set(group.shards) - set(missing[name])
            self._shown.found(sum(len(shards[i]) for i in done))
        weights = {
            run.name: 4 * (run.d_in + (run.d_out or run.d_in)) * run.d_sae
            for run in group.runs.values()
        }
        rows = [len(shard) for shard in shards]
        self._schedule.add_runs(group.key, rows, missing, weights)
        if group.now.last:
            for name in [name for name, shards in missing.items() if not shards]:
                self._conclude(group, name)

    def _want_reference(self, group: _Group, n_shards: int) -> None:
        """See to the sums of the clean and ablated passes over the first shards."""
        if n_shards not in group.ready.references and n_shards not in group.to_refer:
            group.to_refer.append(n_shards)
            self._refer(group)

    def _refer(self, group: _Group) -> None:
        """Ask for missing pieces of the clean and ablated passes, or continue if there are none."""
        while group.to_refer:
            n = group.to_refer[0]
            if group.pieces is None:
                group.pieces = Pieces(
                    group.conditions.hook, group.ready.columns, group.ready.settings[n],
                    group.ready.shards[:n],
                )  # fmt: skip
            pieces = group.pieces
            if (sums := pieces.whole()) is None:
                if (mean := pieces.mean()) is None:
                    self._ask(group, "mean", pieces)
                else:
                    if group.mean is None:
                        group.mean = self._pool.put(mean)
                    self._ask(group, "ablations", pieces)
                return
            group.to_refer.popleft()
            group.pieces = group.mean = None
            group.ready.references[n] = sums
            group.sums[n] = self._pool.put(dict(sums))
            waiting, group.measured = group.measured, []
            for name in waiting:
                self._conclude(group, name)
        self._finish_round(group)

    def _ask(self, group: _Group, kind: Literal["mean", "ablations"], pieces: Pieces) -> None:
        """Ask for missing pieces, except those that workers were asked for and have not sent.

        A piece that was stored and is damaged when it is read counts as missing.
        """
        n = group.to_refer[0]
        shards = [i for i in pieces.missing(kind) if (kind, i) not in group.asked]
        for shard in shards:
            group.tries[kind, n, shard] += 1
        if any(group.tries[kind, n, shard] > _TRIES for shard in shards):
            for name in list(group.runs):
                self._fail(group, name, ResultsError(
                    pieces.path, "cannot be assembled, as pieces of it are damaged on the disk",
                    "check the disk, or set PROLU_EVAL_CACHE to another folder",
                ))  # fmt: skip
            return
        group.asked |= {(kind, shard) for shard in shards}
        self._schedule.add_chores(group.key, kind, shards)

    def _conclude(self, group: _Group, name: str) -> None:
        """Conclude this round for a run if it is measured on all shards of the round."""
        if name not in group.runs or not self._schedule.is_measured(group.key, name):
            return
        n = group.n_shards(name)
        if not group.now.last and name not in group.beaten:
            self._finish_round(group)
        elif len(group.shards) < n and not self._has_every_part(group, name):
            self._settle(group, settled(group.runs[name], "ok", None))
        elif n in group.ready.references:
            self._schedule.assemble(group.key, name)
        elif name not in group.measured:
            group.measured.append(name)

    def _finish_round(self, group: _Group) -> None:
        if group.key not in self._groups or group.now.last:
            return
        n, whole = group.now.n_shards, len(group.ready.shards)
        needed = n if group.race is None else whole
        if not self._schedule.is_through(group.key) or needed not in group.ready.references:
            return
        if group.race is not None:
            self._drop_beaten(group, group.race)
        self._next_round(group)

    def _drop_beaten(self, group: _Group, race: Race) -> None:
        """Let the runs leave a race that are surely beaten on the shards of its round."""
        n = group.now.n_shards
        beaten = race.beaten(group.running, n)
        group.beaten |= {name: (n, winner) for name, winner in beaten.items()}
        rows_saved = len(group.ready.rows) - group.ready.shards[n - 1].stop
        for name in beaten:
            self._shown.found(rows_saved)
            record = group.records[name]
            if (result := record.result(n)) is not None:
                record.parts.remove()
                self._finish(group, name, "cached", result)
            else:
                self._conclude(group, name)
                self._want_reference(group, n)

    def _has_every_part(self, group: _Group, name: str) -> bool:
        there = group.records[name].parts.names()
        return all(name_of(r) in there for r in group.ready.shards[: group.now.n_shards])

    def _look_for_others(self) -> None:
        """Check again for parts that other processes were measuring."""
        busy, self._busy = self._busy, []
        for group, unit, names in busy:
            if group.key in self._groups:
                left = [name for name in names if name in group.runs]
                self._schedule.add_missing(group.key, left, [unit.shard])

    # What goes wrong

    def _ship(self, sent: _Sent, group: _Group, answer: Message) -> None:
        """Send a worker's node the files that it lacks, and then the message again."""
        self._lacked[sent.worker.node].update(answer[LACKED])
        parcels = list(sent.message.get("parcels", ()))
        for what in answer[UNSEEN]:
            if what in (MODEL, TOKENS):
                content = self._content(what, getattr(group.conditions, what))
                parcels.append(self._shipping.sent(parcel_of(what, content or {})))
            else:
                parcels.append(self._files(group, what))
        sent.message["parcels"] = parcels
        sent.n_unseen += 1
        self._again(sent)

    def _files(self, group: _Group, name: str) -> dict[str, Any]:
        """The part of a message that describes the files of a run."""
        run = absolute(group.runs[name], os.getcwd())  # noqa: PTH109
        record = group.records.get(name)
        digests = record.checkpoint if record is not None else file_digests(run.files, run.folder)
        return self._shipping.sent(Parcel.of(run.files, digests.values()))

    def _again(self, sent: _Sent) -> None:
        self._sent[self._pool.submit(sent.worker, sent.message)] = sent

    def _refused(self, sent: _Sent, group: _Group, answer: Message) -> None:
        """Handle a unit that failed on a worker: try it on another, or count its runs as failed."""
        unit = sent.unit
        error: ProluEvalError
        if ERROR in answer:
            error = error_of(answer[ERROR])
        else:
            error = EvaluationError(
                sent.worker.node, f"cannot receive {answer[UNSEEN][0]}",
                "free space on that node, or name files that it can see",
            )  # fmt: skip
        nodes = group.refused[_what(unit)]
        nodes.add(sent.worker.node)
        if self._has_others(nodes) and len(nodes) < _TRIES:
            self._schedule.again(unit)
            return
        self._schedule.done(unit, 0)
        for name in unit.names or list(group.runs):
            if name in group.runs:
                self._fail(group, name, error)

    def _in_less_memory(self, group: _Group, unit: Unit) -> bool:
        """Try a unit with fewer autoencoders in memory; return whether that is possible."""
        if self._schedule.halve(unit):
            return True
        if unit.kind == "measure" or group.tries[_what(unit)]:
            return False
        group.tries[_what(unit)] += 1  # the worker held others besides
        self._schedule.again(unit)
        return True

    def _failed_on(self, worker: Worker, group: _Group, name: str, error: ProluEvalError) -> None:
        """Try a run that failed on one node on another, or count it as failed."""
        nodes = group.refused[name,]
        nodes.add(worker.node)
        if self._has_others(nodes) and len(nodes) < _TRIES:
            self._schedule.separate(group.key, name)
        else:
            self._fail(group, name, error)

    def _lose(self, worker: Worker, reason: str, *, out_of_memory: bool) -> None:
        """Give the unfinished work of a worker that ended to others."""
        if self._workers.pop(worker.id, None) is None:
            return
        self._warn([f"A worker on {worker.node} ended ({reason}); others do its work."])
        for call in [call for call, sent in self._sent.items() if sent.worker == worker]:
            self._sent.pop(call).release()
        for given_up in self._schedule.leave(worker.id, out_of_memory=out_of_memory):
            group = self._groups[given_up.group]
            for name in [n for n in given_up.names or list(group.runs) if n in group.runs]:
                error = EvaluationError(
                    group.runs[name].path,
                    f"ended each worker that measured it (the last: {reason})",
                    "check that a worker has enough memory for it",
                )
                self._fail(group, name, error)

    def _fail(self, group: _Group, name: str, error: ProluEvalError) -> None:
        self._schedule.drop(group.key, name)
        self._settle(group, failed(group.runs[name], error))
        if group.key in self._groups and group.round is not None:
            self._finish_round(group)

    def _settle(self, group: _Group, outcome: Outcome) -> None:
        """Count a run as finished, and with the last run also its group."""
        del group.runs[outcome.name]
        self._done.append(outcome)
        if not group.runs:
            self._schedule.finish(group.key)
            del self._groups[group.key]

    def _warn(self, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            if sentence not in self._told:
                self._told.add(sentence)
                logging.getLogger(__name__).warning("%s", sentence)

    def _count(self, worker: Worker, rows: int) -> None:
        self._shown.update(rows, self._rates.counted(worker.node, rows))


def _what(unit: Unit) -> object:
    return unit.kind, unit.shard, unit.names


def _without_module(run: Run) -> Run:
    """A run without its module, which is sent separately, and only where it is needed."""
    return replace(run, loader=None) if run.format == MODULE else run


def _sent(record: Record) -> Record:
    """A record in the form in which it is sent to a worker."""
    return replace(record, run=_without_module(record.run))
