"""Publishes results in two forms: model cards beside checkpoints, and files like SAEBench's."""

from prolu_eval.publishing.card import write_card
from prolu_eval.publishing.saebench import read_references, write_saebench

__all__ = ["read_references", "write_card", "write_saebench"]
