"""Choosing each variant's learning rate on the frontier, by short trainings at several rates.

The learning rate changes a variant's frontier, and the best rate differs between variants. A
comparison at one rate for all variants therefore compares rates as much as variants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prolu_eval.analysis import Question, answer
from prolu_eval.analysis.savings import Saving
from prolu_eval.errors import ConfigError
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.results import Result, prefix_label_with_folder
from prolu_eval.target_l0 import label_of, with_range
from prolu_eval.training import Settings, SweepFile, train_sweep
from prolu_eval.training.config import Sweep

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
_AXES = ("l0", "ce_degradation")


@dataclass(frozen=True)
class TriedRate:
    """A learning rate that was tried.

    Attributes:
        rate: the learning rate.
        saving: the share of L0 that the best rate saves against this one at equal CE degradation
            (or of CE degradation at equal L0, if only that is known); None for the best rate.
        n_runs: the number of trainings that did not diverge.
        is_tied: whether this rate cannot be distinguished from the best one.
    """

    rate: float
    saving: Saving | None
    n_runs: int
    is_tied: bool


@dataclass(frozen=True)
class FoundRate:
    """The rates that were tried for a variant, in order from the best."""

    label: str
    tried: tuple[TriedRate, ...]

    @property
    def best(self) -> float:
        """The best rate."""
        return self.tried[0].rate

    @property
    def is_at_the_edge(self) -> bool:
        """Whether the best rate is the largest or the smallest one that was tried."""
        rates = [tried.rate for tried in self.tried]
        return self.best in (min(rates), max(rates))


def find_learning_rates(
    file: SweepFile,
    out: Path,
    settings: Settings | None = None,
    *,
    rates: Sequence[float] = RATES,
    share: float = 0.25,
    n_values: int = 5,
    n_tokens: int = 16_384,
) -> list[FoundRate]:
    """Try learning rates for every variant of a grid, and rank them on the frontier.

    Each variant trains at every rate for a share of the tokens, with its first seed and a few
    evenly spaced values of its coefficients (or of k), including the first and the last. If its
    coefficients are still to be found for targets, they span a wide range. The runs are evaluated
    on held-out tokens. Rates are ranked like variants, by the L0 that they save at
    equal CE degradation. After an interruption, the same call continues.

    Args:
        file: the grid, whose own rates are not used.
        out: the folder for the short runs.
        settings: how the short runs are trained.
        rates: the rates to try.
        share: the share of the grid's tokens on which each short run is trained.
        n_values: the largest number of coefficients (or values of k) used of each variant.
        n_tokens: the number of tokens on which short runs are evaluated.

    Returns:
        The rates found for each variant, in the grid's order.

    Raises:
        ConfigError: if all trainings of a variant diverge.
    """
    shared = file.shared.model_copy(
        update={"n_tokens": max(1, round(share * file.shared.n_tokens))}
    )
    ranged = with_range(file).sweep
    short = [_short(s, file, rates, n_values) for s in ranged if s.chance is None]
    tried = file.model_copy(update={"shared": shared, "sweep": short, "baselines": False})
    trained = train_sweep(tried, out, settings)
    device = settings.device if settings is not None else None
    shown = settings is not None and settings.progress
    options = EvaluationOptions(n_tokens=n_tokens, device=device)
    some = any(t.status != "failed" for t in trained)
    outcomes = evaluate(out, options, progress=shown) if some else []
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    found = {rate.label: rate for rate in rank_learning_rates(results)}
    for plan in tried.plans():
        if plan.label not in found:
            raise ConfigError(
                f"the sweep of {plan.label}",
                "diverged at every learning rate that was tried",
                "try smaller rates",
            )
    return list(found.values())


def rank_learning_rates(results: Sequence[Result]) -> list[FoundRate]:
    """Rank the learning rates of each variant's runs on the frontier of L0 and CE degradation."""
    by_label: dict[str, list[Result]] = {}
    for result in results:
        by_label.setdefault(result.run.label, []).append(result)
    return [_ranked(label, runs) for label, runs in by_label.items()]


def with_learning_rates(file: SweepFile, found: Sequence[FoundRate]) -> SweepFile:
    """The grid with the best rate found for each variant; chance baselines keep their rates."""
    best = {rate.label: [rate.best] for rate in found}
    sweeps = [
        sweep
        if sweep.chance is not None
        else sweep.model_copy(update={"learning_rates": best[label_of(sweep, file)]})
        for sweep in file.sweep
    ]
    return file.model_copy(update={"sweep": sweeps})


def evenly_chosen(values: Sequence[float], n: int) -> list[float]:
    """At most n of the values, evenly chosen in order, including the smallest and the largest."""
    ordered = sorted(values)
    at = np.linspace(0, len(ordered) - 1, min(n, len(ordered))).round().astype(int)
    return [ordered[i] for i in at]


def _short(sweep: Sweep, file: SweepFile, rates: Sequence[float], n_values: int) -> Sweep:
    kind = "k" if sweep.k else "coefficients"
    seeds = (sweep.seeds or file.within.seeds)[:1]
    chosen = {
        kind: evenly_chosen(getattr(sweep, kind), n_values),
        "learning_rates": list(rates),
        "seeds": seeds,
    }
    return sweep.model_copy(update=chosen)


def _ranked(label: str, runs: Sequence[Result]) -> FoundRate:
    named = [prefix_label_with_folder(run, f"{run.run.learning_rate:g}") for run in runs]
    rates = {n.run.label: run.run.learning_rate or 0.0 for n, run in zip(named, runs, strict=True)}
    found = answer(named, Question.asked(*_AXES))[0]
    best = found.variants[0]
    tried = (
        TriedRate(
            rates[variant.label],
            variant.saving,
            sum(n.run.label == variant.label for n in named),
            variant.label in best.tied_with,
        )
        for variant in found.variants
    )
    return FoundRate(label, tuple(tried))
