"""Runs that are surely beaten on the first tokens are dropped, and conclusions do not change."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from prolu_eval import frontier, load_results
from prolu_eval.cli import main
from prolu_eval.errors import UsageError
from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate
from prolu_eval.lm import LanguageModel
from prolu_eval.results import Result
from prolu_eval.saes import Relu, SparseAutoencoder
from tests.evaluation.test_evaluation import HOOK, made_run, random_sae

OPTIONS = EvaluationOptions(
    n_tokens=16_384, context_length=32, device="cpu", split="all", shard_tokens=2048
)
RACE = replace(OPTIONS, race=("l0", "mse"))


def spoiled(sae: SparseAutoencoder, bias: float) -> SparseAutoencoder:
    """The autoencoder with more active features, and a decoder with too large rows."""
    sae.W_dec.data = 3 * sae.W_dec.data
    sae.b_enc.data = sae.b_enc.data + bias
    return sae


@pytest.fixture(scope="module")
def runs(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs on their variant's frontier, and two runs that are far behind it."""
    folder = tmp_path_factory.mktemp("race")
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    ids = np.random.default_rng(0).integers(1, 96, (512, 32))
    np.save(folder / "ids.npy", ids)
    x = model.activations(torch.tensor(ids[:32]), HOOK).flatten(0, 1)
    saes = {"a": random_sae(Relu, x, -0.5), "b": random_sae(Relu, x, -1.0)}
    saes |= {"c": random_sae(Relu, x, -1.5)}
    saes |= {f"bad{i}": spoiled(random_sae(Relu, x, 0.0), i / 10) for i in range(2)}
    for name, sae in saes.items():
        made_run(folder / "runs" / name, sae, model.name, str(folder / "ids.npy"))
    return folder / "runs"


def by_name(outcomes: list[Outcome]) -> dict[str, Result]:
    return {o.name: o.result for o in outcomes if o.result is not None}


def test_what_is_beaten_leaves_and_the_others_are_measured_as_without_a_race(
    runs: Path, tmp_path: Path
) -> None:
    raced = evaluate(runs, replace(RACE, results=tmp_path / "raced"))
    status = {outcome.name: outcome.status for outcome in raced}
    assert {name for name, what in status.items() if what == "dropped"} == {"bad0", "bad1"}
    whole = by_name(evaluate(runs, replace(OPTIONS, results=tmp_path / "whole")))
    first = by_name(evaluate(runs, replace(OPTIONS, results=tmp_path / "first", n_tokens=4096)))
    for name, result in by_name(raced).items():
        alike = whole[name] if status[name] == "ok" else first[name]
        assert result.metrics == alike.metrics
        assert result.fingerprint == alike.fingerprint
        assert (result.dropped is not None) == (status[name] == "dropped")
        if result.dropped is not None:
            assert result.dropped.evaluation == whole["a"].comparison_key()
            better = first[result.dropped.beaten_by]
            for key in ("l0", "mse"):
                assert (better.metrics[key].value or 0) < (result.metrics[key].value or 0)
    again = evaluate(runs, replace(RACE, results=tmp_path / "raced"))
    assert {o.name: o.status for o in again} == {
        name: "dropped" if what == "dropped" else "cached" for name, what in status.items()
    }
    # An evaluation on all tokens measures the dropped runs too, and their mark is removed.
    evaluate(runs, replace(OPTIONS, results=tmp_path / "raced"))
    assert load_results(tmp_path / "raced")["beaten_by"].isna().all()
    assert all(
        o.status == "cached" for o in evaluate(runs, replace(RACE, results=tmp_path / "raced"))
    )


@pytest.mark.parametrize("of_chance", [("a", "b", "c"), ("bad0", "bad1")])
def test_chance_baselines_neither_leave_nor_beat(
    runs: Path, tmp_path: Path, of_chance: tuple[str, ...]
) -> None:
    folder = shutil.copytree(runs, tmp_path / "runs")
    for name in of_chance:
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chance": "pca"}))
    raced = evaluate(folder, RACE)
    left = [o.result.dropped for o in raced if o.result is not None and o.status == "dropped"]
    assert not {o.name for o in raced if o.status == "dropped"}.intersection(of_chance)
    assert not {dropped.beaten_by for dropped in left if dropped}.intersection(of_chance)


def test_the_answer_is_that_of_all_runs_and_the_table_marks_those_that_left(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(runs), "-y", "mse", "--results", str(tmp_path / "raced"), "--n-tokens", "16384",
             "--shard-tokens", "2048", "--split-tokens", "all", "--context-length", "32",
             "--device", "cpu", "-q"]  # fmt: skip
    table = tmp_path / "table.csv"
    assert main(["frontier", *words, "--race", "--csv", str(table)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\nx ") == 2
    assert "x left the race" in shown
    page = (tmp_path / "raced" / "report.html").read_text(encoding="utf-8")
    assert "2 runs; the others have" in page
    beaten = pd.read_csv(table).set_index("name")["beaten_by"]
    assert sorted(beaten.dropna().index) == ["bad0", "bad1"]
    assert main(["frontier", *words, "--race", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    status = {run["run"]: run["status"] for run in document["runs"]}
    assert sorted(name for name, what in status.items() if what == "dropped") == ["bad0", "bad1"]
    stored = frontier(tmp_path / "raced", y="mse")
    (group,) = stored.groups
    beaten_by = {r.run.name: r.dropped for r in group.group.raced}
    assert sorted(name for name, why in beaten_by.items() if why) == ["bad0", "bad1"]
    assert any("2 of 5 runs left a race" in note for note in group.notes)
    assert len({r.setting.n_counted for r in group.group.results}) == 1
    evaluate(runs, replace(OPTIONS, results=tmp_path / "whole"))
    assert (
        frontier(tmp_path / "whole", y="mse").groups[0].details.frontier == group.details.frontier
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"race": "l0,dead_fraction"}, "dead_fraction"),
        ({"race": "l0,l2_ratio"}, "l2_ratio"),
        ({"race": "l0,scale_consistency_additivity"}, "scale_consistency_additivity"),
        ({"race": "l0,what"}, "'what'"),
        ({"race": "l0"}, "two or three"),
        ({"race": True, "target_se": "l0=1"}, "--target-se"),
        ({"race": True, "shard": "0/2"}, "--shard"),
    ],
)
def test_what_cannot_be_raced_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        EvaluationOptions(**options)  # type: ignore[arg-type]
    assert told in str(caught.value)
