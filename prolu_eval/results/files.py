"""Writes files completely or not at all, and computes digests that identify their content."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from prolu_eval.errors import ResultsError
from prolu_eval.json_text import dumps


def file_digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, or why it cannot be read, by its path relative to a folder."""
    digests = {}
    for path in files:
        name = Path(os.path.relpath(path, folder)).as_posix()
        try:
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            digests[name] = str(error.strerror)
    return digests


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces ``path`` when the block ends.

    Whoever reads the file, even after a crash, finds the old content or the new, never a part.

    Raises:
        ResultsError: if the folder cannot be made or written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        try:
            yield Path(temporary)
            with Path(temporary).open("rb+") as file:
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:  # safetensors wraps what the system says
        reason = error.strerror if isinstance(error, OSError) else error
        raise ResultsError(
            path, f"cannot be written ({reason})", "name a writable folder with free space"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by :func:`replacing` it.

    Raises:
        ResultsError: if the folder cannot be made or written to, or the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document by :func:`replacing` its file, as :func:`prolu_eval.json_text.dumps`.

    Raises:
        ResultsError: if the folder cannot be made or written to, or the disk is full.
        ValueError: if a number is not finite.
    """
    write_atomically(path, (dumps(document) + "\n").encode())


def check_writable(folder: Path) -> None:
    """Check early whether results can be written to a folder, which is created if necessary.

    Raises:
        ResultsError: if the folder cannot be created or written to.
    """
    probe = folder / ".writable"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)
