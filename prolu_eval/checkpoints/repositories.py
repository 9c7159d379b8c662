"""Reading facts about checkpoints from the names of their repository or its folders."""

import re
from pathlib import Path


def named(place: Path, pattern: str) -> re.Match[str] | None:
    """The match of a pattern in the nearest name of a path that matches, its own name first.

    A repository's name is found in its plain form and in that of the hub's cache
    (``models--owner--name``). Folders above the repository are not considered.
    """
    for part in reversed(place.absolute().parts):
        if match := re.search(pattern, part):
            return match
    return None
