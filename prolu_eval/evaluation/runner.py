"""Evaluating every run in folders: what belongs together is measured together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prolu_eval.checkpoints import discover
from prolu_eval.errors import ProluEvalError, ResultsError
from prolu_eval.evaluation.grouping import grouped
from prolu_eval.evaluation.options import Options, Outcome, check
from prolu_eval.evaluation.session import Session, failed
from prolu_eval.plain_text import printable
from prolu_eval.precision import matrix_products
from prolu_eval.runs import Broken, Run


def evaluate(
    paths: str | Path | Sequence[str | Path],
    options: Options | None = None,
    *,
    progress: bool = False,
    on_outcome: Callable[[Outcome], Any] = lambda _: None,
) -> list[Outcome]:
    """Evaluate every run in folders, or take its stored result, and store what is measured.

    Args:
        paths: a folder of runs, a single checkpoint, or several of either.
        options: how to evaluate.
        progress: whether to show a bar on stderr.
        on_outcome: called with each outcome as soon as there is one.

    Returns:
        One outcome per checkpoint found, in the order found; a run that cannot be loaded or
        measured is ``failed`` with its reason and does not stop the others.

    Raises:
        CheckpointError: if a path holds no checkpoint at all.
        ModelError, TokensError, EvaluationError: if every run failed for that reason.
        ResultsError: if results cannot be written.
        UsageError: if the options contradict one another.
    """
    options = options or Options()
    check(options)
    roots = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    found = _discover(roots)
    outcomes: dict[str, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        on_outcome(outcome)

    runs: list[Run] = []
    for item in found:
        if isinstance(item, Broken):
            settle(Outcome(item.name, item.path, "failed", error=item.error))
        else:
            runs.append(item)
    session = Session(options, progress, settle)
    groups = grouped(runs, options, lambda run, error: settle(failed(run, error)))
    with matrix_products(tf32=options.dtype == "tf32"):
        for group, members in groups:
            try:
                session.evaluate(group, members)
            except ResultsError:
                raise
            except ProluEvalError as error:
                for run in members:
                    if run.name not in outcomes:
                        settle(failed(run, error))
    return [outcomes[item.name] for item in found]


def _discover(roots: list[Path]) -> list[Run | Broken]:
    """What lies in folders; of several, each one's runs bear as much of its path as tells it."""
    distinct = {root.resolve(): root for root in reversed(roots)}
    if len(distinct) == 1:
        return discover(roots[0])
    places = list(dict.fromkeys(root.resolve() for root in roots))
    deepest = max(len(place.parts) for place in places)
    titles = next(
        found
        for n in range(1, deepest + 1)
        if len(found := {"/".join(place.parts[1:][-n:]): place for place in places}) == len(places)
    )
    return [
        replace(item, name=f"{printable(title)}/{item.name}")
        for title, place in titles.items()
        for item in discover(distinct[place])
    ]
