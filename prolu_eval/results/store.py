"""Results in folders: writing, reading and finding them, and knowing which are out of date."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save

from prolu_eval.errors import ResultsError
from prolu_eval.hub import results_folder
from prolu_eval.results.documents import SCHEMA_VERSION, Array, Result, StoredArrays
from prolu_eval.results.files import file_digests, write_atomically

FOLDER = "evaluation"


def write_result(result: Result, folder: Path) -> Path:
    """Store a result in a folder, arrays first so that a JSON file always has them. Its JSON path.

    Raises:
        ResultsError: if the folder cannot be written to.
    """
    path = folder / f"{result.fingerprint}.json"
    write_atomically(path.with_suffix(".safetensors"), save(dict(result.arrays)))
    write_scalars(result, path)
    return path


def write_scalars(result: Result, path: Path) -> None:
    """Write a result's JSON file alone, beside the arrays that are there.

    Raises:
        ResultsError: if it cannot be written.
    """
    document = result.model_dump(mode="json")
    write_atomically(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def read_result(
    path: Path, *, arrays: Literal["read", "stored", "none"] = "read", under: str = ""
) -> Result:
    """Read one stored result from its JSON file.

    Its arrays are read too, or stay in their file until asked for (``stored``), or are left out;
    ``under`` reads only those whose names begin so.

    Raises:
        ResultsError: if a file is missing, damaged, or of a newer schema.
    """
    remedy = "delete the file and evaluate the run again"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ResultsError(
                path, f"has schema {version}, newer than {SCHEMA_VERSION}", "update prolu-eval"
            )
        loaded: Mapping[str, Array] = {}
        if arrays != "none":
            stored = StoredArrays(path.with_suffix(".safetensors"))
            loaded = stored.under(under) if arrays == "read" else stored
        return Result.model_validate({**document, "arrays": loaded, "file": path})
    except ValidationError as error:
        reason = f"is no result ({error.errors()[0]['msg'].lower()})"
        raise ResultsError(path, reason, remedy) from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ResultsError(path, f"cannot be read ({error})", remedy) from None


def result_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The JSON files of all results in or below folders, or of hub names, in order of path.

    Raises:
        CheckpointError: if a hub name is malformed.
    """
    for folder in map(results_folder, paths):
        for candidate in sorted(folder.rglob("*.json")):
            if candidate.with_suffix(".safetensors").exists() and _is_fingerprint(candidate.stem):
                yield candidate


def _is_fingerprint(stem: str) -> bool:
    return len(stem) == 32 and all(c in "0123456789abcdef" for c in stem)


def outdated(result: Result, file: Path) -> str | None:
    """Why a result is none of a run that is there now; None if it is, or nothing tells.

    Only checkpoints that were touched after the result was written are read again.
    """
    place = Path(result.run.path)
    if file.parent.name == FOLDER:  # beside the run, wherever that was moved to
        folder = file.parent.parent
    elif not place.exists() and place.parent.is_dir():
        return f"{place} is not there any more"
    else:
        folder = place if place.is_dir() else place.parent
    files = [folder / name for name in result.checkpoint]
    if not files or not all(path.exists() for path in files):
        return None
    touched = max(max(path.stat().st_mtime, path.stat().st_ctime) for path in files)
    if touched <= file.stat().st_mtime or file_digests(files, folder) == result.checkpoint:
        return None
    return f"{result.run.name} has changed since"
