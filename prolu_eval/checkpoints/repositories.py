"""What only the name of a repository or of its folders tells about the checkpoints in it."""

import re
from pathlib import Path


def named(place: Path, pattern: str) -> re.Match[str] | None:
    """The match of a pattern in the nearest name of a path that has one, its own name first.

    It finds a repository's name as it is, and as the hub's cache has it (``models--owner--name``).
    What lies further above says nothing about the checkpoint.
    """
    for part in reversed(place.absolute().parts):
        if match := re.search(pattern, part):
            return match
    return None
