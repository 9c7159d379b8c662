"""From stored results to answers: comparable groups and Pareto frontiers; no torch, no model."""

from prolu_eval.analysis.groups import Frontier, Group, VariantFrontier, comparable, frontier
from prolu_eval.analysis.pareto import (
    PRESETS,
    hypervolume,
    is_nondominated,
    maximised,
    pareto_frontier,
    reference_point,
)

__all__ = [
    "PRESETS",
    "Frontier",
    "Group",
    "VariantFrontier",
    "comparable",
    "frontier",
    "hypervolume",
    "is_nondominated",
    "maximised",
    "pareto_frontier",
    "reference_point",
]
