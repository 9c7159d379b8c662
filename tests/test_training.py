"""Training: penalties, constraints, stacked equals alone, whole sweeps, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from prolu_eval import load_sae
from prolu_eval.training import FOUR_SWEEPS, read_sweep_file
from prolu_eval.training.config import Plan, Shared, Sweep
from prolu_eval.training.history import History
from prolu_eval.training.penalties import PENALTIES, l1, sqrt_l1
from prolu_eval.training.stack import Stack, rate_factor
from prolu_eval.training.stream import shuffled_batches
from tests.cli import run

SHARED = Shared(hook="", n_tokens=1, d_sae=24, batch_size=32)
SWEEPS = [
    Sweep(variant="relu", penalty="l1", coefficients=[1]),
    Sweep(variant="relu", penalty="sqrt_l1", coefficients=[1]),
    Sweep(variant="prolu", options={"gradient": "relu"}, coefficients=[1]),
    Sweep(variant="prolu", options={"gradient": "ste"}, coefficients=[1]),
]


def batches(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(32, 8, generator=generator) for _ in range(n)]


def trained(plans: list[Plan], n_steps: int = 30) -> Stack:
    stack = Stack(plans, SHARED, torch.full((8,), 0.1), n_steps)
    for x in batches(n_steps):
        stack.step(x)
    return stack


@given(st.lists(st.floats(0, 5, width=32), min_size=1, max_size=6))
def test_penalties_follow_their_formulas(codes: list[float]) -> None:
    a = torch.tensor(codes, dtype=torch.float64, requires_grad=True)
    assert l1(a).item() == pytest.approx(sum(codes))
    assert sqrt_l1(a).item() == pytest.approx(sum(np.sqrt(codes)), abs=0.011 * len(codes))
    for penalty in PENALTIES.values():
        (gradient,) = torch.autograd.grad(penalty(a), a)
        assert torch.isfinite(gradient).all()
    assert sqrt_l1(torch.zeros(3)).item() == 0


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda s: f"{s.variant}-{s.penalty}-{s.options}")
def test_training_together_equals_training_alone(sweep: Sweep) -> None:
    plans = [Plan(sweep, c, 3e-3, seed) for c in (0.02, 0.3) for seed in (0, 1)]
    together = trained(plans)
    for index, plan in enumerate(plans):
        alone = trained([plan])
        for name, parameter in alone.parameters.items():
            torch.testing.assert_close(
                together.parameters[name][index], parameter[0], rtol=1e-4, atol=1e-5
            )


def test_same_seed_same_weights_and_another_seed_others() -> None:
    first, again = (trained([Plan(SWEEPS[3], 0.1, 3e-3, 0)]) for _ in range(2))
    other = trained([Plan(SWEEPS[3], 0.1, 3e-3, 1)])
    assert torch.equal(first.parameters["W_enc"], again.parameters["W_enc"])
    assert not torch.allclose(first.parameters["W_enc"], other.parameters["W_enc"])


def test_decoder_rows_stay_at_unit_norm_and_the_loss_falls() -> None:
    stack = Stack([Plan(SWEEPS[0], 0.05, 3e-3, 0)], SHARED, torch.zeros(8), 300)
    losses = [stack.step(x).squared_error.item() for x in batches(300)]
    torch.testing.assert_close(stack.parameters["W_dec"].norm(dim=-1), torch.ones(1, 24))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])


def test_the_step_follows_the_losss_gradient_without_its_radial_part() -> None:
    plan = Plan(SWEEPS[1], 0.3, 1e-3, 0)
    stack = Stack([plan], SHARED, torch.zeros(8), 10)
    (x,) = batches(1)
    parameters = {k: v[0].detach().clone().requires_grad_() for k, v in stack.parameters.items()}
    codes = torch.relu((x - parameters["b_dec"]) @ parameters["W_enc"] + parameters["b_enc"])
    x_hat = codes @ parameters["W_dec"] + parameters["b_dec"]
    loss = (x - x_hat).square().sum(1).mean() + 0.3 * sqrt_l1(codes).mean()
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    seen: dict[str, Tensor] = {}

    def spying(*_: object) -> None:
        for name, stacked in stack.parameters.items():
            assert stacked.grad is not None
            seen[name] = stacked.grad[0].clone()

    stack._optimiser.register_step_pre_hook(spying)
    stack.step(x)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if name == "W_dec":
            gradient = gradient - (gradient * parameter).sum(1, keepdim=True) * parameter
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_scale_is_folded_into_the_weights() -> None:
    stack = trained([Plan(SWEEPS[3], 0.1, 3e-3, 0)])
    x = batches(1)[0]
    inside = stack.autoencoder(0, 1.0)(2.5 * x)
    outside = stack.autoencoder(0, 2.5)(x)
    torch.testing.assert_close(2.5 * outside, inside)


def test_rate_rises_stays_and_falls() -> None:
    factors = [rate_factor(step, 100, 0.1, 0.2) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:81] == [1.0] * 72
    assert factors[99] == pytest.approx(0.05)
    assert [rate_factor(step, 10, 0, 0) for step in range(10)] == [1.0] * 10


def test_the_buffer_shuffles_and_loses_nothing() -> None:
    def source() -> Iterator[Tensor]:
        start = 0
        while True:
            yield torch.arange(start, start + 10).float()[:, None]
            start += 10

    stream = shuffled_batches(source(), 8, 64, torch.Generator().manual_seed(0))
    seen = torch.cat([next(stream) for _ in range(100)])[:, 0].tolist()
    assert len(set(seen)) == len(seen)
    assert set(range(600)) <= set(map(int, seen)), "what is left is in the buffer"
    neighbours = np.abs(np.diff(seen[:200]))
    assert np.mean(neighbours == 1) < 0.1


def test_history_by_hand() -> None:
    stack = Stack([Plan(SWEEPS[0], 0.5, 0.0, 0)] * 2, SHARED, torch.zeros(8), 10)
    history = History(stack)
    (x,) = batches(1)
    with torch.no_grad():
        stack.parameters["b_enc"][1] = -100.0
    losses = stack.step(x)
    history.observe(losses)
    history.log(7, x, losses)
    alive, dead = history.tensors(0), history.tensors(1)
    assert alive["step"].tolist() == [7]
    assert dead["dead_fraction"].tolist() == [1]
    assert dead["l0"].tolist() == [0]
    assert dead["bias_negative_fraction"].tolist() == [1]
    assert dead["bias_histogram"][0].tolist() == [24] + [0] * 79
    assert alive["bias_histogram"].sum() == 24
    codes = torch.relu(x @ stack.parameters["W_enc"][0])
    assert alive["l0"].item() == pytest.approx((codes > 0).sum(1).float().mean().item())
    assert alive["loss"].item() == pytest.approx((alive["mse"] + 0.5 * alive["penalty"]).item())


SWEEP_FILE = """
[shared]
model = "{model}"
hook = "blocks.1.hook_resid_post"
dataset = "{dataset}"
n_tokens = 4096
context_length = 16
d_sae = 48
batch_size = 64
buffer_size = 512
[within]
learning_rates = [2e-3]
seeds = [0, 1]
[[sweep]]
variant = "relu"
coefficients = [0.1, 1]
[[sweep]]
variant = "prolu"
options = {{ gradient = "ste" }}
coefficients = [0.1]
"""


@pytest.fixture
def sweep_file(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Path:
    text = "<|endoftext|>".join(f"story {i}: once there was a {i % 7}. " * 4 for i in range(60))
    (tmp_path / "text.txt").write_text(text)
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP_FILE.format(model=tiny_model("llama"), dataset=tmp_path / "text.txt"))
    return path


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
        ('variant = "relu"', 'variant = "relo"', "unknown variant 'relo'"),
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
    }  # fmt: skip
    shared = read_sweep_file(FOUR_SWEEPS, **overrides).shared
    assert shared.model_dump(include=set(overrides)) == overrides


def test_the_shipped_file_holds_the_four_sweeps() -> None:
    plans = list(read_sweep_file(FOUR_SWEEPS).plans())
    labels = [plan.label for plan in plans]
    assert list(dict.fromkeys(labels)) == [
        "relu+l1", "relu+sqrt_l1", "prolu/relu+l1", "prolu/ste+l1",
    ]  # fmt: skip
    assert min(labels.count(label) for label in labels) >= 6
