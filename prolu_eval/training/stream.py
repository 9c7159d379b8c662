"""A stream of shuffled activations, the language model running once for all that train on it."""

from collections.abc import Callable

import torch
from torch import Tensor

from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import TokenRows

_ROWS_AT_ONCE = 32

RowActivations = Callable[[Tensor], Tensor]


def from_model(model: LanguageModel, hook: str, tokens: TokenRows) -> RowActivations:
    """Activations at the counted positions of chosen rows, by a pass of the model. [r] -> [n, d]"""

    def activations(rows: Tensor) -> Tensor:
        found = model.activations(tokens.ids[rows], hook)
        return found[tokens.counted[rows].to(found.device)].float().clone()

    return activations


class Stream:
    """Batches of activations, in shuffled epochs over rows and from a shuffled buffer.

    The buffer is shuffled anew whenever half of it is used, so neighbouring tokens of a text, whose
    activations are alike, end up in different batches. :meth:`state` and :meth:`resume` continue a
    stream exactly where it was.

    Args:
        source: activations of rows. [r] int64 -> [n, d_in]
        n_rows: how many rows there are.
        batch_size: activations per batch.
        buffer_size: activations shuffled together, at least.
        seed: of both shuffles.
    """

    def __init__(
        self, source: RowActivations, n_rows: int, batch_size: int, buffer_size: int, seed: int
    ) -> None:
        self._source, self._n_rows, self._batch_size = source, n_rows, batch_size
        self._buffer_size = max(buffer_size, 2 * batch_size)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._buffer = torch.empty(0, 0)
        self._used = 0

    def __next__(self) -> Tensor:
        """The next batch. [batch, d_in]"""
        if self._used + self._batch_size > len(self._buffer) or 2 * self._used >= len(self._buffer):
            self._refill()
        batch = self._buffer[self._used : self._used + self._batch_size]
        self._used += self._batch_size
        return batch

    def peek(self, n: int) -> Tensor:
        """Some of the activations that come next, without consuming them. [n, d_in] at most"""
        if not len(self._buffer):
            self._refill()
        return self._buffer[self._used : self._used + n]

    def _refill(self) -> None:
        """Make a new buffer of what is left and of further rows.

        If it is interrupted, the stream is where it was before.
        """
        before = self._order, self._generator.get_state()
        pending = [self._buffer[self._used :]] if len(self._buffer) else []
        size = sum(map(len, pending))
        try:
            while size < self._buffer_size:
                pending.append(self._source(self._next_rows()))
                size += len(pending[-1])
        except BaseException:
            self._order, state = before
            self._generator.set_state(state)
            raise
        buffer = torch.cat(pending)
        pending.clear()
        order = torch.randperm(size, generator=self._generator).to(buffer.device)
        self._buffer, self._used = buffer[order], 0

    def _next_rows(self) -> Tensor:
        if not len(self._order):
            self._order = torch.randperm(self._n_rows, generator=self._generator)
        rows, self._order = self._order[:_ROWS_AT_ONCE], self._order[_ROWS_AT_ONCE:]
        return rows

    def state(self) -> dict[str, Tensor]:
        """Everything that decides which batches follow."""
        return {
            "buffer": self._buffer[self._used :].contiguous(),
            "order": self._order.contiguous(),
            "used": torch.tensor([self._used, len(self._buffer)]),
            "generator": self._generator.get_state(),
        }

    def resume(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from where another stream of the same arguments was."""
        used, size = state["used"].tolist()
        rest = state["buffer"].to(device)
        self._buffer = torch.cat([rest.new_empty(size - len(rest), rest.shape[1]), rest])
        self._used, self._order = used, state["order"]
        self._generator.set_state(state["generator"])
