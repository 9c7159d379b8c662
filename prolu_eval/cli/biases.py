"""`prolu-eval biases`: the distribution of encoder biases, from the checkpoints alone."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from prolu_eval.cli import app, options, remark, say_document, say_table
from prolu_eval.cli.command import CHECKPOINTS, Command
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT, ProluEvalError
from prolu_eval.estimates import Estimate, number, two_digits, unrounded

if TYPE_CHECKING:
    from prolu_eval.runs import Broken, Run

_HEAD = ("run", "variant", "coefficient", "negative", "5 %", "median", "95 %", "distribution")


@app.command(cls=Command, rich_help_panel=CHECKPOINTS)
def biases(runs: options.Runs, as_json: options.Json = False) -> None:
    """Show each run's encoder biases: fraction negative, quantiles, histogram."""
    from prolu_eval.checkpoints import discover_all

    found = discover_all(runs)
    found.sort(key=lambda item: (getattr(item, "label", ""), _coefficient(item), item.name))
    documents, failures = [], []
    for item in found:
        try:
            documents.append(_describe(item))
        except ProluEvalError as error:
            failures.append(f"{item.name} skipped: {error}")
    if as_json:
        say_document({"runs": documents})
    elif documents:
        say_table([_HEAD, *(_row(document) for document in documents)])
    for failure in failures:
        remark(failure)
    failed = CHECK_FAILED if documents else WRONG_INPUT
    raise typer.Exit(failed if failures else DONE)


def _coefficient(item: "Run | Broken") -> float:
    return getattr(item, "coefficient", None) or 0.0


def _describe(item: "Run | Broken") -> dict[str, Any]:
    from prolu_eval.analysis.biases import bias_distribution
    from prolu_eval.checkpoints import load_run
    from prolu_eval.runs import Broken

    if isinstance(item, Broken):
        raise item.cause
    bias = load_run(item).encoder_bias()
    return {
        "run": item.name,
        "path": str(item.path),
        "variant": item.label,
        "coefficient": item.coefficient,
        "biases": None
        if bias is None
        else asdict(bias_distribution(bias.detach().float().numpy())),
    }


def _row(document: dict[str, Any]) -> list[str]:
    from prolu_eval.analysis.biases import BiasDistribution

    coefficient = document["coefficient"]
    head = [
        document["run"],
        document["variant"],
        unrounded(coefficient),
    ]
    if document["biases"] is None:
        return [*head, "no bias", "", "", "", ""]
    known = BiasDistribution(**document["biases"])
    low, _, median, _, high = known.quantiles
    left, right = known.edges[0], known.edges[-1]
    return [
        *head,
        f"{Estimate(value=known.negative_fraction):%}",
        *(number(value) for value in (low, median, high)),
        f"{two_digits(left)} {known.sketch} {two_digits(right)}",
    ]
