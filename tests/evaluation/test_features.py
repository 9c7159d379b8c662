"""Per-feature sums: by hand, added up in any split, and their jackknifed fractions."""

from functools import reduce
from operator import add
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolu_eval.evaluation.autoencoding import Activations, Autoencoding, Sizes
from prolu_eval.evaluation.features import FOLDS, FeatureSums
from prolu_eval.evaluation.sums import Measurement, RowSums
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


def autoencoding(
    cls: type[Relu] | type[Prolu], n_sequences: int, sizes: Sizes | None = None
) -> Autoencoding:
    sae = cls(6, 10)
    generator = torch.Generator().manual_seed(3)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Autoencoding(sae, n_sequences, torch.device("cpu"), sizes=sizes)


def rows(x: torch.Tensor, lengths: list[int], first: int = 0) -> Activations:
    """Activations as rows of these lengths, where ``first`` is the index of the first row."""
    index = torch.repeat_interleave(torch.arange(len(lengths)) + first, torch.tensor(lengths))
    starts = torch.tensor([0, *np.cumsum(lengths)])
    return Activations(x, starts, index % FOLDS)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any),
    st.sampled_from([Relu, Prolu]),
    st.sampled_from([Sizes(), Sizes(codes=1), Sizes(codes=30, active=7), Sizes(dense_above=0.0)]),
)
def test_sums_do_not_depend_on_the_split_nor_on_sizes(
    lengths: list[int], cls: type[Relu] | type[Prolu], sizes: Sizes
) -> None:
    x = torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(sum(lengths)))
    whole = autoencoding(cls, len(lengths))
    x_hat = whole.reconstruct(rows(x, lengths), 0)
    torch.testing.assert_close(x_hat, whole.sae(x))
    pieces, parts = [], []
    for i, piece in enumerate(x.split(lengths)):
        part = autoencoding(cls, 1, sizes)
        pieces.append(part.reconstruct(rows(piece, [lengths[i]], i), 0))
        by_row = part.sums.by_column()
        parts.append(Measurement(by_row, part.features))
    added = reduce(add, parts)
    again = Measurement.restored({key: array.copy() for key, array in added.stored().items()})
    torch.testing.assert_close(torch.cat(pieces), x_hat)
    for measured in (added, again):
        for column, expected in whole.sums.by_column().items():
            np.testing.assert_allclose(measured.by_row[column], expected, rtol=1e-5, atol=1e-5)
        features = measured.features
        assert torch.equal(features.fired, whole.features.fired)
        assert torch.equal(features.tokens, whole.features.tokens)
        torch.testing.assert_close(features.total, whole.features.total, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(features.largest, whole.features.largest)


@given(st.lists(st.integers(1, 5), min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_measurements_add_up_exactly_however_they_are_grouped(
    lengths: list[int], random: Random
) -> None:
    def measurement(n_rows: int) -> Measurement:
        features = FeatureSums(4, torch.device("cpu"))
        features.total += torch.tensor([random.random() for _ in range(4)], dtype=torch.float64)
        features.fired += random.randrange(9)
        return Measurement({"l0": np.array([random.random() for _ in range(n_rows)])}, features)

    a, b, c = map(measurement, lengths)
    first, second = (a + b) + c, a + (b + c)
    for name, array in first.stored().items():
        np.testing.assert_allclose(second.stored()[name], array, rtol=1e-15, atol=0)


@pytest.mark.parametrize("bias", [-3.0, 3.0])
def test_sparse_and_dense_decoding_agree(bias: float) -> None:
    measured = autoencoding(Relu, 1)
    measured.sae.b_enc.data.fill_(bias)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    x_hat = measured.reconstruct(rows(x, [40]), 0)
    torch.testing.assert_close(x_hat, measured.sae(x))
    share = measured.sums.by_column()["l0"].item() / 400
    assert (share < Sizes().dense_above) == (bias < 0), "one example for each way of decoding"


def test_zero_activations_and_dead_codes_give_zero_not_nan() -> None:
    measured = Autoencoding(Relu(6, 10), 1, torch.device("cpu"))
    x_hat = measured.reconstruct(rows(torch.zeros(4, 6), [4]), 0)
    assert torch.equal(x_hat, torch.zeros(4, 6))
    assert not measured.sums.values.any()


def test_sums_are_added_by_the_names_of_their_columns() -> None:
    sums = RowSums(("a", "b", "c"), 4, torch.device("cpu"))
    sums.add(("b", "c"), 1, torch.tensor([[1.0, 2], [3, 4]]))
    sums.add(("b",), 2, torch.tensor([[10.0]]))
    found = {column: list(values) for column, values in sums.by_column().items()}
    assert found == {"a": [0, 0, 0, 0], "b": [0, 1, 12, 0], "c": [0, 3, 4, 0]}
    with pytest.raises(ValueError, match="do not follow one another"):
        sums.add(("c", "a"), 0, torch.zeros(2, 1))
