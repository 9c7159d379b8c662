"""Simulated sweeps with known true frontiers.

A sequence's difficulty is the same for all runs, and each run adds its own noise. Trainings scatter
around the true frontier by a lognormal factor in both metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from prolu_eval.analysis.savings import Curves, Runs

KEYS = ("l0", "ce_degradation")
# Of 0.45 + 0.7 |t|, where t has 3 degrees of freedom.
HEAVY_MEAN = 0.45 + 0.7 * 2 * np.sqrt(3) / np.pi
Curve = Callable[[np.ndarray], np.ndarray]


def power(l0: np.ndarray) -> np.ndarray:
    return 3 * l0**-0.8


def concave(l0: np.ndarray) -> np.ndarray:
    return 6 / (1 + (l0 / 6) ** 1.3)


def convex(l0: np.ndarray) -> np.ndarray:
    """Convex in logarithms: steep where few features are active."""
    return 4 * l0**-1.3 + 0.12 * l0**-0.1


CURVES: dict[str, Curve] = {"power law": power, "concave": concave, "convex": convex}


@dataclass(frozen=True)
class Sweep:
    """A variant: its true frontier, how much its CE degradation is above that, runs and seeds."""

    curve: Curve
    runs: int
    seeds: int = 1
    factor: float = 1.0
    random: bool = False  # L0 is drawn, not in equal ratios
    ends: tuple[float, float] = (3.0, 100.0)
    exact: bool = False  # L0 is set, as k sets it, so that neither trainings nor sequences vary it
    first_seed: int = 0


@dataclass(frozen=True)
class Cell:
    """A case to simulate."""

    sweeps: Mapping[str, Sweep]
    sequences: int = 256
    noise: float = 0.0
    common: float = 0.0  # how much a seed moves the CE degradation of all of its runs alike
    heavy: bool = False


def drawn(cell: Cell, rng: np.random.Generator, replicates: int = 200) -> Curves:
    """One simulated evaluation of a cell's sweeps."""
    n = cell.sequences
    length = rng.integers(60, 128, n).astype(float)
    hard, dense = rng.gamma(8, 1 / 8, n), rng.gamma(30, 1 / 30, n)
    if cell.heavy:  # a tail as that of Student's t with 3 degrees of freedom
        hard = np.abs(rng.standard_t(3, n)) * 0.7 + 0.45
    places: list[np.ndarray] = []
    labels: list[str] = []
    of: list[np.ndarray] = []
    exact: list[bool] = []
    seed_of: list[int] = []
    n_seeds = max(sweep.first_seed + sweep.seeds for sweep in cell.sweeps.values())
    moved = np.ones(n_seeds)
    if cell.common:
        moved = rng.lognormal(-(cell.common**2) / 2, cell.common, n_seeds)
    for label, sweep in cell.sweeps.items():
        low, high = np.log(sweep.ends)
        inner = rng.uniform(low, high, sweep.runs - 2)
        drawn_grid = np.sort(np.concatenate([[low, high], inner]))
        grid = drawn_grid if sweep.random else np.linspace(low, high, sweep.runs)
        l0 = np.exp(grid)
        for point in np.stack([l0, sweep.factor * sweep.curve(l0)], 1):
            of.append(np.arange(len(places), len(places) + sweep.seeds))
            labels.append(label)
            scatter = rng.lognormal(-(cell.noise**2) / 2, cell.noise, (sweep.seeds, 2))
            if sweep.exact:
                scatter[:, 0] = 1.0
            seeds = range(sweep.first_seed, sweep.first_seed + sweep.seeds)
            scatter[:, 1] *= moved[seeds]
            places += list(point * scatter)
            seed_of += seeds
            exact += [sweep.exact] * sweep.seeds
    true = np.array(places)
    own = rng.gamma(20, 1 / 20, (2, n, len(true)))
    varying = np.where(exact, 1.0, dense[:, None] * own[0])
    l0 = length[:, None] * varying * true[:, 0]
    ce = length[:, None] * hard[:, None] * own[1] * true[:, 1]
    counts = np.vstack([np.ones(n), rng.multinomial(n - 1, np.full(n, 1 / n), replicates)])
    weights = counts / (counts @ length)[:, None]
    both = np.stack([weights @ l0, weights @ ce], -1)
    both[..., 1] /= HEAVY_MEAN if cell.heavy else 1.0
    runs = Runs(np.array(labels), of, np.array(seed_of), both[0], both[1:], n - 1.0)
    return Curves(runs, KEYS)


def true_gap(cell: Cell, curves: Curves, first: str, second: str, over: int) -> float:
    """The mean gap of true frontiers over the range that was found, in logarithms."""
    low, high = curves.over[over].shared(first, second) or (np.nan, np.nan)
    places = np.linspace(low, high, 400)
    values = []
    for label in (first, second):
        sweep = cell.sweeps[label]
        x = np.linspace(np.log(sweep.ends[0]) - 2, np.log(sweep.ends[1]) + 2, 4000)
        y = np.log(sweep.factor * sweep.curve(np.exp(x)))
        values.append(np.interp(places, x, y) if over == 0
                      else np.interp(places, y[::-1], x[::-1]))  # fmt: skip
    return float(np.trapezoid(values[0] - values[1], places) / (high - low))
