"""Fetching checkpoints from the hub, named ``hub:owner/name[/subfolder][@revision]``.

Names of SAELens's table of releases (:mod:`prolu_eval.releases`) are fetched as well. Checkpoints
are the only thing that this package downloads with code of its own. Their files are kept in the
cache of the Hugging Face hub, and their results in the cache of prolu-eval.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from prolu_eval import releases
from prolu_eval.cache import cache_folder
from prolu_eval.errors import CheckpointError

PREFIX = "hub:"
_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)((?:/[^@/]+)*)(?:@([^@]+))?")
_PREFIXES = (PREFIX, releases.SAELENS, releases.NEURONPEDIA)
# The folder, within the cache, for results of checkpoints that the table names, by release.
_TABLE_RESULTS = "saelens"
# Configurations of a whole repository or run, which are stored in folders above the checkpoints.
_ABOVE = ("config.json", "config.yaml", "wandb-config.yaml", "wanb-config.yaml")
_CROSS_LAYER = "mntss_clt_layer_transcoder"
_PLAIN = ("json", "yaml", "safetensors", "npz")


class Name(NamedTuple):
    """The parts of a hub name."""

    repository: str
    subfolder: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Parse a name that begins with :data:`PREFIX`.

        Raises:
            CheckpointError: if the name is malformed.
        """
        match = _NAME.fullmatch(text.rstrip("/"))
        if match is None or {".", ".."} & set(re.split("[:/@]", text)):
            remedy = "write hub:owner/name[/subfolder][@revision]"
            raise CheckpointError(text, "is not a hub name", remedy)
        return cls(match[1], match[2].strip("/"), match[3])


@dataclass(frozen=True)
class Place:
    """Where the checkpoints of a path are on this machine.

    Attributes:
        path: a folder to search, or a file.
        results: the folder in which results are kept instead; None if they are kept in ``path``.
        entry: the entry of SAELens's table that names the one checkpoint here, if there is one.
    """

    path: Path
    results: Path | None = None
    entry: releases.Entry | None = None


def is_hub_name(path: str | Path) -> bool:
    """Whether a path is the name of checkpoints on the hub."""
    return str(path).startswith(_PREFIXES)


def origin(path: str | Path) -> str:
    """The repository or release of a name, which distinguishes its runs from other names' runs."""
    text = str(path)
    if text.startswith(PREFIX):
        return Name.parse(text).repository
    return text.partition(":")[2].partition("/")[0]


def places(path: str | Path) -> list[Place]:
    """Where the checkpoints of a path are; files of a name are downloaded if the cache lacks them.

    Raises:
        CheckpointError: as :func:`fetch`, or if SAELens's table does not have the name.
        UsageError: if the name is one of SAELens's table and SAELens is not installed.
    """
    text = str(path)
    if not is_hub_name(path):
        return [Place(Path(path))]
    if text.startswith(PREFIX):
        folder = fetch(text)
        return [Place(folder, results_folder(path))]
    found = []
    by_repository: dict[str, list[releases.Entry]] = defaultdict(list)
    for entry in _whole(text, releases.entries(text)):
        by_repository[entry.repository].append(entry)
    for repository, entries in by_repository.items():
        root = _fetch_entries(text, repository, entries)
        found += [Place(root / entry.path, _results_of(entry), entry) for entry in entries]
    return found


def _whole(name: str, found: Sequence[releases.Entry]) -> list[releases.Entry]:
    """The entries, with the layers of a cross-layer transcoder combined into one entry.

    Raises:
        CheckpointError: if a single layer is named without the others.
    """
    layers: dict[str, list[releases.Entry]] = defaultdict(list)
    whole = []
    for entry in found:
        if entry.loader != _CROSS_LAYER:
            whole.append(entry)
        else:
            layers[entry.release].append(entry)
    for release, of_release in layers.items():
        if len(of_release) < len(releases.entries(f"{releases.SAELENS}{release}")):
            raise CheckpointError(
                name,
                "is a layer of a cross-layer transcoder, whose codes add to several MLPs' outputs",
                f"name the whole transcoder, {releases.SAELENS}{release}",
            )
        whole.append(replace(of_release[0], sae_id="", path="", neuronpedia=None))
    return whole


def results_folder(path: str | Path) -> Path:
    """The folder of a path's results: the path itself or, for a name on the hub, a cache folder.

    Raises:
        CheckpointError: if the path is a malformed hub name.
    """
    if not is_hub_name(path):
        return Path(path)
    if not str(path).startswith(PREFIX):
        return cache_folder() / "results" / _TABLE_RESULTS
    repository, subfolder, revision = Name.parse(str(path))
    version = repository if revision is None else f"{repository}@{revision}"
    return cache_folder() / "results" / version / subfolder


def results_folders(path: str | Path) -> list[Path]:
    """The folders in or below which the results of a path are; nothing is downloaded.

    Raises:
        CheckpointError, UsageError: as :func:`places`.
    """
    if not is_hub_name(path) or str(path).startswith(PREFIX):
        return [results_folder(path)]
    found = releases.entries(str(path))
    return [_results_of(entry) for entry in _whole(str(path), found)]


def _results_of(entry: releases.Entry) -> Path:
    return results_folder(entry.name) / entry.release / entry.sae_id


def fetch(name: str) -> Path:
    """The local folder of a hub checkpoint, which is downloaded unless the cache has it.

    Pickled weights (``.pt``, ``.pth``) are downloaded only if there are no others.

    Raises:
        CheckpointError: if the name is malformed, or the repository, revision or folder cannot be
            downloaded.
    """
    repository, subfolder, revision = Name.parse(name)
    folder = _download(name, repository, subfolder, revision, _PLAIN)
    if not any(folder.rglob("*.safetensors")) and not any(folder.rglob("*.npz")):
        folder = _download(name, repository, subfolder, revision, (*_PLAIN, "pt", "pth"))
    if not folder.is_dir():
        raise CheckpointError(name, f"has no folder {subfolder!r}", "look at the files on the hub")
    return folder


def _download(
    name: str, repository: str, subfolder: str, revision: str | None, endings: tuple[str, ...]
) -> Path:
    # The configuration of a run is in a folder up to two levels above its checkpoints.
    above = [folder.as_posix() for folder in Path(subfolder).parents][:2] if subfolder else []
    patterns = [f"{subfolder}/*.{ending}".lstrip("/") for ending in endings]
    patterns += [f"{folder}/config.json".removeprefix("./") for folder in above]
    return _snapshot(name, repository, revision, patterns) / subfolder


def _fetch_entries(name: str, repository: str, entries: Sequence[releases.Entry]) -> Path:
    """The local folder of a repository with the files of some entries of the table."""
    root = _snapshot(name, repository, None, _entry_patterns(entries, _PLAIN))
    bare = [entry for entry in entries if not _has_weights(root / entry.path)]
    if bare:
        root = _snapshot(name, repository, None, _entry_patterns(bare, (*_PLAIN, "pt", "pth")))
    for entry in entries:
        if not (root / entry.path).exists():
            reason = f"{repository} has no {entry.path!r}"
            raise CheckpointError(name, reason, "update sae-lens, whose table names this file")
    return root


def _has_weights(place: Path) -> bool:
    return place.is_file() or any(
        next(place.rglob(f"*.{ending}"), None) for ending in ("safetensors", "npz")
    )


def _entry_patterns(entries: Sequence[releases.Entry], endings: Sequence[str]) -> list[str]:
    patterns = []
    for entry in entries:
        patterns += [entry.path, *(f"{entry.path}/*.{ending}".lstrip("/") for ending in endings)]
        patterns += [f"{entry.path.removesuffix('.pt')}_cfg.json"]
        above = [folder.as_posix() for folder in Path(entry.path).parents][:2]
        patterns += [f"{folder}/{file}".removeprefix("./") for folder in above for file in _ABOVE]
    return list(dict.fromkeys(filter(None, patterns)))


def _snapshot(name: str, repository: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (
        OSError,
        ValueError,
        HFValidationError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            name, f"cannot be fetched ({reason})", "check the name and the network"
        ) from None
