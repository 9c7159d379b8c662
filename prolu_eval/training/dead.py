"""Resampling of dead features."""

import torch
from torch import Tensor

from prolu_eval.training.stack import Stack

# Encoder norm of a resampled feature, as a fraction of the mean norm of features that are alive.
_ENCODER_SHARE = 0.2


@torch.no_grad()
def resample_dead(stack: Stack, x: Tensor, x_hat: Tensor) -> Tensor:
    """Restart dead features in the directions of tokens that are reconstructed badly.

    The procedure is that of Towards Monosemanticity (Bricken et al. 2023). Tokens are drawn with
    probability proportional to their squared loss. The feature's decoder row becomes the token's
    direction; its encoder row becomes the same direction, with a fifth of the mean norm of the
    features that are alive; its bias becomes zero, and Adam's moments of the feature are reset.
    Draws depend only on a run's seed and the step.

    Args:
        stack: the stack that trains; features silent for ``dead_after`` tokens are dead.
        x: a batch. [batch, d_in]
        x_hat: its reconstructions. [n, batch, d_in]

    Returns:
        How many features were resampled. [n] int64
    """
    counts = torch.zeros(len(stack.plans), dtype=torch.int64)
    for index, plan in enumerate(stack.plans):
        dead = (stack.silent[index] >= stack.shared.dead_after).nonzero()[:, 0]
        badness = (x - x_hat[index]).square().sum(-1).square().double().cpu()
        drawn = min(len(dead), int((badness > 0).sum()))
        if not drawn or len(dead) == stack.d_sae:
            continue
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + stack.n_done)
        tokens = torch.multinomial(badness, drawn, generator=generator).to(x.device)
        rows = x[tokens] - stack.parameters["b_dec"][index]
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-8)
        stack.restart(index, dead[:drawn], rows, _ENCODER_SHARE)
        counts[index] = drawn
    return counts
