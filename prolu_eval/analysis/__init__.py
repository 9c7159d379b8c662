"""Turns stored results into comparable groups, Pareto frontiers and answers, without torch."""

from prolu_eval.analysis.advice import Gap
from prolu_eval.analysis.answers import (
    AdvisedSaving,
    Answer,
    BudgetReading,
    CurvePoint,
    FolderSaving,
    LeadRange,
    RunPlace,
    VariantAnswer,
    answer,
    answer_group,
)
from prolu_eval.analysis.attainment import Surface
from prolu_eval.analysis.bootstrap import N_REPLICATES, Replicates, n_replicates, resample
from prolu_eval.analysis.chance import AgainstChance
from prolu_eval.analysis.dominations import Domination
from prolu_eval.analysis.epsilon import Epsilon
from prolu_eval.analysis.frontiers import Frontier, VariantFrontier, group_frontier
from prolu_eval.analysis.groups import Group, comparable
from prolu_eval.analysis.pareto import (
    PRESETS,
    hypervolume,
    is_nondominated,
    maximised,
    pareto_frontier,
    reference_point,
)
from prolu_eval.analysis.questions import Question
from prolu_eval.analysis.ranking import Rank
from prolu_eval.analysis.ratios import Ratio, ratios
from prolu_eval.analysis.savings import Lead, Saving
from prolu_eval.analysis.slack import Slack, slack
from prolu_eval.analysis.statement import statement

__all__ = [
    "N_REPLICATES",
    "PRESETS",
    "AdvisedSaving",
    "AgainstChance",
    "Answer",
    "BudgetReading",
    "CurvePoint",
    "Domination",
    "Epsilon",
    "FolderSaving",
    "Frontier",
    "Gap",
    "Group",
    "Lead",
    "LeadRange",
    "Question",
    "Rank",
    "Ratio",
    "Replicates",
    "RunPlace",
    "Saving",
    "Slack",
    "Surface",
    "VariantAnswer",
    "VariantFrontier",
    "answer",
    "answer_group",
    "comparable",
    "frontier",
    "group_frontier",
    "hypervolume",
    "is_nondominated",
    "maximised",
    "n_replicates",
    "pareto_frontier",
    "ratios",
    "reference_point",
    "resample",
    "slack",
    "statement",
]

# The name of group_frontier in version 0.1.0.
frontier = group_frontier
