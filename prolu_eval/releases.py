"""SAELens's table of public releases, read as data from the installed package without importing it.

The table lists names ``saelens:RELEASE/SAE_ID`` and ``neuronpedia:MODEL/SOURCE``. For each it gives
the repository on the hub and the settings that the files lack or have wrong (overrides).
"""

import difflib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prolu_eval.errors import CheckpointError, UsageError

SAELENS, NEURONPEDIA = "saelens:", "neuronpedia:"
_TABLE = "pretrained_saes.yaml"
_SOME = 3
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Entry:
    """One autoencoder of a release.

    Attributes:
        release: the name of the release.
        sae_id: its name within the release; empty if it is the whole release.
        repository: the repository on the hub.
        path: the path of its folder or file in the repository.
        model: the table's name for the language model.
        loader: the table's name for the format of its files; None for SAELens's own.
        neuronpedia: its name on Neuronpedia, ``MODEL/SOURCE``, if it has one.
        l0: the L0 that the table gives for it, if it does.
        scale: the factor on activations in training, if the files do not contain it.
        overrides: settings of the table that replace those of its own configuration.
    """

    release: str
    sae_id: str
    repository: str
    path: str
    model: str
    loader: str | None = None
    neuronpedia: str | None = None
    l0: float | None = None
    scale: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name on a command line."""
        return f"{SAELENS}{self.release}/{self.sae_id}".rstrip("/")


class _Sae(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str
    path: str
    neuronpedia: str | None = None
    l0: float | None = None
    norm_scaling_factor: float | None = Field(None, gt=0, allow_inf_nan=False)


class _Release(BaseModel):
    repo_id: str
    model: str
    saes: list[_Sae]
    conversion_func: str | None = None
    config_overrides: dict[str, Any] | None = None


def is_installed() -> bool:
    """Whether SAELens, and so its table, is installed."""
    return _table_file() is not None


def entries(name: str) -> list[Entry]:
    """The entries that a name of :data:`SAELENS` or :data:`NEURONPEDIA` refers to.

    ``saelens:RELEASE`` alone refers to a whole release; ``*``, ``?`` and ``[...]`` in a name are
    patterns, which treat a slash like any other character. If several entries have the same path in
    a repository, only one of them is returned.

    Raises:
        UsageError: if SAELens is not installed.
        CheckpointError: if the table does not have the name.
    """
    kind = SAELENS if name.startswith(SAELENS) else NEURONPEDIA
    wanted = name.removeprefix(kind).strip("/")
    if kind == NEURONPEDIA:
        found = [e for e in all_entries() if e.neuronpedia and fnmatchcase(e.neuronpedia, wanted)]
        if not found:
            raise CheckpointError(
                name, "is not in SAELens's table", "see `prolu-eval list saelens`"
            )
    else:
        found = _of_saelens(name, wanted)
    return list({(e.repository, e.path): e for e in reversed(found)}.values())[::-1]


def entries_in(repository: str) -> list[Entry]:
    """The entries of a repository on the hub; none if SAELens is not installed."""
    if not is_installed():
        return []
    return [
        entry
        for release, text in _blocks().items()
        if repository in text
        for entry in _parsed(release)
        if entry.repository == repository
    ]


def all_entries() -> Iterator[Entry]:
    """Every entry of the table.

    Raises:
        UsageError: if SAELens is not installed.
    """
    for release in _blocks():
        yield from _parsed(release)


def _of_saelens(name: str, wanted: str) -> list[Entry]:
    release, _, sae_id = wanted.partition("/")
    known = [r for r in _blocks() if fnmatchcase(r, release)]
    if not known:
        close = difflib.get_close_matches(release, _blocks(), n=_SOME, cutoff=0.4)
        meant = f"did you mean {', '.join(close)}" if close else "see `prolu-eval list saelens`"
        raise CheckpointError(name, f"SAELens's table has no release {release!r}", meant)
    of_release = [entry for r in known for entry in _parsed(r)]
    found = [e for e in of_release if fnmatchcase(e.sae_id, sae_id or "*")]
    if not found:
        ids = [entry.sae_id for entry in of_release]
        close = difflib.get_close_matches(sae_id, ids, n=_SOME, cutoff=0.4) or ids[:_SOME]
        reason = f"{release} has no {sae_id!r} in SAELens's table"
        raise CheckpointError(name, reason, f"choose e.g. {', '.join(close)}")
    return found


def _table_file() -> Path | None:
    spec = importlib.util.find_spec("sae_lens")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((p for place in places if (p := Path(place, _TABLE)).is_file()), None)


@cache
def _text(path: Path) -> dict[str, str]:
    """The table's text by release: parsing the whole table takes a second, one release no time."""
    text = path.read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[^\s#-])", text, flags=re.MULTILINE)
    return {block.partition(":")[0].strip("'\""): block for block in blocks if ":" in block}


def _blocks() -> dict[str, str]:
    path = _table_file()
    if path is None:
        raise UsageError(
            "SAELens's table of releases", "is not installed", "run pip install prolu-eval[saelens]"
        )
    return _text(path)


def _parsed(release: str) -> list[Entry]:
    document = yaml.load(_blocks()[release], _LOADER)  # noqa: S506 (a safe loader)
    try:
        (content,) = document.values()
        known = _Release.model_validate(content)
    except (ValidationError, AttributeError, ValueError) as error:
        reason = f"has an unknown layout at {release}"
        remedy = "install sae-lens 6.54, or a newer prolu-eval"
        raise UsageError(str(_table_file()), reason, remedy) from error
    return [
        Entry(
            release,
            sae.id,
            known.repo_id,
            sae.path,
            known.model,
            known.conversion_func,
            sae.neuronpedia,
            sae.l0,
            sae.norm_scaling_factor,
            known.config_overrides or {},
        )
        for sae in known.saes
    ]
