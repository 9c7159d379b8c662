"""Comparing synthetic gradients with exact ones while an autoencoder trains.

For every parameter but ProLU's encoder bias, the exact gradient of the loss is that of
``gradient = "relu"``. The exact gradient of ProLU's encoder bias is zero almost everywhere.
"""

import torch
from torch import Tensor

from prolu_eval.saes import Prolu
from prolu_eval.saes.synthetic import SyntheticGradientOptions
from prolu_eval.training.stack import Stack


def compare_gradients(stack: Stack, x: Tensor) -> dict[str, Tensor]:
    """Norms of the encoder's synthetic and exact gradients, and the cosine between them. [n] each

    The result is empty if all gradients of the variant are exact. ``x`` is a batch in training
    units.
    """
    options = stack.options
    if not isinstance(options, SyntheticGradientOptions):
        return {}
    if options.gradient == "relu" and not issubclass(stack.variant, Prolu):
        return {}
    exact_options = options.model_copy(update={"gradient": "relu"})
    found: dict[str, list[Tensor]] = {}
    for synthetic, exact in stack.gradients_in_parts(x, None, exact_options):
        ours, true = synthetic["W_enc"].flatten(1), exact["W_enc"].flatten(1)
        norm, true_norm = ours.norm(dim=1), true.norm(dim=1)
        dot = (synthetic["W_enc"] * exact["W_enc"]).sum((1, 2))
        for name, value in (
            ("gradient_norm_W_enc", norm),
            ("gradient_norm_b_enc", synthetic["b_enc"].norm(dim=1)),
            ("exact_gradient_norm_W_enc", true_norm),
            ("gradient_cosine_W_enc", dot / (norm * true_norm).clamp(min=1e-8)),
        ):
            found.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in found.items()}
