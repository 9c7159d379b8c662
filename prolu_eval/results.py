"""Stored results: plain data that evaluation writes and analysis reads. No torch, no model.

A result is two files named by its fingerprint: ``<fingerprint>.json`` (scalars, and where they come
from) and ``<fingerprint>.safetensors`` (per-sequence sums, per-feature arrays). They lie in
``evaluation/`` beside the run, or under a results folder in one folder per run.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prolu_eval.errors import ResultsError
from prolu_eval.hub import results_folder
from prolu_eval.plain_text import printable

SCHEMA_VERSION = 1
# 1: first version (2026-11)

FOLDER = "evaluation"
PER_SEQUENCE, PER_FEATURE, RESPONSE = "per_sequence/", "per_feature/", "response/"

Array = NDArray[Any]
Line = Annotated[str, AfterValidator(printable)]  # shown in tables and files of one line a run


class Scalar(BaseModel):
    """A metric's value with its standard error and 95 % interval; None where undefined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float | None
    standard_error: float | None = None
    ci95: tuple[float | None, float | None] = (None, None)


class RunSummary(BaseModel):
    """What identifies a run in tables and figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line
    path: str
    format: Line
    variant: Line
    label: Line
    d_in: int
    d_sae: int
    hook: Line
    penalty: Line | None = None
    coefficient: float | None = None
    learning_rate: float | None = None
    seed: int | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)


class Setting(BaseModel):
    """What was measured on: two results are comparable, and paired, if their settings are equal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Line
    model_fingerprint: str
    tokens: Line
    tokens_fingerprint: str
    n_sequences: int
    context_length: int
    n_counted: int
    special_tokens: Literal["exclude", "include"]
    dtype: str
    metric_version: int
    prepend_bos: bool = True
    packing: Literal["concatenate", "separate"] = "concatenate"
    weight_processing: Literal["none", "processed"] = "none"


class StoredArrays(Mapping[str, Array]):
    """The arrays of a stored result, read from disk whenever they are asked for and never kept.

    Raises:
        OSError, SafetensorError: if the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="numpy") as file:
            self._keys = tuple(file.keys())

    def __getitem__(self, key: str) -> Array:
        if key not in self._keys:
            raise KeyError(key)
        return self.under(key)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def under(self, prefix: str) -> dict[str, Array]:
        """The arrays whose names begin so, read together."""
        with safe_open(self._path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in self._keys if key.startswith(prefix)}


class Result(BaseModel):
    """One evaluated run: the JSON document, and the arrays that lie beside it.

    ``checkpoint`` are the digests of the run's files that were measured (:func:`file_digests`).
    ``file`` is the JSON file that it was read from, if it was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    checkpoint: dict[str, str] = Field(default_factory=dict)
    run: RunSummary
    setting: Setting
    metrics: dict[str, Scalar]
    environment: dict[str, Any] = Field(default_factory=dict)
    arrays: SkipValidation[Mapping[str, Array]] = Field(default_factory=dict, exclude=True)
    file: Path | None = Field(default=None, exclude=True)

    def per_sequence(self) -> dict[str, Array]:
        """Per-sequence sums by column. [n_sequences] each, float64"""
        return _under(self.arrays, PER_SEQUENCE)

    def per_feature(self) -> dict[str, Array]:
        """Per-feature arrays by name. [d_sae] each"""
        return _under(self.arrays, PER_FEATURE)

    def response(self) -> dict[str, Array]:
        """Response curves of some features (:mod:`prolu_eval.evaluation.scale_consistency`)."""
        return _under(self.arrays, RESPONSE)


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    found = arrays.under(prefix) if isinstance(arrays, StoredArrays) else arrays
    return {key.removeprefix(prefix): a for key, a in found.items() if key.startswith(prefix)}


def file_digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, or why it cannot be read, by its path from a folder."""
    digests = {}
    for path in files:
        name = Path(os.path.relpath(path, folder)).as_posix()
        try:
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            digests[name] = str(error.strerror)
    return digests


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        ResultsError: if the folder cannot be made or written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResultsError(
            path, f"cannot be written ({error.strerror})", "name a writable folder with free space"
        ) from error


def check_writable(folder: Path) -> None:
    """Find out early whether results can be written to a folder, which is made if need be.

    Raises:
        ResultsError: if they cannot.
    """
    probe = folder / ".writable"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


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


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Results as a table, one row each.

    Columns: those of the run and of the setting, ``fingerprint``, and per metric ``key``,
    ``key_se``, ``key_low`` and ``key_high``; undefined values are NaN.
    """
    rows = []
    for result in results:
        row: dict[str, Any] = {
            **result.run.model_dump(exclude={"provenance"}),
            "path": printable(result.run.path),
            **result.setting.model_dump(),
            "fingerprint": result.fingerprint,
        }
        for key, scalar in result.metrics.items():
            numbers = (scalar.value, scalar.standard_error, *scalar.ci95)
            for suffix, number in zip(("", "_se", "_low", "_high"), numbers, strict=True):
                row[key + suffix] = np.nan if number is None else number
        rows.append(row)
    return pd.DataFrame(rows)


def load_results(path: str | Path) -> pd.DataFrame:
    """Every result stored in or below a folder, as :func:`frame` lays it out.

    Raises:
        ResultsError: if there is none, or one cannot be read.
    """
    files = list(result_files([Path(path)]))
    if not files:
        raise ResultsError(path, "holds no results", "run `prolu-eval evaluate` on it first")
    return frame(read_result(file, arrays="none") for file in files)
