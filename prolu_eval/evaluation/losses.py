"""Next-token cross-entropy and KL divergence, in nats, at each position.

Both are computed from final hidden states, for some positions at a time, so that the logits of all
positions are never in memory together.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from prolu_eval import kernels

# Number of logits that are computed at one time: on a CPU so few that they stay in cache, on a GPU
# so few that they fit in memory beside the rest.
_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 27}
# With fewer positions at a time, a large unembedding matrix would be read too often.
_LEAST_POSITIONS = 256

ReadOut = Callable[[Tensor], Tensor]


def cross_entropy(read_out: ReadOut, hidden: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Cross-entropy per position.

    Args:
        read_out: a function from hidden states to logits. [n, d_model] -> [n, vocab]
        hidden: final hidden states. [N, d_model]
        targets: the next tokens. [N] int64
        vocab_size: the number of logits.

    Returns:
        [N], in float32 or higher precision.
    """
    return torch.cat(
        [
            _cross_entropy(read_out(part), wanted)
            for part, wanted in _parts(vocab_size, hidden, targets)
        ]
    )


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if kernels.suit(logits.device, logits.dtype):
        from prolu_eval.kernels.losses import cross_entropy_and_kl

        return cross_entropy_and_kl(None, logits, targets)[0]
    return torch.nn.functional.cross_entropy(_exact(logits), targets, reduction="none")


def cross_entropies_and_kls(
    read_out: ReadOut, clean: Tensor, spliced: Sequence[Tensor], targets: Tensor, vocab_size: int
) -> list[tuple[Tensor, Tensor]]:
    """Cross-entropy of several spliced passes, and KL(clean, spliced), per position.

    The logits of the clean pass are computed once for all of them.

    Args:
        read_out: a function from hidden states to logits. [n, d_model] -> [n, vocab]
        clean: final hidden states of the clean pass. [N, d_model]
        spliced: final hidden states of each spliced pass. [N, d_model]
        targets: the next tokens. [N] int64
        vocab_size: the number of logits.

    Returns:
        For each spliced pass both, [N], in float32 or higher precision.
    """
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in spliced]
    for wanted, clean_part, *parts in _parts(vocab_size, targets, clean, *spliced):
        logits = read_out(clean_part)
        compare = _comparison(logits, wanted)
        for (ce, kl), part in zip(found, parts, strict=True):
            of_part = compare(read_out(part))
            ce.append(of_part[0])
            kl.append(of_part[1])
    return [(torch.cat(ce), torch.cat(kl)) for ce, kl in found]


def _comparison(clean: Tensor, targets: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from spliced logits to losses, for clean logits. [n, vocab] -> [n], [n]"""
    if kernels.suit(clean.device, clean.dtype):
        from prolu_eval.kernels.losses import cross_entropy_and_kl

        return lambda spliced: cross_entropy_and_kl(clean, spliced, targets)
    expected = torch.log_softmax(_exact(clean), -1)
    probability = expected.exp()

    def losses(spliced: Tensor) -> tuple[Tensor, Tensor]:
        log_probability = torch.log_softmax(_exact(spliced), -1)
        ce = -log_probability.gather(1, targets[:, None])[:, 0]
        gap = expected - log_probability
        kl = torch.linalg.vecdot(probability, gap)
        if not kl.isfinite().all():
            # A token of probability zero contributes nothing, whatever its spliced logit.
            kl = torch.linalg.vecdot(probability, torch.where(probability == 0, 0, gap))
        return ce, kl

    return losses


def _exact(logits: Tensor) -> Tensor:
    """The logits in float32, or in float64 if they have that precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _parts(vocab_size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    logits = _LOGITS.get(tensors[0].device.type, _LOGITS["cuda"])
    size = max(_LEAST_POSITIONS, logits // vocab_size)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
