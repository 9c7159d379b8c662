"""Mistakes that can be known before a model is loaded are reported before, and only once."""

import os
import shutil
from pathlib import Path

import pytest

from prolu_eval.checkpoints import discover, load_sae
from prolu_eval.errors import ResultsError, TokensError, UsageError
from prolu_eval.evaluation import EvaluationOptions, evaluate, memory
from prolu_eval.lm import LanguageModel
from prolu_eval.runs import Run, RunConfig
from prolu_eval.saes import Relu
from tests.helpers.cli import run
from tests.helpers.foreign_files import circuit_tracer_clt, clt_layers


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs of a model that nothing may load."""
    from prolu_eval.checkpoints.native import save_run

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LanguageModel, "load", loaded)
    for name in "abc":
        config = RunConfig(variant="", d_in=1, d_sae=1, hook="blocks.1.hook_resid_post",
                           model="embedded", dataset="embedded")  # fmt: skip
        save_run(tmp_path / "runs" / name, Relu(8, 16), config)
    return tmp_path / "runs"


def test_a_device_that_is_not_there(runs: Path) -> None:
    with pytest.raises(UsageError, match="'tpu9' cannot be used"):
        evaluate(runs, EvaluationOptions(device="tpu9"))


@pytest.mark.parametrize("name", ["nofile.txt", "./nothing", "/no/such/folder", "a/b/c", "x.npy"])
def test_tokens_that_are_no_file(runs: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokensError, match="is no file"):
        evaluate(runs, EvaluationOptions(tokens=name))
    for command in ("evaluate", "frontier"):
        ran = run(capfd, command, runs, "--tokens", name)
        assert (ran.code, ran.err.count("\n")) == (2, 1), "one line, not one a run"
        assert name in ran.err


def test_a_hub_name_is_left_to_the_hub(runs: Path) -> None:
    with pytest.raises(AssertionError, match="a model was loaded"):
        evaluate(runs, EvaluationOptions(tokens="owner/name"))


def test_results_that_cannot_be_written(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultsError, match=r"file: is no folder.*--results"):
        evaluate(runs, EvaluationOptions(results=tmp_path / "file" / "below"))
    assert (tmp_path / "file").read_text() == "in the way"
    (runs / "b" / "evaluation").write_text("in the way")
    with pytest.raises(ResultsError, match=r"b/evaluation: results cannot be written"):
        evaluate(runs, EvaluationOptions())
    assert not (runs / "a" / "evaluation").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(0o500)
    with pytest.raises(ResultsError, match="may not be written to"):
        evaluate(runs, EvaluationOptions(results=tmp_path / "closed"))


def test_a_folder_with_results_may_be_all_that_is_asked_for(runs: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "kept" / name).mkdir(parents=True)
        (tmp_path / "kept" / name / f"{'0' * 32}.json").touch()
    with pytest.raises(AssertionError, match="a model was loaded"):
        evaluate(runs, EvaluationOptions(results=tmp_path / "kept"))
    shutil.rmtree(tmp_path / "kept" / "c")
    (tmp_path / "kept" / "c").touch()
    with pytest.raises(ResultsError, match="is no folder"):
        evaluate(runs, EvaluationOptions(results=tmp_path / "kept"))


def test_weights_that_do_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = circuit_tracer_clt(tmp_path / "clt", clt_layers(3, 16, 40), model_name="embedded")
    # [40, 16] and [40] twice, of each layer; [40, 3 - i, 16]; [16] of each layer
    n_weights = 3 * (16 * 40 + 40 + 40) + 40 * 16 * (3 + 2 + 1) + 3 * 16
    (run,) = discover(folder)
    assert isinstance(run, Run)
    assert run.n_weights == n_weights
    assert load_sae(folder).n_weights == n_weights

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LanguageModel, "load", loaded)
    options = EvaluationOptions(tokens="embedded", device="cpu")
    monkeypatch.setattr(memory, "free_memory", lambda _: 4 * n_weights - 1)
    with pytest.raises(AssertionError, match="a model was loaded"):
        evaluate(folder, options)  # too few to be looked at
    monkeypatch.setattr(memory, "_MANY_WEIGHTS", n_weights)
    (outcome,) = evaluate(folder, options)
    assert "0.0 GiB of weights, which are in memory together, but 0.0 GiB" in (outcome.error or "")
    monkeypatch.setattr(memory, "free_memory", lambda _: 4 * n_weights)
    with pytest.raises(AssertionError, match="a model was loaded"):
        evaluate(folder, options)
