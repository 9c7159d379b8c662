"""Chance baselines: what any claim about an autoencoder must beat, as sweeps.

Three are trained as a sweep is (arXiv 2602.14111): with decoder rows that stay the random ones they
start as, with rows that stay near these, and on activations whose coordinates are shuffled, so that
nothing is left in them but each coordinate's own distribution. Three are computed from activations
(:mod:`prolu_eval.training.fitted`), at several L0.
"""

import math
from typing import NamedTuple

from prolu_eval.runs import ChanceKind

# Trained, by whether decoder rows stay as they start, or near it.
TRAINED: tuple[ChanceKind, ...] = ("frozen_decoder", "soft_frozen_decoder", "shuffled")
# Which of them need an encoder that is no transpose of the decoder.
HELD: tuple[ChanceKind, ...] = ("frozen_decoder", "soft_frozen_decoder")
# The least cosine of a softly frozen decoder row with the random one that it started as.
NEAR = 0.8


class Fitted(NamedTuple):
    """A baseline that is computed: the variant that encodes, and how many features it keeps.

    ``levels`` values of k go from ``least`` to ``most``, half of the activations' width and the
    number of features at the most, in equal steps of logarithms.
    """

    variant: str
    levels: int
    least: int
    most: int

    def k(self, level: int, d_in: int, d_sae: int) -> int:
        """How many features are kept at a level, which counts from 1."""
        most = max(self.least, min(self.most, d_in // 2, d_sae))
        share = (level - 1) / (self.levels - 1)
        return round(math.exp((1 - share) * math.log(self.least) + share * math.log(most)))


# A pursuit takes a product for each feature that it keeps, so that it is given few.
FITTED: dict[ChanceKind, Fitted] = {
    "pca": Fitted("abstopk", 5, 2, 128),
    "kmeans": Fitted("matching_pursuit", 4, 1, 16),
    "untrained": Fitted("topk", 5, 2, 128),
}
