"""The section "Better dictionaries?", which compares variants at one L0 in every measure."""

from prolu_eval.analysis import Answer
from prolu_eval.analysis.better import Better, MeasureAt, VariantAt, better
from prolu_eval.estimates import number
from prolu_eval.metrics import METRICS
from prolu_eval.render.tables import Table

TITLE = "Better dictionaries?"
_BETTER = {"min": "less", "max": "more", "none": ""}


def better_of(answer: Answer) -> Better | None:
    """All measures of an answer's variants; None if no two variants can be compared at one L0."""
    return better(answer.group, answer.question)


def better_table(found: Better) -> Table:
    """A row for each measure: each variant's value at the L0 and its ranks, and the agreements."""
    variants = [v.variant for v in found.measures[0].variants]
    fidelity = METRICS[found.fidelity].title
    head = ["measure", "better", *variants, f"agrees with {fidelity}", "at equal L0"]
    return head, [_row(measure) for measure in found.measures]


def _row(measure: MeasureAt) -> list[str]:
    metric = METRICS[measure.metric]
    unit = f" ({metric.unit})" if metric.unit else ""
    return [f"{metric.title}{unit}", _BETTER[metric.direction], *map(_cell, measure.variants),
            f"{measure.agreement}", f"{measure.at_equal_l0}"]  # fmt: skip


def _cell(found: VariantAt) -> str:
    """A value and its ranks: ``0.53 [0.51, 0.55], rank 2 to 4``."""
    if found.ranks is None:
        return f"{found.value}"
    low, high = found.ranks
    return f"{found.value}, rank {low}" + (f" to {high}" if high > low else "")


def about_better(found: Better) -> str:
    """How to read the table."""
    return (
        f"Values at L0 {number(found.l0)} with 95 % intervals are read off smoothing splines "
        "through each variant's configurations. Ranks are those that a variant may have at 95 % "
        "for all pairs of a measure together (Holm). Agreement is Spearman's rank correlation over "
        f"{found.n_configurations} configurations: 1 means that a measure puts them in the same "
        f"order as {METRICS[found.fidelity].title}. The last column holds the ranks of L0 equal."
    )
