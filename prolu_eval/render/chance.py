"""What reports show about chance baselines, apart from the variants."""

from collections.abc import Sequence

from prolu_eval.analysis import Answer, Group
from prolu_eval.analysis.chance import about_chance
from prolu_eval.analysis.statement import amount
from prolu_eval.metrics import METRICS
from prolu_eval.render.tables import Table, columns, measured


def about_chance_runs(group: Group) -> str:
    """A sentence that names the chance baselines of a group; empty if it has none."""
    if group.chance is None:
        return ""
    n = len(group.chance.results)
    return (
        f"{n} runs of chance baselines are shown for comparison and are not ranked: "
        f"{', '.join(group.chance.labels)}."
    )


def chance_tables(answer: Answer) -> list[Table]:
    """The table of comparisons with chance baselines, if there are any, and that of their runs.

    Intervals are 95 %; ± is one standard error.
    """
    group, keys = answer.group, answer.question.keys
    if group.chance is None:
        return []
    head = ["variant", "chance baseline", "", "needs", "at equal"]
    rows = [
        [part.variant, part.baseline, part.standing, amount(part.saving),
         METRICS[part.saving.at_equal].title]
        for part in answer.chance
    ]  # fmt: skip
    return [*([(head, rows)] if rows else []), _runs(group.chance, keys)]


def _runs(chance: Group, keys: Sequence[str]) -> Table:
    shown = columns(chance, keys)
    ordered = chance.table.sort_values(["label", *keys], kind="stable").to_dict("records")
    rows = [
        [str(row["label"]), str(row["name"]), *(f"{measured(row, key):se}" for key in shown)]
        for row in ordered
    ]
    return ["chance baseline", "run", *shown], rows


def chance_part(answer: Answer) -> dict[str, object] | None:
    """The content of the page's section on chance; None without baselines."""
    if answer.group.chance is None:
        return None
    *against, runs = chance_tables(answer)
    return {
        "about": about_chance_runs(answer.group),
        "sentences": about_chance(answer.chance),
        "against": against[0] if against else None,
        "runs": runs,
    }
