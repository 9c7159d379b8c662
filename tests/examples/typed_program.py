"""A program of a user's, never run: it passes mypy, strictly, by the types of the package."""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

import prolu_eval


def use(runs: str) -> int:
    table: pd.DataFrame = prolu_eval.load_results(runs, tokens="stories.txt")
    answer = prolu_eval.frontier(table, x="l0", y="ce_degradation")
    sentence: str = answer.sentence
    figure: go.Figure = answer.figure()
    page: Path = answer.report("report.html")
    budget = prolu_eval.frontier(table, at={"l0": 32})
    there: prolu_eval.Estimate = budget.groups[0].at[0].value
    prolu_eval.save_baseline([], "b.json")
    outcomes = prolu_eval.evaluate(runs, prolu_eval.EvaluationOptions(n_tokens=1024))
    result: prolu_eval.Result | None = outcomes[0].result
    if result is not None:
        estimate: prolu_eval.Estimate = result.metrics["l0"]
    found = prolu_eval.compare(runs, "b.json", tolerance="l0=+1")
    return found.exit_code
