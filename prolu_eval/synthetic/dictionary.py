"""The features of a benchmark: their directions, firing rates, parents and groups."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from prolu_eval.synthetic.benchmark import Benchmark

Array = NDArray[np.float64]

_MOST_FREQUENT = 0.5
_APART_STEPS = 50
# Parts of random seeds, for the directions and the bias, and for the samples.
DICTIONARY_STREAM, SAMPLE_STREAM = 0, 1


@dataclass(frozen=True)
class Dictionary:
    """Known features.

    Attributes:
        directions: unit vectors. [n_features, d_in]
        bias: the constant that is added to every sample. [d_in]
        rate: how often each feature fires; for one with a parent, where its parent fires.
            [n_features]
        parent: the parent of each feature, -1 for none. [n_features] int64
        group: the group of features that tend to fire together, -1 for none. [n_features] int64
    """

    directions: Array
    bias: Array
    rate: Array
    parent: NDArray[np.int64]
    group: NDArray[np.int64]

    @property
    def firing_probability(self) -> Array:
        """How often each feature fires over all samples. [n_features]"""
        return np.where(self.parent >= 0, self.rate * self.rate[self.parent], self.rate)


def dictionary(benchmark: Benchmark) -> Dictionary:
    """The features of the benchmark that a description defines."""
    rng = np.random.default_rng([benchmark.version, benchmark.seed, DICTIONARY_STREAM])
    n, n_parents = benchmark.n_features, benchmark.n_parents
    directions = _directions(benchmark, rng)
    bias = rng.standard_normal(benchmark.d_in)
    parent = np.full(n, -1)
    parent[n_parents:] = np.arange(n - n_parents) // max(1, benchmark.children)
    rate = np.full(n, benchmark.child_rate)
    expected = benchmark.l0 / (1 + benchmark.children * benchmark.child_rate)
    rate[:n_parents] = _zipf(n_parents, benchmark.zipf, expected)
    group = np.full(n, -1)
    if benchmark.groups:
        group[:n_parents] = np.arange(n_parents) % benchmark.groups
    return Dictionary(directions, benchmark.bias * bias / np.linalg.norm(bias), rate, parent, group)


def _directions(benchmark: Benchmark, rng: np.random.Generator) -> Array:
    rows = rng.standard_normal((benchmark.n_features, benchmark.d_in))
    if benchmark.basis == "orthogonal":
        q, r = np.linalg.qr(rows.T)
        return np.ascontiguousarray((q * np.sign(np.diag(r))).T)
    rows = unit(rows)
    if benchmark.basis == "superposed":
        # Alternate between the nearest tight frame and unit rows (Tropp, Dhillon, Heath and
        # Strohmer, IEEE Transactions on Information Theory 51, 2005).
        for _ in range(_APART_STEPS):
            u, _, v = np.linalg.svd(rows, full_matrices=False)
            rows = unit(u @ v)
    return rows


def unit(rows: Array) -> Array:
    """The rows scaled to unit norm. [n, d]"""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _zipf(n: int, exponent: float, total: float) -> Array:
    """Probabilities that fall with rank, are at most a half, and have the sum ``total``. [n]"""
    shape = np.arange(1, n + 1) ** -exponent

    def capped(scale: float) -> Array:
        return np.asarray(np.minimum(_MOST_FREQUENT, scale * shape))

    most = _MOST_FREQUENT / shape.min()
    scale = brentq(lambda scale: capped(scale).sum() - total, 0, most) if total < n / 2 else most
    return capped(scale)
