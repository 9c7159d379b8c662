"""Per-feature sums: by hand, added up in any split, and their jackknifed fractions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolu_eval.evaluation.autoencoding import COLUMNS, Autoencoding
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.saes import Prolu, Relu


def test_by_hand() -> None:
    sums = FeatureSums(3, torch.device("cpu"))
    sums.count_tokens(torch.tensor([0, 0, 1, 1]))
    # feature 0 fires on both tokens of sequence 0, feature 1 on one of sequence 1
    sums.add(torch.tensor([0, 0, 1]), torch.tensor([1.0, 3.0, -2.0]), torch.tensor([0, 0, 1]))
    arrays = sums.arrays()
    np.testing.assert_allclose(arrays["firing_rate"], [0.5, 0.25, 0])
    np.testing.assert_allclose(arrays["mean_when_active"], [2, -2, np.nan])
    np.testing.assert_allclose(arrays["max"], [3, -2, np.nan])
    scalars = sums.scalars()
    assert scalars["dead_fraction"].value == pytest.approx(1 / 3)
    assert scalars["dense_fraction"].value == pytest.approx(2 / 3)
    # without sequence 0 two of three are dead, without sequence 1 also two
    assert scalars["dead_fraction"].standard_error == 0


def test_jackknife_by_hand() -> None:
    sums = FeatureSums(2, torch.device("cpu"))
    sums.count_tokens(torch.tensor([0, 1]))
    sums.add(torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0]))
    # dead: 1/2 in all; 1 without sequence 0, 1/2 without sequence 1
    dead = sums.scalars()["dead_fraction"]
    assert dead.value == 0.5
    assert dead.standard_error == pytest.approx(np.sqrt(1 / 2 * (0.25**2 + 0.25**2)))


def autoencoding(cls: type[Relu] | type[Prolu], n_sequences: int) -> Autoencoding:
    sae = cls(6, 10)
    generator = torch.Generator().manual_seed(3)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Autoencoding(sae, n_sequences, torch.device("cpu"))


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([Relu, Prolu]))
def test_sums_do_not_depend_on_the_split(lengths: list[int], cls: type[Relu] | type[Prolu]) -> None:
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    x = torch.randn(len(sequence), 6, generator=torch.Generator().manual_seed(sum(lengths)))
    whole, parts = autoencoding(cls, len(lengths)), autoencoding(cls, len(lengths))
    x_hat = whole.reconstruct(x, sequence)
    added = FeatureSums(10, torch.device("cpu"))
    pieces = []
    for i in range(len(lengths)):
        parts.features = FeatureSums(10, torch.device("cpu"))
        pieces.append(parts.reconstruct(x[sequence == i], sequence[sequence == i]))
        added = added + parts.features
    torch.testing.assert_close(torch.cat(pieces), x_hat)
    torch.testing.assert_close(x_hat, whole.sae(x))
    for column in COLUMNS:
        torch.testing.assert_close(parts.sums[column], whole.sums[column], rtol=1e-5, atol=1e-5)
    assert torch.equal(added.fired, whole.features.fired)
    assert torch.equal(added.tokens, whole.features.tokens)
    torch.testing.assert_close(added.total, whole.features.total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(added.largest, whole.features.largest)


@pytest.mark.parametrize("bias", [-3.0, 3.0])
def test_sparse_and_dense_decoding_agree(bias: float) -> None:
    measured = autoencoding(Relu, 1)
    measured.sae.b_enc.data.fill_(bias)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    x_hat = measured.reconstruct(x, torch.zeros(40, dtype=torch.long))
    torch.testing.assert_close(x_hat, measured.sae(x))
    share = measured.sums["l0"].item() / 400
    assert (share < 0.1) == (bias < 0), "one example for each way of decoding"


def test_zero_activations_and_dead_codes_give_zero_not_nan() -> None:
    measured = Autoencoding(Relu(6, 10), 1, torch.device("cpu"))
    x_hat = measured.reconstruct(torch.zeros(4, 6), torch.zeros(4, dtype=torch.long))
    assert torch.equal(x_hat, torch.zeros(4, 6))
    assert all(torch.equal(sums, torch.zeros(1).double()) for sums in measured.sums.values())
