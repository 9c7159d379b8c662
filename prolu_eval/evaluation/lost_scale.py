"""The factors on activations that an autoencoder was trained with and its files lost, estimated."""

from collections.abc import Sequence
from dataclasses import replace

from prolu_eval.evaluation.measurer import Measurer
from prolu_eval.runs import Run

# Counted positions of the first rows that the mean norm is taken over, at the least.
_TOKENS = 4096


def with_estimated_scale(runs: Sequence[Run], engine: Measurer) -> list[Run]:
    """The runs, with an estimate of the factor for those that lack it.

    In training it was sqrt(d_in) over the mean norm of the activations
    (SAELens' ``expected_average_only_in``), there over the training text, here over the first
    tokens that are evaluated. A crosscoder has one for each of its sites. What it is and on how
    many tokens it rests is kept with the results.

    Raises:
        EvaluationError: if the activations are all zero or not finite.
    """
    counted = engine.tokens.counted.sum(1).cumsum(0)
    n_rows = min(int((counted < _TOKENS).sum()) + 1, len(engine.tokens))
    norms = engine.mean_norms(range(n_rows))
    estimated = []
    for run in runs:
        if run.needs_scale and run.d_out is None and run.activation_scale is None:
            scales = tuple(run.d_in**0.5 / norm for norm in norms)
            told = {
                "activation_scale": scales[0] if len(scales) == 1 else list(scales),
                "estimated_on_tokens": int(counted[n_rows - 1]),
            }
            run = replace(
                run,
                activation_scale=scales,
                besides="activation scale estimated",
                provenance=run.provenance | told,
            )
        estimated.append(run)
    return estimated
