"""OpenAI's, Gemma Scope's and e2e_sae's checkpoints, by their formulas, and special cases."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from prolu_eval.checkpoints import discover, load_run, load_sae
from prolu_eval.runs import Run
from tests.helpers.foreign_files import (
    D_IN,
    D_SAE,
    e2e,
    gemma_scope,
    inputs,
    matrices,
    openai,
    thresholds,
    write_json,
    write_pt,
    write_tensors,
)
from tests.helpers.format_checks import check, kept, refusal, run_at

W, T, X = matrices(), thresholds(), inputs()
H = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]
UNSUBTRACTED = X @ W["W_enc"] + W["b_enc"]


def decoded(codes: Tensor) -> Tensor:
    return codes @ W["W_dec"] + W["b_dec"]


# OpenAI


@pytest.mark.parametrize("entries", [{}, {"activation": "ReLU", "activation_state_dict": {}}])
def test_openai_relu(tmp_path: Path, entries: dict[str, Any]) -> None:
    path = openai(tmp_path / "resid_post_mlp_v4" / "autoencoders" / "7.pt", W, **entries)
    codes = torch.relu(H)
    check(path, codes, decoded(codes))
    run = run_at(path)
    assert (run.format, run.variant, run.model) == ("openai", "relu", "gpt2")
    assert run.hook == "blocks.7.hook_resid_post"


@pytest.mark.parametrize("after", ["ReLU", "Identity"])
@pytest.mark.parametrize("place", ["activation_state_dict", "activation."])
def test_openai_topk_normalises_each_token_though_no_file_says_so(
    tmp_path: Path, after: str, place: str
) -> None:
    entries: dict[str, Any] = {"activation": "TopK"}
    if place == "activation_state_dict":
        entries[place] = {"k": 3, "postact_fn": after}
    else:
        entries |= {"activation.k": torch.tensor(3), "activation.postact_fn": after}
    path = openai(tmp_path / "autoencoders" / "0.pt", W, **entries)
    mean = X.mean(-1, keepdim=True)
    std = X.std(-1, keepdim=True)
    h = ((X - mean) / (std + 1e-5) - W["b_dec"]) @ W["W_enc"] + W["b_enc"] - 0.5
    path = openai(path, W | {"b_enc": W["b_enc"] - 0.5}, **entries)
    codes = kept(h, h.topk(3, dim=-1).indices)
    codes = torch.relu(codes) if after == "ReLU" else codes
    check(path, codes, decoded(codes) * std + mean)


def test_openai_tied(tmp_path: Path) -> None:
    tied = {"decoder.weight": None, "decoder.linear.weight": W["W_dec"]}
    path = openai(tmp_path / "autoencoders" / "0.pt", W, **tied)
    codes = torch.relu(H)
    check(path, codes, decoded(codes))


def test_openai_is_told_by_its_tensors_wherever_it_lies(tmp_path: Path) -> None:
    openai(tmp_path / "mine.pt", W)
    write_pt(tmp_path / "optimizer.pt", {"state": {}, "pre_bias": W["b_dec"]})
    (tmp_path / "broken.pt").write_bytes((tmp_path / "mine.pt").read_bytes()[:100])
    run = run_at(tmp_path)
    assert (run.name, run.format, run.hook) == ("mine.pt", "openai", None)


@pytest.mark.parametrize(
    ("location", "hook"),
    [
        ("mlp_post_act", "blocks.3.mlp.hook_post"),
        ("resid_delta_attn_v4", "blocks.3.hook_attn_out"),
        ("resid_post_attn_v5_32k", "blocks.3.hook_resid_mid"),
        ("resid_delta_mlp_v5_128k", "blocks.3.hook_mlp_out"),
        ("resid_post_mlp", "blocks.3.hook_resid_post"),
        ("elsewhere", None),
    ],
)
def test_openai_hooks(tmp_path: Path, location: str, hook: str | None) -> None:
    assert run_at(openai(tmp_path / location / "autoencoders" / "3.pt", W)).hook == hook


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"activation": "Identity"}, "its activation is Identity"),
        ({"activation": "TopK"}, "is a TopK with k None"),
        ({"activation": "TopK", "activation_state_dict": {"k": 0}}, "k 0"),
        ({"activation": "TopK", "activation.k": torch.tensor(torch.nan)}, "k nan"),
        ({"activation": "TopK", "activation_state_dict": torch.zeros(3)}, "its activation is TopK"),
        ({"latent_bias": None}, "lacks latent_bias"),
        ({"decoder.weight": None}, "lacks tensor decoder.weight"),
        ({"pre_bias": 3.0}, "pre_bias is no tensor"),
    ],
)
def test_openai_refused(tmp_path: Path, entries: dict[str, Any], words: str) -> None:
    assert words in refusal(openai(tmp_path / "autoencoders" / "0.pt", W, **entries))


# Gemma Scope


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_gemma_scope(tmp_path: Path, case: Any) -> None:
    """No configuration: model, hook point and layer come from the path."""
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20/width_16k/average_l0_71"
    tensors = {case(n[0]) + n[1:] if n.startswith("W") else n: t for n, t in (W | T).items()}
    gemma_scope(folder, tensors)
    codes = torch.relu(UNSUBTRACTED) * (T["threshold"] < UNSUBTRACTED)
    check(folder, codes, decoded(codes))
    run = run_at(folder)
    assert (run.format, run.variant) == ("gemma_scope", "jumprelu")
    assert (run.model, run.hook) == ("google/gemma-2-2b", "blocks.20.hook_resid_post")
    assert (run.prepend_bos, run.context_length) == (True, 1024)


def test_gemma_scope_of_embeddings_is_rescaled(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-9b-it-res" / "embedding/width_4k/average_l0_44"
    gemma_scope(folder, W | T)
    h = X @ W["W_enc"] / D_IN**0.5 + W["b_enc"]
    codes = torch.relu(h) * (h > T["threshold"])
    check(folder, codes, codes @ W["W_dec"] * D_IN**0.5 + W["b_dec"])
    run = run_at(folder)
    assert (run.model, run.hook) == ("google/gemma-2-9b-it", "hook_embed")


@pytest.mark.parametrize(
    ("site", "hook"),
    [
        ("mlp", "blocks.4.hook_mlp_out"),
        ("att", "blocks.4.attn.hook_z"),
        ("res-canonical", "blocks.4.hook_resid_post"),
    ],
)
def test_gemma_scope_sites(tmp_path: Path, site: str, hook: str) -> None:
    folder = tmp_path / f"gemma-scope-27b-pt-{site}" / "layer_4/width_131k/average_l0_7"
    assert run_at(gemma_scope(folder, W | T)).hook == hook


@pytest.mark.parametrize("above", ["layer_12", "embedding", "transcoders", "gemma-scope-9b-it-mlp"])
def test_folders_above_a_gemma_scope_repository_say_nothing(tmp_path: Path, above: str) -> None:
    for name in ("gemma-scope-2b-pt-res", "models--google--gemma-scope-2b-pt-res/snapshots/0a1b"):
        folder = tmp_path / above / name / "layer_4/width_16k/average_l0_7"
        run = run_at(gemma_scope(folder, W | T))
        assert (run.model, run.hook) == ("google/gemma-2-2b", "blocks.4.hook_resid_post")
        torch.testing.assert_close(load_sae(folder).W_dec, W["W_dec"])
    second = tmp_path / above / "clt" / "resid_post" / "layer_9_width_16k"
    assert run_at(gemma_scope_2(second, W | T, None)).hook == "blocks.9.hook_resid_post"


def test_gemma_scope_under_another_name_asks_for_its_hook(tmp_path: Path) -> None:
    run = run_at(gemma_scope(tmp_path / "downloaded", W | T))
    assert (run.hook, run.model) == (None, None)


def test_gemma_scope_refused(tmp_path: Path) -> None:
    wide = W | T | {"W_dec": torch.randn(D_SAE, 9), "b_dec": torch.zeros(9)}
    assert "writes 9 numbers but reads 6" in refusal(gemma_scope(tmp_path / "b", wide))
    lacking = {n: t for n, t in (W | T).items() if n != "W_enc"}
    assert "lacks the matrices" in refusal(gemma_scope(tmp_path / "c", lacking))
    assert "lacks tensor threshold" in refusal(gemma_scope(tmp_path / "d", W))


def gemma_scope_2(folder: Path, tensors: dict[str, Tensor], config: Any) -> Path:
    lower = {n.replace("W_", "w_"): t for n, t in tensors.items()}
    write_tensors(folder / "params.safetensors", lower)
    if config is not None:
        write_json(folder / "config.json", {"architecture": "jump_relu", **config})
    return folder


@pytest.mark.parametrize(
    ("point", "hook"),
    [
        ("model.layers.9.output", "blocks.9.hook_resid_post"),
        ("model.layers.9.post_feedforward_layernorm.output", "blocks.9.hook_mlp_out"),
        ("model.layers.9.self_attn.o_proj.input", "blocks.9.attn.hook_z"),
        ("model.layers.9.somewhere", None),
    ],
)
@pytest.mark.parametrize("out", [True, False])
def test_gemma_scope_2(tmp_path: Path, point: str, hook: str | None, out: bool) -> None:
    config = {"model_name": "gemma-v3-1b-pt", "hf_hook_point_in": point}
    config |= {"hf_hook_point_out": point} if out else {}
    folder = gemma_scope_2(tmp_path, W | T, config)
    codes = torch.relu(UNSUBTRACTED) * (T["threshold"] < UNSUBTRACTED)
    check(folder, codes, decoded(codes))
    run = run_at(folder)
    assert (run.format, run.variant) == ("gemma_scope_2", "jumprelu")
    assert (run.model, run.hook) == ("google/gemma-3-1b-pt", hook)


@pytest.mark.parametrize(
    ("site", "hook"),
    [
        ("resid_post", "blocks.9.hook_resid_post"),
        ("resid_post_all", "blocks.9.hook_resid_post"),
        ("attn_out", "blocks.9.attn.hook_z"),
        ("mlp_out", "blocks.9.hook_mlp_out"),
    ],
)
def test_gemma_scope_2_without_a_configuration(tmp_path: Path, site: str, hook: str) -> None:
    folder = gemma_scope_2(tmp_path / site / "layer_9_width_16k_l0_big", W | T, None)
    assert run_at(folder).hook == hook


@pytest.mark.parametrize(
    ("place", "config", "extra", "words"),
    [
        ("clt/layer_9", None, {}, "but a cross-layer transcoder consists of several"),
        ("a", {}, {"W_dec": torch.zeros(2, D_SAE, D_IN)}, "is a crosscoder"),
        ("a", {"architecture": "topk"}, {}, "unknown architecture 'topk'"),
    ],
)
def test_gemma_scope_2_refused(
    tmp_path: Path, place: str, config: Any, extra: dict[str, Tensor], words: str
) -> None:
    assert words in refusal(gemma_scope_2(tmp_path / place, W | T | extra, config))


# e2e_sae


def test_e2e_holds_several_in_one_file_and_normalises_decoders_at_use(tmp_path: Path) -> None:
    positions = {"blocks-6-hook_resid_pre": W, "blocks-2-hook_resid_pre": matrices(4)}
    folder = e2e(tmp_path / "run_2024", positions)
    torch.save({}, folder / "optimizer.pt")
    runs = {run.name: run for run in discover(tmp_path) if isinstance(run, Run)}
    assert runs.keys() == {
        "run_2024/samples_400.pt:blocks.6.hook_resid_pre",
        "run_2024/samples_400.pt:blocks.2.hook_resid_pre",
    }
    run = runs["run_2024/samples_400.pt:blocks.6.hook_resid_pre"]
    assert (run.variant, run.hook, run.model) == ("relu", "blocks.6.hook_resid_pre", "gpt2-small")
    assert (run.coefficient, run.learning_rate, run.seed) == (1.5, 5e-4, 2)
    assert (run.dataset, run.context_length) == ("some/text", 1024)
    assert run.weight_processing == "processed"
    codes = torch.relu(UNSUBTRACTED)
    sae = load_run(run)
    torch.testing.assert_close(sae.encode(X), codes, rtol=1e-5, atol=1e-5)
    x_hat = codes @ normalize(W["W_dec"].t(), dim=0).t() + W["b_dec"]
    torch.testing.assert_close(sae(X), x_hat, rtol=1e-5, atol=1e-5)
    other = load_run(runs["run_2024/samples_400.pt:blocks.2.hook_resid_pre"])
    assert torch.equal(other.b_enc, matrices(4)["b_enc"])


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"blocks-1-x.encoder.0.weight": W["W_enc"].t()}, "lacks tensor W_dec"),
        ({"stranger": torch.zeros(2)}, "unexpected entry 'stranger'"),
        ({}, "holds no autoencoder"),
    ],
)
def test_e2e_refused(tmp_path: Path, state: dict[str, Tensor], words: str) -> None:
    folder = e2e(tmp_path, {})
    write_pt(folder / "samples_400.pt", state)
    assert words in refusal(folder)
