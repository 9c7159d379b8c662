"""Evaluating autoencoders inside a language model, and storing the results.

The options are plain data and do not import torch. ``evaluate`` and ``Outcome`` import it when they
are first used.
"""

from typing import TYPE_CHECKING, Any

from prolu_eval.evaluation.options import EvaluationOptions

if TYPE_CHECKING:
    from prolu_eval.evaluation.outcomes import Outcome
    from prolu_eval.evaluation.runner import evaluate

Options = EvaluationOptions  # its short name

__all__ = ["EvaluationOptions", "Options", "Outcome", "evaluate"]


def __getattr__(name: str) -> Any:
    if name not in ("Outcome", "evaluate"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prolu_eval.evaluation import outcomes, runner

    return getattr(outcomes if name == "Outcome" else runner, name)
