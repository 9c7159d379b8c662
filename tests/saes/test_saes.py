"""Every variant: values computed by hand, thresholds, exact conversions, units, saving."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prolu_eval.checkpoints import discover, load_run, load_sae
from prolu_eval.checkpoints.native import save_run
from prolu_eval.runs import Run, RunConfig
from prolu_eval.saes import VARIANTS, JumpRelu, Normalisation, SparseAutoencoder, as_jumprelu
from tests.helpers.random_saes import OPTIONS, random_sae

CASES = [(variant, options) for variant, options in OPTIONS]
IDS = [f"{variant}-{i}" for i, (variant, _) in enumerate(OPTIONS)]
CONVERTED = ("relu", "prolu", "prolu_relu_hybrid", "trec", "gated", "batchtopk", "matryoshka")
NAN = math.nan

# variant, options, own tensors, m, and by hand: activations and effective thresholds
BY_HAND: list[tuple[str, dict[str, Any], dict[str, Any], list[float], list[float], Any]] = [
    ("relu", {}, {"b_enc": [1, -1, 0, -2]}, [-0.5, 3, 0, 1], [0.5, 2, 0, 0], [-1, 1, 0, 2]),
    # a positive bias acts as zero, and what passes is m itself
    ("prolu", {}, {"b_enc": [1, -1, 0, -2]}, [-0.5, 3, 2, 1.5], [0, 3, 2, 0], [0, 1, 0, 2]),
    (
        "tanh_relu",
        {},
        {"b_enc": [1, -1, 0, -2]},
        [-0.5, 3, 0, 1],
        [math.tanh(0.5), math.tanh(2), 0, 0],
        [-1, 1, 0, 2],
    ),
    ("prolu", {}, {"b_enc": [-1, -1, 5, 0]}, [1, 1.5, 0.25, 0], [0, 1.5, 0.25, 0], [1, 1, 0, 0]),
    (
        "prolu_relu_hybrid",
        {},
        {"b_enc": [1, -1, 0, -2]},
        [-0.5, 3, 2, 1.5],
        [0.5, 3, 2, 0],
        [-1, 1, 0, 2],
    ),
    ("trec", {"theta": 1.0}, {}, [1, 1.5, -2, 0.5], [0, 1.5, 0, 0], [1, 1, 1, 1]),
    ("tlin", {"theta": 1.0}, {}, [1, 1.5, -2, -1], [0, 1.5, -2, 0], [1, 1, 1, 1]),
    (
        "jumprelu",
        {},
        {"b_enc": [1, 1, -1, 0], "threshold": [2, 2, 0.5, -1]},
        [1, 1.5, 2, -0.5],  # z = 2, 2.5, 1, -0.5: not above 2, above, above, negative
        [0, 2.5, 1, 0],
        [1, 1, 1.5, 0],
    ),
    (
        "gated",
        {},
        {"b_gate": [0, 1, 0, -1], "b_mag": [1, 1, -3, 0], "r_mag": [0, math.log(2), 0, 0]},
        [1, -0.75, 2, 0.5],  # open: 1 + 1; open, but 2 (-0.75) + 1 < 0; open, below; shut
        [2, 0, 0, 0],
        [0, -0.5, 3, 1],
    ),
    ("topk", {"k": 2}, {"b_enc": [0, 1, 0, 0]}, [3, 1.5, 2, -5], [3, 2.5, 0, 0], [NAN] * 4),
    # fewer than k are positive, so fewer fire; unrectified, the k largest are kept all the same
    ("topk", {"k": 3}, {"b_enc": [0, 0, 0, 0]}, [3, -1, -2, -5], [3, 0, 0, 0], [NAN] * 4),
    (
        "topk",
        {"k": 2, "rectify": False},
        {"b_enc": [0, 0, 0, 0]},
        [3, -1, -2, -5],
        [3, -1, 0, 0],
        [NAN] * 4,
    ),
    ("abstopk", {"k": 2}, {"b_enc": [0, 1, 0, 0]}, [3, 1.5, 2, -5], [3, 0, 0, -5], [NAN] * 4),
    ("groupmax", {"k": 2}, {"b_enc": [0, 1, 0, 0]}, [3, 1.5, -2, -5], [3, 0, 0, 0], [NAN] * 4),
    (
        "batchtopk",
        {"k": 1.5},
        {"b_enc": [1, 0, 0, 0], "threshold": 2.0},
        [1.5, 2, 2.25, -3],
        [2.5, 0, 2.25, 0],
        [1, 2, 2, 2],
    ),
    # a threshold that was never set leaves a ReLU
    (
        "batchtopk",
        {"k": 1.5},
        {"b_enc": [1, 0, 0, 0], "threshold": -1.0},
        [-0.5, 2, 2.25, -3],
        [0.5, 2, 2.25, 0],
        [-1, 0, 0, 0],
    ),
    (
        "matryoshka",
        {"k": 1, "group_sizes": [1, 3]},
        {"b_enc": [1, 0, 0, 0], "threshold": 2.0},
        [1.5, 2, 2.25, -3],
        [2.5, 0, 2.25, 0],
        [1, 2, 2, 2],
    ),
]


def with_tensors(variant: str, options: dict[str, Any], tensors: dict[str, Any]) -> Any:
    cls = VARIANTS[variant]
    sae = cls(3, 4, cls.Options.model_validate(options)).eval()
    for name, values in tensors.items():
        getattr(sae, name).data = floats(values)
    return sae


def floats(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(("variant", "options", "tensors", "m", "codes", "thresholds"), BY_HAND)
def test_values_by_hand(
    variant: str,
    options: dict[str, Any],
    tensors: dict[str, Any],
    m: list[float],
    codes: list[float],
    thresholds: list[float],
) -> None:
    sae = with_tensors(variant, options, tensors)
    close: Any = {"rtol": 0, "atol": 1e-6, "equal_nan": True}
    torch.testing.assert_close(sae.activate(floats([m])), floats([codes]), **close)
    torch.testing.assert_close(sae.effective_threshold(), floats(thresholds), **close)


def test_every_variant_has_values_by_hand() -> None:
    assert {case[0] for case in BY_HAND} | {"matching_pursuit", "nnls"} == VARIANTS.keys()
    assert {variant for variant, _ in OPTIONS} == VARIANTS.keys()


def test_matching_pursuit_by_hand() -> None:
    """The best aligned row takes its projection in each iteration, until no new feature fires."""
    sae = with_tensors(
        "matching_pursuit",
        {},
        {"W_dec": [[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1], [0, 0, -1]], "b_dec": [0, 0, 1]},
    )
    x = torch.tensor([[2.0, 1.0, 1.0], [0.0, 0.0, -2.0]])
    # x - b_dec = (2, 1, 0): row 0 and row 1 align 2 and 2.0; the first of equals takes (2, 0, 0),
    # the rest (0, 1, 0) goes to row 1 with 0.8, which leaves (-0.48, 0.36, 0), aligned with none.
    assert sae.encode(x)[0].tolist() == pytest.approx([2, 0.8, 0, 0], abs=1e-6)
    assert sae.encode(x)[1].tolist() == pytest.approx([0, 0, 0, 3], abs=1e-6)
    assert sae(x)[0].tolist() == pytest.approx([2.48, 0.64, 1], abs=1e-6)
    once = with_tensors("matching_pursuit", {"max_iterations": 1}, {"W_dec": sae.W_dec.tolist()})
    assert once.encode(torch.tensor([2.0, 1, 0])).tolist() == pytest.approx([2, 0, 0, 0])


@pytest.mark.parametrize(("variant", "options"), CASES, ids=IDS)
def test_a_feature_is_off_up_to_its_threshold_and_on_above(
    variant: str, options: dict[str, Any]
) -> None:
    sae = random_sae(variant, options, seed=1)
    threshold = sae.effective_threshold()
    if threshold.isnan().any():
        assert variant in ("topk", "abstopk", "groupmax", "matching_pursuit", "nnls")
        return
    step = 1e-4
    assert (sae.activate(threshold + step) != 0).all()
    below = sae.activate(threshold - step)
    assert (below == 0).all()


@pytest.mark.parametrize(("variant", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("subtract", [True, False])
def test_encode_and_decode_follow_the_formula(
    variant: str, options: dict[str, Any], subtract: bool
) -> None:
    sae = random_sae(variant, options, seed=2, apply_b_dec_to_input=subtract)
    x = torch.randn(2, 5, sae.d_in)
    codes = sae.encode(x)
    assert codes.shape == (2, 5, sae.d_sae)
    assert 0 < (codes != 0).float().mean() < 1
    if variant not in ("matching_pursuit", "nnls"):
        m = (x - sae.b_dec if subtract else x) @ sae.W_enc
        torch.testing.assert_close(codes, sae.activate(m))
    torch.testing.assert_close(sae(x), codes @ sae.W_dec + sae.b_dec)
    torch.testing.assert_close(sae.decode(codes), sae(x))
    # Each token stands alone.
    torch.testing.assert_close(sae.encode(x[1, 3]), codes[1, 3], rtol=1e-4, atol=1e-5)


def test_normalisations_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0, 5.0]])
    sae = with_tensors("relu", {}, {"W_enc": torch.eye(3, 4).tolist()})
    sae.W_dec.data = torch.eye(4, 3)
    sae.normalisation = "layer_norm"  # mean 4, unbiased standard deviation 1
    assert sae.encode(x)[0].tolist() == pytest.approx([0, 0, 1 / 1.00001, 0])
    assert sae(x)[0].tolist() == pytest.approx([4, 4, 4 + 1 / 1.00001])
    assert sae.reconstruct(x).scale == pytest.approx(torch.ones(1, 1))
    sae.normalisation = "constant_norm"  # norm sqrt(50), wanted sqrt(3)
    factor = (3 / 50) ** 0.5
    assert sae.encode(x)[0].tolist() == pytest.approx([3 * factor, 4 * factor, 5 * factor, 0])
    assert sae(x)[0].tolist() == pytest.approx([3, 4, 5])
    with pytest.raises(ValueError, match="undone from x"):
        sae.decode(sae.encode(x))
    assert sae.decode(sae.encode(x), x)[0].tolist() == pytest.approx([3, 4, 5])


def test_prolu_of_negative_bias_is_a_jumprelu_without_bias() -> None:
    prolu = random_sae("prolu", {}, seed=3)
    prolu.b_enc.data = -prolu.b_enc.abs() - 0.01
    jump = JumpRelu(prolu.d_in, prolu.d_sae).eval()
    for name in ("W_enc", "W_dec", "b_dec"):
        jump.get_parameter(name).data = prolu.get_parameter(name).data
    jump.threshold.data = -prolu.b_enc.data
    x = torch.randn(500, prolu.d_in)
    assert torch.equal(jump.encode(x), prolu.encode(x))
    assert torch.equal(jump(x), prolu(x))
    assert torch.equal(jump.effective_threshold(), prolu.effective_threshold())
    converted = as_jumprelu(prolu)
    assert converted is not None
    for name, parameter in converted.named_parameters():
        assert torch.equal(parameter, jump.get_parameter(name)), name


@given(
    st.sampled_from([case for case in CASES if case[0] in (*CONVERTED, "jumprelu")]),
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from(get_args(Normalisation)),
)
def test_conversions_are_exact(
    case: tuple[str, dict[str, Any]], seed: int, subtract: bool, normalisation: Normalisation
) -> None:
    sae = random_sae(
        *case, seed=seed, apply_b_dec_to_input=subtract, normalisation=normalisation
    ).double()
    jump = as_jumprelu(sae)
    assert jump is not None
    x = torch.randn(64, sae.d_in, dtype=torch.float64)
    codes = sae.encode(x)
    torch.testing.assert_close(jump.encode(x), codes, rtol=1e-12, atol=1e-12)
    assert torch.equal(jump.encode(x) != 0, codes != 0)
    torch.testing.assert_close(jump(x), sae(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        jump.effective_threshold(),
        # A gate scales the pre-activation, and its threshold with it.
        sae.effective_threshold() * (sae.r_mag.exp() if case[0] == "gated" else 1),
    )


@pytest.mark.parametrize(
    ("variant", "options"),
    [c for c in CASES if c[0] not in (*CONVERTED, "jumprelu")],
)
def test_what_no_jumprelu_computes_is_not_converted(variant: str, options: dict[str, Any]) -> None:
    assert as_jumprelu(random_sae(variant, options, seed=0)) is None


def test_a_relu_is_the_topk_of_all_and_the_hybrid_of_its_parts() -> None:
    relu = random_sae("relu", {}, seed=4)
    x = torch.randn(200, relu.d_in)
    everything = same_weights("topk", {"k": relu.d_sae}, relu)
    assert torch.equal(everything.encode(x), relu.encode(x))
    hybrid = same_weights("prolu_relu_hybrid", {}, relu)
    prolu = same_weights("prolu", {}, relu)
    expected = torch.where(relu.b_enc < 0, prolu.encode(x), relu.encode(x))
    assert torch.equal(hybrid.encode(x), expected)


def same_weights(variant: str, options: dict[str, Any], sae: SparseAutoencoder) -> Any:
    other = random_sae(variant, options, seed=0)
    for name, parameter in sae.named_parameters():
        other.get_parameter(name).data = parameter.data.clone()
    return other


@pytest.mark.parametrize(("variant", "options"), CASES, ids=IDS)
def test_saved_and_loaded_it_is_the_same(
    tmp_path: Path, variant: str, options: dict[str, Any]
) -> None:
    sae = random_sae(
        variant, options, seed=5, apply_b_dec_to_input=False, normalisation="constant_norm"
    )
    save_run(tmp_path / "run", sae, RunConfig(variant="", d_in=1, d_sae=1, penalty="l1"))
    (run,) = discover(tmp_path)
    assert isinstance(run, Run)
    assert (run.variant, run.d_in, run.d_sae) == (variant, sae.d_in, sae.d_sae)
    assert run.label == f"{sae.label}+l1"
    loaded = load_run(run)
    assert not loaded.training
    assert loaded.options == sae.options
    assert (loaded.apply_b_dec_to_input, loaded.normalisation) == (False, "constant_norm")
    for name, parameter in sae.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    x = torch.randn(7, sae.d_in)
    assert torch.equal(loaded(x), sae(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_weights_load_in_float32_unless_they_are_wider(tmp_path: Path, dtype: torch.dtype) -> None:
    sae = random_sae("relu", {}, seed=6).to(dtype)
    save_run(tmp_path, sae, RunConfig(variant="", d_in=1, d_sae=1))
    loaded = load_sae(tmp_path)
    assert loaded.W_enc.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(loaded.W_enc, sae.W_enc.to(loaded.W_enc.dtype))


def test_batchtopk_keeps_k_per_token_of_a_training_batch() -> None:
    sae = random_sae("batchtopk", {"k": 2.5}, seed=7).train()
    x = torch.randn(8, sae.d_in)
    codes = sae.encode(x)
    assert (codes > 0).sum() == 20
    z = torch.relu(sae.pre_activation(x) + sae.b_enc)
    assert codes[codes > 0].min() >= z[codes == 0].max()


def test_matryoshka_reconstructs_from_each_prefix_of_groups() -> None:
    sae: Any = random_sae("matryoshka", {"k": 3, "group_sizes": [2, 5, 9]}, seed=8)
    codes = sae.encode(torch.randn(6, sae.d_in))
    nested: Sequence[Tensor] = sae.nested(codes)
    assert len(nested) == 3
    for stop, part in zip((2, 7, 16), nested, strict=True):
        torch.testing.assert_close(part, codes[:, :stop] @ sae.W_dec[:stop] + sae.b_dec)


@pytest.mark.parametrize(("variant", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("skip", [False, True])
def test_every_variant_but_tied_ones_can_transcode(
    variant: str, options: dict[str, Any], skip: bool, tmp_path: Path
) -> None:
    cls = VARIANTS[variant]
    settings = cls.Options.model_validate(options)
    if "W_enc" not in cls.tensor_shapes(8, 16, settings):
        with pytest.raises(ValueError, match="has tied weights"):
            cls(8, 16, settings, d_out=5, apply_b_dec_to_input=False)
        return
    with pytest.raises(ValueError, match="cannot be subtracted from inputs of 8"):
        cls(8, 16, settings, d_out=5)
    with pytest.raises(ValueError, match="only a transcoder has a skip connection"):
        cls(8, 16, settings, skip=True)
    plain = random_sae(variant, options, seed=6, apply_b_dec_to_input=False)
    sae = cls(8, 16, settings, d_out=5, skip=skip, apply_b_dec_to_input=False).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sae.named_parameters():
        same = name not in ("W_dec", "b_dec", "W_skip")
        value = torch.randn(parameter.shape, generator=generator)
        parameter.data = plain.get_parameter(name).data.clone() if same else value
    assert sae.label == plain.label + ("-skip-transcoder" if skip else "-transcoder")
    x = torch.randn(20, 8, generator=generator)
    codes = plain.encode(x)
    y_hat = codes @ sae.W_dec + sae.b_dec + (x @ sae.W_skip if skip else 0)
    assert torch.equal(sae.encode(x), codes)
    torch.testing.assert_close(sae(x), y_hat)
    torch.testing.assert_close(sae.decode(codes, x), y_hat)
    if skip:
        with pytest.raises(ValueError, match="adds a function of x: pass it too"):
            sae.decode(codes)
        torch.testing.assert_close(sae.skipped(x), x @ sae.W_skip + sae.b_dec)
    converted = as_jumprelu(sae)
    if converted is not None:
        torch.testing.assert_close(converted(x), y_hat)
    hooks = {"hook": "blocks.0.ln2.hook_out", "hook_out": "blocks.0.hook_mlp_out"}
    save_run(tmp_path / "run", sae, RunConfig(variant="", d_in=1, d_sae=1, **hooks))
    (run,) = discover(tmp_path / "run")
    assert isinstance(run, Run)
    assert (run.hook, run.hook_out, run.d_out) == (*hooks.values(), 5)
    assert torch.equal(load_run(run)(x), sae(x))
