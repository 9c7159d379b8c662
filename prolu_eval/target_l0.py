"""Coefficients chosen for L0: searched for in trainings until these reach the L0 that is wanted.

A short training says about where an L0 lies among coefficients, and a full one where it lies: while
a training is not at rest its L0 still falls, by half and more from a quarter of the tokens to all
of them. So short trainings span the range, and full ones at the coefficients that they suggest say
how far off that was. Within a round all variants are one stack, for which the model runs once.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prolu_eval.checkpoints.native import read_config
from prolu_eval.errors import ConfigError, EvaluationError
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.results import write_json
from prolu_eval.runs import CONFIG_FILE, RunConfig
from prolu_eval.training import Settings, SweepFile, train_sweep
from prolu_eval.training.config import Plan, Sweep

# The range that short trainings span first; beyond it by the same steps, as often as is said.
COEFFICIENTS = tuple(float(f"{c:.2g}") for c in np.geomspace(0.03, 4, 7))
_STEP = COEFFICIENTS[1] / COEFFICIENTS[0]
_WIDENINGS, _STEPS_WIDER = 2, 3
# The share of the tokens that short trainings take.
SHORT = 0.25
_LEAST_STEPS = 200  # in fewer, no coefficient lowers L0 by much
# Full trainings of a target at most, and how near to it is near enough.
TRIES = 3
TOLERANCE = 0.1
_LEAST_L0 = 1e-3  # whose logarithm stands for that of zero


@dataclass(frozen=True)
class FoundCoefficient:
    """A coefficient that was found for an L0.

    Attributes:
        label: the sweep's name in tables and figures.
        learning_rate: at which.
        target: the L0 that was wanted.
        coefficient: the one whose full training came nearest to it.
        l0: what that training reached on held-out tokens; None for one that was found earlier.
    """

    label: str
    learning_rate: float
    target: float
    coefficient: float
    l0: float | None

    @property
    def is_near(self) -> bool:
        """Whether the L0 that was reached is near enough to the one that was wanted."""
        return self.l0 is None or abs(self.l0 / self.target - 1) <= TOLERANCE


@dataclass
class Search:
    """What is known of a sweep at one learning rate: L0 by coefficient, short and full."""

    sweep: Sweep
    rate: float
    label: str
    short: dict[float, float] = field(default_factory=dict)
    full: dict[float, float] = field(default_factory=dict)
    known: dict[float, float] = field(default_factory=dict)  # by target, of an earlier call

    @property
    def wanted(self) -> list[float]:
        return [target for target in self.sweep.target_l0 if target not in self.known]

    def with_coefficients(self, coefficients: Sequence[float], seed: int) -> Sweep:
        changed = {"coefficients": list(coefficients), "target_l0": []}
        return self.sweep.model_copy(
            update={**changed, "learning_rates": [self.rate], "seeds": [seed]}
        )

    def wider(self) -> list[float]:
        """Coefficients beyond those of short trainings, on the side on which L0 falls short."""
        low, high = min(self.short), max(self.short)
        found: list[float] = []
        if max(self.wanted) > max(self.short.values()):
            found += [low / _STEP**i for i in range(1, _STEPS_WIDER + 1)]
        if min(self.wanted) < min(self.short.values()):
            found += [high * _STEP**i for i in range(1, _STEPS_WIDER + 1)]
        return [_rounded(coefficient) for coefficient in found]

    def guess(self, target: float) -> float:
        """The coefficient at which a full training is expected to reach an L0."""
        x = np.log(sorted(self.short))
        y = _falling([_log(self.short[c]) for c in sorted(self.short)])
        grid = np.linspace(x[0] - math.log(_STEP), x[-1] + math.log(_STEP), 2_001)
        expected = _extended(grid, x, y)
        if self.full:
            at = np.log(sorted(self.full))
            off = [_log(self.full[c]) for c in sorted(self.full)] - _extended(at, x, y)
            expected = expected + np.interp(grid, at, off)
        nearest = np.abs(expected - _log(target)).argmin()
        return _rounded(math.exp(grid[nearest]))

    def best(self, target: float) -> float | None:
        """The coefficient whose full training came nearest to an L0, if one was."""
        if not self.full:
            return None
        return min(self.full, key=lambda c: abs(_log(self.full[c]) - _log(target)))

    def next(self) -> list[float]:
        """Coefficients to train in full: of each target that none has come near to."""
        found = []
        for target in self.wanted:
            best = self.best(target)
            if best is None or abs(self.full[best] / target - 1) > TOLERANCE:
                guess = self.guess(target)
                if guess not in self.full:
                    found.append(guess)
        return list(dict.fromkeys(found))


def find_coefficients(
    file: SweepFile,
    out: Path,
    settings: Settings | None = None,
    *,
    short_share: float = SHORT,
    n_tokens: int = 16_384,
) -> list[FoundCoefficient]:
    """Search for the coefficients of every sweep of a grid that has ``target_l0``.

    First each such sweep trains on a share of the tokens at coefficients over a wide range, which
    is widened where a target lies outside. Then it trains in full at the coefficient that these
    suggest for each target, and again, at most twice, where L0 is off by more than 10 %, by what
    was learnt. Only the first seed takes part. L0 is measured on held-out tokens. Trainings are
    kept in ``OUT-target-l0`` beside ``out``, so that a call that was interrupted goes on when it is
    made again; those in full that came nearest are copied to ``out``, where they are the runs of
    the grid. What an earlier call found stands in the runs' config.json, and is used again.

    Args:
        file: the grid.
        out: the folder for the grid's runs.
        settings: how they are trained.
        short_share: of the grid's tokens that short trainings take, or 200 steps if that is more.
        n_tokens: that L0 is measured on.

    Returns:
        One for each target of each sweep at each learning rate, in the grid's order.

    Raises:
        ConfigError: if a target lies outside what any coefficient reaches, or no training of a
            sweep comes to an end.
    """
    settings = settings or Settings()
    searches = _searches(file, out)
    place = out.with_name(f"{out.name}-target-l0")
    open_searches = [search for search in searches if search.wanted]

    def tried(name: str, share: float, chosen: Callable[[Search], Sequence[float]]) -> bool:
        asked = [(search, coefficients) for search in open_searches
                 if (coefficients := chosen(search))]  # fmt: skip
        if asked:
            _train_and_measure(file, asked, place / name, settings, share, n_tokens)
        return bool(asked)

    tried("short", short_share, lambda _: COEFFICIENTS)
    for _ in range(_WIDENINGS):
        if not tried("short", short_share, Search.wider):
            break
    for search in open_searches:
        _check_range(search)
    for _ in range(TRIES):
        if not tried("full", 1.0, Search.next):
            break
    found = list(_found(searches))
    _take(file, found, place / "full", out)
    return found


def with_coefficients(file: SweepFile, found: Sequence[FoundCoefficient]) -> SweepFile:
    """The grid with the coefficients that were found, a sweep for each learning rate."""
    sweeps = []
    for sweep in file.sweep:
        if not sweep.is_open:
            sweeps.append(sweep)
            continue
        label = label_of(sweep, file)
        for rate in file.rates_of(sweep):
            by_target = {
                f.target: f.coefficient for f in found
                if (f.label, f.learning_rate) == (label, rate)
            }  # fmt: skip
            coefficients = [by_target[target] for target in sweep.target_l0]
            if len(set(coefficients)) < len(coefficients):
                raise ConfigError(
                    f"the sweep of {label}",
                    "has targets that one coefficient is nearest to", "choose L0 further apart",
                )  # fmt: skip
            changed = {"coefficients": coefficients, "learning_rates": [rate]}
            sweeps.append(sweep.model_copy(update=changed))
    return file.model_copy(update={"sweep": sweeps})


def with_range(file: SweepFile) -> SweepFile:
    """The grid with coefficients over the whole range in the place of targets."""
    sweeps = [
        s.model_copy(update={"coefficients": list(COEFFICIENTS), "target_l0": []})
        if s.is_open
        else s
        for s in file.sweep
    ]
    return file.model_copy(update={"sweep": sweeps})


def label_of(sweep: Sweep, file: SweepFile) -> str:
    """What a sweep's variant is called in tables and figures, with coefficients or without."""
    alone = file.model_copy(update={"sweep": [sweep], "baselines": False})
    return next(with_range(alone).plans()).label


def as_if_found(file: SweepFile) -> SweepFile:
    """The grid with the targets themselves in the place of coefficients: for its size and cost."""
    sweeps = [
        s.model_copy(update={"coefficients": list(s.target_l0)}) if s.is_open else s
        for s in file.sweep
    ]
    return file.model_copy(update={"sweep": sweeps})


def trials(file: SweepFile, *, short_share: float = SHORT) -> tuple[SweepFile, SweepFile]:
    """What a search trains: the short trainings at first, and those in full of one round."""
    sweeps = [
        s.model_copy(update={"seeds": (s.seeds or file.within.seeds)[:1]})
        for s in file.sweep
        if s.is_open
    ]
    searched = file.model_copy(update={"sweep": sweeps, "baselines": False})
    return _shortened(with_range(searched), short_share), as_if_found(searched)


def _searches(file: SweepFile, out: Path) -> list[Search]:
    searches = []
    for sweep in file.sweep:
        if sweep.is_open:
            label = label_of(sweep, file)
            searches += [Search(sweep, rate, label) for rate in file.rates_of(sweep)]
    earlier = list(_earlier(out, file)) if searches else []
    for search in searches:
        for config in earlier:
            target, coefficient = config.target_l0, config.coefficient
            if target in search.sweep.target_l0 and coefficient and _is_of(config, search):
                search.known[target] = coefficient
    return searches


def _earlier(out: Path, file: SweepFile) -> Iterator[RunConfig]:
    """What runs in a folder say that were trained as the grid says, at a coefficient for an L0."""
    training = file.shared.model_dump(mode="json")
    for path in sorted(out.glob(f"*/{CONFIG_FILE}")):
        config = read_config(path)
        if config.target_l0 is not None and config.training == training:
            yield config


def _is_of(config: RunConfig, search: Search) -> bool:
    sweep = search.sweep
    told = (config.variant, config.penalty, config.chance, config.learning_rate)
    options = sweep.options_with(None).model_dump(mode="json")
    known = {name: value for name, value in config.options.items() if name in options}
    return told == (sweep.variant, sweep.penalty, sweep.chance, search.rate) and known == options


def _shortened(file: SweepFile, share: float) -> SweepFile:
    shared = file.shared
    n_tokens = max(round(share * shared.n_tokens), _LEAST_STEPS * shared.batch_size)
    n_tokens = min(n_tokens, shared.n_tokens)
    return file.model_copy(update={"shared": file.shared.model_copy(update={"n_tokens": n_tokens})})


def _train_and_measure(
    file: SweepFile,
    asked: Sequence[tuple[Search, Sequence[float]]],
    place: Path,
    settings: Settings,
    share: float,
    n_tokens: int,
) -> None:
    """Train sweeps at coefficients, and note the L0 that each reaches."""
    sweeps = [
        search.with_coefficients(coefficients, (search.sweep.seeds or file.within.seeds)[0])
        for search, coefficients in asked
    ]
    changed = {"sweep": sweeps, "baselines": False}
    shortened = _shortened(file, share) if share < 1 else file
    trained = train_sweep(shortened.model_copy(update=changed), place, settings)
    reached = _measured([t.folder for t in trained if t.status != "failed"], settings, n_tokens)
    by_place = {(t.plan.label, t.plan.learning_rate, t.plan.value): t.plan.name for t in trained}
    for search, coefficients in asked:
        known = search.full if share == 1 else search.short
        for coefficient in coefficients:
            name = by_place[search.label, search.rate, coefficient]
            if name in reached:
                known[coefficient] = reached[name]
        if not search.short:
            raise ConfigError(
                f"the sweep of {search.label}",
                "no training came to an end at any coefficient that was tried",
                "try a smaller learning rate",
            )


def _measured(folders: Sequence[Path], settings: Settings, n_tokens: int) -> dict[str, float]:
    """L0 on held-out tokens, by run."""
    if not folders:
        return {}
    options = EvaluationOptions(n_tokens=n_tokens, device=settings.device)
    found = {}
    for outcome in evaluate(folders, options, progress=settings.progress):
        if outcome.result is None:
            raise EvaluationError(outcome.path, f"cannot be measured: {outcome.error}", "mend it")
        value = outcome.result.metrics["l0"].value
        found[outcome.path.name] = 0.0 if value is None else value
    return found


def _check_range(search: Search) -> None:
    """Refuse targets that lie outside what short trainings reach, however wide they range.

    L0 falls as a training goes on, so that one in full may reach less than the least of them.
    """
    most, least = max(search.short.values()), min(search.short.values())
    beyond = [t for t in search.wanted if t > most * (1 + TOLERANCE) or t < least / 2]
    if beyond:
        raise ConfigError(
            f"the sweep of {search.label}",
            f"an L0 of {beyond[0]:g} is not reached: coefficients from {min(search.short):.2g} to "
            f"{max(search.short):.2g} give {most:.3g} to {least:.3g} in short trainings",
            "choose targets in between",
        )


def _found(searches: Sequence[Search]) -> Iterator[FoundCoefficient]:
    for search in searches:
        for target in search.sweep.target_l0:
            coefficient, l0 = search.known.get(target), None
            if coefficient is None:
                coefficient = search.best(target)
                if coefficient is None:
                    raise ConfigError(
                        f"the sweep of {search.label}",
                        "no training in full came to an end", "try a smaller learning rate",
                    )  # fmt: skip
                l0 = search.full[coefficient]
            yield FoundCoefficient(search.label, search.rate, target, coefficient, l0)


def _take(file: SweepFile, found: Sequence[FoundCoefficient], place: Path, out: Path) -> None:
    """Copy the runs that were found in full trainings to the grid's folder, with their targets."""
    grid = with_coefficients(file, found)
    for plan in grid.plans():
        source, target = place / plan.name, out / plan.name
        if plan.target_l0 is None or target.exists() or not (source / CONFIG_FILE).is_file():
            continue
        _copy(source, target, plan)


def _copy(source: Path, target: Path, plan: Plan) -> None:
    unfinished = target.with_name(f".{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, ignore=shutil.ignore_patterns("evaluation"))
    config = read_config(unfinished / CONFIG_FILE)
    found = config.model_copy(update={"target_l0": plan.target_l0})
    write_json(unfinished / CONFIG_FILE, found.model_dump(mode="json"))
    unfinished.rename(target)


def _log(l0: float) -> float:
    return math.log(max(l0, _LEAST_L0))


def _rounded(coefficient: float) -> float:
    """Three digits, which name the run."""
    return float(f"{coefficient:.3g}")


def _falling(values: Sequence[float]) -> NDArray[np.float64]:
    """Values that only fall: noise in L0 makes a coefficient no weaker than a smaller one."""
    falling: NDArray[np.float64] = np.minimum.accumulate(np.asarray(values, dtype=np.float64))
    return falling


def _extended(
    at: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A line through points, going on beyond the outermost as between these and their next."""
    inside = np.interp(at, x, y)
    if len(x) < 2:
        return inside
    left, right = np.diff(y)[[0, -1]] / np.diff(x)[[0, -1]]
    beyond = np.minimum(at - x[0], 0) * left + np.maximum(at - x[-1], 0) * right
    extended: NDArray[np.float64] = inside + beyond
    return extended
