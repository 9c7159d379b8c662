"""Groups of results that can be compared (:meth:`prolu_eval.results.Result.comparison_key`)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prolu_eval.analysis.racing import first_sequences
from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result, frame, titles


@dataclass(frozen=True)
class Group:
    """Results that can be compared, in order of label, coefficient and name, and their table.

    ``title`` names the hook point, the model, and whatever else tells the group from the other
    groups; ``folders`` are the folders that the results belong to, in the order in which they were
    named. After a race, results and table are for the tokens that all runs share, and ``raced`` has
    each run's own result, for all tokens that it was measured on. ``chance`` is the group of the
    results of chance baselines, which ``results`` does not include; None if there are none.
    """

    results: tuple[Result, ...]
    table: pd.DataFrame
    title: str
    folders: tuple[str, ...] = ()
    raced: tuple[Result, ...] = ()
    chance: "Group | None" = None

    def with_chance(self) -> "Group":
        """The group with the results of its chance baselines appended to its own results."""
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
        """Sets of rows that differ in nothing but the seed, in order of their first rows.

        A row is a set by itself if its seed or what sets its sparsity is unknown
        (:attr:`~prolu_eval.results.RunSummary.is_repeatable`), or if another row of the same
        configuration has the same seed.
        """
        configurations, seeds = self.table["configuration"].tolist(), self.table["seed"].tolist()
        cells: dict[object, list[int]] = defaultdict(list)
        for i, result in enumerate(self.results):
            known = result.run.is_repeatable
            cells[configurations[i] if known else i].append(i)
        parts = []
        for rows in cells.values():
            repeated = len({seeds[i] for i in rows}) == len(rows)
            parts += [rows] if repeated else [[i] for i in rows]
        return tuple(np.array(rows) for rows in sorted(parts))

    @cached_property
    def seed_of(self) -> NDArray[np.int64]:
        """The seed of each run, numbered from 0. [n_runs]

        Runs of a variant that do not tell their seed share one that no other run has.
        """
        told = zip(self.table["label"], self.table["seed"], strict=True)
        keys = [(label, None) if pd.isna(seed) else seed for label, seed in told]
        return np.asarray(pd.factorize(pd.Series(keys, dtype=object))[0], np.int64)

    @property
    def has_seeds(self) -> bool:
        """Whether any configuration was trained with several seeds."""
        return len(self.configurations) < len(self.table)

    def subset(self, rows: NDArray[np.int64]) -> "Group":
        """The results at ``rows``, in that order; after a race, those on the shared tokens."""
        table = self.table.iloc[rows].reset_index(drop=True)
        return Group(tuple(self.results[i] for i in rows), table, self.title, self.folders)

    @property
    def measured(self) -> tuple[Result, ...]:
        """Each run's own result, for all tokens that it was measured on."""
        return self.raced or self.results


def comparable(results: Sequence[Result], keys: Sequence[str] = ()) -> list[Group]:
    """Split results into groups within which they can be compared, the largest first.

    Results on different tasks are in different groups if one of the metrics ``keys`` is over tasks.
    Runs that raced against each other are compared on the tokens that all of them have. Results of
    chance baselines are kept apart within their group (:attr:`Group.chance`), unless it has no
    others.
    """
    if not results:
        return []
    own, results = list(results), _shared(results)
    table = frame(results)
    table["apart"] = table["comparison_key"]
    for over in sorted({METRICS[key].over for key in keys} - {"sequences"}):
        of_tasks = [r.tasks[over].fingerprint if over in r.tasks else "" for r in results]
        if len(set(of_tasks) - {""}) > 1:  # results without tasks stay with those that have some
            table["apart"] += pd.Series(of_tasks)
    table["position"] = range(len(table))
    parts = [
        rows.sort_values(["label", "coefficient", "k", "name"], kind="stable")
        for _, rows in table.groupby("apart", sort=False)
    ]
    parts.sort(key=lambda rows: -len(rows))
    titles = _titles([results[rows["position"].iloc[0]] for rows in parts])
    return [_group(own, results, rows, title) for rows, title in zip(parts, titles, strict=True)]


def _group(
    own: Sequence[Result], results: Sequence[Result], rows: pd.DataFrame, title: str
) -> Group:
    """The group of the results in ``rows``, a part of the table of all results.

    ``own`` are the runs' own results; ``results`` are the same after a race's tokens are made
    equal.
    """

    def of(part: pd.DataFrame, chance: Group | None = None) -> Group:
        measured = tuple(own[i] for i in part["position"])
        return Group(
            tuple(results[i] for i in part["position"]),
            part.drop(columns=["position", "apart"]).reset_index(drop=True),
            title,
            tuple(dict.fromkeys(results[i].folder for i in sorted(part["position"]))),
            measured if len({result.dropped is None for result in measured}) > 1 else (),
            chance,
        )

    by_chance = rows["chance"].notna()
    if not by_chance.any() or by_chance.all():
        return of(rows)
    return of(rows[~by_chance], of(rows[by_chance]))


def _shared(results: Sequence[Result]) -> list[Result]:
    """The results in the same order, with those of a race cut to the tokens that its runs share.

    Those are the first tokens, as many as the run that left first was measured on. If no run stayed
    to the end, the results are returned unchanged.
    """
    races: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        races[result.evaluation()].append(result)
    found: dict[int, Result] = {}
    for runs in races.values():
        lost = [result for result in runs if result.dropped is not None]
        if lost and len(lost) < len(runs):
            fewest = min(lost, key=lambda result: result.setting.n_sequences)
            found |= {id(result): first_sequences(result, fewest) for result in runs}
    return [found.get(id(result), result) for result in results]


def _titles(firsts: Sequence[Result]) -> list[str]:
    """The titles of groups, from the first result of each: hook point, model, and what differs.

    What differs is the name of the text, or whatever else tells the evaluations apart. A text that
    has the name of the model is called the model's own text.
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


def rows_by_range(
    group: Group, splits: Mapping[str, Sequence[float]]
) -> dict[str, NDArray[np.int64]]:
    """The rows of a group by range of a metric: below the first value, from it to the next, ...

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
