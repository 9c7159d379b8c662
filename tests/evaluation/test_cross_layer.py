"""Cross-layer transcoders: all MLPs replaced at once and each alone, against plain hooks."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prolu_eval.checkpoints import load_sae
from prolu_eval.evaluation import evaluate
from prolu_eval.lm import LanguageModel
from prolu_eval.results import Result
from prolu_eval.saes import CrossLayerTranscoder, Relu
from prolu_eval.tokens import load_tokens
from tests.evaluation.test_transcoders import MODULES, OPTIONS, block_of, made_run, only, text
from tests.helpers import hooked
from tests.helpers.foreign_files import Tensors, circuit_tracer_clt, clt_layers

__all__ = ["text"]  # a fixture

D, N, LAYERS = 32, 20, 3
HOOKS = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}


def weights(*, jump: bool, later: bool = True) -> list[Tensors]:
    """Random layers; with ``later`` false, each writes only to its own output."""
    layers = clt_layers(LAYERS, D, N, jump=jump)
    for layer in layers:
        layer["W_enc"] /= D**0.5
        layer["W_dec"] *= 0.5
        if not later:
            layer["W_dec"][:, 1:] = 0
    return layers


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_agrees_with_a_plain_hooked_reference(
    architecture: str, tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    folder = tiny_model(architecture)
    clt = circuit_tracer_clt(
        tmp_path / "clt", weights(jump=architecture == "gemma2"), model_name=str(folder), **HOOKS
    )
    options = replace(OPTIONS, tokens=text)
    result = only(evaluate(clt, options))
    tokens = load_tokens(
        text, LanguageModel.load(str(folder), device="cpu"), split="all", n_tokens=512,
        context_length=32,
    )  # fmt: skip
    ids, counted = tokens.ids, tokens.counted
    model, sae = hooked.load(folder), load_sae(clt).double()
    assert isinstance(sae, CrossLayerTranscoder)
    blocks = [block_of(model, i) for i in range(LAYERS)]
    norms = [getattr(block, MODULES[architecture]["norm"]) for block in blocks]
    outs = [getattr(block, MODULES[architecture]["out"]) for block in blocks]
    seen: dict[str, dict[int, Tensor]] = {"x": {}, "y": {}}

    def keep(kind: str, layer: int) -> Callable[[Tensor], None]:
        def kept(value: Tensor) -> None:
            seen[kind][layer] = value

        return kept

    def run(answer: Callable[[int], Tensor] | None, layers: tuple[int, ...] = ()) -> Tensor:
        """Logits, with outputs of layers replaced by functions of the inputs read so far."""
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for i in range(LAYERS):
                stack.enter_context(hooked.on_input(norms[i], keep("x", i)))
                if answer is None:
                    stack.enter_context(hooked.on_output(outs[i], keep("y", i)))
            for i in layers:

                def put(y: Tensor, i: int = i) -> Tensor:
                    assert answer is not None
                    y = y.clone()
                    y[counted] = answer(i)
                    return y

                stack.enter_context(hooked.on_output(outs[i], put))
            logits: Tensor = model(ids, use_cache=False).logits
            return logits

    def y_hat(layer: int) -> Tensor:
        """A layer's output, computed from the pass's inputs of this and earlier layers."""
        read = [seen["x"][i][counted] for i in range(layer + 1)]
        stacked = torch.stack([*read, *[torch.zeros_like(read[0])] * (LAYERS - 1 - layer)], 1)
        with torch.no_grad():
            found: Tensor = sae(stacked)[:, layer]
        return found

    clean = run(None)
    y = torch.stack([seen["y"][i][counted] for i in range(LAYERS)], 1)
    x = torch.stack([seen["x"][i][counted] for i in range(LAYERS)], 1)
    with torch.no_grad():
        codes, reconstruction = sae.encode(x), sae(x)
    every = tuple(range(LAYERS))
    means = y.mean(0)
    zero = run(lambda _: torch.zeros(D, dtype=torch.float64), every)
    mean = run(lambda i: means[i], every)
    ce = hooked.losses(clean, clean, ids, counted)["ce"]
    spliced = hooked.losses(run(y_hat, every), clean, ids, counted)
    error = (y - reconstruction).square().sum(-1)
    deviation = (y - means).square().sum(-1)
    expected = {
        **hooked.of_several_sites(codes, y, reconstruction),
        "ce_clean": ce,
        "ce_spliced": spliced["ce"],
        "ce_zero": hooked.losses(zero, clean, ids, counted)["ce"],
        "ce_mean": hooked.losses(mean, clean, ids, counted)["ce"],
        "kl": spliced["kl"],
    }
    assert 0 < expected["l0"] < 0.9 * LAYERS * N
    assert expected["kl"] > 1e-3
    for key, value in expected.items():
        assert result.metrics[key].value == pytest.approx(value, rel=1e-4, abs=1e-4), key
    alone = [hooked.losses(run(y_hat, (i,)), clean, ids, counted) for i in range(LAYERS)]
    found = result.per_layer()
    by_layer = {
        "l0": (codes != 0).unflatten(1, (LAYERS, N)).double().sum(2).mean(0).numpy(),
        "fvu": (error.sum(0) / deviation.sum(0)).numpy(),
        "ce_degradation": np.array([loss["ce"] - ce for loss in alone]),
        "kl": np.array([loss["kl"] for loss in alone]),
    }
    assert found.keys() == by_layer.keys()
    for name, values in by_layer.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


def results(path: Path, options: Any) -> dict[str, Result]:
    found = {}
    for outcome in evaluate(path, options):
        assert outcome.result is not None, outcome.error
        found[outcome.name] = outcome.result
    return found


def test_without_later_decoders_it_is_a_transcoder_a_layer(
    tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    folder = tiny_model("llama")
    layers = weights(jump=False, later=False)
    circuit_tracer_clt(tmp_path / "runs" / "clt", layers, model_name=str(folder), **HOOKS)
    for i, layer in enumerate(layers):
        sae = Relu(D, N, d_out=D, apply_b_dec_to_input=False)
        sae.W_enc.data, sae.W_dec.data = layer["W_enc"].T, layer["W_dec"][:, 0]
        sae.b_enc.data, sae.b_dec.data = layer["b_enc"], layer["b_dec"]
        sites = {"hook": f"blocks.{i}.hook_resid_mid", "hook_out": f"blocks.{i}.hook_mlp_out"}
        made_run(tmp_path / "runs" / f"layer_{i}", sae, folder, **sites)
    found = results(tmp_path / "runs", replace(OPTIONS, tokens=text, n_tokens=256))
    clt = found.pop("clt")
    assert clt.metrics["l0"].value == pytest.approx(clt.per_layer()["l0"].sum())
    own = {"l0": "l0", "fvu": "nmse", "ce_degradation": "ce_degradation", "kl": "kl"}
    for i in range(LAYERS):
        single = found[f"layer_{i}"]
        assert single.comparison_key() != clt.comparison_key()
        for name, metric in own.items():
            value = single.metrics[metric].value
            assert clt.per_layer()[name][i] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_what_does_not_fit_the_model_is_told(
    tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    folder, options = tiny_model("llama"), replace(OPTIONS, tokens=text, n_tokens=64)
    wide = circuit_tracer_clt(
        tmp_path / "a", clt_layers(LAYERS, 8, N), model_name=str(folder), **HOOKS
    )
    (outcome,) = evaluate(wide, options)
    assert "takes activations of width 8, but blocks.0.hook_resid_mid" in (outcome.error or "")
    deep = circuit_tracer_clt(
        tmp_path / "b", clt_layers(LAYERS + 1, D, N), model_name=str(folder), **HOOKS
    )
    (outcome,) = evaluate(deep, options)
    assert "is no hook point of its 3 blocks" in (outcome.error or "")
    backwards = {"feature_input_hook": "hook_resid_post", "feature_output_hook": "hook_mlp_out"}
    layers = clt_layers(LAYERS, D, N)
    clt = circuit_tracer_clt(tmp_path / "c", layers, model_name=str(folder), **backwards)
    (outcome,) = evaluate(clt, options)
    assert "comes after the site that is replaced" in (outcome.error or "")
