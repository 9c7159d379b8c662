"""Measuring autoencoders inside a language model, and storing what was measured."""

from prolu_eval.evaluation.options import Options, Outcome
from prolu_eval.evaluation.runner import evaluate

__all__ = ["Options", "Outcome", "evaluate"]
