"""The kernel for decoder rows, in Triton's interpreter, compared with the optimiser it replaces.

The interpreter must be chosen before Triton is imported, so these tests run in a separate process,
which the first of them starts.
"""

import os
import subprocess
import sys

import pytest
import torch

from prolu_eval.training.config import Plan, Shared, Sweep
from prolu_eval.training.initial import Statistics
from prolu_eval.training.stack import Stack

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="in a process of its own")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_the_kernel_by_the_interpreter() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "5 passed" in ran.stdout, ran.stdout


def trained(d_in: int, d_sae: int, n_steps: int = 6) -> Stack:
    shared = Shared(hook="", n_tokens=16 * 10, d_sae=d_sae, batch_size=16, warmup=0.5, decay=0.5)
    sweep = Sweep(variant="relu", coefficients=[0.02, 0.3])
    centre = torch.full((d_in,), 0.1)
    stack = Stack(
        [Plan(sweep, value, 3e-3, 0) for value in sweep.coefficients],
        shared,
        Statistics(1.0, centre, centre),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        stack.step(torch.randn(16, d_in, generator=generator))
    return stack


@interpreted
@pytest.mark.parametrize(("d_in", "d_sae"), [(8, 5), (7, 3), (1, 2), (33, 1)])
def test_the_kernel_steps_as_the_optimiser_does(
    d_in: int, d_sae: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trained(d_in, d_sae)
    monkeypatch.delenv("TRITON_INTERPRET")
    expected = trained(d_in, d_sae)
    for name, tensor in expected.state().items():
        torch.testing.assert_close(found.state()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    norms = found.parameters["W_dec"].norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@interpreted
def test_a_stack_goes_on_by_the_kernel_where_the_optimiser_was() -> None:
    first, other = trained(8, 5), trained(8, 5, n_steps=0)
    other.resume({name: tensor.clone() for name, tensor in first.state().items()})
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    first.step(x)
    other.step(x)
    for name, tensor in first.state().items():
        assert torch.equal(other.state()[name], tensor), name
