"""How much fits: weights and batches in a device's free memory, and what running out looks like."""

import gc

import torch

from prolu_eval.devices import default_device, free_memory
from prolu_eval.errors import EvaluationError
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.lm import LanguageModel
from prolu_eval.runs import Run

# Tokens of a batch: on a CPU so that activations stay in cache, on a GPU at most.
_CPU_TOKENS, _GPU_TOKENS = 4096, 1 << 16
# Numbers that a pass holds per token, in multiples of the model's width: the residual stream, the
# attention's and the MLP's intermediates, and the hidden states of autoencoders read out together.
_WIDTHS = 40
# Fewer fit wherever a language model does.
_MANY_WEIGHTS = 1 << 28


def check_room(run: Run, options: EvaluationOptions) -> None:
    """See, before anything is loaded, that a run's weights fit in what memory is free.

    They are held in float32 while they are read, and all at once, then on the device.

    Raises:
        EvaluationError: saying what they take, if they do not.
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
            raise EvaluationError(
                run.path,
                f"has {needed / 2**30:,.1f} GiB of weights, all held at once, where "
                f"{free / 2**30:,.1f} GiB of memory are free on {place}",
                "use a machine with more memory, or a smaller release of it",
            )


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
