"""Estimating the factors on activations in training, for autoencoders whose files lack them."""

from collections.abc import Sequence
from dataclasses import replace

from prolu_eval.evaluation.measurer import Measurer
from prolu_eval.runs import Run

# The mean norm is computed over the first rows that have at least so many counted positions.
_TOKENS = 4096


def with_estimated_scale(runs: Sequence[Run], engine: Measurer) -> list[Run]:
    """The runs, with an estimate of the factor for those that lack it.

    In training, the factor was sqrt(d_in) over the activations' mean norm on the training text
    (SAELens' ``expected_average_only_in``); a crosscoder has one factor for each of its sites. The
    estimate uses the mean norm on the first tokens of the evaluation. The estimate and its number
    of tokens are stored with the results.

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
