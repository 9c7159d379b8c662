"""Which run of today is which run of the baseline, and whether the two can be compared."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prolu_eval.errors import UsageError
from prolu_eval.results import Result, RunSummary, Setting

_CONFIGURATION = (
    "label", "hook", "d_in", "d_sae", "penalty", "coefficient", "learning_rate", "seed",
)  # fmt: skip
MATCHES = ("name", "configuration")


@dataclass(frozen=True)
class Matched:
    """Runs of the baseline beside those of today; what is in one alone."""

    pairs: list[tuple[Result, Result]]
    missing: list[Result]
    new: list[Result]


def match(
    current: Sequence[Result],
    baseline: Sequence[Result],
    by: str,
    *,
    only: str | Sequence[str] = (),
) -> Matched:
    """Match runs by `name`, by `configuration`, or by the groups of a regular expression on names.

    Pairs are (current, baseline), in the baseline's order. ``only`` keeps names that match one of
    its shell patterns.

    Raises:
        UsageError: if the expression is none, nothing is left, or two runs are told apart by
            nothing.
    """
    identity = _identity(by)
    ours = _index((r for r in current if selected(r.run.name, only)), identity, "the runs")
    theirs = _index((r for r in baseline if selected(r.run.name, only)), identity, "the baseline")
    if not theirs:
        raise UsageError(
            "--only", "leaves no run of the baseline", "name patterns that its runs' names match"
        )
    return Matched(
        pairs=[(ours[key], old) for key, old in theirs.items() if key in ours],
        missing=[old for key, old in theirs.items() if key not in ours],
        new=[run for key, run in ours.items() if key not in theirs],
    )


def selected(name: str, only: str | Sequence[str]) -> bool:
    """Whether a name matches a shell pattern, or one of several, or there are none."""
    patterns = [only] if isinstance(only, str) else only
    return not only or any(fnmatchcase(name, pattern) for pattern in patterns)


def configuration(run: RunSummary) -> tuple[object, ...]:
    """What a run was trained as, whatever it is called."""
    return tuple(getattr(run, field) for field in _CONFIGURATION)


def _identity(by: str) -> Callable[[RunSummary], object]:
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
    results: Iterable[Result], identity: Callable[[RunSummary], object], where: str
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
# Fields of a setting that must agree, whatever the tokens are: how they are called, and the remedy.
MUST_AGREE = {
    "metric_version": ("the metric version", f"evaluate with the baseline's version, or {_ACCEPT}"),
    "model_fingerprint": ("the model", f"evaluate with the baseline's model, or {_ACCEPT}"),
    "weight_processing": ("the processing of the model's weights", _LIKE),
    "special_tokens": ("--special-tokens", _LIKE),
    "dtype": ("--dtype", _LIKE),
    "context_length": ("the context length", _LIKE),
    "prepend_bos": ("prepending of BOS", _LIKE),
    "packing": ("the packing of documents", _LIKE),
}


def obstacle(current: Result, baseline: Result, *, unpaired: bool) -> Obstacle | None:
    """What keeps two matched results from being compared; None if nothing does."""
    now, then = current.setting, baseline.setting
    for field, (what, remedy) in MUST_AGREE.items():
        if (new := getattr(now, field)) != (old := getattr(then, field)):
            new, old = _shown(now, field, new), _shown(then, field, old)
            return Obstacle(f"{what} changed from {old} to {new}", remedy)
    if current.run.hook != baseline.run.hook:
        reason = f"the hook changed from {baseline.run.hook} to {current.run.hook}"
        return Obstacle(reason, f"evaluate at the baseline's hook, or {_ACCEPT}")
    if not unpaired and now.tokens_fingerprint != then.tokens_fingerprint:
        return Obstacle(
            f"the tokens changed ({then.tokens}, {then.n_counted} counted, to {now.tokens}, "
            f"{now.n_counted})",
            f"evaluate on the baseline's tokens, compare with --unpaired, or {_ACCEPT}",
        )
    return None


def _shown(setting: Setting, field: str, value: object) -> object:
    return f"{setting.model} ({str(value)[:8]})" if field == "model_fingerprint" else value
