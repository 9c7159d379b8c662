"""What an evaluation is asked to do, and what came of each run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prolu_eval.results import Result
from prolu_eval.tokens import Split

DEFAULT_TOKENS = 131_072
DEFAULT_CONTEXT = 128


@dataclass(frozen=True)
class Options:
    """How to evaluate. None means: what the run's own configuration says, or a default.

    Attributes:
        model: overrides the runs' model.
        hook: overrides the runs' hook point.
        tokens: a source of :func:`prolu_eval.tokens.load_tokens`; overrides the runs' dataset.
        split: which documents of the source; None for the held-out ones of a run's own dataset,
            and all of a source that was named.
        n_tokens: how many tokens to evaluate on, at most.
        context_length: length of a sequence.
        prepend_bos: whether sequences begin with BOS.
        special_tokens: whether special positions are replaced and counted too.
        batch_size: sequences per batch; None for what fits the device.
        device, dtype: where and in what precision the model and the autoencoders run.
        results: folder for results, instead of ``evaluation/`` beside each run.
    """

    model: str | None = None
    hook: str | None = None
    tokens: str | None = None
    split: Split | None = None
    n_tokens: int = DEFAULT_TOKENS
    context_length: int | None = None
    prepend_bos: bool | None = None
    special_tokens: Literal["exclude", "include"] = "exclude"
    batch_size: int | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    results: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one run: its result, measured now or found stored, or the reason of failure."""

    name: str
    path: Path
    status: Literal["ok", "cached", "failed"]
    variant: str | None = None
    format: str | None = None
    result: Result | None = None
    error: str | None = None
