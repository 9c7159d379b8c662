"""`--dtype auto` chooses the fastest precision that does not affect metrics, and says why."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prolu_eval.choices import Dtype
from prolu_eval.estimates import Estimate
from prolu_eval.evaluation import EvaluationOptions, evaluate, precisions
from prolu_eval.evaluation.assembly import Assembly
from prolu_eval.evaluation.engine import Engine
from prolu_eval.precision import faster_than_float32
from prolu_eval.results import Result
from prolu_eval.saes import Relu
from tests.evaluation.test_faults import write_runs
from tests.helpers.cli import run

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """A folder with two runs of a tiny model, and token ids for them."""
    return write_runs(tmp_path_factory.mktemp("precisions"), tiny_model("llama"), 2, 64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))


def options_of(work: Path, results: Path, **others: object) -> EvaluationOptions:
    given = {"tokens": work / "ids.npy", "device": "cpu", "results": results, "dtype": "auto",
             "shard_tokens": 512, **others}  # fmt: skip
    return EvaluationOptions(**given)  # type: ignore[arg-type]


def offered(monkeypatch: pytest.MonkeyPatch, *dtypes: Dtype) -> None:
    """Pretend that the CPU is faster in these precisions."""
    monkeypatch.setattr(precisions, "faster_than_float32", lambda _: dtypes)


def evaluated(work: Path, options: EvaluationOptions) -> list[Result]:
    outcomes = evaluate(work / "runs", options)
    assert all(outcome.result is not None for outcome in outcomes), outcomes
    return [outcome.result for outcome in outcomes if outcome.result is not None]


def test_a_cpu_has_nothing_faster_and_it_is_said(work: Path, tmp_path: Path) -> None:
    assert faster_than_float32(torch.device("cpu")) == ()
    results = evaluated(work, options_of(work, tmp_path / "results"))
    assert {r.setting.dtype for r in results} == {"float32"}
    assert results[0].setting.dtype_reason == "auto: nothing that is exact enough is faster on cpu"
    named = evaluated(work, options_of(work, tmp_path / "results", dtype="float32"))
    assert [r.fingerprint for r in named] == [r.fingerprint for r in results], "one measurement"
    assert results[0].comparison_key() == named[0].comparison_key()


def test_what_moves_nothing_is_taken_and_what_moves_a_metric_is_not(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, "bfloat16", "float64")
    results = evaluated(work, options_of(work, tmp_path / "results"))
    reason = results[0].setting.dtype_reason
    assert {r.setting.dtype for r in results} == {"float64"}, reason
    assert reason is not None
    assert reason.startswith("auto: float64 moves no metric by more than ")
    assert "; bfloat16 moves no metric by more than " in reason
    offered(monkeypatch, "bfloat16")
    (first, _) = evaluated(work, options_of(work, tmp_path / "results"))
    assert first.setting.dtype == "float32"
    assert "auto: float32, since bfloat16 moves no metric by more than" in str(
        first.setting.dtype_reason
    )


def test_effects_are_in_standard_errors_of_the_whole(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cached effects are the differences between evaluations of the first shard by hand."""
    offered(monkeypatch, "bfloat16")
    evaluated(work, options_of(work, tmp_path / "results"))
    remembered = [
        json.loads(path.read_text())["bfloat16"]
        for path in (tmp_path / "cache" / "precisions").glob("*.json")
    ]
    assert len(remembered) == 2
    assert not list((tmp_path / "cache" / "precisions").glob("*.parts"))
    by_hand = []
    for dtype in ("float32", "bfloat16"):
        options = options_of(work, tmp_path / dtype, dtype=dtype, n_tokens=512)
        by_hand.append(evaluated(work, options)[0].metrics)
    exact, rounded = by_hand
    expected = {}
    for key in ("l0", "mse", "kl", "ce_degradation"):
        one, other = exact[key], rounded[key]
        assert one.value is not None
        assert other.value is not None
        assert one.standard_error is not None
        expected[key] = abs(one.value - other.value) / (one.standard_error * (1 / 4) ** 0.5)
    assert any(
        all(of_run[key] == pytest.approx(effect, rel=1e-6) for key, effect in expected.items())
        for of_run in remembered
    )
    assert max(remembered[0].values()) > precisions.TOLERATED


def test_a_choice_is_remembered_and_a_further_run_alone_is_measured(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, "float64")
    measured: list[tuple[str, ...]] = []
    measure = Engine.measure_saes

    def noting(self: Engine, saes: dict[str, Relu], rows: range | None = None) -> object:
        measured.append((str(self.model.dtype), *saes))
        return measure(self, saes, rows)

    monkeypatch.setattr(Engine, "measure_saes", noting)
    one = work / "runs" / "0"
    options = options_of(work, tmp_path / "results", n_tokens=512)
    evaluate(one, options)
    assert [dtype for dtype, *_ in measured] == ["torch.float64", "torch.float32", "torch.float64"]
    measured.clear()
    evaluate(one, options)
    assert not measured
    evaluated(work, replace(options, results=tmp_path / "others"))
    assert measured[:2] == [("torch.float64", "1"), ("torch.float32", "1")]


def test_runs_that_are_no_numbers_in_a_precision_rule_it_out(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, "float64")
    monkeypatch.setattr(
        Assembly,
        "metrics",
        lambda self, *_: {"l0": Estimate(value=None if _wide(self) else 1.0)},
    )
    (first, _) = evaluated(work, options_of(work, tmp_path / "results"))
    assert first.setting.dtype == "float32"
    assert "more than what can be told (l0)" in str(first.setting.dtype_reason)


def _wide(assembly: object) -> bool:
    return assembly._engine.model.dtype == torch.float64  # type: ignore[attr-defined,no-any-return]


def test_the_command_says_it(work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run(
        capfd, "evaluate", work / "runs", "--tokens", work / "ids.npy", "--device", "cpu",
        "--dtype", "auto", "--results", tmp_path / "results",
    )  # fmt: skip
    assert done.code == 0
    assert done.err.count("--dtype auto: nothing that is exact enough is faster on cpu.") == 1
