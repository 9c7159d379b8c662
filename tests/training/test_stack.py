"""Stacks: penalties, constraints, schedules; stacking and gathering do not change results."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prolu_eval.training.config import Plan, Shared, Sweep
from prolu_eval.training.dead import resample_dead
from prolu_eval.training.forward import Losses, rate_factor
from prolu_eval.training.history import History
from prolu_eval.training.initial import Statistics, geometric_median, measure_statistics
from prolu_eval.training.layouts import Dense, Layout
from prolu_eval.training.objectives import OBJECTIVES
from prolu_eval.training.on_device import GatheredMixed, GatheredOnDevice, Whole, WholeMixed
from prolu_eval.training.penalties import PENALTIES, l1, sqrt_l1, tanh
from prolu_eval.training.products import Full, Gathered
from prolu_eval.training.stack import Stack

D_IN, D_SAE, BATCH = 8, 24, 32
CENTRE = Statistics(1.0, torch.full((D_IN,), 0.1), torch.full((D_IN,), 0.1))
ORIGIN = Statistics(1.0, torch.zeros(D_IN), torch.zeros(D_IN))
OPTIONS: dict[str, dict[str, Any]] = {
    "matryoshka": {"group_sizes": (4, 8, 12)},
    "trec": {"theta": 0.5},
    "tlin": {"theta": 0.5},
    "jumprelu": {"bandwidth": 0.5},
}


def shared(n_steps: int = 30, **settings: Any) -> Shared:
    known = {"hook": "", "n_tokens": BATCH * n_steps, "d_sae": D_SAE, "batch_size": BATCH}
    return Shared(**known | settings)


def sweep_of(variant: str, penalty: str | None = None, **options: Any) -> Sweep:
    options = OPTIONS.get(variant, {}) | options
    if OBJECTIVES[variant].takes_k:
        return Sweep(variant=variant, options=options, k=[4, 8])
    penalty = penalty or OBJECTIVES[variant].penalties[0]
    return Sweep(variant=variant, options=options, penalty=penalty, coefficients=[0.02, 0.3])


SWEEPS = [
    sweep_of(variant, penalty)
    for variant, objective in OBJECTIVES.items()
    for penalty in objective.penalties or (None,)
] + [
    sweep_of("relu", gradient="ste"),
    sweep_of("relu", gradient="ste_bias_only", estimator="triangle"),
    sweep_of("prolu", gradient="relu"),
    sweep_of("prolu", gradient="ste_bias_only"),
    sweep_of("prolu", gradient="ste_input_only", estimator="rectangle"),
    sweep_of("prolu", estimator="triangle", bandwidth=0.5),
    sweep_of("prolu", estimator="sigmoid"),
    sweep_of("prolu", estimator="gaussian"),
    sweep_of("trec", tied=True),
]
of_every_kind = pytest.mark.parametrize(
    "sweep", SWEEPS, ids=lambda s: f"{s.variant}-{s.penalty}-{list(s.options.values())}"
)
RELU, STE = sweep_of("relu"), sweep_of("prolu", gradient="ste")


def plans_of(sweep: Sweep, seeds: tuple[int, ...] = (0, 1), rate: float = 3e-3) -> list[Plan]:
    values = sweep.k or sweep.coefficients
    return [Plan(sweep, value, rate, seed) for value in values for seed in seeds]


def batches(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(BATCH, D_IN, generator=generator) for _ in range(n)]


def trained(
    plans: list[Plan], n_steps: int = 30, settings: Shared | None = None, **kind: Any
) -> tuple[Stack, Losses]:
    stack = Stack(plans, settings or shared(n_steps), CENTRE, **kind)
    for x in batches(n_steps):
        losses = stack.step(x)
    return stack, losses


def assert_same(stack: Stack, other: Stack, indices: slice = slice(None)) -> None:
    for name, parameter in other.parameters.items():
        torch.testing.assert_close(stack.parameters[name][indices], parameter, rtol=1e-4, atol=1e-5)


@given(st.lists(st.floats(0, 5, width=32), min_size=1, max_size=6))
def test_penalties_follow_their_formulas(codes: list[float]) -> None:
    a = torch.tensor(codes, dtype=torch.float64, requires_grad=True)
    assert l1(a).sum().item() == pytest.approx(sum(codes))
    assert sqrt_l1(a).sum().item() == pytest.approx(sum(np.sqrt(codes)), abs=0.011 * len(codes))
    assert tanh(a).sum().item() == pytest.approx(sum(np.tanh(4 * np.array(codes))))
    for penalty in PENALTIES.values():
        (gradient,) = torch.autograd.grad(penalty(a).sum(), a)
        assert torch.isfinite(gradient).all()
    assert sqrt_l1(torch.zeros(3)).sum().item() == 0


@of_every_kind
def test_training_together_equals_training_alone(sweep: Sweep) -> None:
    settings = shared(dead_after=2 * BATCH, coefficient_warmup=0.2)
    plans = plans_of(sweep)
    together, _ = trained(plans, settings=settings)
    for index, plan in enumerate(plans):
        alone, _ = trained([plan], settings=settings)
        assert_same(together, alone, slice(index, index + 1))


@of_every_kind
@pytest.mark.parametrize("decoder_norm", ["unit", "free"])
@pytest.mark.parametrize("layout", [Full, Gathered, Whole, GatheredOnDevice])
def test_every_layout_trains_as_plain_autograd_does(
    sweep: Sweep, decoder_norm: str, layout: type[Layout]
) -> None:
    settings = shared(decoder_norm=decoder_norm, dead_after=2 * BATCH)
    found, losses = trained(plans_of(sweep), settings=settings, layout=layout)
    whole, expected = trained(plans_of(sweep), settings=settings, layout=Dense)
    assert_same(found, whole)
    for value, reference in zip(losses, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-5)


@of_every_kind
@pytest.mark.parametrize("layout", [WholeMixed, GatheredMixed])
def test_bfloat16_products_change_a_step_little(sweep: Sweep, layout: type[Layout]) -> None:
    (x,) = batches(1)
    plans = plans_of(sweep)
    exact, near = (Stack(plans, shared(), CENTRE, layout=kind) for kind in (Dense, layout))
    (found, expected) = near.gradients(x), exact.gradients(x)
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        difference = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert difference < 0.1, name  # a rounding may change which entries are active
        if layout is WholeMixed and name == "W_dec":
            assert difference > 1e-5, "products were not rounded"


def test_each_autoencoder_gets_the_layout_that_suits_it() -> None:
    stack = Stack(plans_of(RELU), shared(), ORIGIN)
    with torch.no_grad():
        stack.parameters["b_enc"][2:] = -1.5
    used = []
    for x in batches(2):
        used.append([(chunk.which.start, chunk.layout) for chunk in stack._chunks(x)])
        losses = stack.step(x, sizes=False)
    assert used == [[(0, Full)], [(0, Full), (2, Gathered)]]
    assert losses.sizes.shape == (4, 0)
    assert (losses.share[:2] > 0.3).all()
    assert (losses.share[2:] < 0.15).all()


def test_same_seed_same_weights_and_another_seed_others() -> None:
    first, again = (trained([Plan(STE, 0.1, 3e-3, 0)])[0] for _ in range(2))
    other, _ = trained([Plan(STE, 0.1, 3e-3, 1)])
    assert torch.equal(first.parameters["W_enc"], again.parameters["W_enc"])
    assert not torch.allclose(first.parameters["W_enc"], other.parameters["W_enc"])


@of_every_kind
def test_decoder_rows_stay_at_unit_norm_and_the_loss_falls(sweep: Sweep) -> None:
    stack = Stack(plans_of(sweep, rate=1e-2), shared(200), ORIGIN)
    losses = torch.stack([stack.step(x).loss for x in batches(200)])
    torch.testing.assert_close(stack.parameters["W_dec"].norm(dim=-1), torch.ones(4, D_SAE))
    assert (losses[-20:].mean(0) < 0.8 * losses[:5].mean(0)).all()


# Each loss as its paper writes it, with autograd over whole tensors of one autoencoder.
def plain_loss(sweep: Sweep, value: float, p: dict[str, Tensor], x: Tensor) -> Tensor:
    m = (x - p["b_dec"]) @ p["W_enc"].T

    def error(codes: Tensor, W_dec: Tensor = p["W_dec"], b_dec: Tensor = p["b_dec"]) -> Tensor:
        return (x - codes @ W_dec - b_dec).square().sum(1).mean()

    if sweep.variant == "relu":
        codes = torch.relu(m + p["b_enc"])
        penalty = (codes + 1e-4).sqrt() - 1e-2 if sweep.penalty == "sqrt_l1" else codes
        return error(codes) + value * penalty.sum(1).mean()
    if sweep.variant == "gated":
        gate = torch.relu(m + p["b_gate"])
        codes = (gate > 0) * torch.relu(m * p["r_mag"].exp() + p["b_mag"])
        frozen = error(gate, p["W_dec"].detach(), p["b_dec"].detach())
        return error(codes) + value * gate.sum(1).mean() + frozen
    z = torch.relu(m + p["b_enc"])
    if sweep.variant == "topk":
        kept = z >= z.sort(1, descending=True).values[:, int(value) - 1 : int(value)]
        return error(z * kept)
    kept = z >= z.flatten().sort(descending=True).values[round(value * len(x)) - 1]
    if sweep.variant == "batchtopk":
        return error(z * kept)
    prefixes = [torch.arange(D_SAE) < end for end in (4, 12, 24)]
    return torch.stack([error(z * kept * prefix) for prefix in prefixes]).mean()


@pytest.mark.parametrize(
    "sweep",
    [sweep_of("relu"), sweep_of("relu", "sqrt_l1"), sweep_of("gated"), sweep_of("topk"),
     sweep_of("batchtopk"), sweep_of("matryoshka")],
    ids=lambda s: f"{s.variant}-{s.penalty}",
)  # fmt: skip
def test_gradients_are_those_of_the_papers_losses(sweep: Sweep) -> None:
    plan = plans_of(sweep)[-1]
    stack = Stack([plan], shared(), CENTRE)
    (x,) = batches(1)
    p = {k: v[0].detach().clone().requires_grad_() for k, v in stack.parameters.items()}
    loss = plain_loss(sweep, plan.value, p, x)
    expected = torch.autograd.grad(loss, list(p.values()), allow_unused=True)
    found = stack.gradients(x)
    for (name, parameter), gradient in zip(p.items(), expected, strict=True):
        if name != "threshold":
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            torch.testing.assert_close(found[name][0], gradient, rtol=1e-3, atol=2e-5)
    assert stack.step(x).loss.item() == pytest.approx(loss.item(), rel=1e-3)


def test_jumprelus_penalty_moves_its_thresholds_alone() -> None:
    # One feature, z = 1 and 3, threshold 0.9, bandwidth 0.5: of two tokens one lies in the window.
    settings = Shared(hook="", n_tokens=2, d_sae=1, batch_size=2)
    sweep = Sweep(variant="jumprelu", options={"bandwidth": 0.5}, coefficients=[2.0])
    stack = Stack([Plan(sweep, 2.0, 0.1, 0)], settings, Statistics(1.0, *2 * [torch.zeros(1)]))
    with torch.no_grad():
        for name, value in (("W_enc", 1.0), ("W_dec", 1.0), ("threshold", 0.9)):
            stack.parameters[name].fill_(value)
    gradients = stack.gradients(torch.tensor([[1.0], [3.0]]))
    # Both are reconstructed exactly, so the error has no gradient; L0's is -1 / 0.5 / 2 tokens.
    assert gradients["threshold"].item() == pytest.approx(2.0 * -1 / 0.5 / 2)
    assert gradients["W_enc"].item() == gradients["b_enc"].item() == 0


def test_the_step_leaves_out_the_gradients_radial_part() -> None:
    stack = Stack([Plan(RELU, 0.3, 1e-3, 0)], shared(), ORIGIN)
    (x,) = batches(1)
    gradient = stack.gradients(x)["W_dec"]
    before = stack.parameters["W_dec"].detach().clone()
    stack.step(x)
    seen = stack.parameters["W_dec"].grad
    assert seen is not None
    expected = gradient - (gradient * before).sum(-1, keepdim=True) * before
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-6)


def test_free_decoder_norms_weigh_the_penalty() -> None:
    plan = Plan(RELU, 0.3, 0.0, 0)
    stack = Stack([plan], shared(decoder_norm="free"), ORIGIN)
    (x,) = batches(1)
    before = stack.step(x)
    with torch.no_grad():
        stack.parameters["W_dec"] *= 2
        stack.parameters["W_enc"] /= 2
    after = stack.step(x)
    torch.testing.assert_close(after.loss, before.loss)
    torch.testing.assert_close(after.l1, before.l1 / 2)


def test_batchtopks_threshold_follows_the_smallest_code_kept() -> None:
    stack = Stack([Plan(sweep_of("batchtopk"), 3, 0.0, 0)], shared(threshold_ema=0.5), ORIGIN)
    average, weight = 0.0, 0.0
    for x in batches(3):
        z = torch.relu(x @ stack.parameters["W_enc"][0].T)
        smallest = z.flatten().sort(descending=True).values[3 * BATCH - 1].item()
        average, weight = 0.5 * average + 0.5 * smallest, 0.5 * weight + 0.5
        stack.step(x)
        assert stack.parameters["threshold"].item() == pytest.approx(average / weight, rel=1e-5)
    assert stack.autoencoder(0, 1.0).state_dict()["threshold"].shape == ()


def test_auxk_reaches_dead_features_alone() -> None:
    plan = Plan(sweep_of("topk"), 4, 0.0, 0)
    kwargs = {"dead_after": BATCH, "k_aux": 2}
    with_, without = (Stack([plan], shared(auxk=auxk, **kwargs), ORIGIN) for auxk in (0.5, 0.0))
    dead = torch.zeros(1, D_SAE, dtype=torch.bool)
    dead[0, :3] = True
    for stack in (with_, without):
        stack.silent[dead] = BATCH
    (x,) = batches(1)
    mine, other = with_.gradients(x)["W_dec"], without.gradients(x)["W_dec"]
    assert not torch.allclose(mine[dead], other[dead])
    torch.testing.assert_close(mine[~dead], other[~dead])
    losses = with_.step(x)
    # By hand: the two largest of the three dead features rebuild the residual of each token.
    W = with_.parameters["W_dec"][0]
    z = torch.relu(x @ W.T)
    kept = z * (z >= z.sort(1, descending=True).values[:, 3:4])
    left = x - kept @ W
    aux = z[:, :3] * (z[:, :3] >= z[:, :3].sort(1, descending=True).values[:, 1:2])
    expected = 0.5 * (left - aux @ W[:3]).square().sum(1).mean()
    assert losses.auxiliary.item() == pytest.approx(expected.item(), rel=1e-4)


def test_dead_features_are_resampled_from_bad_tokens() -> None:
    stack = Stack(plans_of(RELU), shared(dead_after=100), ORIGIN)
    (x,) = batches(1)
    stack.step(x)
    x_hat = stack.reconstructions(x)
    x_hat[1] = x
    x_hat[1, 5] += 1  # the one token of the second autoencoder with any error
    stack.silent[:2, 3:6] = 100
    kept = {name: p.detach().clone() for name, p in stack.parameters.items()}
    counts = resample_dead(stack, x, x_hat)
    assert counts.tolist() == [3, 1, 0, 0]
    direction = x[5] - kept["b_dec"][1]
    W_dec, W_enc = stack.parameters["W_dec"], stack.parameters["W_enc"]
    torch.testing.assert_close(W_dec[1, 3], direction / direction.norm())
    others = torch.arange(D_SAE) != 3
    mean_norm = kept["W_enc"][1, others].norm(dim=-1).mean()
    assert W_enc[1, 3].norm().item() == pytest.approx(0.2 * mean_norm.item(), rel=1e-5)
    assert stack.parameters["b_enc"][1, 3] == 0
    torch.testing.assert_close(W_dec[1, others], kept["W_dec"][1, others])
    assert stack.silent[0, 3:6].tolist() == [0, 0, 0]


@pytest.mark.parametrize("sweep", [RELU, STE, sweep_of("trec", tied=True)], ids=lambda s: s.variant)
def test_the_scale_is_folded_into_the_weights(sweep: Sweep) -> None:
    x = batches(1)[0]
    inside = trained([Plan(sweep, 0.1, 3e-3, 0)])[0].autoencoder(0, 1.0)(2.5 * x)
    outside = trained([Plan(sweep, 0.1, 3e-3, 0)])[0].autoencoder(0, 2.5)(x)
    torch.testing.assert_close(2.5 * outside, inside)


def test_rate_rises_stays_and_falls() -> None:
    factors = [rate_factor(step, 100, 0.1, 0.2) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:81] == [1.0] * 72
    assert factors[99] == pytest.approx(0.05)
    assert [rate_factor(step, 10, 0, 0) for step in range(10)] == [1.0] * 10


def test_where_decoder_biases_start() -> None:
    x = torch.tensor([[0.0, 0], [1, 0], [0, 1], [100, 100]])
    median = geometric_median(x)
    for step in 0.01 * torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]):
        assert (x - median).norm(dim=1).sum() <= (x - median - step).norm(dim=1).sum()
    known = {init: measure_statistics(x, shared(b_dec_init=init))
             for init in ("mean", "geometric_median", "zero")}  # fmt: skip
    scale = 2**0.5 / x.norm(dim=1).mean().item()
    assert known["mean"].scale == pytest.approx(scale)
    torch.testing.assert_close(known["mean"].centre, scale * x.mean(0))
    torch.testing.assert_close(known["geometric_median"].centre, geometric_median(scale * x))
    assert known["zero"].centre.tolist() == [0, 0]
    assert measure_statistics(x, shared(normalisation="none")).scale == 1


def test_history_by_hand() -> None:
    stack = Stack([Plan(RELU, 0.5, 0.0, 0)] * 2, shared(), ORIGIN)
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
    assert dead["bias_histogram"][0].tolist() == [D_SAE] + [0] * 79
    assert alive["bias_histogram"].sum() == D_SAE
    codes = torch.relu(x @ stack.parameters["W_enc"][0].T).detach()
    assert alive["l0"].item() == pytest.approx((codes > 0).sum(1).float().mean().item())
    assert alive["l1"].item() == pytest.approx(codes.sum(1).mean().item(), rel=1e-5)
    assert alive["sqrt_l1"].item() == pytest.approx(codes.sqrt().sum(1).mean().item(), rel=1e-5)
    assert alive["loss"].item() == pytest.approx((alive["mse"] + 0.5 * alive["penalty"]).item())


def test_gradients_of_prolu_are_logged_beside_the_exact_ones() -> None:
    (x,) = batches(1)

    def logged(gradient: str) -> dict[str, float]:
        stack = Stack([Plan(sweep_of("prolu", gradient=gradient), 0.1, 0.0, 0)], shared(), ORIGIN)
        history = History(stack)
        history.log(0, x, stack.step(x))
        return {name: float(v[0]) for name, v in history.tensors(0).items() if v.numel() == 1}

    exact, synthetic = logged("relu"), logged("ste")
    assert exact["gradient_cosine_W_enc"] == pytest.approx(1, abs=1e-5)
    assert exact["gradient_norm_W_enc"] == pytest.approx(exact["exact_gradient_norm_W_enc"])
    assert exact["gradient_norm_W_enc"] == pytest.approx(synthetic["exact_gradient_norm_W_enc"])
    assert synthetic["gradient_cosine_W_enc"] < 0.999
    assert synthetic["gradient_norm_b_enc"] > 0
