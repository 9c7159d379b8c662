"""The k largest of each row are those that torch finds."""

import pytest
import torch

from prolu_eval.saes import TopK
from prolu_eval.saes.selection import largest


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("n", "d", "k"), [(5, 1024, 32), (7, 37, 5), (1, 8, 8), (9, 64, 1)])
def test_largest(n: int, d: int, k: int, positive: bool) -> None:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(n, d, dtype=torch.bool).scatter(1, z.topk(k).indices, True)
    if positive:
        expected &= z > 0
    found = largest(z, k, positive=positive)
    assert found is not None
    assert found.tolist() == expected.flatten().nonzero()[:, 0].tolist()


def test_equal_numbers_leave_a_choice_that_torch_makes() -> None:
    assert largest(torch.ones(2, 16), 3, positive=True) is None
    found = largest(torch.zeros(2, 16), 3, positive=True)
    assert found is not None
    assert found.size == 0, "zeros are no codes"
    sae = TopK(4, 16, TopK.Options.model_validate({"k": 3}))
    assert sae.active(torch.ones(2, 16)) is None
    assert (sae.activate(torch.ones(2, 16)) != 0).sum() == 6
