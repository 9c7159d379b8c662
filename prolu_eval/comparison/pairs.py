"""Matches current runs with those of the baseline, and says whether two can be compared."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prolu_eval.errors import UsageError
from prolu_eval.json_text import canonical
from prolu_eval.results import OF_SEQUENCES, Result, RunSummary

MATCHES = ("name", "configuration")


@dataclass(frozen=True)
class MatchedRuns:
    """Runs of the baseline matched with current runs, and the runs that only one side has.

    ``pairs`` are (current, baseline); ``missing`` are in the baseline only, ``new`` are current
    only.
    """

    pairs: list[tuple[Result, Result]]
    missing: list[Result]
    new: list[Result]


def match_runs(
    current: Sequence[Result],
    baseline: Sequence[Result],
    by: str,
    *,
    only: str | Sequence[str] = (),
) -> MatchedRuns:
    """Match runs by `name`, by `configuration`, or by the groups of a regular expression on names.

    Pairs are (current, baseline), in the baseline's order. ``only`` keeps names that match one of
    its shell patterns.

    Raises:
        UsageError: if ``by`` is not a regular expression with groups, if ``only`` leaves no run of
            the baseline, or if two runs of one side cannot be told apart.
    """
    chosen = [r for r in current if is_selected(r.run.name, only)]
    kept = [r for r in baseline if is_selected(r.run.name, only)]
    identity = _identity(by, configurations(chosen, kept))
    ours = _index(chosen, identity, "the runs")
    theirs = _index(kept, identity, "the baseline")
    if not theirs:
        raise UsageError(
            "--only", "leaves no run of the baseline", "name patterns that its runs' names match"
        )
    return MatchedRuns(
        pairs=[(ours[key], old) for key, old in theirs.items() if key in ours],
        missing=[old for key, old in theirs.items() if key not in ours],
        new=[run for key, run in ours.items() if key not in theirs],
    )


def is_selected(name: str, only: str | Sequence[str]) -> bool:
    """Whether a name equals or matches one of the shell patterns in ``only``, or ``only`` is empty.

    A name with brackets, such as ``topk[4]``, is compared literally before it is read as a pattern.
    """
    patterns = [only] if isinstance(only, str) else only
    return not only or any(name == p or fnmatchcase(name, p) for p in patterns)


def configurations(
    current: Sequence[Result], baseline: Sequence[Result]
) -> Callable[[RunSummary], object]:
    """A function that gives the configuration of a run's training, including the seed.

    It leaves out options that only the runs of one side record, because those of the other side
    were written by another version or record less.
    """
    known = [
        {name for result in side for name in result.run.configuration} | {"seed"}
        for side in (current, baseline)
    ]
    both = known[0] & known[1]

    def configuration(run: RunSummary) -> object:
        parts = {**run.configuration, "seed": run.seed}
        return canonical({k: v for k, v in parts.items() if k in both})

    return configuration


def _identity(
    by: str, configuration: Callable[[RunSummary], object]
) -> Callable[[RunSummary], object]:
    if by == "name":
        return lambda run: run.name
    if by == "configuration":
        return configuration
    try:
        pattern = re.compile(by)
    except re.error as error:
        reason = f"{by!r} is not a regular expression ({error})"
        raise UsageError("--match", reason, f"write {', '.join(MATCHES)} or a pattern") from None
    if not pattern.groups:
        raise UsageError(
            "--match", f"{by!r} has no group", "put what identifies a run in parentheses"
        )
    return lambda run: m.groups() if (m := pattern.search(run.name)) else (run.name,)


def _index(
    results: Sequence[Result], identity: Callable[[RunSummary], object], where: str
) -> dict[object, Result]:
    found: dict[object, Result] = {}
    for result in results:
        other = found.setdefault(identity(result.run), result)
        if other is not result:
            raise UsageError(
                "--match",
                f"cannot tell {other.run.name} and {result.run.name} of {where} apart",
                "match by what differs between them, or leave one of them out with --only",
            )
    return found


@dataclass(frozen=True)
class Obstacle:
    """Why two results cannot be compared, and what to do about it."""

    reason: str
    remedy: str


_ACCEPT = "accept the change with `prolu-eval baseline update`"
_LIKE = f"evaluate as the baseline was, or {_ACCEPT}"
# The names of differences between settings in messages, and their remedies. Other differences are
# named after the setting's field.
_CALLED = {
    "metric_version": ("the metric version", f"evaluate with the baseline's version, or {_ACCEPT}"),
    "model_fingerprint": ("the model", f"evaluate with the baseline's model, or {_ACCEPT}"),
    "weight_processing": ("the processing of the model's weights", _LIKE),
    "special_tokens": ("--special-tokens", _LIKE),
    "dtype": ("--dtype", _LIKE),
    "context_length": ("the context length", _LIKE),
    "prepend_bos": ("prepending of BOS", _LIKE),
    "packing": ("the packing of documents", _LIKE),
    "hook": ("the hook", f"evaluate at the baseline's hook, or {_ACCEPT}"),
}


def obstacle(current: Result, baseline: Result, *, unpaired: bool) -> Obstacle | None:
    """The reason why two matched results cannot be compared; None if they can."""
    differing = current.differences(baseline)
    for field in sorted(set(differing) - OF_SEQUENCES, key=[*_CALLED, *differing].index):
        what, remedy = _CALLED.get(field, (field.replace("_", " "), _LIKE))
        old, new = (_shown(result, field) for result in (baseline, current))
        return Obstacle(f"{what} changed from {old} to {new}", remedy)
    if not unpaired and OF_SEQUENCES & set(differing):
        old, new = baseline.setting, current.setting
        return Obstacle(
            f"the tokens changed from {old.tokens} ({old.n_counted} counted) to {new.tokens} "
            f"({new.n_counted} counted)",
            f"evaluate on the baseline's tokens, compare with --unpaired, or {_ACCEPT}",
        )
    return None


def _shown(result: Result, field: str) -> object:
    if field == "hook":
        return result.run.site
    value = getattr(result.setting, field)
    named = f"{result.setting.model} ({str(value)[:8]})"
    return named if field == "model_fingerprint" else value
