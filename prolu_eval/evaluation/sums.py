"""What a measurement of an autoencoder consists of, and how those of disjoint rows add up."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.results import Array

Sums = Mapping[str, NDArray[np.float64]]
_FEATURE = "feature/"


@dataclass(frozen=True)
class Measurement:
    """Sums over consecutive rows of tokens; those of adjoining rows add up, ``first + second``.

    Attributes:
        by_row: sums per row, by column. [n_rows] each
        features: sums per feature.
    """

    by_row: Sums
    features: FeatureSums

    def __add__(self, other: "Measurement") -> "Measurement":
        by_row = joined(self.by_row, other.by_row)
        return Measurement(by_row, self.features + other.features)

    def stored(self) -> dict[str, Array]:
        """The measurement as arrays to keep in a file."""
        features = {_FEATURE + name: array for name, array in self.features.stored().items()}
        return {**self.by_row, **features}

    @classmethod
    def restored(cls, arrays: Mapping[str, Array]) -> "Measurement":
        """The measurement that :meth:`stored` gave."""
        features = {
            key.removeprefix(_FEATURE): array
            for key, array in arrays.items()
            if key.startswith(_FEATURE)
        }
        by_row = {key: array for key, array in arrays.items() if not key.startswith(_FEATURE)}
        return cls(by_row, FeatureSums.restored(features))


def joined(first: Sums, second: Sums) -> dict[str, NDArray[np.float64]]:
    """Sums per row of rows that follow one another. [n_first + n_second] each"""
    return {column: np.concatenate([first[column], second[column]]) for column in first}
