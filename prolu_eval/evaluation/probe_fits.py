"""Logistic regression on the few latents whose class means differ most, on held-out examples.

The method is that of SAEBench and sae-probes (arXiv 2502.16681). Each latent is divided by its mean
magnitude when it is active. The latents whose means over the two classes differ most are chosen, on
the examples to which the probe is fitted. The result therefore does not depend on the scale or the
order of latents.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.stats import rankdata

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]

FOLDS = 5
# Inverse strengths of the penalty that are tried; the one that is used without a trial for few
# latents; and how many latents are few.
_STRENGTHS, _USUAL, _FEW = (1e-3, 3e-2, 1.0), 1.0, 5
_ITERATIONS = 300
_SEED = 0


class Scores(NamedTuple):
    """How well a probe separates two classes on held-out examples.

    The errors are standard errors over the examples of this task, for the probes as they were
    fitted.
    """

    auc: float
    accuracy: float
    auc_error: float
    accuracy_error: float


def folds_of(labels: Labels) -> NDArray[np.int64]:
    """The fold in which each example is held out, stratified by class; seeded. [n]"""
    rng = np.random.default_rng(_SEED)
    folds = np.empty(len(labels), np.int64)
    for label in (False, True):
        chosen = np.flatnonzero(labels == label)
        folds[rng.permutation(chosen)] = np.arange(len(chosen)) % FOLDS
    return folds


def auc(scores: Array, labels: Labels) -> float:
    """How often an example of the second class scores above one of the first; ties count half."""
    n, positive = len(labels), int(labels.sum())
    ranks = rankdata(scores)[labels].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * (n - positive)))


def auc_variance(scores: Array, labels: Labels) -> float:
    """The sampling variance of :func:`auc` over examples, two or more of each class.

    By DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), by way of ranks.
    """
    n, positive = len(labels), int(labels.sum())
    whole = rankdata(scores)
    above = (whole[labels] - rankdata(scores[labels])) / (n - positive)
    below = (whole[~labels] - rankdata(scores[~labels])) / positive
    return float(above.var(ddof=1) / positive + below.var(ddof=1) / (n - positive))


def share_error(right: float, n: int) -> float:
    """The standard error of a share of n examples, two of each kind added to them.

    So it is not zero where all are right, or none (Agresti and Coull, 1998).
    """
    share = (right * n + 2) / (n + 4)
    return float(np.sqrt(share * (1 - share) / (n + 4)))


def dense_probe(x: Array, labels: Labels) -> Scores:
    """The scores of a probe on all dimensions of x. [n, d]"""
    folds = folds_of(labels)
    return _scores([_fitted(x, labels, folds == fold) for fold in range(FOLDS)], labels)


def sparse_probes(codes: csc_array, labels: Labels, ks: Sequence[int]) -> dict[int, Scores]:
    """The scores of probes on the k most informative latents of codes [n, d_sae], by k."""
    folds = folds_of(labels)
    found: dict[int, list[_Fold]] = {k: [] for k in ks}
    for fold in range(FOLDS):
        held_out = folds == fold
        chosen = informative(codes, labels, ~held_out, max(ks))
        x = codes[:, chosen].toarray()
        for k in ks:
            found[k].append(_fitted(x[:, :k], labels, held_out))
    return {k: _scores(scores, labels) for k, scores in found.items()}


def informative(codes: csc_array, labels: Labels, used: Labels, most: int) -> NDArray[np.int64]:
    """The latents whose class means over the used examples differ most, in decreasing order.

    Latents whose class means are equal are left out.
    """
    negative, positive = used & ~labels, used & labels
    weights = positive / positive.sum() - negative / negative.sum()
    size = abs(codes)
    active = (codes != 0).astype(float).T @ used.astype(float)
    mean_active = (size.T @ used.astype(float)) / np.maximum(active, 1)
    gap = np.abs(codes.T @ weights)
    differs = np.divide(gap, mean_active, where=mean_active > 0, out=np.zeros_like(gap))
    order = np.argsort(-differs, kind="stable")[:most]
    return np.asarray(order[differs[order] > 0])


class _Fold(NamedTuple):
    """AUC, the variance of it, and accuracy on the examples of a fold."""

    auc: float
    variance: float
    accuracy: float


def _fitted(x: Array, labels: Labels, held_out: Labels) -> _Fold:
    """The scores on held-out examples of a probe that is fitted to the others."""
    if not x.shape[1]:
        return _Fold(0.5, 0.0, 0.5)
    fitted, to_test = x[~held_out], x[held_out]
    spread = fitted.std(0)
    spread[spread == 0] = 1
    centre = fitted.mean(0)
    fitted, to_test = (fitted - centre) / spread, (to_test - centre) / spread
    own, others = labels[~held_out], labels[held_out]
    strength = _USUAL if x.shape[1] <= _FEW else _strength(fitted, own)
    scores = _regression(fitted, own, strength, to_test)
    accuracy = float(((scores > 0) == others).mean())
    return _Fold(auc(scores, others), auc_variance(scores, others), accuracy)


def _strength(x: Array, labels: Labels) -> float:
    """The strength with the lowest loss on a fifth of the examples, when fitted to the others."""
    held_out = folds_of(labels) == 0
    sign = np.where(labels[held_out], 1.0, -1.0)

    def loss(strength: float) -> float:
        scores = _regression(x[~held_out], labels[~held_out], strength, x[held_out])
        return float(np.logaddexp(0, -sign * scores).mean())

    return min(_STRENGTHS, key=loss)


def _regression(x: Array, labels: Labels, strength: float, to_score: Array) -> Array:
    """The log-odds of examples, by logistic regression with a squared penalty."""
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(x, labels)
    return np.asarray(made.decision_function(to_score), float)


def _scores(folds: Sequence[_Fold], labels: Labels) -> Scores:
    """Means over folds, which share no example.

    Where no fold's AUC has a variance, every example being told apart or none, its error is that
    of a share of as many examples as the smaller class has.
    """
    values, variances, accuracies = (np.array(part) for part in zip(*folds, strict=True))
    value, accuracy = float(values.mean()), float(accuracies.mean())
    error = float(np.sqrt(variances.sum())) / len(folds)
    smaller = int(min(labels.sum(), (~labels).sum()))
    return Scores(
        value, accuracy, error or share_error(value, smaller), share_error(accuracy, len(labels))
    )
