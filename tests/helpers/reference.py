"""A plain, slow evaluation: a hook on the Hugging Face model, everything else numpy in float64.

It shares no code with the engine. It reads the four variants of the write-up from their files.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

Array = NDArray[np.float64]
Module = Callable[[Any], Any]


def _forward(
    model: Any, layer: int, ids: NDArray[np.int64], change: Callable[[Array], Array]
) -> Array:
    """Logits with the output of a decoder layer changed. [B, T] -> [B, T, V]"""

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = torch.tensor(change(hidden.double().numpy()), dtype=hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = model.model.layers[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits: Array = model(torch.tensor(ids), use_cache=False).logits.double().numpy()
    finally:
        handle.remove()
    return logits


def _legacy_variance(run: Path, x: Array) -> float:
    """The mean over activations [n, d_in], about their mean, of 1 - error / deviation."""
    _, x_hat, _ = _encode(run, x)
    error, deviation = ((x - x_hat) ** 2).sum(1), ((x - x.mean(0)) ** 2).sum(1)
    return float((1 - error / deviation).mean())


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _encode(folder: Path, x: Array) -> tuple[Array, Array, Array]:
    """Codes, reconstruction, and norms of the decoder rows."""
    w = {
        name: tensor.astype(np.float64)
        for name, tensor in load_file(folder / "sae.safetensors").items()
    }
    m = (x - w["b_dec"]) @ w["W_enc"]
    z = m + w["b_enc"]
    variant = json.loads((folder / "config.json").read_text())["variant"]
    codes = np.where(z > 0, z, 0) if variant == "relu" else np.where((z > 0) & (m > 0), m, 0)
    return codes, codes @ w["W_dec"] + w["b_dec"], np.sqrt((w["W_dec"] ** 2).sum(1))


def _scale_consistency(run: Path, first: Array, second: Array) -> dict[str, float]:
    """Violations of the three desiderata on pairs of activations. [n, d_in] each

    For ReLU and ProLU a negative bias always makes a threshold.
    """
    weights = load_file(run / "sae.safetensors")
    centre = weights["b_dec"].astype(np.float64)
    norms = np.sqrt((weights["W_dec"].astype(np.float64) ** 2).sum(1))
    v, w = first - centre, second - centre

    def f(vectors: Array) -> Array:
        codes: Array = _encode(run, vectors + centre)[0] * norms
        return codes

    both, active = (f(v) > 0) & (f(w) > 0), f(v) > 0
    gap = np.abs(f(v + w) - f(v) - f(w))[both].sum()
    factors = (1.25, 2, 4)
    return {
        "scale_consistency_additivity": gap / (f(v) + f(w))[both].sum(),
        "scale_consistency_homogeneity": sum(
            np.abs(f(k * v) - k * f(v))[active].sum() for k in factors
        ) / sum((k * f(v))[active].sum() for k in factors),
        "scale_consistency_threshold": 0.0,
    }  # fmt: skip


def evaluate(
    model_folder: Path,
    layer: int,
    run: Path,
    ids: NDArray[np.int64],
    counted: NDArray[np.bool_],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> dict[str, float]:
    """Every scalar metric of one run, hooked after decoder layer ``layer``.

    ``pairs`` are the rows [n] and positions [n, 2] at which scale consistency is measured.
    """
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    captured: list[Array] = []

    def capture(hidden: Array) -> Array:
        captured.append(hidden)
        return hidden

    clean = _log_softmax(_forward(model, layer, ids, capture))
    activation = captured[0]
    x = activation[counted]
    codes, x_hat, norms = _encode(run, x)

    def put(values: Array) -> Callable[[Array], Array]:
        def change(hidden: Array) -> Array:
            hidden = hidden.copy()
            hidden[counted] = values
            return hidden

        return change

    has_next = counted[:, :-1] & counted[:, 1:]

    def losses(log_probabilities: Array) -> Array:
        taken = np.take_along_axis(log_probabilities[:, :-1], ids[:, 1:, None], -1)[..., 0]
        result: Array = -taken[has_next]
        return result

    spliced = _log_softmax(_forward(model, layer, ids, put(x_hat)))
    zero = _log_softmax(_forward(model, layer, ids, put(np.zeros_like(x))))
    mean = _log_softmax(_forward(model, layer, ids, put(np.broadcast_to(x.mean(0), x.shape))))
    ce, ce_spliced = losses(clean).mean(), losses(spliced).mean()
    ce_zero, ce_mean = losses(zero).mean(), losses(mean).mean()
    kl = (np.exp(clean) * (clean - spliced)).sum(-1)[:, :-1][has_next].mean()

    error = ((x - x_hat) ** 2).sum(1)
    deviation = ((x - x.mean(0)) ** 2).sum(1)
    rate = (codes != 0).mean(0)
    x_norm, x_hat_norm = np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    bias = load_file(run / "sae.safetensors")["b_enc"]
    rows, positions = pairs
    return {
        **_scale_consistency(
            run, activation[rows, positions[:, 0]], activation[rows, positions[:, 1]]
        ),
        "explained_variance_legacy": _legacy_variance(
            run, np.concatenate([activation[rows, positions[:, i]] for i in (0, 1)])
        ),
        "l0": (codes != 0).sum(1).mean(),
        "l1": (np.abs(codes) * norms).sum(1).mean(),
        "l1_raw": np.abs(codes).sum(1).mean(),
        "sqrt_l1": np.sqrt(np.abs(codes) * norms).sum(1).mean(),
        "sqrt_l1_raw": np.sqrt(np.abs(codes)).sum(1).mean(),
        "mse": error.mean(),
        "nmse": error.mean() / deviation.mean(),
        "explained_variance": 1 - error.mean() / deviation.mean(),
        "cosine_similarity": ((x * x_hat).sum(1) / (x_norm * x_hat_norm)).mean(),
        "l2_ratio": (x_hat_norm / x_norm).mean(),
        "relative_reconstruction_bias": (x_hat**2).sum() / (x * x_hat).sum(),
        "ce_clean": ce,
        "ce_spliced": ce_spliced,
        "ce_zero": ce_zero,
        "ce_mean": ce_mean,
        "ce_degradation": ce_spliced - ce,
        "bits_lost": (ce_spliced - ce) / np.log(2),
        "ce_recovered_zero": (ce_zero - ce_spliced) / (ce_zero - ce),
        "ce_recovered_mean": (ce_mean - ce_spliced) / (ce_mean - ce),
        "kl": kl,
        "dead_fraction": (rate == 0).mean(),
        "dense_fraction": (rate > 0.1).mean(),
        "bias_negative_fraction": (bias < 0).mean(),
    }
