"""Run by ``test_kernels.py``: every kernel, interpreted on the CPU, agrees with eager code."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prolu_eval import kernels
from prolu_eval.evaluation.autoencoding import Activations, Autoencoding, Sizes, by_row
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.losses import cross_entropies_and_kls, cross_entropy
from prolu_eval.evaluation.sums import Measurement
from prolu_eval.lm import LanguageModel
from prolu_eval.saes import VARIANTS, SparseAutoencoder, TopK
from prolu_eval.tokens import TokenRows
from tests.helpers.autoencodings import (
    CPU,
    assert_same,
    eager,
    found,
    given,
    of_many_features,
    random,
)
from tests.helpers.random_saes import D_IN, OPTIONS, random_sae

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def losses(clean: Tensor, spliced: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of logits, given as hidden states with an identity read-out."""
    (found,) = cross_entropies_and_kls(lambda x: x, clean, [spliced], targets, clean.shape[1])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "vocab"), [(1, 7), (5, 300), (3, 1024), (2, 5001)])
def test_losses(monkeypatch: pytest.MonkeyPatch, n: int, vocab: int, dtype: torch.dtype) -> None:
    clean, spliced = random(n, vocab, dtype=dtype), random(n, vocab + 1, dtype=dtype)[:, :vocab]
    targets = torch.arange(n) * 2 % vocab
    ce, kl = losses(clean, spliced, targets)
    alone = cross_entropy(lambda x: x, spliced, targets, vocab)
    eager(monkeypatch)
    expected_ce, expected_kl = losses(clean, spliced, targets)
    torch.testing.assert_close(ce, expected_ce, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl, expected_kl, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, expected_ce, rtol=1e-5, atol=1e-5)
    assert expected_kl.min() > 0.1


def test_losses_where_logits_are_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, spliced = random(4, 600), random(4, 600) - 1
    clean[0, 5:300] = spliced[0, 5:300] = -torch.inf  # tokens that neither pass allows
    clean[1, 7] = -torch.inf
    spliced[2, 7] = -torch.inf  # what the clean pass allows is forbidden
    spliced[3, 7] = torch.nan
    targets = torch.tensor([0, 1, 2, 3])
    ce, kl = losses(clean, spliced, targets)
    eager(monkeypatch)
    expected_ce, expected_kl = losses(clean, spliced, targets)
    torch.testing.assert_close(ce, expected_ce, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(kl, expected_kl, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert kl[:2].isfinite().all()
    assert kl[2] == torch.inf
    assert ce[3].isnan()


@pytest.mark.parametrize("lengths", [[1], [3, 0, 4], [0, 0], [2000, 1, 1025]])
def test_sums_by_row(monkeypatch: pytest.MonkeyPatch, lengths: list[int]) -> None:
    columns = random(3, sum(lengths)) if sum(lengths) else torch.empty(3, 0)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    sums = by_row(columns, starts)
    assert torch.equal(sums, by_row(columns, starts))
    eager(monkeypatch)
    torch.testing.assert_close(sums, by_row(columns, starts), rtol=1e-12, atol=1e-12)


def measured(
    sae: SparseAutoencoder,
    activations: Activations,
    *,
    capacity: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """The reconstructions and all sums, with slots for so many codes per token."""
    running = Autoencoding(sae, len(activations.starts) - 1, CPU, dtype, Sizes(codes=150))
    running._capacity = capacity
    return found(running, activations)


@pytest.mark.parametrize(("capacity", "lengths"), [(None, [10, 0, 21]), (0, [1]), (1, [9])])
@pytest.mark.parametrize(("variant", "options"), OPTIONS)
def test_autoencodings(
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    options: dict[str, Any],
    lengths: list[int],
    capacity: int | None,
) -> None:
    sae = random_sae(
        variant, options, 3, normalisation="layer_norm" if len(lengths) > 1 else "none"
    )
    if capacity and sae.thresholding() is None and not isinstance(sae, TopK):
        pytest.skip("its codes are taken as dense, never by slots")
    got = measured(sae, given(lengths), capacity=capacity)
    eager(monkeypatch)
    expected = measured(sae, given(lengths))
    assert expected[1][0].sum() > 0, "codes are active"
    assert_same(got, expected)


@pytest.mark.parametrize("capacity", [0, 4, 64])
@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_no_code_active_and_all_of_many(
    monkeypatch: pytest.MonkeyPatch, bias: float, capacity: int
) -> None:
    sae = of_many_features(bias)
    got = measured(sae, given([4, 3]), capacity=capacity)
    eager(monkeypatch)
    assert_same(got, measured(sae, given([4, 3])))
    assert got[1][0].sum() == (0 if bias < 0 else 7 * 77)


@pytest.mark.parametrize(("variant", "options"), [("relu", {}), ("topk", {"k": 3})])
@pytest.mark.parametrize("capacity", [None, 0])
def test_transcoders(
    monkeypatch: pytest.MonkeyPatch, variant: str, options: dict[str, Any], capacity: int | None
) -> None:
    cls, d_out = VARIANTS[variant], D_IN + 3
    sae = cls(
        D_IN, 16, cls.Options.model_validate(options), d_out=d_out, skip=True,
        apply_b_dec_to_input=False, normalisation="layer_norm",
    ).requires_grad_(False)  # fmt: skip
    for parameter in sae.parameters():
        parameter.data = random(*parameter.shape) / 10
    activations = given([10, 0, 21])._replace(y=random(31, d_out))
    got = measured(sae, activations, capacity=capacity)
    eager(monkeypatch)
    expected = measured(sae, activations)
    assert expected[0].shape == (31, d_out)
    assert expected[1][0].sum() > 0, "codes are active"
    assert_same(got, expected)


@pytest.mark.parametrize(
    ("variant", "options", "capacity"),
    [("relu", {}, 0), ("relu", {}, 1), ("relu", {}, 64), ("topk", {"k": 3}, 4)],
)
def test_examples(
    monkeypatch: pytest.MonkeyPatch, variant: str, options: dict[str, Any], capacity: int
) -> None:
    """Examples from slots, from dense codes, and from tokens with more codes than slots."""
    activations = given([9, 4])._replace(place=torch.arange(13) + 40)

    def strongest() -> dict[str, Any]:
        sae = random_sae(variant, options, 2)
        running = Autoencoding(sae, 2, CPU, sizes=Sizes(codes=150), n_examples=3)
        running._capacity = capacity if kernels.suit(CPU, torch.float32) else None
        running.reconstruct(activations, 0)
        assert running.examples is not None
        return running.examples.stored()

    got = strongest()
    eager(monkeypatch)
    expected = strongest()
    assert (expected["place"] >= 40).any()
    assert (got["place"] == expected["place"]).all()
    assert got["value"] == pytest.approx(expected["value"], rel=1e-5)


def test_what_is_not_finite_stays_so() -> None:
    sae = random_sae("relu", {}, 0)
    activations = given([3])
    activations.x[1] = torch.nan
    x_hat, sums, *_ = measured(sae, activations)
    assert x_hat[1].isnan().all()
    assert x_hat[[0, 2]].isfinite().all()
    assert not sums.isfinite().all()


@pytest.mark.parametrize("variant", ["relu", "gated", "topk"])
def test_low_precision_is_near_float32(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    options = {"k": 3} if variant == "topk" else {}
    low = measured(random_sae(variant, options, 1), given([9, 9], torch.bfloat16),
                   dtype=torch.bfloat16)  # fmt: skip
    eager(monkeypatch)
    exact = measured(random_sae(variant, options, 1), given([9, 9]))
    torch.testing.assert_close(low[0].float(), exact[0], rtol=0.1, atol=0.2)
    torch.testing.assert_close(low[1], exact[1], rtol=0.1, atol=0.5)


def test_the_engine_measures_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel.load("embedded", device="cpu")
    ids = torch.randint(1, model.vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    counted = torch.ones_like(ids, dtype=torch.bool)
    counted[1, 2:6] = False
    hook = "blocks.4.hook_resid_post"

    def of_engine() -> dict[str, Any]:
        engine = Engine(model, hook, TokenRows(ids, counted, "random"), batch_size=2)
        total, count = engine.sum_of_activations()
        saes = {variant: sae_of(model.width(hook), variant) for variant in ("prolu", "topk")}
        reference = engine.reference(total / count)
        return {"reference": reference, **engine.measure_saes(saes)}

    got = of_engine()
    eager(monkeypatch)
    for name, expected in of_engine().items():
        sums = got[name].by_row if isinstance(expected, Measurement) else got[name]
        wanted = expected.by_row if isinstance(expected, Measurement) else expected
        for column, values in wanted.items():
            assert sums[column] == pytest.approx(values, rel=1e-5, abs=1e-5), (name, column)


def sae_of(d_in: int, variant: str) -> SparseAutoencoder:
    cls = VARIANTS[variant]
    sae = cls(d_in, 50, cls.Options.model_validate({"k": 7} if variant == "topk" else {}))
    for parameter in sae.parameters():
        parameter.data = random(*parameter.shape) / d_in**0.5
    return sae.requires_grad_(False).eval()


@pytest.mark.parametrize(
    ("device", "dtype", "suits"),
    [("cuda", torch.float32, True), ("cuda", torch.float64, False), ("cpu", torch.float32, False)],
)
def test_where_kernels_run(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, suits: bool
) -> None:
    eager(monkeypatch)
    assert kernels.suit(torch.device(device), dtype) == suits
