"""Results that can be compared: those measured at one hook point, in one setting."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prolu_eval.results import Result, frame

# Columns of a results table that rows must share to be put on one frontier.
SETTING = [
    "model_fingerprint", "hook", "tokens_fingerprint", "special_tokens", "dtype", "metric_version",
]  # fmt: skip
# Columns that training repeats share; all but the seed that a run can be told apart by.
_CONFIGURATION = [
    "label", "variant", "format", "penalty", "coefficient", "learning_rate", "d_in", "d_sae",
]  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Comparable results, in order of label, coefficient and name, and the table of them."""

    results: tuple[Result, ...]
    table: pd.DataFrame

    @property
    def title(self) -> str:
        """The hook point and the model."""
        first = self.results[0]
        return f"{first.run.hook} of {first.setting.model}"

    @property
    def labels(self) -> list[str]:
        """The variants, in order of name."""
        return sorted(set(self.table["label"]))

    @cached_property
    def configurations(self) -> tuple[NDArray[np.int64], ...]:
        """Rows of the table that repeat one training with other seeds, in order of the first.

        A row stands alone unless its coefficient and seed are known and no other row of the same
        configuration has the same seed.
        """
        cells: dict[object, list[int]] = defaultdict(list)
        for i, row in enumerate(self.table.to_dict("records")):
            known = pd.notna(row["coefficient"]) and pd.notna(row["seed"])
            key = tuple(row[column] for column in _CONFIGURATION) if known else ()
            cells[tuple(None if pd.isna(v) else v for v in key) or i].append(i)
        parts = []
        for rows in cells.values():
            repeated = len({self.table["seed"][i] for i in rows}) == len(rows)
            parts += [rows] if repeated else [[i] for i in rows]
        return tuple(np.array(rows) for rows in sorted(parts))

    @property
    def has_seeds(self) -> bool:
        """Whether any training was repeated with another seed."""
        return len(self.configurations) < len(self.table)

    def subset(self, rows: NDArray[np.int64]) -> "Group":
        """Some of the group's results, in the order given."""
        table = self.table.iloc[rows].reset_index(drop=True)
        return Group(tuple(self.results[i] for i in rows), table)


def comparable(results: Sequence[Result]) -> list[Group]:
    """Split results into groups within which they can be compared, the largest first."""
    if not results:
        return []
    table = frame(results)
    table["position"] = range(len(table))
    groups = []
    for _, rows in table.groupby(SETTING, sort=False):
        ordered = rows.sort_values(["label", "coefficient", "name"], kind="stable")
        members = tuple(results[i] for i in ordered["position"])
        groups.append(Group(members, ordered.drop(columns="position").reset_index(drop=True)))
    return sorted(groups, key=lambda group: -len(group.results))


def stretched(group: Group, splits: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.int64]]:
    """Rows of a group by stretch: below the first value of a metric, from there to the next, ..."""
    parts: dict[str, NDArray[np.int64]] = {}
    for key, values in splits.items():
        bounds = [-np.inf, *sorted(set(values)), np.inf]
        column = group.table[key].to_numpy(float)
        for low, high in pairwise(bounds):
            title = " and ".join(
                part
                for part, finite in (
                    (f"{key} >= {low:g}", np.isfinite(low)),
                    (f"{key} < {high:g}", np.isfinite(high)),
                )
                if finite
            )
            rows = np.flatnonzero((column >= low) & (column < high))
            if len(rows):
                parts[title] = rows
    return parts
