"""What trainings with one seed have in common, and how much a single training varies besides.

All runs of a seed begin with the same weights and see the tokens in the same order, which moves the
runs of all variants alike. The deviation of a run from the mean over seeds of its configuration is
therefore modelled as ``common[seed] + own[variant, seed] + single``, with independent parts of zero
mean. The three variances are estimated by the method of moments (Searle, Casella and McCulloch,
Variance components, 1992). Seeds are few, so that the variances of the first two parts are drawn
towards a prior, as in Smyth (Statistical Applications in Genetics and Molecular Biology 3, 2004).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The variances that the prior expects of the common part and of a variant's own, as multiples of
# that of a single training, and the degrees of freedom that the prior counts as. In reports/results
# the standard deviation of the common part is 0.4 to 1.9 times that of a single training, and that
# of a variant's own part 0 to 0.5 times.
_COMMON, _OWN, _PRIOR = 2.0, 0.05, 3.0
# In groups of more seeds than this, what is common to a seed counts with the single trainings.
MOST_SEEDS = 256
# Eigenvalues below this are zero up to rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Repeated:
    """The deviations of a variant's repeated runs, parted into what their seeds explain and a rest.

    Attributes:
        effects: what the runs of each seed have in common. [n_seeds, n_metrics]
        present: which seeds repeated runs have. [n_seeds]
        n_effects: the degrees of freedom of the effects.
        leaked: the variance of an effect that comes from the rest, as a multiple of its variance.
        rest: the deviations without the effects; all of the deviations if seeds would explain them
            whatever they were, as with a single configuration. [n_runs, n_metrics]
        freedom: the degrees of freedom of the rest.
        is_parted: whether the rest is without the effects.
    """

    effects: Array
    present: NDArray[np.bool_]
    n_effects: int
    leaked: float
    rest: Array
    freedom: int
    is_parted: bool

    @classmethod
    def of(
        cls,
        deviations: Array,
        configuration_of: NDArray[np.int64],
        seed_of: NDArray[np.int64],
        n_seeds: int,
    ) -> "Repeated":
        """Part the deviations by least squares.

        Args:
            deviations: the runs' deviations from their configuration's mean. [n_runs, n_metrics]
            configuration_of: the configuration of each run. [n_runs]
            seed_of: the seed of each run, from 0. [n_runs]
            n_seeds: the number of seeds.
        """
        sizes = np.bincount(configuration_of, minlength=1)
        repeated = sizes[configuration_of] > 1
        freedom = int(repeated.sum() - (sizes > 1).sum())
        effects = np.zeros((n_seeds, deviations.shape[1]))
        present = np.isin(np.arange(n_seeds), seed_of[repeated])
        unparted = cls(effects, present, 0, 0.0, deviations, freedom, is_parted=False)
        if not 1 < present.sum() <= n_seeds <= MOST_SEEDS:
            return unparted
        rows, columns = np.flatnonzero(repeated), np.flatnonzero(present)
        design = (seed_of[rows, None] == columns).astype(float)
        means = np.zeros((len(sizes), len(columns)))
        np.add.at(means, configuration_of[rows], design)
        design -= (means / np.maximum(sizes, 1)[:, None])[configuration_of[rows]]
        values, vectors = np.linalg.eigh(design.T @ design)
        known = values > _ROUNDING * values.max()
        if not known.any():  # each configuration's runs have a seed in common
            return unparted
        values, vectors = values[known], vectors[:, known]
        found = vectors @ ((vectors.T @ (design.T @ deviations[rows])) / values[:, None])
        effects[columns] = found
        n, leaked = int(known.sum()), float(np.mean(1 / values))
        if freedom == n:
            return cls(effects, present, n, leaked, deviations, freedom, is_parted=False)
        rest = deviations.copy()
        rest[rows] -= design @ found
        return cls(effects, present, n, leaked, rest, freedom - n, is_parted=True)

    def single(self) -> Array:
        """The variance of a single training. [n_metrics]"""
        return np.asarray(np.square(self.rest).sum(0) / max(self.freedom, 1))


@dataclass(frozen=True)
class SeedVariances:
    """The variances of what runs of a seed have in common: over all variants, and within each.

    Both are zero if no configuration was trained with several seeds.

    Attributes:
        common, own: the two variances. [n_metrics]
        common_freedom, own_freedom: their degrees of freedom.
    """

    common: Array
    own: Array
    common_freedom: float
    own_freedom: float

    @classmethod
    def of(cls, variants: Sequence[Repeated]) -> "SeedVariances":
        """Estimate both from the repeated runs of all variants, which have the same metrics."""
        repeated = [variant for variant in variants if variant.n_effects]
        if not repeated:
            n = variants[0].effects.shape[1] if variants else 1
            return cls(np.zeros(n), np.zeros(n), np.inf, np.inf)
        single = np.stack([variant.single() for variant in repeated])
        typical = np.median(single, 0)
        effects = np.stack([variant.effects for variant in repeated])
        present = np.stack([variant.present for variant in repeated])
        noise = single * np.array([variant.leaked for variant in repeated])[:, None]
        own, pairs = np.zeros(effects.shape[2]), 0
        for i in range(len(repeated)):
            both = present[i] & present[i + 1 :]
            n = both.sum(1)
            gaps = np.where(both[..., None], effects[i] - effects[i + 1 :], 0.0)
            gaps -= (gaps.sum(1) / np.maximum(n, 1)[:, None])[:, None] * both[..., None]
            spread = np.square(gaps).sum(1) / np.maximum(n - 1, 1)[:, None]
            chosen = n > 1
            own += (spread - noise[i] - noise[i + 1 :])[chosen].sum(0) / 2
            pairs += int(chosen.sum())
        own = np.maximum(own / max(pairs, 1), 0.0)
        degrees = np.array([variant.n_effects for variant in repeated])[:, None]
        total = (np.square(effects).sum(1) / degrees - noise).mean(0)
        common = np.maximum(total - own, 0.0)
        # One less than the number of seeds, for each set of variants that share any.
        shared = np.diag(present.sum(0).astype(float))
        shared -= (present / present.sum(1, keepdims=True)).T @ present
        freedom = float(np.linalg.matrix_rank(shared[np.ix_(*[present.any(0)] * 2)]))
        apart = max(float(degrees.sum()) - freedom, 0.0)
        return cls(
            (_PRIOR * _COMMON * typical + freedom * common) / (_PRIOR + freedom),
            (_PRIOR * _OWN * typical + apart * own) / (_PRIOR + apart)
            if len(repeated) > 1
            else np.zeros_like(own),
            _PRIOR + freedom,
            _PRIOR + apart,
        )
