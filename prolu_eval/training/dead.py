"""Giving features that never fire another start."""

import torch
from torch import Tensor

from prolu_eval.training.stack import Stack

# Encoder norm of a resampled feature, as a share of the mean norm of those alive.
_ENCODER_SHARE = 0.2


@torch.no_grad()
def resample_dead(stack: Stack, x: Tensor, x_hat: Tensor) -> Tensor:
    """Point dead features at tokens that are reconstructed badly.

    The procedure of Towards Monosemanticity (Bricken et al. 2023): tokens are drawn with
    probability in proportion to their squared loss; the decoder row is set to the token's
    direction, the encoder row to the same at a fifth of the mean norm of the living, the bias to
    zero, and Adam forgets the feature. Draws depend on a run's seed and the step alone.

    Args:
        stack: what is trained; features silent for ``dead_after`` tokens are dead.
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
