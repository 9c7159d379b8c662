"""A stream of shuffled activations, the language model running once for all that train on it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import TokenRows

_ROWS_AT_ONCE = 32


def activations(
    model: LanguageModel, hook: str, tokens: TokenRows, generator: torch.Generator
) -> Iterator[Tensor]:
    """Activations at the counted positions of the rows, in shuffled epochs. [n, d_in]"""
    while True:
        order = torch.randperm(len(tokens), generator=generator)
        for rows in order.split(_ROWS_AT_ONCE):
            yield model.activations(tokens.ids[rows], hook)[tokens.counted[rows]].float()


def shuffled_batches(
    source: Iterator[Tensor], batch_size: int, buffer_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Batches drawn from a buffer that is shuffled anew whenever half of it is used. [batch, d_in]

    Neighbouring tokens of a text, whose activations are alike, so end up in different batches.
    """
    buffer_size = max(buffer_size, 2 * batch_size)
    pending: list[Tensor] = []
    size = 0
    while True:
        while size < buffer_size:
            pending.append(next(source))
            size += len(pending[-1])
        buffer = torch.cat(pending)
        buffer = buffer[torch.randperm(size, generator=generator).to(buffer.device)]
        used = 0
        while used < size // 2 and used + batch_size <= size:
            yield buffer[used : used + batch_size]
            used += batch_size
        pending, size = [buffer[used:]], size - used
