"""A cache of clean passes, which several measurements need, within a limit of memory."""

from collections.abc import Collection

import torch

from prolu_eval.evaluation.batches import Batch
from prolu_eval.lm import LanguageModel, Pass

# The most bytes that are kept on a CPU and on a GPU; on a GPU also at most one part in _SHARE of
# the free memory.
_CPU_BYTES, _GPU_BYTES, _SHARE = 1 << 27, 1 << 30, 16


class CleanPasses:
    """The clean passes of a model over batches of rows, at one hook point.

    Activations at the other hook points ``inputs`` are kept with them.
    """

    def __init__(self, model: LanguageModel, hook: str, inputs: Collection[str] = ()) -> None:
        self._model, self._hook, self._inputs = model, hook, inputs
        self._kept: dict[range, Pass] = {}
        self._left = _CPU_BYTES
        if model.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(model.device)
            self._left = min(_GPU_BYTES, free // _SHARE)

    def of(self, batch: Batch) -> Pass:
        """The clean pass over a batch."""
        found = self._kept.get(batch.rows)
        if found is None:
            found = self._model.clean(batch.ids, self._hook, self._inputs)
            size = self._bytes(batch)
            if size <= self._left:
                self._left -= size
                self._kept[batch.rows] = found
        return found

    def has_room_for(self, batch: Batch) -> bool:
        """Whether the clean pass over a batch is kept, or will be."""
        return batch.rows in self._kept or self._bytes(batch) <= self._left

    def forget(self) -> None:
        """Release the memory, and keep no further passes."""
        self._kept.clear()
        self._left = 0

    def _bytes(self, batch: Batch) -> int:
        model = self._model
        widths = 2 * model.d_model + sum(map(model.width, (self._hook, *self._inputs)))
        itemsize: int = model.dtype.itemsize
        return batch.ids.numel() * widths * itemsize
