"""What a user may have meant by a name that is none: those that are written nearly so."""

import difflib
from collections.abc import Iterable

_NEAR = 0.6  # of a name's likeness to one that is suggested
_MOST = 3  # names that are suggested at once


def plain(name: str) -> str:
    """A name without what people write differently: case, spaces, dashes and underscores."""
    return "".join(c for c in name.casefold() if c.isalnum())


def near(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are most like one, the likest first."""
    by_plain = {plain(one): one for one in known}
    found = difflib.get_close_matches(plain(name), by_plain, n=_MOST, cutoff=_NEAR)
    return [by_plain[one] for one in found]


def suggesting(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about an unknown name: write a known one that is like it, or something else."""
    return writing(near(name, known), otherwise)


def writing(meant: Iterable[str], otherwise: str) -> str:
    """What to do where some names may be meant, or none: write one of them, or something else."""
    found = " or ".join(meant)
    return f"write {found}, or {otherwise}" if found else otherwise
