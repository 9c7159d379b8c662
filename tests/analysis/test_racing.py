"""A race drops what is far behind, and hardly ever changes what is stated.

`nox -s slow` simulates races: ``PROLU_EVAL_SIMULATIONS=100 -rP`` gives the table of
docs/statistics.md.
"""

import os
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binom

from prolu_eval.analysis import Question, answer
from prolu_eval.analysis.groups import repeats
from prolu_eval.analysis.racing import Racing
from prolu_eval.evaluation.parts import looks, shards
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS
from prolu_eval.results import PER_SEQUENCE, Result
from tests.analysis.simulated import CURVES, Curve
from tests.helpers.made_results import result, setting

KEYS = ("l0", "ce_degradation")
SIMULATIONS = int(os.environ.get("PROLU_EVAL_SIMULATIONS", "0"))


@dataclass(frozen=True)
class Cell:
    """Variants that are swept over coefficients, learning rates and seeds.

    ``rates`` are factors of each learning rate on CE degradation, and their roots on L0.
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
                    metrics = {key: estimate(METRICS[key], sums) for key in KEYS}
                    found.append(
                        made.model_copy(update={"run": run, "metrics": metrics, "arrays": arrays})
                    )
    return found


def raced(results: list[Result], shard: int = 128) -> tuple[list[Result], float]:
    """The results of runs that a race keeps to its end, and the share of tokens that it saved."""
    n = results[0].setting.n_sequences
    cut = shards(n, shard)
    left, used = list(results), 0
    for stop in looks(cut):
        rows = cut[stop - 1].stop
        keys = [(r.run.label, r.run.coefficient, r.run.learning_rate) for r in left]
        racing = Racing(KEYS, [r.run.label for r in left],
                        repeats(keys, [r.run.seed for r in left]), len(looks(cut)))  # fmt: skip
        sums = [{key: a[:rows] for key, a in r.per_sequence().items()} for r in left]
        beaten = racing.beaten(sums)
        used += rows * len(beaten)
        left = [r for i, r in enumerate(left) if i not in beaten]
    return left, 1 - (used + n * len(left)) / n / len(results)


def stated(results: list[Result]) -> tuple[list[str], dict[str, list[str]], str, str]:
    """The frontier of all, each variant's own, the sentence, and the sentence without numbers."""
    (found,) = answer(results, Question(), 200)
    own = {variant.label: variant.frontier for variant in found.details.variants}
    said = found.sentence.partition(":")[0]
    return found.details.frontier, own, found.sentence, said


def test_a_race_keeps_what_is_stated_and_drops_what_is_far_behind() -> None:
    results = drawn(Cell(seeds=2, coefficients=4), np.random.default_rng(0))
    left, saved = raced(results)
    kept = {r.run.name for r in left}
    assert 0.1 < saved < 0.9
    assert {r.run.name for r in results if r.run.name.split("-")[2] == "0"} <= kept
    assert {name.rsplit("-", 1)[0] for name in kept if name.endswith("-0")} == {
        name.rsplit("-", 1)[0] for name in kept if name.endswith("-1")
    }, "the seeds of a configuration stay or leave together"
    assert stated(left)[:2] == stated(results)[:2]
    again, _ = raced(left)
    assert again == left


def test_nothing_leaves_that_is_not_beaten_by_its_own_variant() -> None:
    results = drawn(Cell(rates=(1.0,), variants=(1.0, 3.0)), np.random.default_rng(1))
    left, saved = raced(results)
    assert saved == 0
    assert left == results


def test_noise_that_is_larger_than_the_gap_keeps_everything() -> None:
    rng = np.random.default_rng(2)
    results = drawn(Cell(sequences=256), rng)
    shuffled = []
    for made in results:  # sums whose sequences say nothing of one another, and vary wildly
        sums = {key: value * rng.lognormal(0, 3, 256) for key, value in made.per_sequence().items()}
        arrays = {PER_SEQUENCE + key: value for key, value in sums.items()}
        shuffled.append(made.model_copy(update={"arrays": arrays}))
    assert raced(shuffled)[1] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("title", CELLS)
def test_what_is_stated_is_that_of_full_measurement(title: str) -> None:
    n = SIMULATIONS or 25
    frontiers = own = sentences = verdicts = 0
    savings = []
    for seed in range(n):
        results = drawn(CELLS[title], np.random.default_rng(seed))
        left, saved = raced(results)
        savings.append(saved)
        whole, part = stated(results), stated(left)
        frontiers += whole[0] == part[0]
        own += whole[1] == part[1]
        sentences += whole[2] == part[2]
        verdicts += whole[3] == part[3]
    told = f"{frontiers} | {own} | {verdicts} | {sentences}"
    print(f"| {title} | {np.mean(savings):.0%} | {told} |")  # noqa: T201
    least = int(binom.ppf(1e-3, n, 0.95))
    assert min(frontiers, own, verdicts) >= least
