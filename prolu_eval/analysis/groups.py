"""Groups of results that can be compared (:meth:`prolu_eval.results.Result.comparison_key`)."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result, frame, titles


@dataclass(frozen=True)
class Group:
    """Comparable results, in order of label, coefficient and name, and the table of them.

    ``title`` names the hook point, the model, and what else tells the group from others beside it;
    ``folders`` are those that results belong to, in the order given. ``dropped`` are results of
    runs that left a race, on fewer tokens: shown beside the others, and no part of any statement.
    ``chance`` are the results of chance baselines, which are none of the group's own; None without
    any.
    """

    results: tuple[Result, ...]
    table: pd.DataFrame
    title: str
    folders: tuple[str, ...] = ()
    dropped: tuple[Result, ...] = ()
    chance: "Group | None" = None

    def with_chance(self) -> "Group":
        """The group with its chance baselines as results like others, after its own."""
        if self.chance is None:
            return self
        table = pd.concat([self.table, self.chance.table], ignore_index=True)
        results = self.results + self.chance.results
        return Group(results, table, self.title, self.folders)

    @property
    def labels(self) -> list[str]:
        """The variants, in order of name."""
        return sorted(set(self.table["label"]))

    @cached_property
    def configurations(self) -> tuple[NDArray[np.int64], ...]:
        """Rows of the table that repeat one training with other seeds, in order of the first.

        A row stands alone unless its seed and what sets its sparsity are known
        (:attr:`~prolu_eval.results.RunSummary.is_repeatable`) and no other row of the same
        configuration has the same seed.
        """
        keys = self.table["configuration"].tolist()
        known = [result.run.is_repeatable for result in self.results]
        return repeats(
            [key if told else i for i, (key, told) in enumerate(zip(keys, known, strict=True))],
            [result.run.seed for result in self.results],
        )

    @property
    def has_seeds(self) -> bool:
        """Whether any training was repeated with another seed."""
        return len(self.configurations) < len(self.table)

    def subset(self, rows: NDArray[np.int64]) -> "Group":
        """Some of the group's results, in the order given."""
        table = self.table.iloc[rows].reset_index(drop=True)
        return Group(tuple(self.results[i] for i in rows), table, self.title, self.folders)


def repeats(
    configurations: Sequence[Hashable], seeds: Sequence[int | None]
) -> tuple[NDArray[np.int64], ...]:
    """Positions of runs that repeat one training with other seeds, in order of the first.

    Runs of one configuration stand alone if two of them have the same seed.

    Args:
        configurations: of each run; what tells its training apart but for the seed.
        seeds: of each run.
    """
    cells: dict[Hashable, list[int]] = defaultdict(list)
    for i, configuration in enumerate(configurations):
        cells[configuration].append(i)
    parts = []
    for rows in cells.values():
        repeated = len({seeds[i] for i in rows}) == len(rows)
        parts += [rows] if repeated else [[i] for i in rows]
    return tuple(np.array(rows) for rows in sorted(parts))


def comparable(results: Sequence[Result], keys: Sequence[str] = ()) -> list[Group]:
    """Split results into groups within which they can be compared, the largest first.

    Results on different tasks are apart if one of the metrics ``keys`` is over tasks. Runs that
    were dropped from a race are beside the group that went on, if it is among results. Those of
    chance baselines stand apart in each (:attr:`Group.chance`), if it has others.
    """
    if not results:
        return []
    whole = {result.comparison_key() for result in results if result.dropped is None}
    lost: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.dropped is not None and result.evaluation() in whole:
            lost[result.evaluation()].append(result)
    aside = {id(result) for part in lost.values() for result in part}
    results = [result for result in results if id(result) not in aside]
    table = frame(results)
    table["apart"] = table["comparison_key"]
    for over in sorted({METRICS[key].over for key in keys} - {"sequences"}):
        of_tasks = [r.tasks[over].fingerprint if over in r.tasks else "" for r in results]
        if len(set(of_tasks) - {""}) > 1:  # what is not measured yet may join those that are
            table["apart"] += pd.Series(of_tasks)
    table["position"] = range(len(table))
    parts = [
        rows.sort_values(["label", "coefficient", "k", "name"], kind="stable")
        for _, rows in table.groupby("apart", sort=False)
    ]
    parts.sort(key=lambda rows: -len(rows))
    titles = _titles([results[rows["position"].iloc[0]] for rows in parts])
    return [
        _group(
            results, rows, title, tuple(sorted(lost[rows["comparison_key"].iloc[0]], key=_order))
        )
        for rows, title in zip(parts, titles, strict=True)
    ]


def _group(
    results: Sequence[Result], rows: pd.DataFrame, title: str, lost: tuple[Result, ...]
) -> Group:
    """The group of some rows of the table of all results, and of those that left its race."""

    def of(
        part: pd.DataFrame, dropped: tuple[Result, ...] = (), chance: Group | None = None
    ) -> Group:
        return Group(
            tuple(results[i] for i in part["position"]),
            part.drop(columns=["position", "apart"]).reset_index(drop=True),
            title,
            tuple(dict.fromkeys(results[i].folder for i in sorted(part["position"]))),
            dropped,
            chance,
        )

    by_chance = rows["chance"].notna()
    if not by_chance.any() or by_chance.all():
        return of(rows, lost)
    return of(rows[~by_chance], lost, of(rows[by_chance]))


def _order(result: Result) -> tuple[str, float, str]:
    run = result.run
    return run.label, run.coefficient or run.k or 0.0, run.name


def _titles(firsts: Sequence[Result]) -> list[str]:
    """Titles of groups, from the first result of each: hook, model, and what differs beside them.

    That is the name of the text, or what else tells the evaluations apart. A text that bears the
    name of its model is the model's own.
    """
    named = [f"{first.run.site} of {first.setting.model}" for first in firsts]
    if len(set(named)) == len(named):
        return named
    found = []
    for name, first, told in zip(
        named, firsts, titles([first.setting for first in firsts]), strict=True
    ):
        text, comma, rest = told.partition(",")
        on = f"{'its own text' if text == first.setting.model else text}{comma}{rest}"
        found.append(name if named.count(name) == 1 else f"{name} on {on}")
    return found


def stretched(group: Group, splits: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.int64]]:
    """Rows of a group by stretch: below the first value of a metric, from there to the next, ...

    Raises:
        UsageError: if a metric was not measured.
    """
    parts: dict[str, NDArray[np.int64]] = {}
    for key, values in splits.items():
        if key not in group.table:
            raise UsageError(key, "was not measured for these runs", "evaluate them again")
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
