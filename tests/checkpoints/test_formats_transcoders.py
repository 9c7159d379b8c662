"""Gemma Scope's and circuit-tracer's transcoders, by their formulas."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prolu_eval.checkpoints import discover, load_sae
from prolu_eval.cli import main
from prolu_eval.runs import Run
from tests.helpers.foreign_files import (
    D_IN,
    D_SAE,
    Tensors,
    circuit_tracer,
    circuit_tracer_clt,
    clt_layers,
    gemma_scope,
    inputs,
    matrices,
    thresholds,
    write_json,
    write_tensors,
)
from tests.helpers.format_checks import refusal, run_at

D_OUT = 9
GENERATOR = torch.Generator().manual_seed(4)
W: Tensors = matrices() | {
    "W_dec": torch.randn(D_SAE, D_OUT, generator=GENERATOR),
    "b_dec": torch.randn(D_OUT, generator=GENERATOR),
}
T, X = thresholds(), inputs()
SKIP = torch.randn(D_IN, D_OUT, generator=GENERATOR)
H = X @ W["W_enc"] + W["b_enc"]
JUMPED = torch.relu(H) * (T["threshold"] < H)


def check(path: Path, codes: Tensor, y_hat: Tensor) -> None:
    """Assert that a transcoder gives these codes and outputs for :func:`inputs`."""
    sae = load_sae(path)
    assert 0 < (codes != 0).float().mean() < 0.9
    torch.testing.assert_close(sae.encode(X), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(X), y_hat, rtol=1e-5, atol=1e-5)


def decoded(codes: Tensor) -> Tensor:
    return codes @ W["W_dec"] + W["b_dec"]


def test_gemma_scope(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_4/width_16k/average_l0_7"
    check(gemma_scope(folder, W | T), JUMPED, decoded(JUMPED))
    run = run_at(folder)
    assert (run.d_out, run.model) == (D_OUT, "google/gemma-2-2b")
    assert (run.hook, run.hook_out) == ("blocks.4.ln2.hook_normalized", "blocks.4.hook_mlp_out")


def gemma_scope_2(folder: Path, tensors: Tensors, config: Any) -> Path:
    lower = {n.replace("W_", "w_"): t for n, t in tensors.items()}
    write_tensors(folder / "params.safetensors", lower)
    if config is not None:
        write_json(folder / "config.json", {"architecture": "jump_relu", **config})
    return folder


POINTS = {
    "hf_hook_point_in": "model.layers.9.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.9.post_feedforward_layernorm.output",
}


@pytest.mark.parametrize("config", [None, {"model_name": "gemma-v3-1b-pt", **POINTS}])
@pytest.mark.parametrize("affine", [True, False])
def test_gemma_scope_2(tmp_path: Path, affine: bool, config: Any) -> None:
    folder = tmp_path / "gemma-scope-2-1b-pt" / "transcoder_all" / "layer_9_width_16k_l0_big"
    tensors = W | T | ({"affine_skip_connection": SKIP} if affine else {})
    y_hat = decoded(JUMPED) + (X @ SKIP if affine else 0)
    check(gemma_scope_2(folder, tensors, config), JUMPED, y_hat)
    run = run_at(folder)
    assert (run.model, run.d_out) == ("google/gemma-3-1b-pt", D_OUT)
    assert (run.hook, run.hook_out) == (POINTS["hf_hook_point_in"], "blocks.9.hook_mlp_out")


def test_gemma_scope_2s_smallest_model_has_another_name(tmp_path: Path) -> None:
    for tuned, model in (("pt", "google/gemma-3-270m"), ("it", "google/gemma-3-270m-it")):
        folder = tmp_path / f"gemma-scope-2-270m-{tuned}" / "transcoder" / "layer_1_width_16k"
        assert run_at(gemma_scope_2(folder, W | T, None)).model == model


@pytest.mark.parametrize("threshold", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_circuit_tracer(tmp_path: Path, threshold: bool, skip: bool) -> None:
    tensors = W | (T if threshold else {}) | ({"W_skip": SKIP} if skip else {})
    path = circuit_tracer(tmp_path, 12, tensors)
    codes = JUMPED if threshold else torch.relu(H)
    check(path, codes, decoded(codes) + (X @ SKIP if skip else 0))
    run = run_at(tmp_path)
    assert (run.format, run.model) == ("circuit_tracer", "Qwen/Qwen3-4B")
    assert (run.hook, run.hook_out) == ("blocks.12.mlp.hook_in", "blocks.12.hook_mlp_out")


def test_circuit_tracers_hooks_are_what_the_set_says(tmp_path: Path) -> None:
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "mlp.hook_out"}
    run = run_at(circuit_tracer(tmp_path, 2, W, **hooks))
    assert (run.hook, run.hook_out) == ("blocks.2.hook_resid_mid", "blocks.2.mlp.hook_out")


def test_a_set_without_a_config_is_known_by_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--mwhanna--qwen3-14b-transcoders" / "snapshots" / "0a1b"
    path = circuit_tracer(folder, 0, W)
    (folder / "config.yaml").rename(folder / "wanb-config.yaml")
    run = run_at(path)
    assert (run.model, run.hook) == ("Qwen/Qwen3-14B", "blocks.0.mlp.hook_in")


def test_a_set_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    wrong = circuit_tracer(tmp_path / "b", 0, W, model_kind="cross_layer_transcoder")
    assert "is of kind 'cross_layer_transcoder'" in refusal(wrong)


@pytest.mark.parametrize("jump", [False, True])
def test_a_cross_layer_transcoder_writes_to_every_later_layer(tmp_path: Path, jump: bool) -> None:
    layers = clt_layers(3, jump=jump)
    folder = circuit_tracer_clt(
        tmp_path / "clt", layers, model_name="tiny", model_kind="cross_layer_transcoder",
        feature_input_hook="hook_resid_mid", feature_output_hook="hook_mlp_out",
    )  # fmt: skip
    run = run_at(folder)
    assert (run.hook, run.hook_out) == ("blocks.0-2.hook_resid_mid", "blocks.0-2.hook_mlp_out")
    assert (run.d_in, run.d_out, run.d_sae, run.model) == (D_IN, D_IN, 3 * D_SAE, "tiny")
    assert run.label == f"{'jumprelu' if jump else 'relu'}-cross-layer-transcoder"
    x = torch.randn(7, 3, D_IN, generator=torch.Generator().manual_seed(5))
    codes = []
    for i, w in enumerate(layers):
        z = x[:, i] @ w["W_enc"].T + w["b_enc"]
        codes.append(z * (z > w["threshold"]) if jump else torch.relu(z))
    y_hat = torch.stack([w["b_dec"].expand(7, -1) for w in layers], 1).clone()
    for i, w in enumerate(layers):
        for j in range(i, 3):
            y_hat[:, j] += codes[i] @ w["W_dec"][:, j - i]
    sae = load_sae(folder)
    torch.testing.assert_close(sae.encode(x), torch.cat(codes, 1))
    torch.testing.assert_close(sae(x), y_hat)
    assert main(["convert", str(folder), str(tmp_path / "native"), "--to", "native"]) == 0
    (native,) = discover(tmp_path / "native")
    assert isinstance(native, Run)
    assert (native.hook, native.hook_out) == (run.hook, run.hook_out)
    assert torch.equal(load_sae(native.path)(x), sae(x))
    assert main(["convert", str(folder), str(tmp_path / "lens"), "--to", "saelens"]) == 2


def test_a_cross_layer_transcoder_of_other_shapes_is_refused(tmp_path: Path) -> None:
    layers = clt_layers(2)
    folder = circuit_tracer_clt(tmp_path / "a", layers)
    (folder / "W_dec_1.safetensors").unlink()
    assert "W_dec_1.safetensors: is no file" in refusal(folder)
    layers[1]["W_dec"] = layers[0]["W_dec"]
    folder = circuit_tracer_clt(tmp_path / "b", layers)
    assert "W_dec_1 has shape [10, 2, 6], not [10, 1, 6]" in refusal(folder)
    folder = circuit_tracer_clt(tmp_path / "c", clt_layers(2), model_kind="transcoder_set")
    assert "says that it is a transcoder_set" in refusal(folder)
