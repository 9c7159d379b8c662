"""The k largest of each row are those that torch finds."""

import pytest
import torch

from prolu_eval.saes import TopK
from prolu_eval.saes.selection import _group_size, largest

SHAPES = [(5, 1024, 32), (7, 37, 5), (1, 8, 8), (9, 64, 1), (6, 96, 2), (4, 1024, 300)]


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_largest(n: int, d: int, k: int, dtype: torch.dtype, positive: bool) -> None:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(dtype)
    z[0] -= 2.5  # fewer than k are positive here
    expected = torch.zeros(n, d, dtype=torch.bool).scatter(1, z.topk(k).indices, True)
    if positive:
        expected &= z > 0
    found = largest(z, k, positive=positive)
    assert found is not None
    row, column = expected.nonzero(as_tuple=True)
    assert found.row.tolist() == row.tolist()
    assert found.column.tolist() == column.tolist()
    assert found.value.tolist() == z[expected].tolist()


def test_rows_are_looked_into_by_groups_where_that_is_cheaper() -> None:
    assert [_group_size(d, k) for _, d, k in SHAPES] == [4, 1, 1, 8, 4, 2]


def test_equal_numbers_leave_a_choice_that_torch_makes() -> None:
    assert largest(torch.ones(2, 16), 3, positive=True) is None
    found = largest(torch.zeros(2, 16), 3, positive=True)
    assert found is not None
    assert found.value.size == 0, "zeros are no codes"
    sae = TopK(4, 16, TopK.Options.model_validate({"k": 3}))
    assert sae.active_(torch.ones(2, 16)) is None
    assert (sae.activate(torch.ones(2, 16)) != 0).sum() == 6


def test_equal_maxima_of_groups_leave_none() -> None:
    """Zeros in the same groups as larger numbers are not confused with them."""
    z = torch.zeros(1, 64)
    z[0, [3, 19, 35]] = torch.tensor([1.0, 2.0, 3.0])
    found = largest(z, 3, positive=True)
    assert found is not None
    assert found.column.tolist() == [3, 19, 35]


@pytest.mark.parametrize("what", [torch.nan, torch.inf])
def test_what_is_not_finite_is_left_to_torch(what: float) -> None:
    z = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    z[1, 5] = what
    assert largest(z, 4, positive=True) is None
