"""Probes on few latents: small cases by hand, and changes that must have no effect."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.special import ndtr

from prolu_eval.evaluation.probe_fits import (
    FOLDS,
    auc,
    auc_variance,
    dense_probe,
    folds_of,
    informative,
    share_error,
    sparse_probes,
)
from prolu_eval.intervals import difference, estimate
from prolu_eval.metrics import METRICS

Array = NDArray[np.float64]
LABELS = np.arange(200) % 2 == 0


def made_codes(seed: int = 0, n_latents: int = 40) -> Array:
    """Sparse codes in which each of the first latents is more informative than the one before."""
    rng = np.random.default_rng(seed)
    codes = rng.gamma(2, 1, (len(LABELS), n_latents)) * (rng.random((len(LABELS), n_latents)) < 0.3)
    for latent in range(5):
        codes[LABELS, latent] += rng.random(LABELS.sum()) < 0.15 * latent
    return np.asarray(codes)


def test_a_latent_that_separates_the_classes_does_so_alone() -> None:
    codes = made_codes()
    codes[:, 7] = np.where(LABELS, 0.5, 0)
    found = sparse_probes(csc_array(codes), LABELS, (1, 2))
    assert found[1][:2] == (1, 1)
    assert found[2].auc == 1
    codes[:, 7] = np.where(LABELS, 0, 0.01)  # whatever its size, and on which side it is active
    assert sparse_probes(csc_array(codes), LABELS, (1,))[1][:2] == (1, 1)


def test_auc_by_hand() -> None:
    labels = np.array([False, False, True, True])
    assert auc(np.array([1.0, 3, 2, 4]), labels) == 0.75
    assert auc(np.array([1.0, 1, 1, 1]), labels) == 0.5
    assert auc(np.array([4.0, 3, 2, 1]), labels) == 0


def test_the_variance_of_an_auc_by_hand() -> None:
    labels = np.array([False, False, True, True])
    # Of the second class, 1/2 and 1 of the first are below; of the first, 1 and 1/2 are above.
    assert auc_variance(np.array([1.0, 3, 2, 4]), labels) == pytest.approx(0.125 / 2 + 0.125 / 2)
    assert auc_variance(np.array([1.0, 2, 3, 4]), labels) == 0
    assert share_error(1.0, 96) == pytest.approx((0.98 * 0.02 / 100) ** 0.5)
    assert share_error(0.5, 96) == pytest.approx(0.05)


def test_errors_of_one_task_cover_what_its_examples_vary() -> None:
    """The probes given: what varies is which examples a task happens to have."""
    rng, truth, n = np.random.default_rng(5), float(ndtr(1 / 2**0.5)), 120
    labels = np.arange(n) % 2 == 0
    held = []
    for _ in range(1500):
        scores = rng.normal(labels.astype(float))
        held.append(abs(auc(scores, labels) - truth) < 1.96 * auc_variance(scores, labels) ** 0.5)
    assert 0.93 <= np.mean(held) <= 0.97
    right = rng.binomial(n, 0.8, 1500) / n
    errors = np.array([share_error(value, n) for value in right])
    assert 0.93 <= np.mean(abs(right - 0.8) < 1.96 * errors) <= 0.97


def test_the_latents_chosen_by_hand() -> None:
    codes = np.array([[2.0, 1, 0, 5], [2, 0, 0, 5], [0, 1, 0, 5], [0, 0, 8, 5], [9, 9, 0, 0]])
    labels = np.array([True, True, False, False, False])
    used = np.array([True, True, True, True, False])
    # Means over their sizes where active: 1 against 0; 1/2, 1/2; 0 against 1/2; 1 and 1.
    assert informative(csc_array(codes), labels, used, 9).tolist() == [0, 2]
    assert informative(csc_array(codes), labels, used, 1).tolist() == [0]


def test_latents_that_tell_nothing_leave_a_probe_at_chance() -> None:
    assert sparse_probes(csc_array(np.ones((200, 3))), LABELS, (1, 16))[16][:2] == (0.5, 0.5)
    noise = np.random.default_rng(3).random((200, 50))
    assert dense_probe(noise, LABELS).auc == pytest.approx(0.5, abs=0.12)
    # Latents are chosen without the held-out examples; otherwise noise would look informative.
    many = np.random.default_rng(4).random((200, 3000))
    assert sparse_probes(csc_array(many), LABELS, (16,))[16].auc == pytest.approx(0.5, abs=0.12)


def test_order_and_scale_of_latents_change_nothing() -> None:
    codes = made_codes()
    rng = np.random.default_rng(1)
    changed = codes[:, rng.permutation(40)] * np.exp(rng.normal(0, 3, 40))
    first, second = (sparse_probes(csc_array(c), LABELS, (1, 2, 5, 16)) for c in (codes, changed))
    for k, scores in first.items():
        assert second[k] == pytest.approx(scores, abs=1e-3), k
    assert first[1].auc > 0.6
    again = sparse_probes(csc_array(codes), LABELS, (16,))
    assert again[16] == first[16], "one k does not depend on which others are asked for"


def test_each_fold_holds_out_as_many_of_each_class() -> None:
    folds = folds_of(LABELS)
    for fold in range(FOLDS):
        assert LABELS[folds == fold].sum() == 20 == (~LABELS[folds == fold]).sum()
    np.testing.assert_array_equal(folds, folds_of(LABELS))


def test_the_dense_probe_is_that_of_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 10, 0.1] + np.outer(LABELS, [0.5, 0, 0.02])
    folds, found = folds_of(LABELS), []
    for fold in range(FOLDS):
        fitted, tested = folds != fold, folds == fold
        centre, spread = x[fitted].mean(0), x[fitted].std(0)
        model = linear.LogisticRegression().fit((x[fitted] - centre) / spread, LABELS[fitted])
        found.append(model.score((x[tested] - centre) / spread, LABELS[tested]))
    assert dense_probe(x, LABELS).accuracy == pytest.approx(np.mean(found))


def _scores(rng: np.random.Generator, shifts: Array, n: int) -> Array:
    """The AUC of each task on n examples with unit normal scores, shifted for one class."""
    labels = np.arange(n) % 2 == 0
    return np.array([auc(rng.normal(0, 1, n) + shift * labels, labels) for shift in shifts])


@pytest.mark.slow
@pytest.mark.parametrize("n_tasks", [5, 20])
def test_intervals_cover_the_mean_over_tasks_of_the_population(n_tasks: int) -> None:
    """Tasks are drawn, then examples of each; the truth is the mean over all tasks, exact."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    truth = float(norm.cdf(np.linspace(0.3, 1.7, 10_001) / np.sqrt(2)).mean())
    inside = paired = 0
    n_simulated = 1200
    for _ in range(n_simulated):
        shifts = rng.uniform(0.3, 1.7, n_tasks)
        n_examples = int(rng.integers(60, 200))
        ones = np.ones(n_tasks)
        sums, other = (
            {"n_tasks": ones, "auc_k1": _scores(rng, shifts, n_examples)} for _ in range(2)
        )
        low, high = estimate(METRICS["probe_auc_k1"], sums).ci95
        inside += (low or 0) <= truth <= (high or 0)
        low, high = difference(METRICS["probe_auc_k1"], sums, other).ci95
        paired += (low or 0) <= 0 <= (high or 0)
    assert 0.93 <= inside / n_simulated <= 0.97
    assert 0.93 <= paired / n_simulated <= 0.97
