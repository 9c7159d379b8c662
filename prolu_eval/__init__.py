"""prolu-eval: which sparse autoencoder is better, and did a change make it worse?

The public interface consists of the names that can be imported from here; no other name is promised
to stay. Each name loads its module on first use, so that ``import prolu_eval`` alone imports
neither torch nor pandas; ``load_results``, ``frontier``, ``pareto_frontier``, ``compare`` and
baselines never need torch.

Idle threads of torch are made to sleep, unless the environment says otherwise. By default they wait
actively and take processor time from threads that work, so that on a shared machine two threads can
be many times slower than one. The setting must be made before torch is loaded.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolu_eval.activations import prolu
    from prolu_eval.analysis import pareto_frontier
    from prolu_eval.baseline import load_baseline
    from prolu_eval.checkpoints import discover, load_sae
    from prolu_eval.comparison import Comparison
    from prolu_eval.errors import ProluEvalError
    from prolu_eval.estimates import Estimate
    from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate
    from prolu_eval.interface import (
        FrontierAnswer,
        compare,
        convert,
        frontier,
        save_baseline,
        train,
    )
    from prolu_eval.metrics import METRICS
    from prolu_eval.results import Result, load_results
    from prolu_eval.saes import SparseAutoencoder

    __version__: str

# The variables of GNU's OpenMP, and of Intel's and LLVM's.
for _variable, _value in {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}.items():
    os.environ.setdefault(_variable, _value)

_MODULES = {
    "METRICS": "metrics",
    "Comparison": "comparison",
    "Estimate": "estimates",
    "EvaluationOptions": "evaluation",
    "FrontierAnswer": "interface",
    "Outcome": "evaluation",
    "ProluEvalError": "errors",
    "Result": "results",
    "SparseAutoencoder": "saes",
    "compare": "interface",
    "convert": "interface",
    "discover": "checkpoints",
    "evaluate": "evaluation",
    "frontier": "interface",
    "load_baseline": "baseline",
    "load_results": "results",
    "load_sae": "checkpoints",
    "pareto_frontier": "analysis",
    "prolu": "activations",
    "save_baseline": "interface",
    "train": "interface",
}

__all__ = [
    "METRICS",
    "Comparison",
    "Estimate",
    "EvaluationOptions",
    "FrontierAnswer",
    "Outcome",
    "ProluEvalError",
    "Result",
    "SparseAutoencoder",
    "__version__",
    "compare",
    "convert",
    "discover",
    "evaluate",
    "frontier",
    "load_baseline",
    "load_results",
    "load_sae",
    "pareto_frontier",
    "prolu",
    "save_baseline",
    "train",
]


# Names of version 0.1.0, with their present names.
_FORMER = {"Options": "EvaluationOptions"}


def __getattr__(name: str) -> Any:
    name = _FORMER.get(name, name)
    if name == "__version__":
        return import_module("importlib.metadata").version("prolu-eval")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
