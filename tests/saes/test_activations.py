"""ProLU's values and synthetic gradients agree with the formulas in every mode of torch."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prolu_eval.activations import ESTIMATORS, Estimator, Gradient, prolu, relu
from prolu_eval.errors import UsageError

GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
NUMBERS = st.floats(-4, 4, width=32)


def gradients(m: Tensor, b: Tensor, gradient: Gradient, **options: object) -> tuple[Tensor, Tensor]:
    m, b = m.detach().requires_grad_(), b.detach().requires_grad_()
    prolu(m, b, gradient, **options).sum().backward()  # type: ignore[arg-type]
    assert m.grad is not None
    assert b.grad is not None
    return m.grad, b.grad


@pytest.mark.parametrize(
    ("m", "b", "value", "expected"),
    [
        # (d/dm, d/db) of relu, ste, ste_bias_only, ste_input_only
        (2.0, -0.5, 2.0, [(1, 1), (3, 2), (1, 2), (3, 1)]),
        (0.25, 1.0, 0.25, [(1, 1), (1.25, 0.25), (1, 0.25), (1.25, 1)]),
        (2.0, -2.0, 0.0, [(0, 0)] * 4),
        (2.0, -3.0, 0.0, [(0, 0)] * 4),
        (-1.0, 3.0, 0.0, [(0, 0)] * 4),
        (0.0, 1.0, 0.0, [(0, 0)] * 4),
    ],
)
def test_values_and_gradients_by_hand(
    m: float, b: float, value: float, expected: list[tuple[float, float]]
) -> None:
    for gradient, (grad_m, grad_b) in zip(GRADIENTS, expected, strict=True):
        assert prolu(torch.tensor(m), torch.tensor(b), gradient).item() == value
        got = gradients(torch.tensor(m), torch.tensor(b), gradient)
        assert (got[0].item(), got[1].item()) == (grad_m, grad_b), gradient


@given(NUMBERS, NUMBERS, st.sampled_from(GRADIENTS), st.sampled_from(list(ESTIMATORS)))
def test_gradients_follow_the_formula(
    m: float, b: float, gradient: Gradient, estimator: Estimator
) -> None:
    width = 0.7
    gate = float(m > 0 and m + b > 0)
    pseudo = ESTIMATORS[estimator](torch.tensor(m + b, dtype=torch.float64), width).item()
    straight = max(m, 0.0) * pseudo
    grad_m, grad_b = gradients(
        torch.tensor(m, dtype=torch.float64),
        torch.tensor(b, dtype=torch.float64),
        gradient,
        estimator=estimator,
        bandwidth=width,
    )
    in_m = gradient in ("ste", "ste_input_only")
    in_b = gradient in ("ste", "ste_bias_only")
    assert grad_m.item() == pytest.approx(gate + straight if in_m else gate)
    assert grad_b.item() == pytest.approx(straight if in_b else gate)


@given(NUMBERS, NUMBERS)
def test_forward_is_the_same_for_all_and_a_positive_bias_is_zero(m: float, b: float) -> None:
    m_, b_ = torch.tensor(m), torch.tensor(b)
    values = {prolu(m_, b_, gradient).item() for gradient in GRADIENTS}
    assert values == {m if m > 0 and m_ + b_ > 0 else 0.0}
    assert prolu(m_, b_.clamp(max=0)).item() in values


def test_gradient_is_the_true_one_where_that_exists() -> None:
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(200, dtype=torch.float64, generator=generator)
    b = torch.randn(200, dtype=torch.float64, generator=generator)
    away = ((m + b).abs() > 1e-3) & (m.abs() > 1e-3)
    m, b = m[away], b[away]
    # With respect to m, the relu gradient is the derivative itself.
    assert torch.autograd.gradcheck(lambda m: prolu(m, b, "relu"), (m.requires_grad_(),), eps=1e-6)
    # ReLU written with Thresh: its derivative in m where the bias is zero is ProLU_ReLU's too.
    expected = m.detach().requires_grad_()
    torch.relu(expected).sum().backward()
    got, _ = gradients(m, torch.zeros_like(b), "relu")
    assert expected.grad is not None
    torch.testing.assert_close(got, expected.grad)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "thresh"])
def test_estimators_integrate_to_one_and_are_even(estimator: Estimator) -> None:
    u = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    values = ESTIMATORS[estimator](u, 0.8)
    assert torch.trapezoid(values, u).item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(values, values.flip(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_bias_broadcasts_over_batch_and_sequence(dtype: torch.dtype, gradient: Gradient) -> None:
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(3, 5, 7, generator=generator).to(dtype)
    b = torch.randn(7, generator=generator).to(dtype)
    value = prolu(m, b, gradient)
    assert (value.shape, value.dtype) == (m.shape, dtype)
    grad_m, grad_b = gradients(m, b, gradient)
    full_m, full_b = gradients(m.double(), b.double().expand(3, 5, 7), gradient)
    tolerance = {torch.bfloat16: 0.1}.get(dtype, 1e-5)
    torch.testing.assert_close(grad_m.double(), full_m, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(grad_b.double(), full_b.sum((0, 1)), rtol=tolerance, atol=tolerance)


def test_under_autocast_it_takes_a_low_precision_m_and_a_float32_bias() -> None:
    x, W = torch.randn(16, 8), torch.randn(8, 12, requires_grad=True)
    b = torch.full((12,), -0.5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        m = x @ W
        assert m.dtype == torch.bfloat16
        value = prolu(m, b)
        assert value.dtype == torch.float32
        value.sum().backward()
    assert W.grad is not None
    assert b.grad is not None
    assert (W.grad.dtype, b.grad.dtype) == (torch.float32, torch.float32)
    expected = (m.detach().float() * (value != 0)).sum(0)
    torch.testing.assert_close(b.grad, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_vmap_over_stacked_autoencoders_equals_a_loop(gradient: Gradient) -> None:
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(4, 6, 5, generator=generator)
    b = torch.randn(4, 5, generator=generator)

    def loss(b: Tensor, m: Tensor) -> Tensor:
        return prolu(m, b, gradient).square().sum()

    stacked = torch.func.vmap(torch.func.grad(loss))(b, m)
    for i in range(4):
        torch.testing.assert_close(stacked[i], torch.func.grad(loss)(b[i], m[i]))
    values = torch.func.vmap(lambda b, m: prolu(m, b, gradient))(b, m)
    torch.testing.assert_close(values, prolu(m, b[:, None], gradient))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_compiled_equals_eager(gradient: Gradient) -> None:
    # "aot_eager" traces forward and backward as "inductor" does, and needs no C++ compiler.
    compiled = torch.compile(
        lambda m, b: prolu(m, b, gradient), fullgraph=True, backend="aot_eager"
    )
    m = torch.randn(6, 5, requires_grad=True)
    b = torch.randn(5, requires_grad=True)
    got = torch.autograd.grad(compiled(m, b).square().sum(), (m, b))
    expected = torch.autograd.grad(prolu(m, b, gradient).square().sum(), (m, b))
    torch.testing.assert_close(got, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_cuda_equals_cpu(gradient: Gradient) -> None:
    m, b = torch.randn(64, 32), torch.randn(32)
    expected = gradients(m, b, gradient)
    got = gradients(m.cuda(), b.cuda(), gradient)
    torch.testing.assert_close([g.cpu() for g in got], list(expected))


def test_unknown_names_are_refused() -> None:
    m = torch.zeros(1)
    with pytest.raises(UsageError, match="'st' is unknown; write ste, or choose relu"):
        prolu(m, m, "st")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'box' is unknown; choose thresh"):
        prolu(m, m, estimator="box")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not a positive number"):
        prolu(m, m, bandwidth=0)


@given(NUMBERS, NUMBERS, st.sampled_from(GRADIENTS), st.sampled_from(list(ESTIMATORS)))
def test_relu_with_straight_through_gradients(
    m: float, b: float, gradient: Gradient, estimator: Estimator
) -> None:
    m_, b_ = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (m, b))
    value = relu(m_, b_, gradient, estimator=estimator, bandwidth=0.7)
    assert value.item() == torch.relu(m_ + b_).item()
    u = (m_ + b_).detach()
    gate = float(u > 0)
    straight = gate + (torch.relu(u) * ESTIMATORS[estimator](u, 0.7)).item()
    found = torch.autograd.grad(value, (m_, b_))
    through_m, through_b = (
        gradient in ("ste", "ste_input_only"),
        gradient in ("ste", "ste_bias_only"),
    )
    assert found[0].item() == pytest.approx(straight if through_m else gate)
    assert found[1].item() == pytest.approx(straight if through_b else gate)
