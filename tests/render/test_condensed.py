"""The data of a page has nothing twice, so that pages of thousands of runs stay small."""

from typing import Any

import numpy as np
import pytest

from prolu_eval.analysis import Question, answer
from prolu_eval.render.condensed import condensed, condensed_column
from prolu_eval.render.environment import embedded
from prolu_eval.render.page_document import group_document
from prolu_eval.results import Result
from tests.helpers.made_results import drawn

LABELS = ("relu+l1", "prolu/ste+l1", "topk")


@pytest.mark.parametrize(
    ("values", "shorter"),
    [
        ([None, None], {"every": None}),
        ([1.5], {"every": 1.5}),
        (["a", "b"], ["a", "b"]),
        (["b", "a", "b", "b", "b", "b", "b", "b"],
         {"values": ["b", "a"], "at": [0, 1, 0, 0, 0, 0, 0, 0]}),
        (["run1", "run2"], {"prefix": "run", "rest": ["1", "2"]}),
        (["run1", None], ["run1", None]),
        ([1, 2, None], [1, 2, None]),
    ],
)  # fmt: skip
def test_a_column_says_what_repeats_once(values: list[Any], shorter: Any) -> None:
    assert condensed_column(values) == shorter


def swept(n: int) -> list[Result]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        made = drawn(f"run{i:04}", LABELS[i % 3], rng, 3 + i, 3 / (3 + i))
        told = {"coefficient": i / 7, "provenance": {"saved by": "a program", "number": i}}
        found.append(made.model_copy(update={"run": made.run.model_copy(update=told)}))
    return found


def document(n: int) -> dict[str, Any]:
    (found,) = answer(swept(n), Question())
    return group_document(found.group, found.details, {}, "g0")


def test_points_are_only_in_the_table_of_runs() -> None:
    found = condensed(document(12))
    assert len(found["views"]) > 8
    for view in found["views"]:
        assert ("lines" in view) == view["frontier"]
        markers = [t for t in view["figure"]["data"] if t["mode"] == "markers"]
        assert len(markers) == len(LABELS)
        assert all(trace.keys().isdisjoint(("x", "y", "customdata", "text")) for trace in markers)
        lines = [t for t in view["figure"]["data"] if t.get("meta") == "line"]
        assert [("x" in trace) for trace in lines] == [view["frontier"]] * len(LABELS)
    runs = found["runs"]
    assert runs["n"] == 12
    assert runs["name"]["prefix"] == "run00"
    assert runs["metrics"]["dead_fraction"]["low"] == {"every": None}
    assert sorted(map(int, runs["settings"]["number"])) == [*range(12)]
    assert runs["shared_settings"]["saved by"] == "a program"


def test_a_run_takes_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many runs, whose figures have no intervals, a run is its row of the table and no more."""
    monkeypatch.setattr("prolu_eval.render.figures.MOST_INTERVALS", 10)
    few, many = (document(n) for n in (20, 120))
    whole, short = (
        (len(embedded(form(many))) - len(embedded(form(few)))) / 100
        for form in (dict[str, Any], condensed)
    )
    assert short < 0.6 * whole, (short, whole)
    values = [c for parts in condensed(many)["runs"]["metrics"].values() for c in parts.values()]
    numbers = sum(len(embedded(column)) for column in values if isinstance(column, list)) / 120
    assert short < numbers + 300, (short, numbers)
