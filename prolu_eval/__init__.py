"""prolu-eval: which sparse autoencoder is better, and did a change make it worse?

The public interface is importable from here; each name loads its module on first use, so that
``import prolu_eval`` alone imports neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolu_eval.activations import prolu
    from prolu_eval.analysis import pareto_frontier
    from prolu_eval.checkpoints import discover, load_sae
    from prolu_eval.evaluation import EvaluationOptions, Options, evaluate
    from prolu_eval.results import load_results
    from prolu_eval.saes import SparseAutoencoder

__version__ = "0.1.0"

_MODULES = {
    "EvaluationOptions": "evaluation",
    "Options": "evaluation",
    "SparseAutoencoder": "saes",
    "discover": "checkpoints",
    "evaluate": "evaluation",
    "load_results": "results",
    "load_sae": "checkpoints",
    "pareto_frontier": "analysis",
    "prolu": "activations",
}

__all__ = [
    "EvaluationOptions",
    "Options",
    "SparseAutoencoder",
    "discover",
    "evaluate",
    "load_results",
    "load_sae",
    "pareto_frontier",
    "prolu",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
