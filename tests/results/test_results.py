"""Stored results are written completely or not at all, read back equal, and refused if damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prolu_eval.errors import ResultsError
from prolu_eval.estimates import Estimate
from prolu_eval.results import (
    Result,
    RunSummary,
    Setting,
    load_results,
    read_result,
    write_atomically,
    write_result,
)


def made(fingerprint: str = "0" * 32, **metrics: float | None) -> Result:
    return Result(
        fingerprint=fingerprint,
        run=RunSummary(
            name="a", path="runs/a", format="native", variant="relu", label="relu+l1",
            d_in=2, d_sae=4, hook="blocks.0.hook_resid_post", coefficient=0.1,
        ),
        setting=Setting(
            model="m", model_fingerprint="f", tokens="t", tokens_fingerprint="g", n_sequences=2,
            context_length=8, n_counted=14, special_tokens="exclude", dtype="float32",
            metric_version=1,
        ),
        metrics={key: Estimate(value=value) for key, value in metrics.items()},
        arrays={"per_sequence/n": np.array([7.0, 7.0]), "per_feature/bias": np.zeros(4, "f4")},
    )  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    result = made(l0=3.0, kl=None)
    path = write_result(result, tmp_path / "evaluation")
    again = read_result(path)
    assert again.model_dump() == result.model_dump()
    assert again.per_sequence().keys() == {"n"}
    np.testing.assert_array_equal(again.per_feature()["bias"], np.zeros(4))
    (row,) = load_results(tmp_path).to_dict("records")
    assert (row["name"], row["l0"], row["coefficient"]) == ("a", 3.0, 0.1)
    assert np.isnan(row["kl"])
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".safetensors"]


def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_and_newer_results_are_refused(tmp_path: Path) -> None:
    path = write_result(made(l0=1.0), tmp_path)
    document = json.loads(path.read_text())
    for change, message in [
        ({"schema_version": 99}, "newer than"),
        ({"setting": {}}, "is not a result"),
        ({"surprise": 1}, "is not a result"),
    ]:
        path.write_text(json.dumps(document | change))
        with pytest.raises(ResultsError, match=message):
            read_result(path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ResultsError, match="cannot be read"):
        read_result(path)
    path.write_text(json.dumps(document))
    arrays = path.with_suffix(".safetensors")
    arrays.write_bytes(arrays.read_bytes()[:20])
    with pytest.raises(ResultsError, match="cannot be read"):
        read_result(path)


def test_no_results_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ResultsError, match="holds no results"):
        load_results(tmp_path)
