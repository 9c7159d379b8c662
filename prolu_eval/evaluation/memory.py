"""Fitting weights and batches in a device's free memory, and recognising when memory runs out."""

import gc

import torch

from prolu_eval.devices import default_device, free_memory
from prolu_eval.errors import MemoryShortageError
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.lm import LanguageModel
from prolu_eval.runs import Run

# Tokens of a batch: on a CPU so few that activations stay in cache; on a GPU the upper limit.
_CPU_TOKENS, _GPU_TOKENS = 4096, 1 << 16
# How many numbers a pass keeps per token, in multiples of the model's width: the residual stream,
# intermediate values of attention and MLP, and hidden states of autoencoders that are read out
# together.
_WIDTHS = 40
# Fewer weights than this fit on any machine on which a language model fits.
_MANY_WEIGHTS = 1 << 28


def check_room(run: Run, options: EvaluationOptions) -> None:
    """Check, before anything is loaded, that a run's weights fit in the free memory.

    All weights are in the host's memory in float32 while they are read, and then on the device.

    Raises:
        MemoryShortageError: if they do not fit; the message says how much memory they need.
    """
    n_weights = run.n_weights or 0
    if n_weights < _MANY_WEIGHTS:
        return
    places = {torch.device("cpu"): 4}
    device = torch.device(options.device or default_device())
    if device.type != "cpu":
        places[device] = 4 if options.dtype in ("float32", "tf32") else 2
    for place, size in places.items():
        if (needed := size * n_weights) > (free := free_memory(place)):
            raise MemoryShortageError(
                run.path,
                f"has {needed / 2**30:,.1f} GiB of weights, which are in memory together, but "
                f"{free / 2**30:,.1f} GiB of memory are free on {place}",
                "use a machine with more memory, or a smaller release of it",
            )


def default_batch_size(model: LanguageModel, context_length: int) -> int:
    """Rows per batch that suit a model's device and its free memory."""
    tokens = _CPU_TOKENS
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        tokens = min(_GPU_TOKENS, free // 2 // (_WIDTHS * model.d_model * model.dtype.itemsize))
    return max(1, tokens // context_length)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    if isinstance(error, MemoryError | MemoryShortageError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def release(device: torch.device) -> None:
    """Return the memory that torch caches of a device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
