"""SAELens' checkpoints: each architecture by its formula, and gaps of the format.

Formulas are those of ``sae_lens`` 6.54, written out on the file's own tensors.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prolu_eval.checkpoints import load_sae
from tests.helpers.foreign_files import (
    D_IN,
    D_SAE,
    Tensors,
    gates,
    inputs,
    matrices,
    saelens,
    saelens_legacy,
    thresholds,
    write_json,
    write_tensors,
)
from tests.helpers.format_checks import check, kept, refusal, run_at

W, G, T, X = matrices(), gates(), thresholds(), inputs()
NORMS = W["W_dec"].norm(dim=1)
H = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]


GATED = {n: t for n, t in W.items() if n != "b_enc"} | G


def gated(s: Tensor) -> Tensor:
    """The codes of GATED for inputs from which it has subtracted its bias."""
    magnitude = torch.relu(s @ (W["W_enc"] * G["r_mag"].exp()) + G["b_mag"])
    return (s @ W["W_enc"] + G["b_gate"] > 0) * magnitude


def decoded(codes: Tensor) -> Tensor:
    return codes @ W["W_dec"] + W["b_dec"]


@pytest.mark.parametrize(
    ("name", "hook", "doubtful"),
    [
        ("model.layers.2", "blocks.2.hook_resid_post", False),
        ("transformer.h.2.mlp", "blocks.2.hook_mlp_out", True),
        ("gpt_neox.layers.2.attention", "blocks.2.hook_attn_out", True),
        ("model.layers.2.self_attn.o_proj", "model.layers.2.self_attn.o_proj", False),
    ],
)
def test_modules_of_the_hugging_face_model(
    tmp_path: Path, name: str, hook: str, doubtful: bool
) -> None:
    run = run_at(saelens(tmp_path, "standard", W, metadata={"hook_name": name}))
    assert run.hook == hook
    assert bool(run.problems) == doubtful


def test_standard(tmp_path: Path) -> None:
    folder = saelens(tmp_path, "standard", W)
    codes = torch.relu(H)
    check(folder, codes, decoded(codes))
    run = run_at(folder)
    assert (run.format, run.variant, run.label) == ("saelens", "relu", "relu")
    assert (run.model, run.hook) == ("tiny", "blocks.1.hook_resid_post")
    assert (run.context_length, run.prepend_bos) == (32, False)
    assert run.provenance["library"] == "SAELens"
    assert run.provenance["version"] == "6.54.12"
    assert run.provenance["config"] == json.loads((folder / "cfg.json").read_text())


def test_standard_that_does_not_subtract_the_decoder_bias(tmp_path: Path) -> None:
    folder = saelens(tmp_path, "standard", W, apply_b_dec_to_input=False)
    codes = torch.relu(X @ W["W_enc"] + W["b_enc"])
    check(folder, codes, decoded(codes))


def test_gated(tmp_path: Path) -> None:
    codes = gated(X - W["b_dec"])
    check(saelens(tmp_path, "gated", GATED), codes, decoded(codes))


def test_jumprelu(tmp_path: Path) -> None:
    codes = torch.relu(H) * (T["threshold"] < H)
    check(saelens(tmp_path, "jumprelu", W | T), codes, decoded(codes))


def test_jumprelu_with_the_logarithm_of_its_threshold(tmp_path: Path) -> None:
    """Old training checkpoints of SAELens store it like this."""
    tensors = W | {"log_threshold": T["threshold"].log()}
    codes = torch.relu(H) * (T["threshold"] < H)
    check(saelens(tmp_path, "jumprelu", tensors), codes, decoded(codes))


@pytest.mark.parametrize("rescale", [False, True])
def test_topk_selects_by_decoder_norm_if_told(tmp_path: Path, rescale: bool) -> None:
    folder = saelens(tmp_path, "topk", W, k=3, rescale_acts_by_decoder_norm=rescale)
    h = H * NORMS if rescale else H
    codes = torch.relu(kept(h, h.topk(3, dim=-1).indices))
    check(folder, codes, decoded(codes / NORMS if rescale else codes))
    plain = torch.relu(kept(H, H.topk(3, dim=-1).indices))
    assert ((plain != 0) == (codes != 0)).all() != rescale, "the norms decide who fires"


@pytest.mark.parametrize("rescale", [False, True])
def test_abstopk_keeps_signs(tmp_path: Path, rescale: bool) -> None:
    folder = saelens(tmp_path, "abstopk", W, k=3, rescale_acts_by_decoder_norm=rescale)
    h = H * NORMS if rescale else H
    codes = kept(h, h.abs().topk(3, dim=-1).indices)
    assert (codes < 0).any()
    check(folder, codes, decoded(codes / NORMS if rescale else codes))


def pursuit(r: Tensor, rows: Tensor, n: int, threshold: float = 0.0) -> Tensor:
    """One token's matching pursuit, step by step. [d_in] -> [d_sae]"""
    codes = torch.zeros(len(rows))
    for _ in range(n):
        value, index = torch.relu(rows @ r).max(0)
        before = int((codes != 0).sum())
        codes[index] += value
        r = r - value * rows[index]
        if int((codes != 0).sum()) == before or r.norm() < threshold:
            break
    return codes


@pytest.mark.parametrize("subtract", [True, False])
def test_matching_pursuit(tmp_path: Path, subtract: bool) -> None:
    rows = W["W_dec"] / NORMS[:, None]
    folder = saelens(
        tmp_path,
        "matching_pursuit",
        {"W_dec": rows, "b_dec": W["b_dec"]},
        residual_threshold=0.7,
        max_iterations=4,
        stop_on_duplicate_support=True,
        apply_b_dec_to_input=subtract,
    )
    bias = W["b_dec"] * subtract  # the decoder adds it only where the encoder subtracts it
    codes = torch.stack([pursuit(x - bias, rows, 4, 0.7) for x in X])
    check(folder, codes, codes @ rows + bias)


def test_layer_norm_uses_the_unbiased_deviation(tmp_path: Path) -> None:
    folder = saelens(tmp_path, "standard", W, normalize_activations="layer_norm")
    mean = X.mean(-1, keepdim=True)
    std = ((X - mean) ** 2).sum(-1, keepdim=True).div(D_IN - 1).sqrt()
    z = (X - mean) / (std + 1e-5)
    codes = torch.relu((z - W["b_dec"]) @ W["W_enc"] + W["b_enc"])
    check(folder, codes, decoded(codes) * std + mean)


def test_constant_norm_rescale(tmp_path: Path) -> None:
    folder = saelens(tmp_path, "standard", W, normalize_activations="constant_norm_rescale")
    c = D_IN**0.5 / X.norm(dim=-1, keepdim=True)
    codes = torch.relu((X * c - W["b_dec"]) @ W["W_enc"] + W["b_enc"])
    check(folder, codes, decoded(codes) / c)


@pytest.mark.parametrize("kind", ["expected_average_only_in", "covariance_whitening", True])
def test_a_factor_that_is_not_in_the_folder_is_asked_for(tmp_path: Path, kind: Any) -> None:
    """SAELens itself loads such a file and silently skips the factor."""
    error = refusal(saelens(tmp_path, "standard", W, normalize_activations=kind))
    assert "their factor is not in the folder" in error
    write_json(tmp_path / "activation_scaler.json", {"scaling_factor": None})
    assert "their factor is not in the folder" in refusal(tmp_path)


@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu", "topk", "batchtopk"])
def test_a_training_checkpoint_is_unscaled_by_the_factor_beside_it(
    tmp_path: Path, architecture: str
) -> None:
    tensors: Tensors = dict(W)
    s = X * 0.35 - W["b_dec"]
    h = s @ W["W_enc"] + W["b_enc"]
    if architecture == "gated":
        tensors, codes = GATED, gated(s)
    elif architecture == "jumprelu":
        tensors |= T
        codes = torch.relu(h) * (h > T["threshold"])
    elif architecture == "topk":
        codes = torch.relu(kept(h * NORMS, (h * NORMS).topk(3, dim=-1).indices))
    elif architecture == "batchtopk":
        tensors |= {"topk_threshold": torch.tensor(0.9)}
        codes = torch.relu(h * NORMS) * (h * NORMS > 0.9)
    else:
        codes = torch.relu(h)
    folder = saelens(
        tmp_path,
        architecture,
        tensors,
        normalize_activations="expected_average_only_in",
        rescale_acts_by_decoder_norm=True,
        k=3,
    )
    write_json(folder / "activation_scaler.json", {"scaling_factor": 0.35, "has_whitening": False})
    if "topk" in architecture:  # whose codes of unit rows are in the units of x
        check(folder, codes / 0.35, decoded(codes / NORMS) / 0.35)
    else:
        check(folder, codes, decoded(codes) / 0.35)
    assert folder / "activation_scaler.json" in run_at(folder).files


def test_matching_pursuit_keeps_its_tied_rows_when_unscaled(tmp_path: Path) -> None:
    """Its codes are then in the model's units, and its residual's threshold too."""
    rows = W["W_dec"] / NORMS[:, None]
    folder = saelens(
        tmp_path,
        "matching_pursuit",
        {"W_dec": rows, "b_dec": W["b_dec"]},
        residual_threshold=0.4,
        max_iterations=5,
        normalize_activations="expected_average_only_in",
    )
    write_json(folder / "activation_scaler.json", {"scaling_factor": 0.35})
    codes = torch.stack([pursuit(x * 0.35 - W["b_dec"], rows, 5, 0.4) for x in X])
    check(folder, codes / 0.35, (codes @ rows + W["b_dec"]) / 0.35)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated", "topk"])
def test_whitening_is_folded(tmp_path: Path, architecture: str, subtract: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(D_IN, generator=generator)
    matrix = torch.randn(D_IN, D_IN, generator=generator)
    s = (X - mean) @ matrix - W["b_dec"] * subtract
    h = s @ W["W_enc"] + W["b_enc"]
    tensors: Tensors = dict(W)
    codes = torch.relu(h)
    if architecture == "gated":
        tensors, codes = GATED, gated(s)
    elif architecture == "topk":
        codes = torch.relu(kept(h * NORMS, (h * NORMS).topk(3, dim=-1).indices))
    folder = saelens(
        tmp_path,
        architecture,
        tensors,
        normalize_activations="covariance_whitening",
        apply_b_dec_to_input=subtract,
        rescale_acts_by_decoder_norm=True,
        k=3,
    )
    write_json(folder / "activation_scaler.json", {"scaling_factor": None, "has_whitening": True})
    inverse = torch.linalg.inv(matrix)
    write_tensors(
        folder / "activation_whitening.safetensors",
        {"mean": mean, "matrix": matrix, "inverse_matrix": inverse},
    )
    sae = load_sae(folder)
    undone = codes / NORMS if architecture == "topk" else codes
    torch.testing.assert_close(sae.encode(X), codes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae(X), decoded(undone) @ inverse + mean, rtol=1e-4, atol=1e-4)
    write_tensors(folder / "activation_whitening.safetensors", {"mean": mean, "matrix": matrix})
    assert "lacks inverse_matrix" in refusal(folder)


@pytest.mark.parametrize("rescale", [None, True, False])
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_batchtopk_training_checkpoints_run_by_their_threshold(
    tmp_path: Path, architecture: str, rescale: bool | None
) -> None:
    """SAELens has only a batch-dependent forward for these; the threshold is what it saves."""
    tensors = W | {"topk_threshold": torch.tensor(0.9, dtype=torch.float64)}
    config = {} if rescale is None else {"rescale_acts_by_decoder_norm": rescale}
    folder = saelens(tmp_path, architecture, tensors, k=2.5, matryoshka_widths=[4, 10], **config)
    scale = NORMS if rescale in (None, True) else torch.ones(D_SAE)
    h = H * scale
    codes = torch.relu(h) * (h > 0.9)
    check(folder, codes, decoded(codes / scale))
    run, sae = run_at(folder), load_sae(folder)
    assert run.variant == ("batchtopk" if architecture == "batchtopk" else "matryoshka")
    assert sae.options.model_dump()["k"] == 2.5
    if architecture != "batchtopk":
        assert sae.options.model_dump()["group_sizes"] == (4, 6)


def test_an_inference_file_of_a_batchtopk_keeps_its_name(tmp_path: Path) -> None:
    metadata = {"training_architecture": "matryoshka_batchtopk"}
    run = run_at(saelens(tmp_path, "jumprelu", W | T, metadata=metadata))
    assert (run.variant, run.label) == ("jumprelu", "matryoshka_batchtopk")


def test_the_penalty_of_a_training_checkpoint_is_told(tmp_path: Path) -> None:
    run = run_at(saelens(tmp_path / "a", "standard", W, l1_coefficient=5.0))
    assert run.coefficient == 5.0
    run = run_at(saelens(tmp_path / "b", "jumprelu", W | T, l0_coefficient=2.0))
    assert run.coefficient == 2.0


def test_the_penalty_of_an_inference_checkpoint_is_told(tmp_path: Path) -> None:
    metadata = {"training_architecture_details": {"l1_coefficient": 0.4, "lp_norm": 1.0}}
    assert run_at(saelens(tmp_path / "a", "standard", W, metadata=metadata)).coefficient == 0.4
    metadata = {"training_architecture_details": {"l0_coefficient": 2.0}}
    assert run_at(saelens(tmp_path / "b", "jumprelu", W | T, metadata=metadata)).coefficient == 2.0


@pytest.mark.parametrize(
    ("hook", "kwargs", "expected"),
    [
        ("blocks.0.hook_resid_pre", {}, "none"),
        ("blocks.0.hook_resid_pre", {"center_writing_weights": False}, "none"),
        ("blocks.0.hook_resid_pre", {"center_writing_weights": True}, "processed"),
        ("blocks.0.hook_resid_pre", {"fold_ln": True, "fold_value_biases": True}, "none"),
        ("blocks.0.attn.hook_z", {"fold_value_biases": True}, "processed"),
        ("blocks.0.attn.hook_z", {"center_writing_weights": True}, "none"),
        ("blocks.0.ln2.hook_normalized", {"fold_ln": True}, "processed"),
    ],
)
def test_the_processing_of_the_models_weights(
    tmp_path: Path, hook: str, kwargs: dict[str, bool], expected: str
) -> None:
    metadata = {"hook_name": hook, "model_from_pretrained_kwargs": kwargs}
    run = run_at(saelens(tmp_path, "standard", W, metadata=metadata))
    assert run.weight_processing == expected


def test_trained_on_some_positions_only(tmp_path: Path) -> None:
    run = run_at(saelens(tmp_path / "a", "standard", W, metadata={"seqpos_slice": [1, None]}))
    assert run.problems == ("it was trained only on positions [1, None] of each text",)
    run = run_at(saelens(tmp_path / "b", "standard", W, metadata={"seqpos_slice": [None]}))
    assert run.problems == ()


def test_half_precision_weights(tmp_path: Path) -> None:
    halved = {name: tensor.bfloat16() for name, tensor in W.items()}
    folder = saelens(tmp_path, "standard", halved, dtype="bfloat16")
    h = (X - halved["b_dec"].float()) @ halved["W_enc"].float() + halved["b_enc"].float()
    codes = torch.relu(h)
    check(folder, codes, codes @ halved["W_dec"].float() + halved["b_dec"].float())


# Before version 6


def test_legacy_without_architecture_is_standard(tmp_path: Path) -> None:
    folder = saelens_legacy(tmp_path, W)
    codes = torch.relu(H)
    check(folder, codes, decoded(codes))
    run = run_at(folder)
    assert (run.model, run.hook) == ("gpt2-small", "blocks.1.hook_resid_pre")
    assert (run.context_length, run.prepend_bos) == (128, True)
    assert run.provenance["version"] == "3.2.0"


def test_legacy_hook_point(tmp_path: Path) -> None:
    run = run_at(saelens_legacy(tmp_path, W, hook_name=None, hook_point="blocks.2.hook_mlp_out"))
    assert run.hook == "blocks.2.hook_mlp_out"


@pytest.mark.parametrize("normalised", [False, None])
def test_legacy_normalisation_that_is_none(tmp_path: Path, normalised: bool | None) -> None:
    folder = saelens_legacy(tmp_path, W, normalize_activations=normalised)
    codes = torch.relu(H)
    check(folder, codes, decoded(codes))


@pytest.mark.parametrize("key", ["activation_fn_str", "activation_fn"])
def test_legacy_topk_hides_in_the_activation_function(tmp_path: Path, key: str) -> None:
    config = {"activation_fn_str": None, "architecture": "standard", key: "topk"}
    folder = saelens_legacy(tmp_path, W, activation_fn_kwargs={"k": 3}, **config)
    codes = torch.relu(kept(H, H.topk(3, dim=-1).indices))
    check(folder, codes, decoded(codes))
    assert run_at(folder).variant == "topk"


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"activation_fn_str": "leaky-relu"}, "leaky-relu"),
        ({"activation_fn_str": "topk", "architecture": "jumprelu"}, "topk"),
        ({"activation_fn_str": "topk"}, "without k"),
        ({"normalize_activations": True}, "factor is not in the folder"),
    ],
)
def test_legacy_files_that_would_be_measured_wrongly_are_refused(
    tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    assert word in refusal(saelens_legacy(tmp_path, W, **config))


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
def test_legacy_scaling_factor_counts_unless_it_is_one(tmp_path: Path, name: str) -> None:
    codes = torch.relu(H)
    check(saelens_legacy(tmp_path / "a", W | {name: torch.ones(D_SAE)}), codes, decoded(codes))
    factor = torch.ones(D_SAE)
    factor[3] = 1.5
    assert name in refusal(saelens_legacy(tmp_path / "b", W | {name: factor}))


@pytest.mark.parametrize(
    ("architecture", "tensors", "metadata", "words"),
    [
        ("skip_transcoder", {}, {}, "lacks tensor W_skip"),
        ("transcoder", {"W_skip": torch.eye(D_IN)}, {}, "but says that it is a transcoder"),
        ("temporal", {}, {}, "is a temporal autoencoder: its codes depend on the tokens before"),
        ("standard", {"W_skip": torch.eye(D_IN)}, {}, "skip connection"),
        ("standard", {}, {"hook_name_out": "blocks.1.hook_mlp_out"}, "names another to write to"),
        ("standard", G, {}, "holds b_gate but says standard"),
        ("standard", T, {}, "unexpected tensor threshold"),
        ("jumprelu", {}, {}, "lacks tensor threshold"),
        ("topk", {}, {}, "without k"),
        ("crosscoder", {}, {}, "unknown architecture 'crosscoder'"),
        ("standard", {"W_dec": torch.zeros(2, D_SAE, D_IN)}, {}, "W_dec has shape [2, 10, 6]"),
        ("standard", {"b_enc": torch.full((D_SAE,), torch.nan)}, {}, "b_enc has NaN"),
        ("standard", {"b_enc": torch.zeros(D_SAE, dtype=torch.int64)}, {}, "torch.int64"),
    ],
)
def test_what_is_no_plain_autoencoder_is_refused_by_name(
    tmp_path: Path, architecture: str, tensors: Tensors, metadata: dict[str, Any], words: str
) -> None:
    assert words in refusal(saelens(tmp_path, architecture, W | tensors, metadata=metadata))


@pytest.mark.parametrize(
    ("architecture", "jump", "skip"),
    [
        ("transcoder", False, False),
        ("skip_transcoder", False, True),
        ("jumprelu_transcoder", True, False),
        ("jumprelu_skip_transcoder", True, True),
    ],
)
def test_transcoders_read_one_site_and_stand_for_another(
    tmp_path: Path, architecture: str, jump: bool, skip: bool
) -> None:
    wide, d_out = matrices(3, d_in=4), 4
    tensors = W | {"W_dec": wide["W_dec"], "b_dec": wide["b_dec"]} | (T if jump else {})
    W_skip = torch.randn(d_out, D_IN, generator=torch.Generator().manual_seed(2))
    tensors |= {"W_skip": W_skip} if skip else {}
    metadata = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "model.layers.1.mlp"}
    saelens(tmp_path, architecture, tensors, d_out=d_out, metadata=metadata)
    run = run_at(tmp_path)
    assert (run.hook, run.hook_out) == ("blocks.1.ln2.hook_normalized", "blocks.1.mlp.hook_out")
    assert (run.d_in, run.d_out, run.problems) == (D_IN, d_out, ())
    kind = "skip-transcoder" if skip else "transcoder"
    assert run.label == f"{'jumprelu' if jump else 'relu'}-{kind}"
    h = X @ W["W_enc"] + W["b_enc"]
    codes = torch.relu(h) * (h > T["threshold"]) if jump else torch.relu(h)
    y_hat = codes @ wide["W_dec"] + wide["b_dec"] + (X @ W_skip.T if skip else 0)
    sae = load_sae(tmp_path)
    torch.testing.assert_close(sae.encode(X), codes)
    torch.testing.assert_close(sae(X), y_hat)
    torch.testing.assert_close(sae.decode(codes, X), y_hat)


def test_a_transcoder_normalises_its_input_alone(tmp_path: Path) -> None:
    saelens(tmp_path, "transcoder", W, d_out=D_IN, normalize_activations="layer_norm")
    centred = X - X.mean(-1, keepdim=True)
    codes = torch.relu(centred / (centred.std(-1, keepdim=True) + 1e-5) @ W["W_enc"] + W["b_enc"])
    torch.testing.assert_close(load_sae(tmp_path)(X), codes @ W["W_dec"] + W["b_dec"])
    saelens(tmp_path, "transcoder", W, d_out=D_IN, normalize_activations="expected_average_only_in")
    assert "which factor its outputs have is not told" in refusal(tmp_path)
