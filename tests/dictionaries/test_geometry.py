"""Geometry of decoder rows, by hand."""

import numpy as np
import pytest
import torch

from prolu_eval.dictionaries import geometry
from prolu_eval.dictionaries.geometry import effective_rank, nth_projection, overlap
from prolu_eval.evaluation.features import projection_scalar, weight_scalars
from prolu_eval.saes import Relu


def test_overlap_by_hand_whatever_the_scale_and_sign() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, -2.0], [3.0, 3.0], [0.0, 0.0]])
    found = overlap(rows)
    half = 2**-0.5
    assert found.mean == pytest.approx((0 + half + half) / 3)
    assert found.nearest == pytest.approx(half)
    assert found.quantiles[0] < 0.1
    assert found.quantiles[-1] == pytest.approx(half)
    assert np.isnan(overlap(rows[:1]).mean)


def test_some_rows_stand_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(800, 16, generator=torch.Generator().manual_seed(0))
    whole = overlap(rows)
    monkeypatch.setattr(geometry, "_ROWS", 200)
    some = overlap(rows)
    assert some.mean == pytest.approx(whole.mean, rel=0.03)
    assert some.nearest == pytest.approx(whole.nearest, rel=0.03)
    torch.testing.assert_close(some.quantiles, whole.quantiles, rtol=0.05, atol=0.01)


def test_effective_rank_counts_dimensions() -> None:
    eye = torch.eye(6)
    assert effective_rank(eye) == pytest.approx(6)
    assert effective_rank(torch.cat([eye[:3], 5 * eye[:3]])) == pytest.approx(3)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1, abs=1e-3)


def test_nth_projection_is_that_of_the_middle_row() -> None:
    x = torch.tensor([[4.0, -3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = nth_projection(2 * torch.eye(4), x)
    assert found[0] == pytest.approx(3 / 30**0.5)
    assert torch.isnan(found[1])


def test_metrics_of_an_autoencoder() -> None:
    sae = Relu(4, 4)
    sae.W_dec.data, sae.W_enc.data = torch.eye(4), -3 * torch.eye(4)
    sae.b_dec.data.fill_(1)
    found = weight_scalars(sae)
    values = {key: estimate.value for key, estimate in found.items()}
    assert values["decoder_cosine"] == 0
    assert values["decoder_cosine_median"] == values["decoder_cosine_p99"] == 0
    assert values["effective_rank"] == pytest.approx(4)
    assert values["encoder_alignment"] == pytest.approx(-1)
    assert found["decoder_cosine"].standard_error == 0
    x = torch.tensor([[5.0, -2.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    projection = projection_scalar(sae, x, x)
    assert projection.value == pytest.approx(3 / 30**0.5)
    assert projection.standard_error is None
