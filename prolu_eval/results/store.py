"""Writes, reads and finds results in folders, and tells which are out of date."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save

from prolu_eval.errors import ResultsError
from prolu_eval.hub import results_folders
from prolu_eval.json_text import canonical
from prolu_eval.results.arrays import Array, StoredArrays
from prolu_eval.results.documents import SCHEMA_VERSION, Result, Setting
from prolu_eval.results.files import file_digests, write_atomically, write_json
from prolu_eval.run_names import as_name

FOLDER = "evaluation"


def write_result(result: Result, folder: Path) -> Path:
    """Store a result in a folder, and return the path of its JSON file.

    The arrays are written first, so that a JSON file is never without them.

    Raises:
        ResultsError: if the folder cannot be written to.
    """
    path = folder / f"{result.fingerprint}.json"
    write_atomically(path.with_suffix(".safetensors"), save(dict(result.arrays)))
    write_scalars(result, path)
    return path


def write_scalars(result: Result, path: Path) -> None:
    """Write only a result's JSON file, next to the file of its arrays.

    Raises:
        ResultsError: if it cannot be written.
    """
    write_json(path, result.model_dump(mode="json"))


def read_result(
    path: Path, *, arrays: Literal["read", "stored", "none"] = "read", under: str = ""
) -> Result:
    """Read one stored result from its JSON file.

    Args:
        path: the JSON file.
        arrays: ``read`` reads the arrays too, ``stored`` leaves them in their file until they are
            accessed, ``none`` leaves them out.
        under: with ``read``, the beginning of the names of the arrays to read.

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
        if isinstance(document, dict) and isinstance(document.get("setting"), dict):
            document["setting"] = _setting(canonical(document["setting"]))
        loaded: Mapping[str, Array] = {}
        if arrays != "none":
            stored = StoredArrays(path.with_suffix(".safetensors"))
            loaded = stored.under(under) if arrays == "read" else stored
        return Result.model_validate({**document, "arrays": loaded, "file": path})
    except ValidationError as error:
        reason = f"is not a result ({error.errors()[0]['msg'].lower()})"
        raise ResultsError(path, reason, remedy) from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ResultsError(path, f"cannot be read ({error})", remedy) from None


@lru_cache(maxsize=1024)
def _setting(text: str) -> Setting:
    """The same object for equal settings, which thousands of results have."""
    return Setting.model_validate(json.loads(text))


def result_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The JSON files of all results in or below folders or hub names, in order of path.

    Raises:
        CheckpointError: if a hub name is malformed, or unknown to SAELens's table.
    """
    for folder in (folder for path in paths for folder in results_folders(path)):
        for candidate in sorted(folder.rglob("*.json")):
            if candidate.with_suffix(".safetensors").exists() and _is_fingerprint(candidate.stem):
                yield candidate


def _is_fingerprint(stem: str) -> bool:
    return len(stem) == 32 and all(c in "0123456789abcdef" for c in stem)


def with_current_path(result: Result, file: Path) -> Result:
    """A result that is stored in its run's folder, with the run's current path and name.

    A folder of runs may have been moved, and a run may have been copied or renamed together with
    the results in it.
    """
    folder, place = _containing_run(result, file), run_beside(result, file)
    if folder is None or place is None or _names(result, folder):
        return result
    old = PurePath(result.run.path)
    parts = result.run.name.split("/")
    # A run is named after its folder, or after a file in it. The folder's name is then the last
    # part of the run's name, or the second last.
    at = -1 if place == folder else -2
    before = old.name if place == folder else old.parent.name
    if len(parts) >= -at and parts[at].partition(":")[0] == as_name(before):
        parts[at] = as_name(folder.resolve().name) + parts[at][len(as_name(before)) :]
    run = result.run.model_copy(update={"name": "/".join(parts), "path": str(place)})
    return result.model_copy(update={"run": run})


def run_beside(result: Result, file: Path) -> Path | None:
    """The run, a folder or a file, that a result lies beside, wherever it was moved to."""
    folder = _containing_run(result, file)
    if folder is None:
        return None
    beside = folder / PurePath(result.run.path).name
    return beside if beside.is_file() else folder


def _containing_run(result: Result, file: Path) -> Path | None:
    """The folder of the run that a result is stored in, wherever it was moved; None if in none."""
    folder = file.parent.parent
    if file.parent.name != FOLDER or not result.checkpoint:
        return None
    return folder if all((folder / name).exists() for name in result.checkpoint) else None


def _names(result: Result, folder: Path) -> bool:
    """Whether the path of the run that a result names is this folder, or a file in it."""
    if result.run.path == str(folder):
        return True
    place = Path(result.run.path).resolve()
    return folder.resolve() in (place, place.parent)


def outdated(result: Result, file: Path) -> str | None:
    """Why a result no longer describes its run; None if it still does, or if that is unknown.

    The digests of the run's files are compared with the result's if the files were touched after
    the result was written, or if the result names another path than the folder that it is in, since
    it may then have been copied together with another run.
    """
    place = Path(result.run.path)
    home = _containing_run(result, file)
    if home is None and file.parent.name != FOLDER and not place.exists():
        return f"{place} no longer exists" if place.parent.is_dir() else None
    folder = home or (place if place.is_dir() else place.parent)
    files = [folder / name for name in result.checkpoint]
    if not files or not all(path.exists() for path in files):
        return None
    touched = max(max(path.stat().st_mtime, path.stat().st_ctime) for path in files)
    copied = home is not None and not _names(result, home)
    if touched <= file.stat().st_mtime and not copied:
        return None
    if file_digests(files, folder) == result.checkpoint:
        return None
    return f"{with_current_path(result, file).run.name} has changed since it was evaluated"
