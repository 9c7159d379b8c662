"""A race drops runs that are surely beaten, and hardly ever changes the reported frontier.

`nox -s slow` simulates races: ``PROLU_EVAL_SIMULATIONS=100 -rP`` gives the table of
docs/statistics.md.
"""

import os
import re
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binom

from prolu_eval.analysis import Question, answer
from prolu_eval.analysis.racing import beaten
from prolu_eval.evaluation.parts import looks, shards
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS, measured_by
from prolu_eval.results import PER_SEQUENCE, Dropped, Result
from tests.analysis.simulated import CURVES, Curve
from tests.helpers.made_results import result, setting

KEYS = ("l0", "ce_degradation")
SIMULATIONS = int(os.environ.get("PROLU_EVAL_SIMULATIONS", "0"))


@dataclass(frozen=True)
class Cell:
    """Variants that are swept over coefficients, learning rates and seeds.

    ``rates`` are each learning rate's factors on CE degradation; the factors on L0 are their roots.
    """

    curve: str = "power law"
    rates: tuple[float, ...] = (1.0, 1.3, 2.5)
    variants: tuple[float, ...] = (1.0, 1.2)
    coefficients: int = 6
    seeds: int = 1
    noise: float = 0.03
    sequences: int = 1024
    heavy: bool = False


CELLS = {
    "3 learning rates": Cell(),
    "3 learning rates, concave": Cell("concave"),
    "3 learning rates, convex": Cell("convex"),
    "3 learning rates, equal variants": Cell(variants=(1.0, 1.0)),
    "3 learning rates, 2 seeds": Cell(seeds=2, coefficients=4),
    "3 learning rates about as good": Cell(rates=(1.0, 1.05, 1.1)),
    "6 learning rates, 1 variant": Cell(rates=(1, 1.1, 1.3, 1.6, 2, 3), variants=(1.0,)),
    "3 learning rates, heavy tail": Cell(heavy=True),
    "1 learning rate, trainings vary 10 %": Cell(rates=(1.0,), coefficients=12, noise=0.1),
}


def drawn(cell: Cell, rng: np.random.Generator) -> list[Result]:
    """One simulated sweep, measured on all of its sequences."""
    n = cell.sequences
    length = rng.integers(60, 128, n).astype(float)
    hard, dense = rng.gamma(8, 1 / 8, n), rng.gamma(30, 1 / 30, n)
    if cell.heavy:
        hard = np.abs(rng.standard_t(3, n)) * 0.7 + 0.45
    curve: Curve = CURVES[cell.curve]
    clean = length * rng.gamma(50, 1 / 25, n)
    at = setting(n_sequences=n, n_counted=int(length.sum()))
    found = []
    for v, factor in enumerate(cell.variants):
        for c, l0 in enumerate(np.geomspace(3, 100, cell.coefficients)):
            for rate, worse in enumerate(cell.rates):
                for seed in range(cell.seeds):
                    scatter = rng.lognormal(0, cell.noise, 2)
                    damage = factor * worse * curve(np.array(l0)) * scatter[1]
                    own = rng.gamma(20, 1 / 20, (2, n))
                    sums = {
                        "n": length,
                        "n_next": length,
                        "l0": length * dense * own[0] * l0 * worse**0.5 * scatter[0],
                        "ce_clean": clean,
                        "ce_spliced": clean + length * hard * own[1] * damage,
                    }
                    made = result(f"{'ab'[v]}-{c}-{rate}-{seed}", "ab"[v], {}, at=at,
                                  coefficient=float(c + 1), bias=None)  # fmt: skip
                    run = made.run.model_copy(update={"learning_rate": 10.0**-rate, "seed": seed})
                    arrays = {PER_SEQUENCE + key: value for key, value in sums.items()}
                    metrics = {key: estimate(METRICS[key], sums) for key in (*KEYS, "bits_lost")}
                    found.append(
                        made.model_copy(update={"run": run, "metrics": metrics, "arrays": arrays})
                    )
    return found


def raced(
    results: list[Result], shard: int = 128, keys: tuple[str, ...] = KEYS
) -> tuple[list[Result], float]:
    """The results after a race, and the share of tokens that it saves."""
    n = results[0].setting.n_sequences
    cut = shards(n, shard)
    left, lost = list(results), []
    for stop in looks(cut):
        rows = cut[stop - 1].stop
        sums = [{key: a[:rows] for key, a in r.per_sequence().items()} for r in left]
        found = beaten(keys, sums, len(results), len(looks(cut)))
        for i, winner in found.items():
            lost.append(ended(left[i], rows, left[winner].run.name, keys))
        left = [r for i, r in enumerate(left) if i not in found]
    used = sum(r.setting.n_sequences for r in [*left, *lost])
    by_name = {r.run.name: r for r in [*left, *lost]}
    return [by_name[r.run.name] for r in results], 1 - used / n / len(results)


def ended(whole: Result, rows: int, winner: str, keys: tuple[str, ...]) -> Result:
    """The result of a run that left a race after ``rows`` sequences."""
    sums = {key: a[:rows] for key, a in whole.per_sequence().items()}
    setting = {"n_sequences": rows, "tokens_fingerprint": f"first {rows}",
               "n_counted": int(sums["n"].sum())}  # fmt: skip
    why = Dropped(evaluation=whole.comparison_key(), objectives=keys, beaten_by=winner,
                  confidence=0.95)  # fmt: skip
    return whole.model_copy(
        update={
            "setting": whole.setting.model_copy(update=setting),
            "arrays": {PER_SEQUENCE + key: values for key, values in sums.items()},
            "metrics": {
                key: estimate(METRICS[key], sums) if measured_by(METRICS[key], sums) else value
                for key, value in whole.metrics.items()
            },
            "dropped": why,
        }
    )


def stated(results: list[Result]) -> tuple[list[str], str, str]:
    """The frontier of all, the sentence, and the sentence without its numbers."""
    (found,) = answer(results, Question(), 200)
    said = re.sub(r"[^.;]*? at equal[^.;,]*", " ", re.sub(r"\d+\.\d+", "", found.sentence))
    return found.details.frontier, found.sentence, re.sub(r"[\d.\[\], %]+", " ", said)


def test_what_is_surely_beaten_leaves_and_the_frontier_is_that_of_all() -> None:
    results = drawn(Cell(coefficients=4, variants=(1.0, 1.5)), np.random.default_rng(0))
    left, saved = raced(results)
    (found,) = answer(left, Question(), 200)
    (whole,) = answer(results, Question(), 200)
    assert 0.1 < saved < 0.75
    assert found.details.frontier == whole.details.frontier
    lost = {r.run.name for r in left if r.dropped is not None}
    assert lost.isdisjoint(whole.details.frontier)
    assert all(found.details.membership[name] == 0 for name in lost)
    # Runs that stayed have the intervals of a full evaluation, others those of fewer tokens.
    values = {run.name: run.values for run in found.runs}
    for run in whole.runs:
        assert run.name in lost or run.values == values[run.name]
    # Variants are compared on the tokens that all runs have.
    first = min(r.setting.n_sequences for r in left)
    (shared,) = answer([ended(r, first, "", KEYS) for r in results], Question(), 200)
    assert found.sentence == shared.sentence
    assert found.savings == shared.savings
    assert found.group.results[0].setting.n_sequences == first
    assert any("left a race" in note for note in found.notes)


def test_over_other_objectives_all_is_on_the_tokens_that_runs_share() -> None:
    results = drawn(Cell(coefficients=4, variants=(1.0, 1.5)), np.random.default_rng(0))
    left, _ = raced(results)
    first = min(r.setting.n_sequences for r in left)
    asked = Question(y="bits_lost")
    (found,) = answer(left, asked, 200)
    (shared,) = answer([ended(r, first, "", KEYS) for r in results], asked, 200)
    assert found.details.frontier == shared.details.frontier


def test_what_is_alike_or_uncertain_stays() -> None:
    rng = np.random.default_rng(2)
    (one, *_), (other, *_) = drawn(Cell(), rng), drawn(Cell(), rng)
    for results in ([one] * 3, [one]):
        assert raced(results) == (results, 0)
    shuffled = []
    for made in (one, other):  # sums whose sequences say nothing of one another, and vary wildly
        sums = {k: v * rng.lognormal(0, 3, len(v)) for k, v in made.per_sequence().items()}
        arrays = {PER_SEQUENCE + key: value for key, value in sums.items()}
        shuffled.append(made.model_copy(update={"arrays": arrays}))
    assert raced(shuffled)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("title", CELLS)
def test_what_is_stated_is_that_of_full_measurement(title: str) -> None:
    n = SIMULATIONS or 15
    frontiers = verdicts = 0
    savings = []
    for seed in range(n):
        results = drawn(CELLS[title], np.random.default_rng(seed))
        left, saved = raced(results)
        savings.append(saved)
        whole, part = stated(results), stated(left)
        frontiers += whole[0] == part[0]
        verdicts += whole[2] == part[2]
    print(f"| {title} | {np.mean(savings):.0%} | {frontiers} | {verdicts} |")  # noqa: T201
    assert frontiers >= int(binom.ppf(1e-3, n, 0.95))
