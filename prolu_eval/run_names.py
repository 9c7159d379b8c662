"""What runs are called: by where they lie below the folders that were named, told apart by these.

A run of a single folder is called by its path below it, or by its own name if it was named itself.
Of several folders, each one's runs bear besides as much of its path as tells it from the others.
What a run is called thus depends on what was named, and on nothing that was done before.
"""

from collections.abc import Sequence
from pathlib import Path

from prolu_eval.hub import is_hub_name, origin
from prolu_eval.plain_text import printable


def as_name(path: str) -> str:
    """A path as a name: one line, from which the path can be told whatever it holds."""
    return printable(path.replace("\\", "\\\\"))


def name_below(root: Path, place: Path) -> str:
    """What a run at a place is called within a folder that was searched, or as what was named."""
    if root in place.parents:
        return as_name(place.relative_to(root).as_posix())
    return as_name(place.name if place.name not in ("", "..") else place.resolve().name)


def folder_titles(places: Sequence[Path]) -> dict[Path, str]:
    """What tells each folder from the others: the end of its path; nothing for a single one.

    Names on the hub have the repository's or the release's name, which several may share.
    """
    distinct = dict.fromkeys(map(_resolved, places))
    if len(distinct) == 1:
        return dict.fromkeys(places, "")
    releases = {origin(place) for place in distinct if is_hub_name(place)}
    folders = [place for place in distinct if not is_hub_name(place)]
    deepest = max((len(place.parts) for place in folders), default=1)
    endings: dict[Path, str] = {}
    for n in range(1, deepest + 1):
        endings = {place: as_name("/".join(place.parts[1:][-n:])) for place in folders}
        if len({*endings.values(), *releases}) == len(folders) + len(releases):
            break
    return {
        place: origin(place) if is_hub_name(place) else endings[_resolved(place)]
        for place in places
    }


def name_among(title: str, name: str, *, itself: bool = False) -> str:
    """What a run is called among those of several folders.

    Args:
        title: of its folder (:func:`folder_titles`), or nothing.
        name: what it is called within that folder.
        itself: whether it was named itself, so that the title ends in its own name.
    """
    before = title.rpartition("/")[0] if itself else title
    return f"{before}/{name}" if before else name


def _resolved(place: Path) -> Path:
    return place if is_hub_name(place) else place.resolve()
