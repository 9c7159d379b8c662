"""Next-token cross-entropy and KL divergence, in nats, position by position.

Both come straight from final hidden states, some positions at a time, so that logits of all
positions never exist together.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

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
        [N] float32.
    """
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(read_out(part).float(), wanted, reduction="none")
            for part, wanted in _parts(vocab_size, hidden, targets)
        ]
    )


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
        Both [N] float32, for each spliced pass.
    """
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in spliced]
    for wanted, clean_part, *parts in _parts(vocab_size, targets, clean, *spliced):
        expected = torch.log_softmax(read_out(clean_part).float(), -1)
        probability = expected.exp()
        for (ce, kl), part in zip(found, parts, strict=True):
            log_probability = torch.log_softmax(read_out(part).float(), -1)
            ce.append(-log_probability.gather(1, wanted[:, None])[:, 0])
            kl.append(torch.linalg.vecdot(probability, expected - log_probability))
    return [(torch.cat(ce), torch.cat(kl)) for ce, kl in found]


def _parts(vocab_size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    logits = _LOGITS.get(tensors[0].device.type, _LOGITS["cuda"])
    size = max(_LEAST_POSITIONS, logits // vocab_size)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
