"""Scale consistency: by hand for ReLU, nothing to violate for ProLU and TRec."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prolu_eval.evaluation.scale_consistency import (
    CURVE_SCALES,
    FACTORS,
    draw_pairs,
    response_curves,
    violations,
)
from prolu_eval.metrics import CONSISTENCY_COLUMNS
from prolu_eval.saes import VARIANTS, SparseAutoencoder
from prolu_eval.tokens import TokenRows


def identity(
    variant: str, d: int = 1, theta: float | None = None, **tensors: Any
) -> SparseAutoencoder:
    """An autoencoder whose pre-activations are its input, with the tensors given."""
    kind = VARIANTS[variant]
    sae = kind(d, d, None if theta is None else kind.Options.model_validate({"theta": theta}))
    with torch.no_grad():
        for name, value in {"W_enc": torch.eye(d), "W_dec": torch.eye(d), **tensors}.items():
            getattr(sae, name).copy_(torch.as_tensor(value))
    return sae


def sums(sae: SparseAutoencoder, first: list[float], second: list[float]) -> dict[str, float]:
    found = violations(sae, torch.tensor([first]), torch.tensor([second]))
    return {name: float(value[0]) for name, value in found.items()}


def test_relu_by_hand() -> None:
    # f(2) = 1, f(3) = 2 and f(5) = 4 with b = -1: one missed of three; f(2k) = 2k - 1 against k.
    got = sums(identity("relu", b_enc=[-1.0]), [2.0], [3.0])
    assert got["additivity_gap"] == 1
    assert got["additivity_size"] == 3
    assert got["homogeneity_gap"] == pytest.approx(sum(k - 1 for k in FACTORS))
    assert got["homogeneity_size"] == pytest.approx(sum(FACTORS))
    assert (got["threshold_needed"], got["threshold_missing"]) == (1, 0)


def test_only_features_active_in_both_are_added() -> None:
    got = sums(identity("relu", 2, b_enc=[-1.0, 0.5]), [2.0, 1.0], [0.5, 1.0])
    assert got["additivity_size"] == 3, "the second feature's 1.5 twice"
    assert got["additivity_gap"] == pytest.approx(0.5)
    assert got["threshold_needed"] == 1, "a positive bias needs no threshold"


def test_input_is_centred_on_the_decoder_bias() -> None:
    sae = identity("relu", b_enc=[-1.0], b_dec=[10.0])
    assert sums(sae, [12.0], [13.0]) == sums(identity("relu", b_enc=[-1.0]), [2.0], [3.0])


def test_a_feature_that_is_always_on_has_no_threshold() -> None:
    # The larger of two codes always fires, even if it is small, so scaling cannot turn it off.
    sae = identity("topk", 2, b_enc=[-0.0, 0.0])
    with torch.no_grad():
        sae.b_enc.copy_(torch.tensor([-1e-30, 0.0]))
    got = sums(sae, [2.0, 1.0], [2.0, 1.0])
    assert (got["threshold_needed"], got["threshold_missing"]) == (1, 1)


class Bump(SparseAutoencoder):
    """Active only between 1 and 2, so that it is off again when its input grows."""

    variant = "bump"

    def activate(self, m: Tensor) -> Tensor:
        return torch.where((m > 1) & (m < 2), m, 0)


def test_going_off_again_is_no_threshold() -> None:
    sae = Bump(1, 1)
    with torch.no_grad():
        sae.W_enc.fill_(1)
        sae.b_enc.fill_(-1)
    assert sums(sae, [1.5], [1.5])["threshold_missing"] == 1


pre_activations = st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3)
biases = st.lists(st.floats(-3, -0.015625, width=32), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(pre_activations, pre_activations, biases)
def test_prolu_with_negative_biases_violates_nothing(
    first: list[float], second: list[float], b: list[float]
) -> None:
    trec = identity("trec", 3, theta=-b[0])
    for sae, at in ((identity("prolu", 3, b_enc=b), b), (trec, [b[0]] * 3)):
        got = sums(sae, first, second)
        assert got["additivity_gap"] == pytest.approx(0, abs=1e-5)
        assert got["homogeneity_gap"] == pytest.approx(0, abs=1e-5)
        assert got["threshold_missing"] == 0
        assert got["homogeneity_size"] == pytest.approx(
            sum(FACTORS) * sum(x for x, y in zip(first, at, strict=True) if x > -y), rel=1e-5
        )


@settings(max_examples=50, deadline=None)
@given(pre_activations, biases)
def test_relu_with_a_bias_violates_homogeneity(first: list[float], b: list[float]) -> None:
    got = sums(identity("relu", 3, b_enc=b), first, first)
    active = [y for x, y in zip(first, b, strict=True) if x + y > 0]
    assert got["homogeneity_gap"] == pytest.approx(
        sum((k - 1) * -y for y in active for k in FACTORS), rel=1e-3, abs=1e-5
    )


def test_response_curves_go_through_the_origin_or_are_shifted() -> None:
    x = torch.tensor([[2.0, 1.0], [4.0, -1.0]])
    relu = response_curves(identity("relu", 2, b_enc=[-1.0, -1.0]), x)
    assert relu.features.tolist() == [0], "the second never fires"
    k = np.array(CURVE_SCALES)
    np.testing.assert_allclose(relu.activations[0], np.maximum(4 * k - 1, 0), rtol=1e-6)
    np.testing.assert_allclose(relu.pre_activations, [4])
    prolu = response_curves(identity("prolu", 2, b_enc=[-1.0, -1.0]), x)
    np.testing.assert_allclose(prolu.activations[0], np.where(4 * k > 1, 4 * k, 0), rtol=1e-6)


def test_no_curves_where_nothing_fires() -> None:
    curves = response_curves(identity("prolu", b_enc=[-9.0]), torch.ones(3, 1))
    assert curves.activations.shape == (0, len(CURVE_SCALES))
    found = violations(identity("prolu"), torch.ones(2, 1), torch.ones(2, 1))
    assert set(found) == set(CONSISTENCY_COLUMNS)


def test_pairs_are_counted_positions_of_sequences_spread_evenly() -> None:
    counted = torch.zeros(1000, 6, dtype=torch.bool)
    counted[::2, 2:5] = True
    rows = TokenRows(torch.zeros(1000, 6, dtype=torch.int64), counted, "t")
    pairs = draw_pairs(rows)
    assert len(pairs.row) == 128
    assert (pairs.row % 2 == 0).all()
    assert pairs.row.max() > 980
    assert ((pairs.position >= 2) & (pairs.position < 5)).all()
    assert (pairs.position[:, 0] != pairs.position[:, 1]).all()
    assert torch.equal(draw_pairs(rows).position, pairs.position)
    none = TokenRows(rows.ids[1:2], counted[1:2], "t")
    assert len(draw_pairs(none).row) == 0
