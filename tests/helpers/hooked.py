"""A plain, slow evaluation of dictionaries of several sites: hooks on the Hugging Face model.

It shares no code with the engine; everything is computed in float64, by complete passes.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

Read = Callable[[Any], Tensor]
Dictionary = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]


def load(folder: Path) -> Any:
    """The model in float64, with plain attention."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()


@contextlib.contextmanager
def on_output(module: Any, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Call a function on a module's output; its result replaces the output."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        value = function(first)
        if value is None:
            return None
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def on_input(module: Any, function: Callable[[Tensor], object]) -> Iterator[None]:
    """Call a function on a module's input."""

    def hook(_: Any, arguments: Any, keywords: Any) -> None:
        function(arguments[0] if arguments else keywords["hidden_states"])

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def losses(logits: Tensor, clean: Tensor, ids: Tensor, counted: Tensor) -> dict[str, float]:
    """Mean cross-entropy and KL from the clean pass, where the next token counts too."""
    has_next = counted[:, :-1] & counted[:, 1:]
    log_p = logits.log_softmax(-1)[:, :-1][has_next]
    log_clean = clean.log_softmax(-1)[:, :-1][has_next]
    target = ids[:, 1:][has_next]
    ce = -log_p.gather(1, target[:, None]).mean()
    kl = (log_clean.exp() * (log_clean - log_p)).sum(-1).mean()
    return {"ce": float(ce), "kl": float(kl)}


def fit(y: Tensor, y_hat: Tensor) -> dict[str, float]:
    """The metrics of reconstructions [N, d] of activations y [N, d]."""
    error, deviation = (y - y_hat).square().sum(1), (y - y.mean(0)).square().sum(1)
    return {
        "mse": float(error.mean()),
        "nmse": float(error.sum() / deviation.sum()),
        "explained_variance": float(1 - error.sum() / deviation.sum()),
        "cosine_similarity": float(torch.cosine_similarity(y, y_hat).mean()),
        "l2_ratio": float((y_hat.norm(dim=1) / y.norm(dim=1)).mean()),
        "relative_reconstruction_bias": float(y_hat.square().sum() / (y * y_hat).sum()),
    }


def of_several_sites(codes: Tensor, y: Tensor, y_hat: Tensor) -> dict[str, float]:
    """The metrics of codes [N, d_sae] and reconstructions [N, sites, d] of activations y."""
    error, deviation = (y - y_hat).square().sum(-1), (y - y.mean(0)).square().sum(-1)
    return {
        "l0": float((codes != 0).double().sum(1).mean()),
        "mse": float(error.sum(1).mean()),
        "nmse": float(error.sum() / deviation.sum()),
        "explained_variance": float(1 - error.sum() / deviation.sum()),
        "cosine_similarity": float(torch.cosine_similarity(y, y_hat, dim=-1).mean()),
        "dead_fraction": float((codes == 0).all(0).double().mean()),
    }
