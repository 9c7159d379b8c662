"""Coefficients for L0: what is guessed from what is known, and whole searches."""

import json
import math
import shutil
from pathlib import Path

import pytest

from prolu_eval import train
from prolu_eval.errors import ConfigError, UsageError
from prolu_eval.target_l0 import (
    COEFFICIENTS,
    TOLERANCE,
    Search,
    as_if_found,
    find_coefficients,
    trials,
    with_coefficients,
)
from prolu_eval.training import Settings, read_sweep_file, train_sweep
from prolu_eval.training.config import Sweep
from tests.helpers.cli import run


def search(*targets: float) -> Search:
    sweep = Sweep.model_validate({"variant": "relu", "target_l0": list(targets)})
    return Search(sweep, 1e-3, "relu+l1")


def test_a_guess_lies_where_known_curves_say() -> None:
    known = search(10.0)
    known.short = {c: 20 / c for c in COEFFICIENTS}  # L0 of short trainings
    assert known.guess(10.0) == pytest.approx(2.0, rel=0.02)
    # In full, L0 is lower by half: the same target needs half of the coefficient.
    known.full = {2.0: 5.0}
    assert known.guess(10.0) == pytest.approx(1.0, rel=0.02)
    assert known.next() == [known.guess(10.0)]
    known.full[1.0] = 10.5
    assert known.next() == []
    assert known.best(10.0) == 1.0


def test_the_range_is_widened_where_targets_lie_outside() -> None:
    known = search(1_000.0, 0.001)
    known.short = {c: 20 / c for c in COEFFICIENTS}
    wider = known.wider()
    assert min(wider) < min(COEFFICIENTS) / 10
    assert max(wider) > max(COEFFICIENTS) * 10
    known = search(10.0)
    known.short = {c: 20 / c for c in COEFFICIENTS}
    assert known.wider() == []


def test_noise_and_dead_runs_do_not_turn_a_guess_round() -> None:
    known = search(10.0)
    known.short = {0.1: 40.0, 0.2: 41.0, 0.4: 20.0, 0.8: 5.0, 1.6: 0.0}
    assert 0.4 < known.guess(10.0) < 0.8
    assert math.isfinite(known.guess(0.1))


def test_targets_stand_in_the_place_of_coefficients_and_k(sweep_file: Path) -> None:
    file = read_sweep_file(sweep_file, target_l0=[4.0, 8.0], seeds=[0], variants=["relu", "topk"])
    relu, topk = file.sweep
    assert (relu.target_l0, relu.coefficients, relu.is_open) == ([4, 8], [], True)
    assert (topk.k, topk.target_l0, topk.is_open) == ([4, 8], [], False)
    assert [plan.label for plan in file.plans()] == ["topk", "topk"]
    assert len(list(as_if_found(file).plans())) == 4
    short, full = trials(file)
    assert len(list(short.plans())) == len(COEFFICIENTS)
    assert short.shared.n_tokens == file.shared.n_tokens, "64 steps are few as it is"
    assert [plan.target_l0 for plan in full.plans()] == [4, 8]
    with pytest.raises(ConfigError, match="still to be found; find them with"):
        train_sweep(file, sweep_file.parent / "runs")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("coefficients = [1]\ntarget_l0 = [2, 3]", "stands in the place of coefficients"),
        ("target_l0 = [2, 2]", "names a value twice"),
        ("target_l0 = [0]", "should be greater than 0"),
        ("k = [1]\ntarget_l0 = [2]", "varies in coefficients"),
        ("target_lo = [2]", "target_lo: is no setting: write target_l0"),
    ],
)
def test_targets_of_a_file_that_make_no_sense(sweep_file: Path, settings: str, told: str) -> None:
    head, *_ = sweep_file.read_text().split("[[sweep]]")
    sweep_file.write_text(f'{head}[[sweep]]\nvariant = "relu"\n{settings}\n')
    with pytest.raises(ConfigError, match=told):
        read_sweep_file(sweep_file)


def config(folder: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((folder / "config.json").read_text())
    return document


def test_a_sweep_reaches_its_targets_and_uses_again_what_it_found(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    common = (
        "sweep", "--model", "synthetic:superposition", "--variant", "relu+l1,topk", "--d-sae", "64",
        "--n-tokens", "12288", "--batch-size", "64", "--learning-rate", "4e-3",
        "--target-l0", "6,12", "--out", out, "--device", "cpu",
    )  # fmt: skip
    ran = run(capfd, *common, "--dry-run")
    assert (ran.code, out.exists()) == (0, False), ran.err
    assert "relu+l1 at L0 6, learning rate 0.004, seed 0" in ran.out
    assert f"search for coefficients: {len(COEFFICIENTS)} short runs" in ran.out
    ran = run(capfd, *common, "--quiet")
    assert ran.code == 0, ran.err
    found = {path.name: config(path) for path in out.iterdir() if path.is_dir()}
    assert len(found) == 4, "relu+l1 and topk at two targets"
    ran = run(capfd, "evaluate", out, "--n-tokens", "16384", "--device", "cpu", "--json", "-q")
    reached = {r["run"]: r["metrics"]["l0"]["value"] for r in ran.json()["runs"]}
    for name, said in found.items():
        if said["variant"] == "topk":
            assert said["target_l0"] is None
            continue
        assert said["target_l0"] in (6.0, 12.0)
        assert reached[name] == pytest.approx(said["target_l0"], rel=1.5 * TOLERANCE)
    # What was found is in the runs: without the search's own trainings, nothing is trained again.
    searched = tmp_path / "runs-target-l0"
    assert {path.name for path in searched.iterdir()} == {"short", "full"}
    shutil.rmtree(searched)
    ran = run(capfd, *common)
    assert "0 runs trained, 4 were there already" in ran.out
    assert "for L0 12; found earlier" in ran.out
    assert not searched.exists()


def test_an_interrupted_search_goes_on_from_what_is_stored(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = sweep_file.parent / "runs"
    file = read_sweep_file(sweep_file, target_l0=[12.0], variants=["relu"], seeds=[0])
    first = find_coefficients(file, out, Settings(device="cpu"))
    trained: list[str] = []

    def counted(*arguments: object) -> object:
        done = train_sweep(*arguments)  # type: ignore[arg-type]
        trained.extend(t.plan.name for t in done if t.status == "trained")
        return done

    monkeypatch.setattr("prolu_eval.target_l0.train_sweep", counted)
    shutil.rmtree(out)
    assert find_coefficients(file, out, Settings(device="cpu")) == first
    assert trained == []
    plans = list(with_coefficients(file, first).plans())
    assert [(p.value, p.target_l0) for p in plans] == [(first[0].coefficient, 12.0)]


def test_targets_out_of_reach_are_refused_with_the_range_that_is_reached(sweep_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"L0 of 400 is not reached: coefficients from .* give"):
        train(sweep_file, sweep_file.parent / "runs", Settings(device="cpu"),
              target_l0=[400.0], variants=["relu"])  # fmt: skip


def test_options_replace_what_a_file_says_of_its_sweeps(sweep_file: Path) -> None:
    text = sweep_file.read_text()
    sweep_file.write_text(text.replace("[[sweep]]", "[[sweep]]\nseeds = [7]", 1))
    file = read_sweep_file(
        sweep_file, seeds=[1, 2], learning_rates=[1e-3], coefficients=[0.5], expansion=2.0,
        batch_size=32, baselines=False,
    )  # fmt: skip
    plans = list(file.plans())
    assert {(p.seed, p.learning_rate, p.value) for p in plans} == {(1, 1e-3, 0.5), (2, 1e-3, 0.5)}
    assert (file.shared.d_sae, file.shared.expansion, file.shared.batch_size) == (None, 2.0, 32)
    chosen = read_sweep_file(
        sweep_file, variants=["prolu/ste", "relu+sqrt_l1"], coefficients=[1.0], seeds=[0]
    )
    assert [plan.label for plan in chosen.plans()] == ["prolu/ste+l1", "relu+sqrt_l1"]
    with pytest.raises(UsageError, match="--k: is of no use"):
        read_sweep_file(sweep_file, k=[4])


def test_tokens_are_called_so_in_a_file_and_may_be_called_dataset(sweep_file: Path) -> None:
    text = sweep_file.read_text()
    sweep_file.write_text(text.replace("\ndataset =", "\ntokens ="))
    new = read_sweep_file(sweep_file)
    sweep_file.write_text(text)
    assert read_sweep_file(sweep_file) == new
    sweep_file.write_text(text.replace("\ndataset =", '\ntokens = "x"\ndataset ='))
    with pytest.raises(ConfigError, match="tokens and dataset are the same: leave dataset out"):
        read_sweep_file(sweep_file)
