"""Gemma Scope 2's layered dictionaries and other crosscoders, by their formulas."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prolu_eval.checkpoints import discover, load_run, load_sae
from prolu_eval.cli import main
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import Run
from tests.helpers.foreign_files import (
    D_IN,
    D_SAE,
    Tensors,
    clt_layers,
    crosscoder,
    crosscoder_state,
    gemma_scope_2_layers,
    model_diff,
    model_diff_state,
    write_json,
)
from tests.helpers.format_checks import refusal, run_at

N_SITES = 3
X = torch.randn(7, N_SITES, D_IN, generator=torch.Generator().manual_seed(5))
CLT = "gemma-scope-2-1b-pt/clt/width_16k_l0_medium_affine"
SITES = "gemma-scope-2-1b-it/crosscoder/layer_7_13_17_width_16k_l0_medium"


def gemma(layers: list[Tensors]) -> tuple[Tensor, Tensor]:
    """Codes and outputs as in the release's own notebook, with one sum over all decoders."""
    codes = []
    for i, w in enumerate(layers):
        z = X[:, i] @ w["W_enc"].T + w["b_enc"]
        codes.append((z > w["threshold"]) * torch.relu(z))
    y_hat = torch.stack([w["b_dec"].expand(len(X), -1) for w in layers], 1).clone()
    for i, w in enumerate(layers):
        y_hat[:, i:] += torch.einsum("nf,fld->nld", codes[i], w["W_dec"])
        if "W_skip" in w:
            y_hat[:, i] += X[:, i] @ w["W_skip"]
    return torch.cat(codes, 1), y_hat


@pytest.mark.parametrize("affine", [True, False])
def test_a_cross_layer_transcoder_of_gemma_scope_2(tmp_path: Path, affine: bool) -> None:
    generator = torch.Generator().manual_seed(8)
    layers = clt_layers(N_SITES)
    if affine:
        skips = torch.randn(N_SITES, D_IN, D_IN, generator=generator)
        layers = [w | {"W_skip": skip} for w, skip in zip(layers, skips, strict=True)]
    folder = gemma_scope_2_layers(tmp_path / CLT, layers)
    codes, y_hat = gemma(layers)
    assert 0 < (codes != 0).float().mean() < 0.9
    torch.testing.assert_close(load_sae(folder).encode(X), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load_sae(folder)(X), y_hat, rtol=1e-5, atol=1e-5)
    run = run_at(folder)
    assert (run.hook, run.hook_out) == ("blocks.0-2.ln2.hook_out", "blocks.0-2.hook_mlp_out")
    assert (run.model, run.d_sae) == ("google/gemma-3-1b-pt", N_SITES * D_SAE)
    assert run.label == f"jumprelu-cross-layer{'-skip' if affine else ''}-transcoder"


def test_a_crosscoder_of_gemma_scope_2(tmp_path: Path) -> None:
    layers = clt_layers(N_SITES)
    folder = gemma_scope_2_layers(tmp_path / SITES, layers, model_name="gemma-v3-1b-it")
    codes, x_hat = gemma(layers)
    torch.testing.assert_close(load_sae(folder).encode(X), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load_sae(folder)(X), x_hat, rtol=1e-5, atol=1e-5)
    run = run_at(folder)
    assert (run.hook, run.hook_out, run.d_out) == ("blocks.7,13,17.hook_resid_post", None, None)
    assert (run.model, run.label) == ("google/gemma-3-1b-it", "jumprelu-causal-crosscoder")
    unnamed = gemma_scope_2_layers(tmp_path / "crosscoder" / "mine", layers)
    assert run_at(unnamed).hook is None
    assert main(["convert", str(folder), str(tmp_path / "native"), "--to", "native"]) == 0
    (native,) = discover(tmp_path / "native")
    assert isinstance(native, Run)
    assert (native.hook, native.hook_out, native.label) == (run.hook, None, run.label)
    torch.testing.assert_close(load_run(native)(X), load_sae(folder)(X))


def test_layers_of_gemma_scope_2_that_do_not_fit_each_other(tmp_path: Path) -> None:
    folder = gemma_scope_2_layers(tmp_path / "a" / "clt", clt_layers(N_SITES))
    (folder / "params_layer_2.safetensors").unlink()
    assert "writes to 3 layers, but there are files of 2" in refusal(folder)
    folder = gemma_scope_2_layers(tmp_path / "b" / "clt", clt_layers(N_SITES))
    (folder / "params_layer_1.safetensors").unlink()
    assert "params_layer_1.safetensors: is no file" in refusal(folder)
    load_sae(gemma_scope_2_layers(tmp_path / "c" / "clt", clt_layers(N_SITES), 1e-6))
    folder = gemma_scope_2_layers(tmp_path / "d" / "clt", clt_layers(N_SITES), 0.1)
    assert "writes to layers before the one that it reads" in refusal(folder)


NORMALISER = {
    "activation_mean": torch.randn(N_SITES, D_IN, generator=torch.Generator().manual_seed(7)),
    "activation_std": torch.ones(N_SITES, D_IN),
    "activation_global_scale": torch.tensor(0.7),
    "target_rms": torch.tensor(1.0),
}
NO_NORMALISER = {name: torch.full_like(t, torch.nan) for name, t in NORMALISER.items()}


def norms(kind: int, decoder: Tensor) -> Tensor:
    """The norms by which codes are multiplied before they are compared with the threshold."""
    squares = decoder.square().sum(2)
    found = {1: squares.sqrt().sum(0), 2: squares.sum(0).sqrt(), 4: torch.ones(())}
    return found[kind]


@pytest.mark.parametrize("file", ["ae.pt", "model_final.pt", "model.safetensors"])
@pytest.mark.parametrize("kind", [None, 1, 2, 4])
@pytest.mark.parametrize("normaliser", [{}, NORMALISER, NO_NORMALISER], ids=["", "mean", "nan"])
def test_dictionary_learning(
    tmp_path: Path, file: str, kind: int | None, normaliser: Tensors
) -> None:
    state = crosscoder_state(N_SITES)
    state["encoder.bias"][0] = 9
    state["decoder.weight"][:, 0] = 0  # a feature that always fires, and writes nothing
    x, w = X, state["decoder.weight"]
    means = bool(normaliser) and bool(normaliser["activation_mean"].isfinite().all())
    if means:
        x = (x - normaliser["activation_mean"]) * 0.7
    codes = torch.relu(
        torch.einsum("nld,ldf->nf", x, state["encoder.weight"]) + state["encoder.bias"]
    )
    more = dict(normaliser)
    if kind is not None:
        codes = codes * (codes * norms(kind, w) > 1.5)
        ids = {"code_normalization_id": torch.tensor(kind), "k": torch.tensor(3)}
        more |= ids | {"threshold": torch.tensor(1.5)}
    x_hat = torch.einsum("nf,lfd->nld", codes, w) + state["decoder.bias"]
    if means:
        x_hat = x_hat / (0.7 + 1e-8) + normaliser["activation_mean"]
    sae = load_sae(crosscoder(tmp_path, state | more, file, lr=1e-4))
    assert 0.05 < (codes != 0).float().mean() < 0.9
    torch.testing.assert_close(sae.encode(X), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(X), x_hat, rtol=1e-5, atol=1e-5)
    run = run_at(tmp_path)
    assert (run.hook, run.d_in, run.d_sae) == (None, D_IN, D_SAE)
    assert run.label == ("relu-crosscoder" if kind is None else "jumprelu-crosscoder")
    assert "crosscoder of 3 sites" in run.problems[0]


def test_a_threshold_that_was_never_set_is_told(tmp_path: Path) -> None:
    unset = {"k": torch.tensor(3), "threshold": torch.tensor(-1.0)}
    run = run_at(crosscoder(tmp_path, crosscoder_state(2) | unset))
    assert run.label == "relu-crosscoder"
    assert "threshold was never set" in run.problems[1]


def test_names_of_compiled_modules(tmp_path: Path) -> None:
    state = {f"_orig_mod.{name}": tensor for name, tensor in crosscoder_state(2).items()}
    assert load_sae(crosscoder(tmp_path, state)).label == "relu-crosscoder"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"code_normalization_id": torch.tensor(5)}, "has codes that differ from site to site"),
        ({"threshold": torch.zeros(2)}, "has codes that differ from site to site"),
        (
            {"code_normalization_id": torch.tensor(3), "threshold": torch.tensor(0.1)},
            "multiplies codes by a mixture of norms",
        ),
        ({"decoder.bias": torch.zeros(3, D_IN)}, "lacks decoder.bias of 2 sites"),
        ({"activation_mean": torch.zeros(2)}, "activation_mean is not shaped as the activations"),
        ({"other": torch.zeros(2)}, "has an unexpected tensor other"),
    ],
)
def test_what_would_be_measured_wrongly_is_refused(
    tmp_path: Path, more: Tensors, words: str
) -> None:
    assert words in refusal(crosscoder(tmp_path, crosscoder_state(2) | more))


def test_numbers_of_eight_bits_are_understood(tmp_path: Path) -> None:
    mean = {"activation_mean": torch.zeros(2, D_IN).to(torch.float8_e4m3fn)}
    path = crosscoder(tmp_path, crosscoder_state(2) | mean, "model.safetensors")
    assert run_at(path).label == "relu-crosscoder"


def test_a_language_model_is_no_crosscoder(tmp_path: Path) -> None:
    crosscoder(tmp_path, crosscoder_state(2), "model.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(CheckpointError, match="it is a language model's"):
        discover(tmp_path)


SCALES = (0.28, 0.24)
Y = torch.randn(40, 2, D_IN, generator=torch.Generator().manual_seed(2)) * 6


def of_two_models(state: Tensors) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions of scaled activations Y, as in the author's notebook."""
    scales = torch.tensor(SCALES)[:, None]
    z = torch.einsum("nmd,mdf->nf", Y * scales, state["W_enc"]) + state["b_enc"]
    codes = torch.relu(z)
    x_hat = torch.einsum("nf,fmd->nmd", codes, state["W_dec"]) + state["b_dec"]
    return codes, x_hat / scales


@pytest.mark.parametrize("kept", [True, False])
def test_a_crosscoder_of_two_models(tmp_path: Path, kept: bool) -> None:
    state = model_diff_state()
    folder = model_diff(tmp_path / "blocks.14.hook_resid_pre", state, SCALES if kept else None)
    run = run_at(folder)
    sae = load_run(run if kept else replace(run, activation_scale=SCALES))
    codes, x_hat = of_two_models(state)
    assert 0.05 < (codes != 0).float().mean() < 0.9
    torch.testing.assert_close(sae.encode(Y), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(Y), x_hat, rtol=1e-5, atol=1e-5)
    assert run.needs_scale != kept
    assert (run.hook, run.label) == ("blocks.14,14.hook_resid_pre", "relu-crosscoder")
    assert run.model == "google/gemma-2-2b+google/gemma-2-2b-it"
    assert (run.coefficient, run.learning_rate, run.seed) == (2, 5e-5, 49)
    if not kept:
        assert "activation_scaler.json" in run.problems[0]
        assert "--estimate-scale" in refusal(folder)


def test_of_other_models_the_second_is_asked_for(tmp_path: Path) -> None:
    state = model_diff_state()
    run = run_at(model_diff(tmp_path, state, SCALES, model_name="pythia-70m", hook_point="x"))
    assert (run.model, run.hook) == (None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"W_enc": torch.zeros(3, D_IN, D_SAE)}, "lacks W_enc [2 models, d, features]"),
        ({"W_dec": torch.zeros(2, D_SAE, D_IN)}, "lacks W_dec of 2 models"),
        ({"b_dec": torch.zeros(D_IN)}, "lacks b_dec of 2 models"),
        ({"b_enc": torch.zeros(D_SAE + 1)}, "b_enc has shape [11], not [10]"),
        ({"other": torch.zeros(2)}, "has an unexpected tensor other"),
    ],
)
def test_a_crosscoder_of_two_models_that_is_damaged(
    tmp_path: Path, change: Tensors, words: str
) -> None:
    assert words in refusal(model_diff(tmp_path, model_diff_state() | change, SCALES))


@pytest.mark.parametrize("scales", [[0.3], [0.3, 0.0], [0.3, -1], [0.3, None], 0.3])
def test_factors_that_are_none_are_refused(tmp_path: Path, scales: Any) -> None:
    folder = model_diff(tmp_path, model_diff_state(), SCALES)
    write_json(folder / "activation_scaler.json", {"scaling_factor": scales})
    assert "activation_scaler.json: scaling_factor" in refusal(folder)
