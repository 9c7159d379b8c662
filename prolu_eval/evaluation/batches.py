"""Batches: rows of tokens on the device, and the indices of the positions that count."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prolu_eval.evaluation.autoencoding import Activations
from prolu_eval.evaluation.features import FOLDS
from prolu_eval.lm import Pass
from prolu_eval.tokens import TokenRows


@dataclass
class Batch:
    """Consecutive rows on the device: ids [B, T], and which positions count.

    ``rows`` is their range among all rows of the tokens. ``first`` is the index of the first row
    among the rows that are being measured, and ``first_place`` the index of its first position
    among the positions of all rows. ``position`` [N] are the counted positions in the flattened
    rows, and ``next_position`` [M] those whose next token counts too; ``starts`` and
    ``next_starts`` [B + 1] say where each row begins among them.
    """

    rows: range
    first: int
    first_place: int
    ids: Tensor
    position: Tensor
    starts: Tensor
    fold: Tensor
    next_position: Tensor
    next_starts: Tensor
    targets: Tensor

    @classmethod
    def of(cls, tokens: TokenRows, rows: range, first: int, device: torch.device) -> "Batch":
        """The batch of some rows, copied to the device without waiting for it."""
        ids, counted = tokens.ids[rows.start : rows.stop], tokens.counted[rows.start : rows.stop]
        with_next = torch.nn.functional.pad(counted[:, :-1] & counted[:, 1:], (0, 1))
        position = counted.flatten().nonzero()[:, 0]
        next_position = with_next.flatten().nonzero()[:, 0]
        parts = [
            ids,
            position,
            _starts(counted),
            (rows.start + position // ids.shape[1]) % FOLDS,
            next_position,
            _starts(with_next),
            ids.flatten()[next_position + 1],
        ]
        if device.type == "cuda":
            parts = [part.pin_memory() for part in parts]
        return cls(
            rows,
            first,
            rows.start * ids.shape[1],
            *(part.to(device, non_blocking=True) for part in parts),
        )

    def activations(self, clean: Pass, read: str | None = None) -> Activations:
        """The clean activations at the counted positions.

        Args:
            clean: the clean pass.
            read: for a transcoder, the site among the pass's inputs that it reads; ``y`` are then
                the activations at the pass's own site.
        """
        y = None if read is None else self.counted(clean.activation)
        x = self.counted(clean.activation if read is None else clean.inputs[read])
        return Activations(x, self.starts, self.fold, self.position + self.first_place, y)

    def counted(self, activation: Tensor) -> Tensor:
        """Activations at the counted positions. [B, T, d] -> [N, d]"""
        return activation.flatten(0, 1).index_select(0, self.position)

    def put(self, activation: Tensor, values: Tensor) -> Tensor:
        """Activations [B, T, d], replaced by values [N, d] at the counted positions."""
        flat = activation.flatten(0, 1)
        return flat.index_copy(0, self.position, values.to(flat.dtype)).view_as(activation)

    def next_of(self, hidden: Tensor) -> Tensor:
        """Hidden states at counted positions whose next token counts. [B, T, d] -> [M, d]"""
        return hidden.flatten(0, 1).index_select(0, self.next_position)


def _starts(counted: Tensor) -> Tensor:
    """Where each row begins among the counted positions, and where the last one ends. [B + 1]"""
    return torch.nn.functional.pad(counted.sum(1).cumsum(0), (1, 0))
