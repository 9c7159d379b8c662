"""Training sweeps of autoencoders on a language model's activations."""

from prolu_eval.training.config import EXAMPLE, FOUR_SWEEPS, SweepFile
from prolu_eval.training.cost import Cost, estimate_cost
from prolu_eval.training.loop import Settings
from prolu_eval.training.portions import Trained
from prolu_eval.training.sweep import train_sweep
from prolu_eval.training.sweep_file import read_sweep_file

__all__ = [
    "EXAMPLE",
    "FOUR_SWEEPS",
    "Cost",
    "Settings",
    "SweepFile",
    "Trained",
    "estimate_cost",
    "read_sweep_file",
    "train_sweep",
]
