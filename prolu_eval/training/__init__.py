"""Training sweeps of autoencoders on a language model's activations."""

from prolu_eval.training.config import FOUR_SWEEPS, SweepFile, read_sweep_file
from prolu_eval.training.sweep import Trained, train

__all__ = ["FOUR_SWEEPS", "SweepFile", "Trained", "read_sweep_file", "train"]
