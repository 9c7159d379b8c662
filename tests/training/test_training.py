"""Training: the results of stacks, whole sweeps from the command line, and refused sweeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prolu_eval import load_sae
from prolu_eval.training import EXAMPLE, FOUR_SWEEPS, read_sweep_file
from prolu_eval.training.objectives import OBJECTIVES
from tests.helpers.cli import run


def test_a_sweep_end_to_end(sweep_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = sweep_file.parent / "runs"
    arguments = ("sweep", sweep_file, "--out", out, "--device", "cpu", "--quiet")
    planned = run(capfd, *arguments, "--dry-run", "--json").json()["runs"]
    ran = run(capfd, *arguments, "--json")
    assert ran.code == 0
    assert [r["status"] for r in ran.json()["runs"]] == ["trained"] * 6
    assert sorted(p.name for p in out.iterdir()) == sorted(r["run"] for r in planned)
    folder = out / "relu_l1_c0.1_lr0.002_s0"
    config = json.loads((folder / "config.json").read_text())
    assert (config["d_in"], config["d_sae"], config["coefficient"]) == (32, 48, 0.1)
    assert config["tokens_seen"] == 4096
    history = load_file(folder / "history.safetensors")
    assert history["bias_histogram"].shape == (len(history["step"]), 80)
    assert load_sae(folder)(torch.randn(3, 32)).shape == (3, 32)
    assert not (out / "training.checkpoint.safetensors").exists()
    before = (folder / "sae.safetensors").stat().st_mtime_ns
    again = run(capfd, *arguments, "--json")
    assert [r["status"] for r in again.json()["runs"]] == ["present"] * 6
    assert (folder / "sae.safetensors").stat().st_mtime_ns == before
    other = run(capfd, *arguments, "--d-sae", 64)
    assert other.code == 2
    assert "another configuration" in other.err
    frontier = run(
        capfd, "frontier", out, "--n-tokens", 512, "--device", "cpu", "--json", "--quiet"
    )
    assert frontier.code == 0, frontier.err
    document = frontier.json()
    assert set(document["variants"]) == {"relu+l1", "prolu/ste+l1"}
    assert set(document["frontier"]) <= {r["run"] for r in planned}
    assert Path(document["report"]).read_text().startswith("<!doctype html>")
    biases = run(capfd, "biases", out, "--json").json()["runs"]
    assert len(biases) == 6
    assert all(0 <= b["biases"]["negative_fraction"] <= 1 for b in biases)
    assert "█" in run(capfd, "biases", out).out


def test_a_run_that_diverges_is_reported_and_the_others_saved(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep_file.write_text(sweep_file.read_text().replace("[0.1, 1]", "[0.1, 1e38]"))
    out = sweep_file.parent / "runs"
    ran = run(capfd, "sweep", sweep_file, "--out", out, "--device", "cpu", "--quiet", "--json")
    assert ran.code == 1
    statuses = {r["run"]: r["status"] for r in ran.json()["runs"]}
    assert {name for name, status in statuses.items() if status == "failed"} == {
        "relu_l1_c1e+38_lr0.002_s0", "relu_l1_c1e+38_lr0.002_s1",
    }  # fmt: skip
    assert "diverged" in ran.err
    assert not (out / "relu_l1_c1e+38_lr0.002_s0").exists()
    assert (out / "relu_l1_c0.1_lr0.002_s0" / "config.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("d_sae = 48", "d_sae = 48\ncolour = 1", "colour"),
        ("d_sae = 48", "d_sae = 0", "d_sae"),
        ('variant = "relu"', 'variant = "relo"', "variant 'relo' is unknown"),
        ('variant = "relu"', 'variant = "matching_pursuit"', "cannot be trained"),
        ('variant = "relu"', 'variant = "topk"', "varies in k"),
        ('"prolu"', '"prolu"\nk = [3]', "varies in coefficients"),
        ("d_sae = 48", "d_sae = 48\nexpansion = 2", "either d_sae or expansion"),
        ("d_sae = 48", "d_sae = 48\nnormalisation = 'batch'", "normalisation"),
        ('variant = "relu"', 'variant = "relu"\npenalty = "l3"', "unknown penalty 'l3'"),
        ('"ste"', '"sta"', "gradient"),
        ("[0.1, 1]", "[0.1, 0.1]", "twice"),
        ("[shared]", "[shared", "cannot be read"),
        ('hook = "blocks.1', 'hook = "blocks.8', "no hook point"),
    ],
)
def test_a_wrong_sweep_file_is_refused(
    sweep_file: Path, old: str, new: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep_file.write_text(sweep_file.read_text().replace(old, new))
    out = sweep_file.parent / "runs"
    ran = run(capfd, "sweep", sweep_file, "--out", out, "--device", "cpu", "--quiet")
    assert ran.code == 2
    assert reason in ran.err
    assert ran.err.count("\n") == 1
    assert not out.exists()


def test_every_option_reaches_the_settings() -> None:
    overrides: dict[str, Any] = {
        "model": "m", "hook": "h", "dataset": "d", "n_tokens": 7, "context_length": 9, "d_sae": 11,
        "text_column": "t",
    }  # fmt: skip
    shared = read_sweep_file(FOUR_SWEEPS, **overrides).shared
    assert shared.model_dump(include=set(overrides)) == overrides


def test_relative_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    shared = read_sweep_file(FOUR_SWEEPS, dataset="text.txt").shared
    assert (shared.dataset, shared.model) == (str(tmp_path / "text.txt"), "embedded")


def test_the_shipped_file_holds_the_four_sweeps() -> None:
    plans = list(read_sweep_file(FOUR_SWEEPS).plans())
    labels = [plan.label for plan in plans]
    assert list(dict.fromkeys(labels)) == [
        "relu+l1", "relu+sqrt_l1", "prolu/relu+l1", "prolu/ste+l1",
    ]  # fmt: skip
    assert min(labels.count(label) for label in labels) >= 6


def test_the_example_shows_every_setting_and_every_value_is_the_default_it_says() -> None:
    file = read_sweep_file(EXAMPLE)
    text = EXAMPLE.read_text()
    fields = type(file.shared).model_fields
    assert all(name in text for name in fields)
    assert {sweep.variant for sweep in file.sweep} | {
        "tlin",
        "abstopk",
        "groupmax",
        "batchtopk",
    } == (OBJECTIVES.keys())
    for name in ("buffer_size", "beta1", "beta2", "warmup", "decay", "coefficient_warmup",
                 "normalisation", "b_dec_init", "decoder_norm", "dead_after", "resample_every",
                 "auxk", "threshold_ema", "precision", "context_length", "data_seed"):  # fmt: skip
        assert getattr(file.shared, name) == fields[name].default, name


def test_the_example_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capfd, "sweep", "--example").out == EXAMPLE.read_text()


def test_a_dry_run_prints_the_grid_and_its_cost(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = sweep_file.parent / "runs"
    arguments = ("sweep", sweep_file, "--out", out, "--device", "cpu", "--dry-run")
    cost = run(capfd, *arguments, "--json").json()["cost"]
    assert (cost["runs"], cost["steps"], cost["parameters"]) == (6, 64, 2 * 32 * 48)
    assert cost["memory"]["stacks"] == 6 * (16 * 2 * 32 * 48 + 8 * 48)
    assert cost["memory"]["total"] > cost["memory"]["process"] + cost["memory"]["stacks"]
    assert cost["flops"] == 6 * 64 * 6 * 2 * 64 * 32 * 48
    assert cost["seconds"] > 0
    printed = run(capfd, *arguments).out
    assert "relu_l1_c0.1_lr0.002_s0" in printed
    assert "6 runs of 64 steps" in printed
    assert not out.exists()
