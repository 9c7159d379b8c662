"""Results where others look for them: model cards beside checkpoints, and files as SAEBench's."""

from prolu_eval.publishing.card import write_card
from prolu_eval.publishing.saebench import write_saebench

__all__ = ["write_card", "write_saebench"]
