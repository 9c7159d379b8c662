"""How much fits: batch sizes from a device's free memory, and what running out of it looks like."""

import gc

import torch

from prolu_eval.lm import LanguageModel

# Tokens of a batch: on a CPU so that activations stay in cache, on a GPU at most.
_CPU_TOKENS, _GPU_TOKENS = 4096, 1 << 16
# Numbers that a pass holds per token, in multiples of the model's width: the residual stream, the
# attention's and the MLP's intermediates, and the hidden states of autoencoders read out together.
_WIDTHS = 40


def default_batch_size(model: LanguageModel, context_length: int) -> int:
    """Rows per batch that suit a model's device and what is free on it."""
    tokens = _CPU_TOKENS
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        tokens = min(_GPU_TOKENS, free // 2 // (_WIDTHS * model.d_model * model.dtype.itemsize))
    return max(1, tokens // context_length)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def release(device: torch.device) -> None:
    """Give back what is cached of a device's memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
