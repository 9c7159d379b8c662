"""A stream of shuffled activations; the language model runs once for all autoencoders."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from prolu_eval.lm import ActivationSource
from prolu_eval.tokens import TokenRows

_ROWS_AT_ONCE = 32

RowActivations = Callable[[Tensor], Tensor]
# A function that is told how many activations something has, and how many it will have.
Filling = Callable[[int, int], object]


def from_model(
    model: ActivationSource, hook: str, tokens: TokenRows, *, mixed: bool = False
) -> RowActivations:
    """A function that gives activations at the counted positions of rows. [r] -> [n, d]

    If ``mixed``, the model's products are in bfloat16; its weights and residual stream keep their
    precision.
    """

    def activations(rows: Tensor) -> Tensor:
        # Counted positions are found on the CPU, so that the host does not wait for the GPU.
        counted = tokens.counted[rows].flatten().nonzero()[:, 0]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            found = model.activations(tokens.ids[rows], hook).flatten(0, 1)
        return found.index_select(0, counted.to(found.device, non_blocking=True)).float().clone()

    return activations


class Ahead:
    """Computes activations of the next rows in advance, on a CUDA stream of its own.

    Args:
        source: activations of rows. [r] int64 -> [n, d_in]
        device: a CUDA device.
    """

    def __init__(self, source: RowActivations, device: torch.device) -> None:
        self._source, self._stream = source, torch.cuda.Stream(device)
        self._started: deque[tuple[Tensor, Tensor, torch.cuda.Event]] = deque()

    def __len__(self) -> int:
        return len(self._started)

    def __call__(self, rows: Tensor) -> Tensor:
        """Activations of rows, from the pass that was begun first if it was over these rows."""
        if self._started and torch.equal(self._started[0][0], rows):
            _, found, ready = self._started.popleft()
            torch.cuda.current_stream(found.device).wait_event(ready)
            found.record_stream(torch.cuda.current_stream(found.device))
            return found
        self._started.clear()
        return self._source(rows)

    def begin(self, rows: Tensor) -> None:
        """Begin a pass over rows, which runs in parallel with the current CUDA stream."""
        with torch.cuda.stream(self._stream):
            found = self._source(rows)
            self._started.append((rows, found, self._stream.record_event()))


class Stream:
    """Batches of activations, in shuffled epochs over rows and from a shuffled buffer.

    The buffer is refilled and shuffled again whenever half of it is used, so that neighbouring
    tokens of a text, which have similar activations, end up in different batches. :meth:`state` and
    :meth:`resume` continue a stream exactly where it was.

    Args:
        source: a function that computes activations of rows, [r] int64 -> [n, d_in]. With
            :class:`Ahead`, passes for the next buffer begin while batches of this one are used; the
            batches are the same.
        n_rows: the number of rows.
        batch_size: the number of activations per batch.
        buffer_size: the smallest number of activations that are shuffled together.
        seed: the seed of both shuffles.
    """

    def __init__(
        self, source: RowActivations, n_rows: int, batch_size: int, buffer_size: int, seed: int
    ) -> None:
        self._source, self._n_rows, self._batch_size = source, n_rows, batch_size
        self._buffer_size = max(buffer_size, 2 * batch_size)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._buffer = torch.empty(0, 0)
        self._used = self._per_pass = 0

    def __next__(self) -> Tensor:
        """The next batch. [batch, d_in]"""
        if self._used + self._batch_size > len(self._buffer) or 2 * self._used >= len(self._buffer):
            self._refill()
        batch = self._buffer[self._used : self._used + self._batch_size]
        self._used += self._batch_size
        if isinstance(self._source, Ahead):
            self._begin_next(self._source)
        return batch

    def peek(self, n: int, filling: Filling = lambda *_: None) -> Tensor:
        """The next n activations at most, without consuming them. [n, d_in]

        ``filling`` is called after each pass that fills an empty buffer.
        """
        if not len(self._buffer):
            self._refill(filling)
        return self._buffer[self._used : self._used + n]

    def _refill(self, filling: Filling = lambda *_: None) -> None:
        """Fill a new buffer with the rest of the old one and with activations of more rows.

        If this is interrupted, the stream keeps its earlier state.
        """
        before = self._order, self._generator.get_state()
        pending = [self._buffer[self._used :]] if len(self._buffer) else []
        size = sum(map(len, pending))
        try:
            while size < self._buffer_size:
                pending.append(self._source(self._next_rows()))
                size += len(pending[-1])
                self._per_pass = len(pending[-1])
                filling(min(size, self._buffer_size), self._buffer_size)
        except BaseException:
            self._order, state = before
            self._generator.set_state(state)
            raise
        buffer = torch.cat(pending)
        pending.clear()
        order = torch.randperm(size, generator=self._generator).to(buffer.device)
        self._buffer, self._used = buffer[order], 0

    def _begin_next(self, source: Ahead) -> None:
        """Begin another pass, if the next buffer still needs rows and this epoch still has some."""
        first = len(source) * _ROWS_AT_ONCE
        expected = len(source) * self._per_pass
        if first < len(self._order) and expected < self._buffer_size // 2:
            source.begin(self._order[first : first + _ROWS_AT_ONCE])

    def _next_rows(self) -> Tensor:
        if not len(self._order):
            self._order = torch.randperm(self._n_rows, generator=self._generator)
        rows, self._order = self._order[:_ROWS_AT_ONCE], self._order[_ROWS_AT_ONCE:]
        return rows

    def state(self) -> dict[str, Tensor]:
        """All tensors that decide which batches follow."""
        return {
            "buffer": self._buffer[self._used :].contiguous(),
            "order": self._order.contiguous(),
            "used": torch.tensor([self._used, len(self._buffer)]),
            "generator": self._generator.get_state(),
        }

    def resume(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Continue from the state of another stream with the same arguments."""
        used, size = state["used"].tolist()
        rest = state["buffer"].to(device)
        self._buffer = torch.cat([rest.new_empty(size - len(rest), rest.shape[1]), rest])
        self._used, self._order = used, state["order"]
        self._generator.set_state(state["generator"])
