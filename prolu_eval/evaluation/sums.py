"""The sums that make up a measurement of an autoencoder, and their addition over disjoint rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.evaluation.examples import StrongestExamples
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.results import Array

Sums = Mapping[str, NDArray[np.float64]]
_FEATURE, _EXAMPLE = "feature/", "example/"
# Prefixes of the names of stored arrays that are not sums per row.
BESIDES = (_FEATURE, _EXAMPLE)


class RowSums:
    """Sums per row of tokens, by the names of their columns, while they are added up on a device.

    Args:
        columns: the names of the columns.
        n_rows: the number of rows.
        device: the device of the sums.

    Attributes:
        values: the sums so far. [n_columns, n_rows] float64
    """

    def __init__(self, columns: tuple[str, ...], n_rows: int, device: torch.device) -> None:
        self.columns = columns
        self.values = torch.zeros(len(columns), n_rows, dtype=torch.float64, device=device)

    def add(self, columns: tuple[str, ...], first_row: int, values: Tensor) -> None:
        """Add values to adjacent columns, starting at ``first_row``. [k, n_rows_here]"""
        start = self.columns.index(columns[0])
        if self.columns[start : start + len(columns)] != columns:
            raise ValueError(f"{columns} do not follow one another in {self.columns}")
        stop_row = first_row + values.shape[1]
        self.values[start : start + len(columns), first_row:stop_row] += values

    def by_column(self) -> dict[str, NDArray[np.float64]]:
        """The sums, copied from the device. [n_rows] each"""
        return dict(zip(self.columns, self.values.cpu().numpy(), strict=True))


@dataclass(frozen=True)
class Measurement:
    """Sums over consecutive rows of tokens; those of adjacent rows are added, ``first + second``.

    Attributes:
        by_row: sums per row, by column. [n_rows] each
        features: sums per feature.
        examples: the strongest activations of each feature, if they were wanted.
    """

    by_row: Sums
    features: FeatureSums
    examples: StrongestExamples | None = None

    def __add__(self, other: "Measurement") -> "Measurement":
        by_row = joined(self.by_row, other.by_row)
        examples = None
        if self.examples is not None and other.examples is not None:
            examples = self.examples + other.examples
        return Measurement(by_row, self.features + other.features, examples)

    def stored(self) -> dict[str, Array]:
        """The measurement as arrays for a file."""
        features = {_FEATURE + name: array for name, array in self.features.stored().items()}
        found = {} if self.examples is None else self.examples.stored()
        examples = {_EXAMPLE + name: array for name, array in found.items()}
        return {**self.by_row, **features, **examples}

    @classmethod
    def restored(cls, arrays: Mapping[str, Array]) -> "Measurement":
        """The measurement from the arrays of :meth:`stored`."""
        features = {
            key.removeprefix(_FEATURE): array
            for key, array in arrays.items()
            if key.startswith(_FEATURE)
        }
        by_row = {key: a for key, a in arrays.items() if not key.startswith(BESIDES)}
        examples = None
        if f"{_EXAMPLE}value" in arrays:
            value, place = arrays[f"{_EXAMPLE}value"], arrays[f"{_EXAMPLE}place"]
            examples = StrongestExamples.restored(value, place)
        return cls(by_row, FeatureSums.restored(features), examples)


def joined(first: Sums, second: Sums) -> dict[str, NDArray[np.float64]]:
    """Sums per row, of the first rows and then the second. [n_first + n_second] each"""
    return {column: np.concatenate([first[column], second[column]]) for column in first}
