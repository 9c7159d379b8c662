"""The JSON documents of runs and frontiers that --json prints."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prolu_eval.estimates import Estimate
from prolu_eval.render.better import better_of
from prolu_eval.results import Result
from prolu_eval.runs import is_range

if TYPE_CHECKING:
    from prolu_eval.analysis import Answer


def run_document(
    name: str,
    path: str,
    variant: str | None,
    kind: str | None,
    result: Result | None,
    *,
    status: str = "cached",
    error: str | None = None,
) -> dict[str, Any]:
    """The document of a run: its name and kind, whether it was evaluated, and its metrics.

    A run that covers several layers also has ``per_layer``: by metric, a list with a number for
    each layer. A run that was measured on tasks also has ``tasks``: which tasks they are, how well
    the model itself does on them, and in ``per_task`` the values of each task, with intervals over
    its examples.
    """
    return {
        "run": name,
        "path": path,
        "variant": variant,
        "format": kind,
        "chance": None if result is None else result.run.chance,
        "status": status,
        "error": error,
        **_measured(result),
    }


def result_document(result: Result) -> dict[str, Any]:
    """The document of a run with a stored result, as an evaluation that reuses it prints it."""
    run = result.run
    return run_document(run.name, run.path, run.variant, run.format, result)


def _measured(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {"metrics": {}, "provenance": {}}
    tasks = {
        over: {
            **part.model_dump(mode="json"),
            "per_task": {
                task: {column: value.model_dump(mode="json") for column, value in of_task.items()}
                for task, of_task in result.per_task(over).items()
            },
        }
        for over, part in result.tasks.items()
    }
    layers = result.per_layer() if is_range(result.run.hook) else {}
    return {
        "metrics": {k: value.model_dump(mode="json") for k, value in result.metrics.items()},
        **({"per_layer": {k: _plain(v.tolist()) for k, v in layers.items()}} if layers else {}),
        **({"tasks": tasks} if tasks else {}),
        "provenance": {
            "fingerprint": result.fingerprint,
            "setting": result.setting.model_dump(mode="json"),
            "environment": result.environment,
            **result.run.provenance,
        },
    }


def frontier_document(
    answers: "Sequence[Answer]",
    keys: Sequence[str],
    report: Path | None,
    runs: "Callable[[Answer], list[dict[str, Any]]]",
) -> dict[str, Any]:
    """The document of the answers for all groups; with one group, as usual, it is that group's.

    Args:
        answers: the answers for all groups.
        keys: the objectives that were asked for; with one group its own objectives replace them.
        report: the page that was written, if any.
        runs: a function that gives the documents of a group's runs.
    """
    parts = [
        {
            "group": answer.title,
            **asdict(answer.details),
            "variants": {v.label: asdict(v) for v in answer.details.variants},
            "stretches": {title: asdict(part.details) for title, part in answer.splits.items()},
            "at": [asdict(part) for part in answer.at],
            "folders": [asdict(part) for part in answer.folders],
            "better": None if (found := better_of(answer)) is None else found.to_json(),
            "chance": [part.to_json() for part in answer.chance],
            "statement": answer.sentence,
            "notes": list(answer.notes),
            "runs": runs(answer),
        }
        for answer in answers
    ]
    content: dict[str, Any] = parts[0] if len(parts) == 1 else {"groups": parts}
    keys = answers[0].question.keys if len(answers) == 1 else keys
    document = {
        "x": keys[0],
        "y": keys[1],
        **content,
        "report": None if report is None else str(report),
    }
    return {key: _plain(part) for key, part in document.items()}


# Values whose interval has an entry of its own in the document, as since version 0.1.0.
_BESIDE = ("hypervolume", "hypervolume_share", "exclusive_share")


def _entries(key: str, value: Any) -> dict[str, Any]:
    """The entries of the document for one key and its value."""
    if key in _BESIDE and isinstance(value, Estimate):
        return {key: value.value, f"{key}_ci95": value.ci95}
    return {key: value}


def _plain(part: Any) -> Any:
    """A part of a document in the form that JSON can hold, with null for undefined values."""
    if isinstance(part, float):
        return part if math.isfinite(part) else None
    if isinstance(part, dict):
        return {
            name: _plain(inner)
            for key, value in part.items()
            for name, inner in _entries(key, value).items()
        }
    if isinstance(part, list | tuple):
        return [_plain(value) for value in part]
    return part.model_dump() if isinstance(part, Estimate) else part
