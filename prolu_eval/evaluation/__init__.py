"""Measuring autoencoders inside a language model, and storing what was measured.

The options are plain data: torch loads with whatever measures.
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
