"""Choosing the next unit of an evaluation for each worker, from measured costs.

A unit of measuring is some runs of one group (with the same model, hook point and text) on one
shard of the tokens. Runs are divided into *portions*. A worker loads the autoencoders of a portion
together, and measures the portion on one shard after another. Portions are large at first, so that
many runs share the clean pass of a shard; they become smaller towards the end, so that all workers
finish at the same time. A worker that finds no new runs helps with another worker's portion.

The schedule does not depend on where workers are or what they compute. It is told when workers come
and go and what units cost, so that simulations can drive it with their own clock.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import count
from math import ceil
from operator import or_
from typing import Literal

Kind = Literal["prepare", "mean", "ablations", "measure", "assemble", "complete"]

# The most bytes of weights, and the most autoencoders, in a portion.
WEIGHT_BYTES, MOST_RUNS = 1 << 30, 64
# How many units per worker should remain when a portion is cut, and the longest and the shortest
# time of a unit, in seconds.
_UNITS_EACH, _LONGEST, _SHORTEST = 6, 60.0, 0.5
# How many runs are measured first, to find out what runs cost.
_TRIED = 8
# The number of shards that is assumed for runs before it is known.
_UNKNOWN_SHARDS = 8
# After how many ends of workers a run is measured alone, and after how many it is given up.
_ALONE, _GIVEN_UP = 3, 6
# Slower workers leave the last units to a worker that is faster by this factor.
_MUCH_QUICKER = 3.0
_MEMORY = 0.3  # the weight of the latest measurement in a moving average


@dataclass(frozen=True)
class Unit:
    """A piece of work that is sent to one worker at once.

    ``names`` are the runs that are measured, assembled or completed, ``shard`` is the shard, and
    ``portion`` are the runs whose autoencoders will be needed on other shards too.
    """

    id: int
    group: int
    kind: Kind
    names: tuple[str, ...] = ()
    shard: int = -1
    portion: tuple[str, ...] = ()


@dataclass(frozen=True)
class GivenUp:
    """Runs that are given up because worker after worker ended: some of a group, or all of it."""

    group: int
    names: tuple[str, ...] | None


@dataclass(eq=False)
class _Portion:
    names: list[str]
    todo: deque[int]
    workers: set[int] = field(default_factory=set)


@dataclass
class _Chore:
    kind: Kind
    names: tuple[str, ...] = ()
    shard: int = -1


@dataclass
class _Group:
    """The work of a group, and its measured cost on a worker of speed 1.

    ``missing`` are the shards on which each run must be measured, as the bits of a number; ``most``
    is the number of runs that a worker's memory has room for, as far as it is known.
    """

    key: int
    model: str
    n_runs: int
    chores: deque[_Chore]
    rows: Sequence[int] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    waiting: deque[str] = field(default_factory=deque)
    missing: dict[str, int] = field(default_factory=dict)
    portions: list[_Portion] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)
    clean: float | None = None  # seconds per row, for any number of runs
    each: float | None = None  # seconds per row and run
    n_missing: int = 0
    most: int = MOST_RUNS
    trial: _Portion | None = None

    def seconds(self, n_runs: int, n_rows: int) -> float:
        """The time that measuring runs on rows takes, as far as it is known."""
        each = self.each if self.each is not None else (self.clean or 0.0)
        return n_rows * ((self.clean or 0.0) + n_runs * each)

    def lacks(self, name: str, shard: int) -> bool:
        """Whether a run must be measured on a shard."""
        return bool(self.missing.get(name, 0) >> shard & 1)

    @property
    def remaining(self) -> float:
        """The remaining work, in runs times shards."""
        return self.n_missing if self.rows else self.n_runs * _UNKNOWN_SHARDS


@dataclass
class _Flight:
    unit: Unit
    worker: int
    portion: _Portion | None


class Schedule:
    """Distributes the units of work to workers, which may come and go."""

    def __init__(self) -> None:
        self._ids = count()
        self._groups: dict[int, _Group] = {}
        self._flights: dict[int, _Flight] = {}
        self._busy: Counter[int] = Counter()
        self._timed: set[int] = set()
        self._speeds: dict[int, float] = {}
        self._at: dict[int, tuple[int, _Portion | None]] = {}
        self._blame: Counter[tuple[int, object]] = Counter()

    # The work

    def add_group(self, key: int, model: str, n_runs: int) -> None:
        """Add a group; the first unit of it is its preparation."""
        self._groups[key] = _Group(key, model, n_runs, deque([_Chore("prepare")]))

    def add_chores(self, key: int, kind: Kind, shards: Collection[int]) -> None:
        """Add work on shards that belongs to no run."""
        self._groups[key].chores.extend(_Chore(kind, (), shard) for shard in shards)

    def add_runs(
        self,
        key: int,
        rows: Sequence[int],
        missing: Mapping[str, Collection[int]],
        weights: Mapping[str, int],
    ) -> None:
        """Add runs to be measured.

        Args:
            key: the group.
            rows: the number of rows of each shard.
            missing: the shards on which each run must be measured, by the run's name.
            weights: the bytes of each run's weights, by the run's name.
        """
        group = self._groups[key]
        group.rows, group.weights = rows, weights
        group.missing = {name: _bits(shards) for name, shards in missing.items() if shards}
        group.waiting = deque(group.missing)
        group.portions, group.trial = [], None
        group.n_missing = sum(bits.bit_count() for bits in group.missing.values())

    def assemble(self, key: int, name: str) -> None:
        """Add the assembly of a run's result, which is done before further measuring."""
        self._groups[key].chores.append(_Chore("assemble", (name,)))

    def complete(self, key: int, name: str) -> None:
        """Add the measurement of a run on tasks, which completes its stored result."""
        self._groups[key].chores.append(_Chore("complete", (name,)))

    def drop(self, key: int, name: str) -> None:
        """Remove a run."""
        group = self._groups[key]
        group.n_missing -= group.missing.pop(name, 0).bit_count()
        if name in group.waiting:
            group.waiting.remove(name)
        for portion in group.portions:
            if name in portion.names:
                portion.names.remove(name)
        group.chores = deque(c for c in group.chores if name not in c.names)

    def finish(self, key: int) -> None:
        """Remove a group."""
        self._groups.pop(key, None)

    # Workers

    def join(self, worker: int) -> None:
        """Add a worker."""
        self._speeds[worker] = 1.0

    def leave(self, worker: int, *, out_of_memory: bool = False) -> list[GivenUp]:
        """Remove a worker, and put back the units that it had not done.

        Args:
            worker: the worker.
            out_of_memory: whether it ended because its memory did not suffice for its unit.

        Returns:
            Runs that are given up, because workers ended again and again while measuring them.
        """
        self._speeds.pop(worker, None)
        self._timed.discard(worker)
        self._at.pop(worker, None)
        for group in self._groups.values():
            group.workers.discard(worker)
            for portion in group.portions:
                portion.workers.discard(worker)
        lost = [flight for flight in self._flights.values() if flight.worker == worker]
        given_up: list[GivenUp] = []
        for i, flight in enumerate(lost):
            if i == 0 and out_of_memory and self.halve(flight.unit):
                continue
            self.again(flight.unit)
            if i == 0 and flight.unit.group in self._groups:  # later units had not begun
                given_up += self._blamed(flight.unit)
        del self._busy[worker]
        return given_up

    def lacks_memory(self, key: int) -> bool:
        """Whether a worker's memory was too small for a portion of a group."""
        return self._groups[key].most < MOST_RUNS

    @property
    def workers(self) -> int:
        """The number of workers."""
        return len(self._speeds)

    def wants_more(self) -> bool:
        """Whether so little work is left that further groups should be added."""
        return not self._plenty()

    def is_through(self, key: int) -> bool:
        """Whether no run of a group is left to be measured."""
        return self._groups[key].n_missing == 0

    def next(self, worker: int) -> Unit | None:
        """The next unit for a worker; None if it has enough, or there is no work for it."""
        mine = self._busy[worker]
        if mine and (mine > 1 or not self._plenty()):
            return None
        for found in self._picks(worker):
            if found is not None:
                group, unit, portion = found
                if portion is not None and self._better_left(group, unit, worker):
                    portion.todo.appendleft(unit.shard)
                    return None
                self._place(worker, group, portion)
                self._flights[unit.id] = _Flight(unit, worker, portion)
                self._busy[worker] += 1
                return unit
        return None

    def done(self, unit: Unit, seconds: float) -> list[str]:
        """Count a unit as done.

        Args:
            unit: the unit.
            seconds: the time that it took, without loading; 0 if it says nothing about other units.

        Returns:
            The runs that had not been measured on the unit's shard before.
        """
        flight = self._landed(unit)
        group = self._groups.get(unit.group)
        if group is None:
            return []
        worker = flight.worker if flight is not None else None
        if worker is not None and unit.shard >= 0 and seconds > 0:
            self._learn(group, unit, worker, seconds)
        for name in unit.names:
            self._blame.pop((group.key, name), None)
        self._blame.pop((group.key, unit.kind), None)
        new = [name for name in unit.names if self.stored(group.key, name, unit.shard)]
        if flight is not None and flight.portion is not None and flight.portion is group.trial:
            self._end_trial(group, flight.portion)
        return new

    def again(self, unit: Unit) -> None:
        """Put back a unit that was not done at all, or not for all of its runs."""
        flight = self._landed(unit)
        group = self._groups.get(unit.group)
        if group is None:
            return
        if unit.kind != "measure":
            group.chores.appendleft(_Chore(unit.kind, unit.names, unit.shard))
            return
        portion = flight.portion if flight is not None else None
        if portion is not None and portion is group.trial:
            self._end_trial(group, portion)
            return
        elsewhere = list(unit.names)
        if portion is not None and portion in group.portions:
            portion.todo.appendleft(unit.shard)
            elsewhere = [name for name in unit.names if name not in portion.names]
        self._add_portions(group, elsewhere, [unit.shard])  # the portion was cut meanwhile

    def halve(self, unit: Unit) -> bool:
        """Put back a unit whose runs did not fit in a worker's memory together, in smaller units.

        Returns:
            Whether it had several runs; if not, nothing is done.
        """
        held = len({*unit.portion, *unit.names})
        if unit.kind != "measure" or held < 2:
            return False
        self.again(unit)
        if unit.group in self._groups:
            self._limit(self._groups[unit.group], held // 2)
        return True

    @staticmethod
    def _limit(group: _Group, most: int) -> None:
        """Cut a group's portions so that none has more than so many runs, now or later."""
        group.most = min(group.most, most)
        for portion in list(group.portions):
            rest = portion.names[group.most :]
            del portion.names[group.most :]
            if portion is group.trial:
                group.waiting.extendleft(reversed(rest))
            else:
                Schedule._add_portions(group, rest, portion.todo)

    @staticmethod
    def _add_portions(group: _Group, names: Sequence[str], shards: Collection[int]) -> None:
        """Add runs in portions that a worker's memory has room for."""
        for start in range(0, len(names), group.most):
            part = list(names[start : start + group.most])
            group.portions.append(_Portion(part, deque(shards)))

    @staticmethod
    def _end_trial(group: _Group, portion: _Portion) -> None:
        """End a trial: its runs wait for a portion of the right size."""
        group.trial = None
        left = [name for name in portion.names if group.missing.get(name)]
        group.waiting.extendleft(reversed(left))
        portion.names = []

    def _landed(self, unit: Unit) -> _Flight | None:
        flight = self._flights.pop(unit.id, None)
        if flight is not None:
            self._busy[flight.worker] -= 1
        return flight

    def add_missing(self, key: int, names: Collection[str], shards: Collection[int]) -> None:
        """Add shards on which runs must be measured in addition, or once more."""
        group = self._groups[key]
        for name in names:
            known = group.missing.get(name, 0)
            group.missing[name] = known | _bits(shards)
            group.n_missing += (group.missing[name] & ~known).bit_count()
        self._add_portions(group, list(names), sorted(shards))

    def stored(self, key: int, name: str, shard: int) -> bool:
        """Count a run as measured on a shard; return whether it was not counted before."""
        group = self._groups[key]
        if shard < 0 or not group.lacks(name, shard):
            return False
        group.missing[name] ^= 1 << shard
        group.n_missing -= 1
        return True

    def is_measured(self, key: int, name: str) -> bool:
        """Whether a run is measured on all of its shards."""
        return not self._groups[key].missing.get(name)

    # The choice

    def _plenty(self) -> bool:
        """Whether there is so much work that each worker may have a second unit waiting."""
        pending = 0
        for group in self._groups.values():
            pending += len(group.chores) + sum(len(p.todo) for p in group.portions)
            if group.waiting:
                pending += self._cut(group) and len(group.rows)
            if pending >= 2 * len(self._speeds) + 2:
                return True
        return False

    def _better_left(self, group: _Group, unit: Unit, worker: int) -> bool:
        """Whether one of the last units is done sooner if it waits for a much faster worker."""
        if group.waiting or group.each is None:
            return False
        mine = self._speeds.get(worker, 1.0)
        quicker = sum(speed > _MUCH_QUICKER * mine for speed in self._speeds.values())
        pending = 1 + sum(len(p.todo) for g in self._groups.values() for p in g.portions)
        return pending <= quicker

    def _picks(self, worker: int) -> Iterator[tuple[_Group, Unit, _Portion | None] | None]:
        key, portion = self._at.get(worker, (None, None))
        home = self._groups.get(key) if key is not None else None
        near = [] if home is None else [home, *self._of_model(home)]
        far = sorted(
            (group for group in self._groups.values() if group not in near),
            key=lambda group: -group.remaining / (len(group.workers) + 1),
        )
        for group in near:
            yield self._chore(group)
        if home is not None and portion is not None and portion in home.portions:
            yield self._of(home, portion)
        for group in near:
            yield self._begun(group)
        for group in near:
            yield self._joined(group)
        for group in far:
            yield self._chore(group) or self._begun(group) or self._joined(group)

    def _of_model(self, home: _Group) -> list[_Group]:
        others = (g for g in self._groups.values() if g.model == home.model and g is not home)
        return sorted(others, key=lambda group: -group.remaining / (len(group.workers) + 1))

    def _chore(self, group: _Group) -> tuple[_Group, Unit, _Portion | None] | None:
        if not group.chores:
            return None
        chore = group.chores.popleft()
        return group, Unit(next(self._ids), group.key, chore.kind, chore.names, chore.shard), None

    def _of(self, group: _Group, portion: _Portion) -> tuple[_Group, Unit, _Portion] | None:
        """The next shard of a portion, with those runs that are not measured on it."""
        while portion.todo:
            shard = portion.todo.popleft()
            names = tuple(n for n in portion.names if group.lacks(n, shard))
            if names:
                held = tuple(portion.names)
                unit = Unit(next(self._ids), group.key, "measure", names, shard, held)
                return group, unit, portion
        return None

    def _begun(self, group: _Group) -> tuple[_Group, Unit, _Portion] | None:
        """A new portion of runs that no worker has begun."""
        if group.trial is not None:
            return None
        names: list[str] = []
        size, n = 0, self._cut(group)
        while group.waiting and len(names) < n:
            name = group.waiting[0]
            size += group.weights.get(name, 0)
            if names and size > WEIGHT_BYTES:
                break
            group.waiting.popleft()
            names.append(name)
        if not names:
            return None
        shards = _shards(reduce(or_, (group.missing.get(name, 0) for name in names)))
        # While the cost of runs is unknown, a few of them are measured on one shard, and the others
        # wait.
        trying = group.each is None
        portion = _Portion(names, deque(shards[:1] if trying else shards))
        group.portions.append(portion)
        group.trial = portion if trying else None
        if (found := self._of(group, portion)) is not None:
            return found
        group.trial = None
        return self._begun(group)

    def _joined(self, group: _Group) -> tuple[_Group, Unit, _Portion] | None:
        """A shard of a portion that another worker has begun; near the end, it is cut in two."""
        group.portions = [p for p in group.portions if p.todo or p.workers]
        open_ones = [portion for portion in group.portions if portion.todo and portion.names]
        if not open_ones:
            return None
        portion = max(open_ones, key=lambda p: len(p.todo) * len(p.names) / (len(p.workers) + 1))
        left = sum(len(p.todo) for p in open_ones)
        half = len(portion.names) // 2
        gain = group.seconds(half, 1) - group.seconds(0, 1)
        if (
            portion is not group.trial
            and half
            and left < len(self._speeds)
            and gain > (group.clean or 0.0)
        ):
            other = _Portion(portion.names[half:], deque(portion.todo))
            portion.names = portion.names[:half]
            group.portions.append(other)
            portion = other
        return self._of(group, portion)

    def _cut(self, group: _Group) -> int:
        """The number of runs for the next portion."""
        if not group.rows or not group.waiting:
            return 0
        n_shards, rows = len(group.rows), sum(group.rows) / len(group.rows)
        left = len(group.waiting)
        workers = max(1, ceil(len(self._speeds) * left * n_shards / max(self._remaining(), 1)))
        n = left * n_shards // (_UNITS_EACH * workers)
        # With fewer runs, additional clean passes would cost more than smaller portions gain.
        clean, each = group.clean or 0.0, group.each
        if each is None:
            return max(1, min(n, left, _TRIED, group.most))
        least = ceil(clean / each) if each else MOST_RUNS
        whole = self._remaining() * rows * each / max(1, len(self._speeds))
        longest = min(_LONGEST, max(_SHORTEST, whole / _UNITS_EACH))
        most = int((longest / rows - clean) / each) if each else MOST_RUNS
        fair = ceil(left * n_shards / workers)  # more would leave workers idle
        n = max(1, min(max(n, min(least, fair)), max(most, 1), MOST_RUNS))
        return min(n, left, group.most)

    def _remaining(self) -> float:
        return sum(group.remaining for group in self._groups.values())

    def _place(self, worker: int, group: _Group, portion: _Portion | None) -> None:
        before, was = self._at.get(worker, (None, None))
        if portion is None and before == group.key:
            portion = was  # a chore between two shards
        if before is not None and before != group.key and before in self._groups:
            self._groups[before].workers.discard(worker)
        if was is not None and was is not portion:
            was.workers.discard(worker)
        group.workers.add(worker)
        if portion is not None:
            portion.workers.add(worker)
        self._at[worker] = group.key, portion

    # Learning costs

    def _learn(self, group: _Group, unit: Unit, worker: int, seconds: float) -> None:
        rows = group.rows[unit.shard] if group.rows else 0
        if not rows:
            return
        speed = self._speeds.get(worker, 1.0)
        if unit.kind == "mean":
            group.clean = _moved(group.clean, seconds * speed / rows)
        elif unit.kind == "measure" and unit.names:
            if group.each is not None:
                expected = group.seconds(len(unit.names), rows)
                if worker in self._speeds and expected > 0:
                    before = speed if worker in self._timed else None
                    self._speeds[worker] = _moved(before, expected / seconds)
            self._timed.add(worker)
            spent = seconds * self._speeds.get(worker, 1.0) / rows - (group.clean or 0.0)
            least = 0.05 * seconds * speed / rows / len(unit.names)
            group.each = _moved(group.each, max(spent / len(unit.names), least))

    def _blamed(self, unit: Unit) -> list[GivenUp]:
        """Note that a worker ended during a unit; return runs that have ended several workers."""
        group = self._groups[unit.group]
        if unit.kind != "measure":
            self._blame[group.key, unit.kind] += 1
            if self._blame[group.key, unit.kind] >= _GIVEN_UP:
                return [GivenUp(group.key, unit.names or None)]
            return []
        given_up: list[str] = []
        for name in unit.names:
            self._blame[group.key, name] += 1
            if self._blame[group.key, name] >= _GIVEN_UP:
                given_up.append(name)
            elif self._blame[group.key, name] >= _ALONE and len(unit.names) > 1:
                self.separate(group.key, name)
                # The reason may be that they do not fit in a worker's memory together.
                self._limit(group, max(1, len({*unit.portion, *unit.names}) // 2))
        return [GivenUp(group.key, tuple(given_up))] if given_up else []

    def separate(self, key: int, name: str) -> None:
        """Measure a run separately from others, for example to find out whether workers end."""
        group = self._groups[key]
        for portion in group.portions:
            if name in portion.names:
                portion.names.remove(name)
        if name in group.waiting:
            group.waiting.remove(name)
        group.portions.append(_Portion([name], deque(_shards(group.missing.get(name, 0)))))


def _bits(shards: Collection[int]) -> int:
    return reduce(or_, (1 << shard for shard in shards), 0)


def _shards(bits: int) -> list[int]:
    return [shard for shard in range(bits.bit_length()) if bits >> shard & 1]


def _moved(average: float | None, value: float) -> float:
    return value if average is None else (1 - _MEMORY) * average + _MEMORY * value
