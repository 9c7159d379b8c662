"""Qwen Scope, Llama Scope, Goodfire, Kissane's and what SAELens had before 6, by their formulas."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prolu_eval.checkpoints import discover, load_run, load_sae
from prolu_eval.runs import Run
from tests.helpers.foreign_files import (
    D_IN,
    goodfire,
    inputs,
    kissane,
    llama_scope,
    llama_scope_r1,
    llama_scope_transcoder,
    matrices,
    qwen_scope,
    saelens,
    saelens_legacy,
    temporal,
    thresholds,
    write_json,
    write_pt,
)
from tests.helpers.format_checks import check, kept, refusal, run_at

W, T, X = matrices(), thresholds(), inputs()
UNSUBTRACTED = X @ W["W_enc"] + W["b_enc"]
QWEN = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"
NORM = "dataset_average_activation_norm"


def decoded(codes: Tensor) -> Tensor:
    return codes @ W["W_dec"] + W["b_dec"]


@pytest.mark.parametrize("folder", [QWEN, f"models--Qwen--{QWEN}/snapshots/0a1b"])
def test_qwen_scope(tmp_path: Path, folder: str) -> None:
    path = qwen_scope(tmp_path / folder / "layer12.sae.pt", W)
    codes = torch.relu(kept(UNSUBTRACTED, UNSUBTRACTED.topk(3, dim=-1).indices))
    check(path, codes, decoded(codes))
    run = run_at(tmp_path)
    assert (run.format, run.variant, run.options["k"]) == ("qwen_scope", "topk", 3)
    assert (run.model, run.hook) == ("Qwen/Qwen3-1.7B-Base", "blocks.12.hook_resid_post")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("SAE-Res-Qwen3.5-27B-W80K-L0_100", "Qwen/Qwen3.5-27B"),
        ("SAE-Res-Qwen3-30B-A3B-Base-W128K-L0_100", "Qwen/Qwen3-30B-A3B-Base"),
    ],
)
def test_qwen_scope_models(tmp_path: Path, name: str, model: str) -> None:
    run = run_at(qwen_scope(tmp_path / name / "layer0.sae.pt", W))
    assert (run.model, run.options["k"]) == (model, 100)


def test_qwen_scope_without_its_repositorys_name_is_asked_for_k(tmp_path: Path) -> None:
    assert "whose k is only in the name" in refusal(qwen_scope(tmp_path / "layer0.sae.pt", W))
    write_pt(tmp_path / QWEN / "layer0.sae.pt", {"W_enc": W["W_enc"]})
    assert "lacks tensor W_dec" in refusal(tmp_path / QWEN)


@pytest.mark.parametrize("out", [3.5, 0.7, None])
def test_llama_scope_folds_its_scale_and_scales_its_threshold(
    tmp_path: Path, out: float | None
) -> None:
    norms = {"in": 3.5} if out is None else {"in": 3.5, "out": out}
    folder = llama_scope(tmp_path, W, dataset_average_activation_norm=norms)
    scale = D_IN**0.5 / 3.5
    h = X * scale @ W["W_enc"] + W["b_enc"]
    codes = torch.relu(h) * (h > 0.35 * scale)
    check(folder, codes, decoded(codes) * (out or 3.5) / D_IN**0.5)
    run = run_at(folder)
    assert (run.format, run.variant) == ("llama_scope", "jumprelu")
    assert (run.model, run.hook) == ("meta-llama/Llama-3.1-8B", "blocks.1.hook_resid_post")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"hook_point_out": "blocks.1.hook_mlp_out", NORM: {"in": 3.5}},
            "lacks dataset_average_activation_norm.out of a transcoder",
        ),
        ({"act_fn": "topk"}, "activation function is 'topk'"),
        ({"jump_relu_threshold": None}, "lacks jump_relu_threshold"),
        ({"dataset_average_activation_norm": None}, "lacks dataset_average_activation_norm"),
        ({"dataset_average_activation_norm": {"in": 0}}, "dataset_average_activation_norm.in"),
        ({"jump_relu_threshold": 1e300}, "threshold has NaN or infinite weights"),
    ],
)
def test_llama_scope_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    assert words in refusal(llama_scope(tmp_path, W, **config))


@pytest.mark.parametrize(
    ("extra", "config"),
    [
        ({f"{NORM}.blocks.1.hook_resid_post": torch.tensor(3.5)}, {}),
        ({}, {NORM: {"in": 3.5, "out": 3.5}}),
    ],
)
def test_llama_scope_r1_distill(
    tmp_path: Path, extra: dict[str, Tensor], config: dict[str, Any]
) -> None:
    folder = llama_scope_r1(tmp_path, W | T, extra, **config)
    scale = D_IN**0.5 / 3.5
    h = X * scale @ W["W_enc"] + W["b_enc"]
    codes = torch.relu(h) * (h > T["threshold"])
    check(folder, codes, decoded(codes) / scale)
    run = run_at(folder)
    assert (run.format, run.needs_scale) == ("llama_scope_r1_distill", False)
    assert run.model == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"


def wider(d_out: int) -> dict[str, Tensor]:
    """Weights of a transcoder, whose output has a width of its own."""
    generator = torch.Generator().manual_seed(3)
    d_sae = len(W["b_enc"])
    return W | {
        "W_dec": torch.randn(d_sae, d_out, generator=generator),
        "b_dec": torch.randn(d_out, generator=generator),
    }


@pytest.mark.parametrize("d_out", [D_IN, 4])
def test_transcoders_of_llama_scope(tmp_path: Path, d_out: int) -> None:
    tensors = wider(d_out)
    folder = llama_scope_transcoder(tmp_path, tensors)
    into, out = D_IN**0.5 / 3.5, d_out**0.5 / 0.7
    h = X * into @ tensors["W_enc"] + tensors["b_enc"]
    codes = torch.relu(h) * (h > 0.35 * into)
    check(folder, codes, (codes @ tensors["W_dec"] + tensors["b_dec"]) / out)
    run = run_at(folder)
    assert (run.hook, run.hook_out) == ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")
    assert (run.d_in, run.d_out, run.label) == (D_IN, d_out, "jumprelu-transcoder")
    assert run.model == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize("beside", [True, False])
def test_transcoders_of_the_sequel(tmp_path: Path, beside: bool) -> None:
    tensors, written = wider(4) | T, "blocks.1.hook_mlp_out"
    norms = {
        f"{NORM}.blocks.1.hook_resid_post": torch.tensor(3.5),
        f"{NORM}.{written}": torch.tensor(0.7),
    }
    configured = {} if beside else {NORM: {"in": 3.5, "out": 0.7}}
    folder = llama_scope_r1(
        tmp_path, tensors, norms if beside else {}, hook_point_out=written, **configured
    )
    h = X * D_IN**0.5 / 3.5 @ tensors["W_enc"] + tensors["b_enc"]
    codes = torch.relu(h) * (h > T["threshold"])
    y_hat = (codes @ tensors["W_dec"] + tensors["b_dec"]) * 0.7 / 4**0.5
    check(folder, codes, y_hat)
    assert (run_at(folder).hook_out, run_at(folder).d_out) == (written, 4)
    lacking = llama_scope_r1(tmp_path / "lacking", tensors, hook_point_out=written)
    assert "lacks dataset_average_activation_norm of a transcoder" in refusal(lacking)


def test_llama_scope_r1_distill_without_its_norm_is_asked_for_it(tmp_path: Path) -> None:
    folder = llama_scope_r1(tmp_path, W | T)
    assert run_at(folder).needs_scale
    assert "their factor is not in the folder" in refusal(folder)


@pytest.mark.parametrize("suffix", ["_linear", ""])
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Llama-3.3-70B-Instruct-SAE-l50.pt", "meta-llama/Llama-3.3-70B-Instruct"),
        ("Llama-3.1-8B-Instruct-SAE-l50.pth", "meta-llama/Llama-3.1-8B-Instruct"),
        ("DeepSeek-R1-Distill-Llama-8B-SAE-l50.pt", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
    ],
)
def test_goodfire_and_qresearch(tmp_path: Path, name: str, model: str, suffix: str) -> None:
    path = goodfire(tmp_path / name, W, suffix)
    codes = torch.relu(UNSUBTRACTED)
    check(path, codes, decoded(codes))
    run = run_at(tmp_path)
    assert run.format == ("goodfire" if suffix else "qresearch")
    assert (run.model, run.hook) == (model, "blocks.50.hook_resid_post")


def test_kissane(tmp_path: Path) -> None:
    path = kissane(tmp_path, "gpt2-small_L1_Hcat_z_v9", W)
    codes = torch.relu((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"])
    check(path, codes, decoded(codes))
    run = run_at(tmp_path)
    assert (run.format, run.model, run.hook) == ("kissane", "gpt2-small", "blocks.1.attn.hook_z")
    assert (run.coefficient, run.learning_rate, run.seed) == (1.8, 0.0012, 49)


def test_temporal_autoencoders_are_refused_by_name(tmp_path: Path) -> None:
    assert "is a temporal autoencoder: its codes depend on the tokens before" in refusal(
        temporal(tmp_path)
    )


def test_tanh_relu(tmp_path: Path) -> None:
    """SAELens 6 itself loads such a file silently as a plain ReLU."""
    folder = saelens_legacy(tmp_path, W, activation_fn_str="tanh-relu")
    codes = torch.tanh(torch.relu((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]))
    check(folder, codes, decoded(codes))
    assert run_at(folder).variant == "tanh_relu"


@pytest.mark.parametrize("legacy", [True, False])
def test_the_head_of_a_single_head_autoencoder_is_part_of_its_hook(
    tmp_path: Path, legacy: bool
) -> None:
    hook = {"hook_name": "blocks.1.attn.hook_z", "hook_head_index": 2}
    if legacy:
        folder = saelens_legacy(tmp_path, W, **hook)
    else:
        folder = saelens(tmp_path, "standard", W, metadata=hook)
    assert run_at(folder).hook == "blocks.1.attn.hook_z[2]"


@pytest.mark.parametrize("architecture", ["standard", "matching_pursuit", "topk"])
def test_a_lost_factor_can_be_given(tmp_path: Path, architecture: str) -> None:
    """The result is the same as if the factor had been stored beside the weights."""
    tensors = dict(W)
    if architecture == "matching_pursuit":
        rows = W["W_dec"] / W["W_dec"].norm(dim=1, keepdim=True)
        tensors = {"W_dec": rows, "b_dec": W["b_dec"]}
    config = {"normalize_activations": "expected_average_only_in", "k": 3, "max_iterations": 3,
              "residual_threshold": 0.3, "rescale_acts_by_decoder_norm": True}  # fmt: skip
    lost = saelens(tmp_path / "lost", architecture, tensors, **config)
    kept = saelens(tmp_path / "kept", architecture, tensors, **config)
    write_json(kept / "activation_scaler.json", {"scaling_factor": 0.35})
    (run,) = discover(lost)
    assert isinstance(run, Run)
    assert run.needs_scale
    assert any("--estimate-scale" in problem for problem in run.problems)
    found, expected = load_run(replace(run, activation_scale=(0.35,))), load_sae(kept)
    assert torch.equal(found(X), expected(X))
    assert torch.equal(found.encode(X), expected.encode(X))
    other = load_run(replace(run, activation_scale=(0.7,)))
    assert not torch.allclose(other(X), expected(X))
