"""Results as a table."""

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prolu_eval.arguments import PathLike, as_paths, of_type
from prolu_eval.json_text import canonical
from prolu_eval.plain_text import printable
from prolu_eval.results.arrays import Array
from prolu_eval.results.documents import Result, Setting
from prolu_eval.results.select import select
from prolu_eval.runs import is_range


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Results as a table, one row each.

    The columns are those of the run and of the setting; ``k``; ``configuration``, equal for runs
    that differ in nothing but the seed; ``comparison_key``, equal for results that can be compared;
    ``fingerprint``; ``beaten_by``, the run that beat this one if it left a race; and for each
    metric ``key``, its standard error ``key_se``, and the ends of its 95 % interval, ``key_low``
    and ``key_high``. Undefined values are NaN. Runs that cover several layers also have lists with
    a value for each layer, ``l0_by_layer``, ``fvu_by_layer`` and so on (:meth:`Result.per_layer`).
    Runs that were measured on tasks also have dictionaries with a value for each task,
    ``auc_k1_by_task``, ``right_spliced_by_task`` and so on, and the standard errors of these values
    over the task's examples, ``auc_k1_by_task_se`` and so on (:meth:`Result.per_task`).
    """
    results = list(results)
    rows: list[dict[str, Any]] = []
    metrics: dict[str, Array] = {}
    lists: dict[str, list[Any]] = {}
    settings: dict[Setting, dict[str, Any]] = {}
    for i, result in enumerate(results):
        setting = result.setting
        rows.append({
            **result.run.model_dump(exclude={"provenance", "options"}),
            "path": printable(result.run.path),
            "k": result.run.k,
            "configuration": _configuration_key(result),
            **(settings.get(setting) or settings.setdefault(setting, setting.model_dump())),
            "comparison_key": result.comparison_key(),
            "fingerprint": result.fingerprint,
            "beaten_by": None if result.dropped is None else result.dropped.beaten_by,
        })  # fmt: skip
        for key, scalar in result.metrics.items():
            if key not in metrics:
                metrics[key] = np.full((4, len(results)), np.nan)
            metrics[key][:, i] = [
                np.nan if number is None else number
                for number in (scalar.value, scalar.standard_error, *scalar.ci95)
            ]
        for name, found in _lists(result).items():
            lists.setdefault(name, [np.nan] * len(results))[i] = found
    columns = {
        key + suffix: numbers
        for key, parts in metrics.items()
        for suffix, numbers in zip(("", "_se", "_low", "_high"), parts, strict=True)
    }
    others = pd.DataFrame({**columns, **lists}, index=range(len(rows)))
    return pd.concat([pd.DataFrame(rows), others], axis=1)


def _lists(result: Result) -> dict[str, Any]:
    """The columns of a result that have a value for each layer or task, by name."""
    found: dict[str, Any] = {}
    if is_range(result.run.hook):
        found |= {f"{key}_by_layer": v.tolist() for key, v in result.per_layer().items()}
    for over in result.tasks:
        for task, columns in result.per_task(over).items():
            for column, measured in columns.items():
                found.setdefault(f"{column}_by_task", {})[task] = measured.value
                found.setdefault(f"{column}_by_task_se", {})[task] = measured.standard_error
    return found


def _configuration_key(result: Result) -> str:
    return hashlib.sha256(canonical(result.run.configuration).encode()).hexdigest()[:16]


def load_results(
    path: str | Path | Sequence[str | Path],
    tokens: PathLike | None = None,
    all: bool = False,  # noqa: A002
) -> pd.DataFrame:
    """The results stored in or below folders, one row for each run, with the columns of `frame`.

    The additional column ``file`` is the path of each result.

    Results that are damaged or out of date are left out with a warning. If runs were evaluated
    several times (on another text, in another precision), the newest evaluation is used, and a
    warning lists the others.

    Args:
        path: a folder of runs or of results, or several of them.
        tokens: only results on this text: its name, its path, or the key that a warning listed.
        all: a row for each evaluation of a run; ``comparison_key`` tells the rows apart.

    Raises:
        UsageError: if a folder does not exist, or ``path`` is not a path.
        ResultsError: if there are no results, or none on ``tokens``.
    """
    of_type(all, bool, "all", "give True or False")
    chosen = select(as_paths(path, "the folders"), tokens=tokens, every=all)
    for remark in chosen.remarks:
        warnings.warn(remark, stacklevel=2)
    return frame(chosen.results).assign(file=[str(result.file) for result in chosen.results])
