"""Next-token cross-entropy and KL divergence of whole batches, in nats, position by position."""

import torch
from torch import Tensor

# Positions whose logits are normalised at a time, so that the intermediates stay in cache.
_POSITIONS = 256


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per position. [N, vocab], [N] int64 -> [N] float32"""
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(part.float(), wanted, reduction="none")
            for part, wanted in zip(
                logits.split(_POSITIONS), targets.split(_POSITIONS), strict=True
            )
        ]
    )


def cross_entropy_and_kl(
    logits: Tensor, clean_log_probabilities: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of spliced logits, and KL(clean, spliced), per position.

    Args:
        logits: of the spliced pass. [N, vocab]
        clean_log_probabilities: log-softmax of the clean pass's logits. [N, vocab] float32
        targets: next tokens. [N] int64

    Returns:
        Both [N] float32.
    """
    ce, kl = [], []
    parts = (logits, clean_log_probabilities, targets)
    for part, clean, wanted in zip(*(whole.split(_POSITIONS) for whole in parts), strict=True):
        spliced = torch.log_softmax(part.float(), -1)
        ce.append(-spliced.gather(1, wanted[:, None])[:, 0])
        kl.append((clean.exp() * (clean - spliced)).sum(-1))
    return torch.cat(ce), torch.cat(kl)
