"""Which run of today is which run of the baseline, and whether the two can be compared."""

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
    """Runs of the baseline beside those of today; what is in one alone."""

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
        UsageError: if the expression is none, nothing is left, or two runs are told apart by
            nothing.
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
    """Whether a name is one of some, or matches one as a shell pattern, or there are none.

    A name with brackets, such as ``topk[4]``, is first of all itself.
    """
    patterns = [only] if isinstance(only, str) else only
    return not only or any(name == p or fnmatchcase(name, p) for p in patterns)


def configurations(
    current: Sequence[Result], baseline: Sequence[Result]
) -> Callable[[RunSummary], object]:
    """What a run was trained as, seed included, whatever it is called.

    An option that the runs of one side alone record, since the other's were written by another
    version or hold less, tells nothing.
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
        reason = f"{by!r} is no regular expression ({error})"
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
                "match by what differs between them, or compare some with --only",
            )
    return found


@dataclass(frozen=True)
class Obstacle:
    """Why two results cannot be compared, and what to do about it."""

    reason: str
    remedy: str


_ACCEPT = "accept the change with `prolu-eval baseline update`"
_LIKE = f"evaluate as the baseline was, or {_ACCEPT}"
# What differences of settings are called, and their remedies; others bear the field's name.
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
    """What keeps two matched results from being compared; None if nothing does."""
    differing = current.differences(baseline)
    for field in sorted(set(differing) - OF_SEQUENCES, key=[*_CALLED, *differing].index):
        what, remedy = _CALLED.get(field, (field.replace("_", " "), _LIKE))
        old, new = (_shown(result, field) for result in (baseline, current))
        return Obstacle(f"{what} changed from {old} to {new}", remedy)
    if not unpaired and OF_SEQUENCES & set(differing):
        old, new = baseline.setting, current.setting
        return Obstacle(
            f"the tokens changed ({old.tokens}, {old.n_counted} counted, to {new.tokens}, "
            f"{new.n_counted})",
            f"evaluate on the baseline's tokens, compare with --unpaired, or {_ACCEPT}",
        )
    return None


def _shown(result: Result, field: str) -> object:
    if field == "hook":
        return result.run.site
    value = getattr(result.setting, field)
    named = f"{result.setting.model} ({str(value)[:8]})"
    return named if field == "model_fingerprint" else value
