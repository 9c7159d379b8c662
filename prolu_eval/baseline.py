"""Baselines: results kept for comparison, small and readable enough to review in a diff.

A baseline is two files. ``NAME.json`` holds the scalars with their standard errors, the description
of each run, the settings and environments in which runs were measured, and the day on which the
baseline was saved. ``NAME.safetensors`` holds the per-sequence sums that paired comparison needs:
for each setting `rows/ID` [n_rows, n_sequences], where columns that runs share (such as the clean
cross-entropy) are stored once; and for each run `run/NAME` [n_columns], the rows of its setting
that its columns are. In memory a baseline is a list of results.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from prolu_eval import __version__
from prolu_eval.arguments import as_path
from prolu_eval.errors import BaselineError, UsageError
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import value_and_influence
from prolu_eval.json_text import JsonTextError, canonical, line_of, loads
from prolu_eval.metrics import METRIC_VERSION, METRICS
from prolu_eval.results import (
    PER_SEQUENCE,
    PER_TASK,
    Result,
    RunSummary,
    Setting,
    TaskSet,
    write_atomically,
    write_json,
)

SCHEMA_VERSION = 3
# 3: the options of a run's variant, and the environments of measurements (2026-11)
# 2: sums that runs share are kept once (2026-11)
# 1: first version, with a tensor NAME [n_columns, n_sequences] for each run (2026-11)

_DIGITS = 6
_LFS_POINTER = b"version https://git-lfs"
_RESTORE = "restore it from version control, or save the baseline again"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Entry(_Strict):
    fingerprint: str
    setting: str
    environment: str | None = None
    run: dict[str, Any]
    tasks: dict[str, TaskSet] = Field(default_factory=dict)
    metrics: dict[str, Estimate]


class _Sums(_Strict):
    file: str
    sha256: str
    columns: list[str]


class Document(_Strict):
    """What the JSON file of a baseline holds."""

    schema_version: int
    written_by: str
    saved: str = ""
    sums: _Sums
    settings: dict[str, Setting]
    environments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    runs: dict[str, _Entry] = Field(min_length=1)


def save_baseline(results: Iterable[Result], path: str | Path) -> None:
    """Write results as a baseline: the file ``path``, and the file of sums beside it.

    Raises:
        BaselineError: if there is no result, if two results have the same name, or if the file's
            name does not end in .json.
        ResultsError: if a file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json" or path.is_dir():
        raise BaselineError(path, "is not the name of a JSON file", "let it end in .json")
    ordered = sorted(results, key=lambda result: result.run.name)
    if not ordered:
        raise BaselineError(path, "would hold no result", "evaluate runs first")
    for first, second in pairwise(ordered):
        if first.run.name == second.run.name:
            raise BaselineError(path, f"would name {first.run.name} twice", "rename one of them")
    columns = sorted({column for result in ordered for column in result.per_sequence()})
    content = save(_packed(ordered, columns))
    sums = {
        "file": path.with_suffix(".safetensors").name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "columns": columns,
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"prolu-eval {__version__}",
        "saved": f"{datetime.now(UTC):%Y-%m-%d}",
        "sums": sums,
        "settings": {_setting_id(r.setting): r.setting.model_dump() for r in ordered},
        "environments": {_environment_id(r): r.environment for r in ordered},
        "runs": {r.run.name: _entry(r) for r in ordered},
    }
    write_atomically(path.with_suffix(".safetensors"), content)
    write_json(path, document)


def _packed(results: Sequence[Result], columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The tensors of the sums, in which equal rows of a setting are stored once."""
    rows: dict[str, dict[bytes, int]] = {}
    tensors: dict[str, NDArray[Any]] = {}
    for result in results:
        known = rows.setdefault(_setting_id(result.setting), {})
        sums = result.per_sequence()
        absent = np.full(result.setting.n_sequences, np.nan)
        contents = (np.asarray(sums.get(key, absent), np.float64).tobytes() for key in columns)
        places = [known.setdefault(content, len(known)) for content in contents]
        tensors[f"run/{result.run.name}"] = np.array(places, np.int32)
        for over in result.tasks:
            for column, values in result.sums(over).items():
                tensors[f"tasks/{over}/{column}/{result.run.name}"] = values
    for setting, known in rows.items():
        flat = np.frombuffer(b"".join(known), np.float64)
        tensors[f"rows/{setting}"] = flat.reshape(len(known), -1)
    return tensors


def _unpacked(
    name: str, setting: str, version: int, tensors: Mapping[str, NDArray[Any]]
) -> NDArray[Any] | None:
    """A run's sums [n_columns, n_sequences]; None if the tensors do not have them."""
    if version == 1:
        return tensors.get(name)
    rows, places = tensors.get(f"rows/{setting}"), tensors.get(f"run/{name}")
    if rows is None or places is None or np.any((places < 0) | (places >= len(rows))):
        return None
    return np.asarray(rows[places])


def _setting_id(setting: Setting) -> str:
    return hashlib.sha256(setting.model_dump_json().encode()).hexdigest()[:8]


def _environment_id(result: Result) -> str:
    return hashlib.sha256(canonical(result.environment).encode()).hexdigest()[:8]


def _entry(result: Result) -> dict[str, Any]:
    return {
        "fingerprint": result.fingerprint,
        "setting": _setting_id(result.setting),
        "environment": _environment_id(result),
        "run": result.run.model_dump(exclude={"name", "path", "provenance"}, exclude_none=True),
        **(
            {"tasks": {over: t.model_dump() for over, t in result.tasks.items()}}
            if result.tasks
            else {}
        ),
        "metrics": {
            key: {
                "value": _rounded(scalar.value),
                "standard_error": _rounded(scalar.standard_error),
            }
            for key, scalar in result.metrics.items()
        },
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.{_DIGITS}g}")


def load_baseline(path: str | Path) -> list[Result]:
    """Read a baseline of this schema version or an earlier one, with its sums.

    Raises:
        BaselineError: if a file is missing, damaged, in the middle of a merge, edited by hand so
            that it contradicts the sums, or of a newer schema. It names the file, and the line if
            there is one.
    """
    path = as_path(path, "the baseline")
    text = _read(path).decode("utf-8", errors="replace")
    document = _parse(path, text)
    sums = _read_sums(path, text, document.sums)
    results = [_result(path, text, name, document, sums) for name in document.runs]
    for result in results:
        _check_untouched(path, text, result)
    return results


def about_baseline(path: str | Path) -> str:
    """The file, the day on which it was saved if it says so, and the version that saved it.

    Raises:
        BaselineError: in the cases of :func:`load_baseline` that concern the JSON file.
    """
    path = Path(path)
    document = _parse(path, _read(path).decode("utf-8", errors="replace"))
    day = f" on {document.saved}" if document.saved else ""
    return f"{path}, saved{day} by {document.written_by}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({(error.strerror or 'error').lower()})"
        remedy = "save one with `prolu-eval baseline save RUNS -o FILE`, or name another file"
        raise BaselineError(path, reason, remedy) from None


def _parse(path: Path, text: str) -> Document:
    try:
        document = loads(text)
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BaselineError(
                path, f"has schema {version}, newer than {SCHEMA_VERSION}", "update prolu-eval"
            )
        return Document.model_validate(document)
    except JsonTextError as error:
        remedy = (
            "resolve the merge, or save the baseline again" if "merge" in error.reason else _RESTORE
        )
        raise BaselineError(f"{path}:{error.line}", error.reason, remedy) from None
    except ValidationError as error:
        # A misspelt key gives two errors; the one about the unknown key is the more useful.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        where = ".".join(map(str, first["loc"])) or "the document"
        raise _edited(path, text, first["loc"], f"{where}: {first['msg'].lower()}") from None


def _edited(path: Path, text: str, keys: Sequence[str | int], reason: str) -> BaselineError:
    return BaselineError(f"{path}:{line_of(text, keys)}", reason, _RESTORE)


def _read_sums(path: Path, text: str, described: _Sums) -> dict[str, Any]:
    beside = path.with_name(Path(described.file).name)
    content = _read(beside)
    if content.startswith(_LFS_POINTER):
        raise BaselineError(beside, "is a Git LFS pointer, not its content", "run `git lfs pull`")
    if hashlib.sha256(content).hexdigest() != described.sha256:
        keys = ("sums", "sha256")
        raise _edited(path, text, keys, f"{beside.name} is not the file saved with this baseline")
    try:
        tensors: dict[str, Any] = load(content)
    except SafetensorError as error:
        raise BaselineError(beside, f"cannot be read ({error})", _RESTORE) from None
    return tensors


def _result(path: Path, text: str, name: str, document: Document, sums: dict[str, Any]) -> Result:
    entry, keys = document.runs[name], ("runs", name)
    if entry.setting not in document.settings:
        reason = f"the file has no setting {entry.setting}"
        raise _edited(path, text, (*keys, "setting"), reason)
    setting = document.settings[entry.setting]
    shape = (len(document.sums.columns), setting.n_sequences)
    table = _unpacked(name, entry.setting, document.schema_version, sums)
    if table is None or table.shape != shape:
        raise _edited(path, text, keys, f"{name} has no sums of shape {list(shape)}")
    try:
        run = RunSummary.model_validate({**entry.run, "name": name, "path": str(path)})
    except ValidationError as error:
        first = error.errors()[0]
        place = (*keys, "run", *first["loc"])
        raise _edited(path, text, place, f"{first['loc'][0]}: {first['msg'].lower()}") from None
    rows = zip(document.sums.columns, table, strict=True)
    of_tasks = {
        f"{PER_TASK}{over}/{column}": values
        for tensor, values in sums.items()
        if tensor.startswith("tasks/")
        for _, over, column, run in (tensor.split("/", 3),)
        if run == name
    }
    return Result(
        fingerprint=entry.fingerprint,
        run=run,
        setting=setting,
        metrics=entry.metrics,
        environment=document.environments.get(entry.environment or "", {}),
        tasks=entry.tasks,
        arrays={PER_SEQUENCE + column: row for column, row in rows if not np.isnan(row).all()}
        | of_tasks,
    )


def _check_untouched(path: Path, text: str, result: Result) -> None:
    """Check that scalars follow from the sums, if metrics have the definitions of this version."""
    if result.setting.metric_version != METRIC_VERSION:
        return
    of = {over: result.sums(over) for over in ("sequences", *result.tasks)}
    for key, scalar in result.metrics.items():
        metric = METRICS.get(key)
        if metric is None or not metric.denominator or scalar.value is None:
            continue
        sums = of.get(metric.over, {})
        if not sums.keys() >= metric.numerator.keys() | metric.denominator.keys():
            continue
        value, _ = value_and_influence(metric, sums)
        if not math.isclose(value, scalar.value, rel_tol=10.0 ** (1 - _DIGITS), abs_tol=1e-9):
            keys = ("runs", result.run.name, "metrics", key)
            reason = f"{key} was edited by hand: the sums of {result.run.name} give {value:.6g}"
            raise _edited(path, text, keys, reason)


def updated(
    old: Sequence[Result], new: Sequence[Result], *, prune: Sequence[str] = ()
) -> list[Result]:
    """A baseline's results without those in ``prune``, and with new ones added or replacing old."""
    merged = {r.run.name: r for r in old if r.run.name not in prune}
    return list((merged | {r.run.name: r for r in new}).values())


def refuse_overwriting(path: Path) -> None:
    """Refuse to replace an existing baseline.

    Raises:
        UsageError: if the file exists.
    """
    if path.exists():
        raise UsageError(
            path, "exists", "change it with `prolu-eval baseline update`, or pass --force"
        )
