"""Which rows count as done by others while several processes measure the same runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prolu_eval.evaluation import measuring
from prolu_eval.evaluation.parts import Parts, name_of


def test_rows_measured_here_are_not_counted_as_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = range(8)
    records = [
        SimpleNamespace(
            run=SimpleNamespace(name=name), parts=Parts(tmp_path / name), finished=lambda: None
        )
        for name in ("a", "b")
    ]
    part = {"x": np.zeros(1)}
    others = records[1].parts.claim(name_of(rows))  # another process is measuring b
    assert others is not None

    def until_the_other_is_done(_: float) -> None:
        records[1].parts.write(name_of(rows), part)
        others.release()

    measured: list[str] = []

    def measure_saes(saes: dict[str, object], _: range) -> dict[str, Any]:
        measured.extend(saes)
        return {name: SimpleNamespace(stored=lambda: part) for name in saes}

    monkeypatch.setattr(measuring, "portions", lambda runs: [runs])
    monkeypatch.setattr(measuring, "load", lambda run, engine: object())
    monkeypatch.setattr("time.sleep", until_the_other_is_done)
    engine: Any = SimpleNamespace(measure_saes=measure_saes)
    found: list[int] = []
    done = [*measuring.measure(engine, records, [rows], found.append)]  # type: ignore[arg-type]
    assert [outcome.record.run.name for outcome in done] == ["a", "b"]
    assert measured == ["a"]
    assert sum(found) == 8
