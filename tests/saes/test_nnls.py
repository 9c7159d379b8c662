"""Codes by non-negative least squares satisfy the conditions of optimality, and equal SciPy's."""

import numpy as np
import pytest
import scipy.optimize
import torch

from prolu_eval.saes import Nnls
from prolu_eval.saes.nnls import NnlsOptions


def dictionary(d_in: int, d_sae: int, penalty: float) -> Nnls:
    torch.manual_seed(0)
    sae = Nnls(d_in, d_sae, NnlsOptions(penalty=penalty))
    sae.W_dec.data = torch.randn(d_sae, d_in, dtype=torch.float64)
    sae.b_dec.data = 0.3 * torch.randn(d_in, dtype=torch.float64)
    return sae.requires_grad_(False)


def test_codes_are_scipys() -> None:
    """There are fewer atoms than dimensions, so that the optimal codes are unique."""
    sae, x = dictionary(12, 8, 0.0), torch.randn(20, 12, dtype=torch.float64)
    atoms = sae.W_dec.numpy().T
    expected = [scipy.optimize.nnls(atoms, row)[0] for row in (x - sae.b_dec).numpy()]
    np.testing.assert_allclose(sae.encode(x).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("penalty", [0.3, 2.0])
def test_penalised_codes_are_optimal(penalty: float) -> None:
    """The gradient is zero where a code is positive, and not negative elsewhere."""
    sae, x = dictionary(8, 24, penalty), 2 * torch.randn(20, 8, dtype=torch.float64)
    codes = sae.encode(x)
    gradient = (codes @ sae.W_dec - (x - sae.b_dec)) @ sae.W_dec.T + penalty
    assert 0 < (codes > 0).double().mean() < 0.5
    assert gradient[codes > 0].abs().max() < 1e-2
    assert gradient.min() > -1e-2


def test_a_tokens_codes_do_not_depend_on_others() -> None:
    sae, x = dictionary(8, 24, 0.5), torch.randn(20, 8, dtype=torch.float64)
    torch.testing.assert_close(sae.encode(x[:3]), sae.encode(x)[:3], rtol=1e-9, atol=1e-9)
    assert sae.encode(x[:0]).shape == (0, 24)
    assert torch.equal(sae.encode(sae.b_dec[None]), torch.zeros(1, 24, dtype=torch.float64))


@pytest.mark.parametrize(("size", "dtype"), [(1e30, torch.float32), (1e200, torch.float64)])
def test_atoms_may_be_larger_than_their_squares_can_be(size: float, dtype: torch.dtype) -> None:
    sae = dictionary(8, 4, 0.0).to(dtype)
    sae.W_dec.data *= size
    assert sae.encode(torch.ones(2, 8, dtype=dtype)).shape == (2, 4)
