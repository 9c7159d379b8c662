"""Runs that name one model differently are measured together, and compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval.analysis import comparable
from prolu_eval.checkpoints.native import save_run
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.evaluation.engine import Engine
from prolu_eval.lm import loading, official_name
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu

OPTIONS = EvaluationOptions(device="cpu", split="all", context_length=32)


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[[str, str], None]:
    """Makes a run of a model of width 32, by its name and the model's."""
    ids = tmp_path / "ids.npy"
    np.save(ids, np.random.default_rng(0).integers(1, 96, 640))

    def make(name: str, model: str) -> None:
        sae = Relu(32, 40)
        torch.nn.init.normal_(sae.W_enc)
        config = RunConfig(variant="", d_in=1, d_sae=1, hook="blocks.1.hook_resid_post",
                           model=model, dataset=str(ids))  # fmt: skip
        save_run(tmp_path / "runs" / name, sae, config)

    return make


def test_an_alias_and_the_official_name_share_a_model_and_its_clean_pass(
    run_of: Callable[[str, str], None],
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, load, clean = str(tiny_model("gpt2")), loading.load_network, Engine.reference
    loaded: list[str] = []
    passes: list[range] = []

    def load_network(name: str, *arguments: Any) -> Any:
        loaded.append(name)
        return load(folder, *arguments)

    def counted(engine: Engine, mean: Any, rows: range) -> Any:
        passes.append(rows)
        return clean(engine, mean, rows)

    monkeypatch.setattr("prolu_eval.lm.model.load_network", load_network)
    monkeypatch.setattr(Engine, "reference", counted)
    for name, model in (("a", "gpt2-small"), ("b", "gpt2"), ("c", "GPT2-Small")):
        run_of(name, model)
    results = [outcome.result for outcome in evaluate(tmp_path / "runs", OPTIONS)]
    assert loaded == ["gpt2"]
    assert len(passes) == 1
    measured = [result for result in results if result is not None]
    assert [result.setting.model for result in measured] == ["gpt2"] * 3
    (group,) = comparable(measured)
    assert list(group.table["name"]) == ["a", "b", "c"]


def test_a_folder_is_one_however_its_path_is_written(
    run_of: Callable[[str, str], None],
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load, loaded = loading.load_network, []

    def load_network(name: str, *arguments: Any) -> Any:
        loaded.append(name)
        return load(name, *arguments)

    monkeypatch.setattr("prolu_eval.lm.model.load_network", load_network)
    folder = tiny_model("gpt2")
    for name, model in (("a", f"{folder}"), ("b", f"{folder}/"), ("c", f"{folder.parent}/./gpt20")):
        run_of(name, model.replace("gpt20", folder.name))
    assert [outcome.status for outcome in evaluate(tmp_path / "runs", OPTIONS)] == ["ok"] * 3
    assert loaded == [str(folder)]


def test_a_folder_is_believed_before_an_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert official_name("gpt2-small") == "gpt2"
    Path("gpt2-small").mkdir()
    assert official_name("gpt2-small") == "gpt2-small"
