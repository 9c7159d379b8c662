"""Next-token cross-entropy and KL divergence, in nats, position by position.

Both come straight from final hidden states, some positions at a time, so that logits of all
positions never exist together.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from prolu_eval import kernels

# Logits at a time: on a CPU so that they stay in cache, on a GPU so that they fit beside the rest.
_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 27}
# Fewer positions would leave a large unembedding matrix to be read too often.
_LEAST_POSITIONS = 256

ReadOut = Callable[[Tensor], Tensor]


def cross_entropy(read_out: ReadOut, hidden: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Cross-entropy per position.

    Args:
        read_out: gives the logits of hidden states. [n, d_model] -> [n, vocab]
        hidden: final hidden states. [N, d_model]
        targets: next tokens. [N] int64
        vocab_size: the number of logits.

    Returns:
        [N], in float32 at least.
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

    The clean pass is read out once for all of them.

    Args:
        read_out: gives the logits of hidden states. [n, d_model] -> [n, vocab]
        clean: final hidden states of the clean pass. [N, d_model]
        spliced: those of each spliced pass. [N, d_model]
        targets: next tokens. [N] int64
        vocab_size: the number of logits.

    Returns:
        Both [N], in float32 at least, for each spliced pass.
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
    """What gives the losses of spliced logits, for clean ones. [n, vocab] -> [n], [n]"""
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
            # A token of probability zero contributes nothing, whatever the spliced pass says.
            kl = torch.linalg.vecdot(probability, torch.where(probability == 0, 0, gap))
        return ce, kl

    return losses


def _exact(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 if that is what they are in."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _parts(vocab_size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    logits = _LOGITS.get(tensors[0].device.type, _LOGITS["cuda"])
    size = max(_LEAST_POSITIONS, logits // vocab_size)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
