"""Benchmarks with known features: activations drawn from a known dictionary.

A benchmark replaces a language model at a hook point: ``synthetic:NAME`` is one of the presets,
``synthetic:FOLDER`` one that ``prolu-eval synthetic`` wrote. For every sample it is known which
features are active, and how strongly.
"""

from typing import TYPE_CHECKING, Any

from prolu_eval.synthetic.benchmark import (
    BENCHMARK_FILE,
    HOOK,
    PREFIX,
    PRESETS,
    Benchmark,
    is_synthetic,
    named_benchmark,
)

if TYPE_CHECKING:
    from prolu_eval.synthetic.samples import Samples, SyntheticActivations

__all__ = [
    "BENCHMARK_FILE",
    "HOOK",
    "PREFIX",
    "PRESETS",
    "Benchmark",
    "Samples",
    "SyntheticActivations",
    "is_synthetic",
    "named_benchmark",
]


def __getattr__(name: str) -> Any:
    if name not in ("Samples", "SyntheticActivations"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prolu_eval.synthetic import samples

    return getattr(samples, name)
