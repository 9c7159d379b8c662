"""The distribution of a run's encoder biases."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class BiasDistribution:
    """A summary of encoder biases.

    ``quantiles`` has the biases' quantiles at :data:`QUANTILES`. ``counts`` [n_bins] is the number
    of biases between neighbouring ``edges`` [n_bins + 1].
    """

    negative_fraction: float
    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def sketch(self) -> str:
        """The histogram in one line of text."""
        top = max(self.counts)
        return "".join(
            _BARS[-(-count * (len(_BARS) - 1) // top)] if count else " " for count in self.counts
        )


def bias_distribution(bias: NDArray[np.floating], n_bins: int = 24) -> BiasDistribution:
    """Summarise encoder biases [d_sae]; the histogram spans their range."""
    counts, edges = np.histogram(bias.astype(float), n_bins)
    return BiasDistribution(
        negative_fraction=float((bias < 0).mean()),
        quantiles=tuple(float(q) for q in np.quantile(bias.astype(float), QUANTILES)),
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
    )
