"""Mistakes in a sweep file, in its own terms."""

from collections.abc import Sequence

from pydantic_core import ErrorDetails

from prolu_eval.spelling import near, suggesting

# What pydantic finds, and what it is called here.
_FOUND = {
    "missing": "is missing",
    "list_type": "is no list: write it in brackets",
    "too_short": "is empty",
}
# Settings that files call otherwise than the code does.
CALLED = {"dataset": "tokens"}


def in_words(found: ErrorDetails, known: Sequence[str]) -> str:
    """One mistake: where, counting sweeps from 1, and what.

    Args:
        found: by pydantic.
        known: the settings that there are in its place.
    """
    parts = list(found["loc"])
    if parts[:1] == ["sweep"] and len(parts) > 1 and isinstance(parts[1], int):
        parts[:2] = [f"sweep {parts[1] + 1}"]
    names = [str(part + 1) if isinstance(part, int) else CALLED.get(part, part) for part in parts]
    return f"{'.'.join(names) or 'the file'}: {_reason(found, known)}"


def choice_remedy(found: ErrorDetails) -> str:
    """What to write in the place of a word that is none of its choices."""
    choices = str(found.get("ctx", {}).get("expected", "")).split("'")[1::2]
    return suggesting(str(found["input"]), choices, f"choose {', '.join(choices)}")


def _reason(found: ErrorDetails, known: Sequence[str]) -> str:
    if (reason := _FOUND.get(found["type"])) is not None:
        return reason
    if found["type"] == "extra_forbidden":
        meant = near(str(found["loc"][-1]), [CALLED.get(name, name) for name in known])
        return f"is no setting{': write ' + ' or '.join(meant) if meant else ''}"
    value = found["input"]
    given = "" if isinstance(value, dict | list) else f"{value!r} does not do: "
    if found["type"] == "literal_error":
        return f"{given}{choice_remedy(found)}"
    return given + found["msg"].removeprefix("Value error, ").removeprefix("Input ")
