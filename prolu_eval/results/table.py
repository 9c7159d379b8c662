"""Results as a table."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prolu_eval.errors import ResultsError
from prolu_eval.plain_text import printable
from prolu_eval.results.documents import Result
from prolu_eval.results.store import read_result, result_files


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Results as a table, one row each.

    Columns: those of the run and of the setting, ``fingerprint``, and per metric ``key``,
    ``key_se``, ``key_low`` and ``key_high``; undefined values are NaN.
    """
    rows = []
    for result in results:
        row: dict[str, Any] = {
            **result.run.model_dump(exclude={"provenance"}),
            "path": printable(result.run.path),
            **result.setting.model_dump(),
            "fingerprint": result.fingerprint,
        }
        for key, scalar in result.metrics.items():
            numbers = (scalar.value, scalar.standard_error, *scalar.ci95)
            for suffix, number in zip(("", "_se", "_low", "_high"), numbers, strict=True):
                row[key + suffix] = np.nan if number is None else number
        rows.append(row)
    return pd.DataFrame(rows)


def load_results(path: str | Path) -> pd.DataFrame:
    """Every result stored in or below a folder, as :func:`frame` lays it out.

    Raises:
        ResultsError: if there is none, or one cannot be read.
    """
    files = list(result_files([Path(path)]))
    if not files:
        raise ResultsError(path, "holds no results", "run `prolu-eval evaluate` on it first")
    return frame(read_result(file, arrays="none") for file in files)
