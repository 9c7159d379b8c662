"""Learning rates: which is best of results whose order is known, and whole searches."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from prolu_eval import ProluEvalError
from prolu_eval.learning_rates import (
    find_learning_rates,
    rank_learning_rates,
    with_learning_rates,
)
from prolu_eval.results import Result
from prolu_eval.training import Settings, read_sweep_file
from prolu_eval.training.initial import Statistics, initialise
from tests.helpers.cli import run
from tests.helpers.made_results import drawn


def runs_at(rate: float, label: str, cost: float) -> list[Result]:
    """Runs of a variant along a curve on which CE degradation is ``cost`` / L0."""
    rng = np.random.default_rng(int(1e6 * rate))
    found = []
    for l0 in (5.0, 10.0, 20.0, 40.0):
        one = drawn(f"{label}-{rate}-{l0}", label, rng, l0, cost / l0)
        run = one.run.model_copy(update={"learning_rate": rate, "coefficient": 1 / l0})
        found.append(one.model_copy(update={"run": run}))
    return found


def test_rates_are_ranked_by_their_frontiers() -> None:
    results = [
        *runs_at(1e-3, "relu+l1", 4.0), *runs_at(2e-3, "relu+l1", 2.0),
        *runs_at(4e-3, "relu+l1", 3.0), *runs_at(1e-3, "topk", 1.0), *runs_at(2e-3, "topk", 3.0),
    ]  # fmt: skip
    relu, topk = rank_learning_rates(results)
    assert (relu.label, [tried.rate for tried in relu.tried]) == ("relu+l1", [2e-3, 4e-3, 1e-3])
    assert (topk.label, topk.best) == ("topk", 1e-3)
    assert not relu.is_at_the_edge
    assert topk.is_at_the_edge
    assert relu.tried[0].saving is None
    assert [tried.n_runs for tried in relu.tried] == [4, 4, 4]
    # The same CE degradation with half of the active features.
    saving = relu.tried[2].saving
    assert saving is not None
    assert saving.amount.value == pytest.approx(0.5, abs=0.05)
    assert not relu.tried[2].is_tied


def test_a_grid_is_trained_at_the_rates_that_were_found(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = sweep_file.parent / "runs"
    arguments = ("sweep", sweep_file, "--out", out, "--device", "cpu", "--find-lr")
    ran = run(capfd, *arguments)
    assert ran.code == 0, ran.err
    tried = sweep_file.parent / "runs-learning-rates"
    configs = [json.loads(path.read_text()) for path in tried.glob("*/config.json")]
    assert {config["learning_rate"] for config in configs} == {5e-4, 1e-3, 2e-3, 4e-3, 8e-3}
    assert {config["seed"] for config in configs} == {0}
    assert {config["tokens_seen"] for config in configs} == {4096 // 4}
    found = find_learning_rates(read_sweep_file(sweep_file), tried, Settings(device="cpu"))
    best = {rate.label: rate.best for rate in found}
    trained = [json.loads(path.read_text()) for path in out.glob("*/config.json")]
    assert len(trained) == 6
    for config in trained:
        label = "relu+l1" if config["variant"] == "relu" else "prolu/ste+l1"
        assert config["learning_rate"] == best[label]
        assert f"{label}: learning rate {best[label]:g}" in ran.out


def test_a_variant_that_diverges_at_every_rate_is_refused(sweep_file: Path) -> None:
    sweep_file.write_text(sweep_file.read_text().replace("[0.1, 1]", "[1e38]"))
    out = sweep_file.parent / "tried"
    with pytest.raises(ProluEvalError, match=r"relu\+l1: diverged at every learning rate"):
        find_learning_rates(read_sweep_file(sweep_file), out, Settings(device="cpu"), rates=[1e-3])


def test_encoder_biases_start_as_the_file_says(sweep_file: Path) -> None:
    file = read_sweep_file(sweep_file)
    mean = torch.zeros(32)
    starts: list[tuple[float | Literal["uniform"], float, float]] = [
        (-0.5, -0.5, -0.5), (0.0, 0.0, 0.0), ("uniform", -(32**-0.5), 32**-0.5),
    ]  # fmt: skip
    for asked, low, high in starts:
        sae = file.sweep[1].autoencoder(32, 48)
        initialise(sae, 0, Statistics(1.0, mean, mean), asked)
        assert sae.b_enc.min() >= low
        assert sae.b_enc.max() <= high
        assert bool(sae.b_enc.unique().numel() > 1) == (asked == "uniform")


def test_a_run_of_before_a_setting_existed_is_present_with_the_default(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = sweep_file.parent / "runs"
    arguments = ("sweep", sweep_file, "--out", out, "--device", "cpu", "--quiet", "--json")
    assert run(capfd, *arguments).code == 0
    for path in out.glob("*/config.json"):
        document = json.loads(path.read_text())
        del document["training"]["b_enc_init"]
        path.write_text(json.dumps(document))
    assert [r["status"] for r in run(capfd, *arguments).json()["runs"]] == ["present"] * 6
    sweep_file.write_text(
        sweep_file.read_text().replace("d_sae = 48", "d_sae = 48\nb_enc_init = 1")
    )
    assert "another configuration" in run(capfd, *arguments).err


def test_without_any_a_variant_has_its_own_learning_rate(sweep_file: Path) -> None:
    text = sweep_file.read_text().replace("learning_rates = [2e-3]\n", "")
    sweep_file.write_text(f'{text}\n[[sweep]]\nvariant = "topk"\nk = [4]\n')
    rates = {plan.label: plan.learning_rate for plan in read_sweep_file(sweep_file).plans()}
    assert rates == {"relu+l1": 4e-3, "prolu/ste+l1": 4e-3, "topk": 1e-3}


def test_chance_baselines_are_not_searched_for_a_rate(sweep_file: Path) -> None:
    sweep_file.write_text(f"baselines = true\n{sweep_file.read_text()}")
    file = read_sweep_file(sweep_file)
    out = sweep_file.parent / "tried"
    found = find_learning_rates(file, out, Settings(device="cpu"), rates=[1e-3, 4e-3])
    assert {rate.label for rate in found} == {"relu+l1", "prolu/ste+l1"}
    plans = list(with_learning_rates(file, found).plans())
    assert len(plans) == len(list(file.plans()))
