"""Checkpoints named ``hub:owner/name[/subfolder][@revision]``: the only use of the network here."""

import re
from pathlib import Path

from prolu_eval.errors import CheckpointError

PREFIX = "hub:"
_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)((?:/[^@/]+)*)(?:@([^@]+))?")
_PLAIN = ("json", "yaml", "safetensors", "npz")


def fetch(name: str) -> Path:
    """The local folder of a hub checkpoint, downloaded unless the cache has it.

    Pickled weights (``.pt``) are fetched only where there are no others.

    Raises:
        CheckpointError: if the name is malformed, or the repository, revision or folder cannot be
            had.
    """
    match = _NAME.fullmatch(name)
    if match is None or ".." in name.split("/"):
        raise CheckpointError(name, "is no hub name", "write hub:owner/name[/subfolder][@revision]")
    repository, subfolder, revision = match[1], match[2].strip("/"), match[3]
    folder = _download(name, repository, subfolder, revision, _PLAIN)
    if not any(folder.rglob("*.safetensors")) and not any(folder.rglob("*.npz")):
        folder = _download(name, repository, subfolder, revision, (*_PLAIN, "pt"))
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
