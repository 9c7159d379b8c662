"""The table of runs as a file: every metric with its interval, and each run's place."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prolu_eval.analysis import Answer
from prolu_eval.errors import UsageError
from prolu_eval.results import frame, write_atomically


def run_frame(answers: Sequence[Answer]) -> pd.DataFrame:
    """The runs of all groups, with the columns ``group``, ``on_frontier`` and ``membership``.

    Runs of chance baselines, which the column ``chance`` names, are on no frontier. After a race,
    each run's metrics are those on all tokens that it was measured on (``n_counted``), and
    ``beaten_by`` names the run that beat it if it left the race.
    """
    parts = []
    for answer in answers:
        every, raced = answer.group.with_chance(), answer.group.raced
        part = frame([*raced, *every.results[len(raced) :]]) if raced else every.table.copy()
        part.insert(0, "group", answer.title)
        part.insert(1, "on_frontier", part["name"].isin(answer.details.frontier))
        part.insert(2, "membership", part["name"].map(answer.details.membership).astype(float))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def write_table(answers: Sequence[Answer], path: Path, *, parquet: bool = False) -> None:
    """Write the table of runs as CSV or Parquet.

    Raises:
        ResultsError: if the file cannot be written.
        UsageError: if Parquet is asked for and pyarrow is not installed.
    """
    frame = run_frame(answers)
    if not parquet:
        write_atomically(path, frame.to_csv(index=False).encode())
        return
    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, index=False, engine="pyarrow")
    except ImportError:
        raise UsageError(
            "--parquet", "needs pyarrow, which is not installed", "pip install prolu-eval[parquet]"
        ) from None
    write_atomically(path, buffer.getvalue())
