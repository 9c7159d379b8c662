"""Checkpoints named ``hub:owner/name[/subfolder][@revision]``: the only use of the network here.

Their files lie in the hub's own cache, which is the hub's; results of them lie in prolu-eval's.
"""

import re
from pathlib import Path
from typing import NamedTuple

from prolu_eval.cache import cache_folder
from prolu_eval.errors import CheckpointError

PREFIX = "hub:"
_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)((?:/[^@/]+)*)(?:@([^@]+))?")
_PLAIN = ("json", "yaml", "safetensors", "npz")


class Name(NamedTuple):
    """What a hub name says."""

    repository: str
    subfolder: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> "Name":
        """What a text that begins with :data:`PREFIX` says.

        Raises:
            CheckpointError: if it is malformed.
        """
        match = _NAME.fullmatch(text.rstrip("/"))
        if match is None or {".", ".."} & set(re.split("[:/@]", text)):
            remedy = "write hub:owner/name[/subfolder][@revision]"
            raise CheckpointError(text, "is no hub name", remedy)
        return cls(match[1], match[2].strip("/"), match[3])


def is_hub_name(path: str | Path) -> bool:
    """Whether a path is the name of checkpoints on the hub."""
    return str(path).startswith(PREFIX)


def local(path: str | Path) -> Path:
    """Where the checkpoints of a path lie, downloaded if it is a hub name that the cache lacks.

    Raises:
        CheckpointError: as :func:`fetch`.
    """
    return fetch(str(path)) if is_hub_name(path) else Path(path)


def results_folder(path: str | Path) -> Path:
    """Where results of the checkpoints of a path lie, each beside its run or, of the hub's, here.

    Raises:
        CheckpointError: if it is a malformed hub name.
    """
    if not is_hub_name(path):
        return Path(path)
    repository, subfolder, revision = Name.parse(str(path))
    version = repository if revision is None else f"{repository}@{revision}"
    return cache_folder() / "results" / version / subfolder


def fetch(name: str) -> Path:
    """The local folder of a hub checkpoint, downloaded unless the cache has it.

    Pickled weights (``.pt``, ``.pth``) are fetched only where there are no others.

    Raises:
        CheckpointError: if the name is malformed, or the repository, revision or folder cannot be
            had.
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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # A run's own config lies above its checkpoints, up to two levels.
    above = [folder.as_posix() for folder in Path(subfolder).parents][:2] if subfolder else []
    patterns = [f"{subfolder}/*.{ending}".lstrip("/") for ending in endings]
    patterns += [f"{folder}/config.json".removeprefix("./") for folder in above]
    try:
        root = snapshot_download(repository, revision=revision, allow_patterns=patterns)
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
    return Path(root) / subfolder
