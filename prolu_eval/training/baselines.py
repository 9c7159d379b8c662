"""Chance baselines, as sweeps: autoencoders that any claim about a trained one must beat.

Three are trained as a sweep is (arXiv 2602.14111): one whose decoder rows stay the random rows that
they started as, one whose rows stay near these, and one trained on activations with shuffled
coordinates, which keep each coordinate's own distribution and nothing else. Three are computed from
activations (:mod:`prolu_eval.training.fitted`), at several L0.
"""

import math
from typing import NamedTuple

from prolu_eval.runs import ChanceKind

# Chance baselines that are trained.
TRAINED: tuple[ChanceKind, ...] = ("frozen_decoder", "soft_frozen_decoder", "shuffled")
# Those whose decoder rows stay at, or near, the rows they start as; they need an encoder that is
# not tied to the decoder.
HELD: tuple[ChanceKind, ...] = ("frozen_decoder", "soft_frozen_decoder")
# The smallest cosine that a softly frozen decoder row may have with the row that it started as.
NEAR = 0.8


class Fitted(NamedTuple):
    """A baseline that is computed: the variant that encodes, and how many features it keeps.

    The ``levels`` values of k are evenly spaced in their logarithm. They go from ``least`` to
    ``most``, or to half of d_in or to d_sae if that is smaller.
    """

    variant: str
    levels: int
    least: int
    most: int

    def k(self, level: int, d_in: int, d_sae: int) -> int:
        """How many features are kept at a level; levels count from 1."""
        most = max(self.least, min(self.most, d_in // 2, d_sae))
        share = (level - 1) / (self.levels - 1)
        return round(math.exp((1 - share) * math.log(self.least) + share * math.log(most)))


# Matching pursuit computes one product for each feature that it keeps, so its k stays small.
FITTED: dict[ChanceKind, Fitted] = {
    "pca": Fitted("abstopk", 5, 2, 128),
    "kmeans": Fitted("matching_pursuit", 4, 1, 16),
    "untrained": Fitted("topk", 5, 2, 128),
}
