"""What an evaluation is asked to do, and what came of each run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result
from prolu_eval.runs import WeightProcessing
from prolu_eval.tokens import Packing, Split

DEFAULT_TOKENS = 131_072
DEFAULT_CONTEXT = 128


@dataclass(frozen=True)
class Options:
    """How to evaluate. None means: what the run's own configuration says, or a default.

    Attributes:
        model: overrides the runs' model.
        hook: overrides the runs' hook point.
        tokens: a source of :func:`prolu_eval.tokens.load_tokens`; overrides the runs' dataset.
        text_column: the column of the text or the token ids in ``tokens``.
        split: which part of the source; None for the held-out tenth of a run's own dataset,
            and all of a source that was named.
        n_tokens: how many tokens to evaluate on, at most.
        context_length: length of a sequence.
        prepend_bos: whether sequences begin with BOS.
        special_tokens: whether special positions are replaced and counted too.
        packing: whether sequences run across the documents' boundaries or stay within a document.
        weight_processing: whether the activations are those of the model's weights as published or
            as TransformerLens processes them; None for what the run says, or else ``none``.
        batch_size: sequences per batch; None for what suits the device.
        device: where the model and the autoencoders run.
        device_map: how to spread a model over several devices instead (``auto``).
        dtype: the precision that they run in; ``tf32`` is float32 with TF32 matrix products on
            CUDA, where ``float32`` has none.
        compile: whether the autoencoders' pass is compiled.
        target_se: standard errors to reach, by metric; then tokens are added, up to ``n_tokens``,
            until every run has reached them.
        shard: (i, n) measures the i-th of n shares of the tokens only, i from 0; whoever measures
            the last share of a run puts its result together.
        shard_tokens: tokens that are measured between two savings.
        results: folder for results, instead of ``evaluation/`` beside each run.
    """

    model: str | None = None
    hook: str | None = None
    tokens: str | None = None
    text_column: str | None = None
    split: Split | None = None
    n_tokens: int = DEFAULT_TOKENS
    context_length: int | None = None
    prepend_bos: bool | None = None
    special_tokens: Literal["exclude", "include"] = "exclude"
    packing: Packing = "concatenate"
    weight_processing: WeightProcessing | None = None
    batch_size: int | None = None
    device: str | None = None
    device_map: str | None = None
    dtype: Literal["float32", "tf32", "bfloat16", "float16", "float64"] = "float32"
    compile: bool = False
    target_se: Mapping[str, float] = field(default_factory=dict)
    shard: tuple[int, int] | None = None
    shard_tokens: int = 16_384
    results: Path | None = None


def check(options: Options) -> None:
    """See that options can be fulfilled together.

    Raises:
        UsageError: if they cannot.
    """
    for key in options.target_se:
        if key not in METRICS or not METRICS[key].numerator:
            raise UsageError("--target-se", f"{key!r} has no standard error to wait for",
                             "name a metric that is a mean or a ratio over tokens")  # fmt: skip
    if any(not target > 0 for target in options.target_se.values()):
        raise UsageError("--target-se", "is not above zero", "give e.g. ce_degradation=0.002")
    if options.shard is not None:
        index, count = options.shard
        if not 0 <= index < count:
            raise UsageError("--shard", f"{index}/{count} is no share", "count from 0, as in 0/4")
        if options.target_se:
            raise UsageError("--shard", "cannot be told when --target-se is reached", "give one")


@dataclass(frozen=True)
class Outcome:
    """What came of one run: its result, measured now or found stored, or the reason of failure.

    A run is ``partial`` if what is measured of it is stored, but other shares are still missing.
    ``result`` reads its arrays from the files when they are asked for.
    """

    name: str
    path: Path
    status: Literal["ok", "cached", "partial", "failed"]
    variant: str | None = None
    format: str | None = None
    result: Result | None = None
    error: str | None = None
