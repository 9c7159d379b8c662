"""The synthetic gradients of ProLU beside its exact one, while it trains.

The exact gradient of ProLU's loss is that of ``gradient = "relu"`` for every parameter but the
encoder bias, whose exact gradient is zero almost everywhere.
"""

from typing import cast

import torch
from torch import Tensor

from prolu_eval.saes.prolu import Prolu, ProluOptions
from prolu_eval.training.stack import Stack


def compare_gradients(stack: Stack, x: Tensor) -> dict[str, Tensor]:
    """Norms of the encoder's synthetic and exact gradients, and the cosine between them. [n] each

    Empty for variants whose gradients are all exact. ``x`` is a batch in training units.
    """
    options = stack.options
    if not issubclass(stack.variant, Prolu):
        return {}
    exact_options = cast(ProluOptions, options).model_copy(update={"gradient": "relu"})
    synthetic, exact = stack.gradients(x), stack.gradients(x, exact_options)
    ours, true = synthetic["W_enc"].flatten(1), exact["W_enc"].flatten(1)
    return {
        "gradient_norm_W_enc": ours.norm(dim=1),
        "gradient_norm_b_enc": synthetic["b_enc"].norm(dim=1),
        "exact_gradient_norm_W_enc": true.norm(dim=1),
        "gradient_cosine_W_enc": torch.cosine_similarity(ours, true, dim=1),
    }
