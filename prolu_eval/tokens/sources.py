"""Reading the documents or rows of a source: a file, a folder or a dataset."""

import hashlib
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from prolu_eval import embedded
from prolu_eval.checkpoints import files_of_runs
from prolu_eval.choices import Split
from prolu_eval.errors import TokensError
from prolu_eval.runs import EMBEDDED_MODEL
from prolu_eval.tokens import reading
from prolu_eval.tokens.kinds import (
    IDS,
    JSON,
    JSON_LINES,
    PARQUET,
    RECORDS,
    TABLES,
    TEXTS,
    ending,
    kind_of,
)
from prolu_eval.tokens.pieces import Piece, id_pieces, split_pieces, text_pieces
from prolu_eval.tokens.records import Open, Record, Value, file_records, values
from prolu_eval.tokens.token_ids import read_ids, row_pieces

_NAME_TEXT = "name a file or a folder of text with --tokens"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")
# Records that are examined to decide whether a source holds rows of one length or documents.
_HEAD = 64
# Local sources of up to this many bytes are identified by all their bytes, larger ones by samples.
_HASHED_BYTES = 1 << 26
_SAMPLE = 1 << 16


class SourceContent(NamedTuple):
    """The pieces of a source's documents, or its rows of token ids."""

    pieces: Iterator[Piece]
    are_rows: bool


def content(source: str, split: Split, text_column: str | None) -> SourceContent:
    """The documents or rows of one split of a source, in order, read while they are consumed.

    Raises:
        TokensError: if the source cannot be read.
    """
    if source == EMBEDDED_MODEL:
        parts = [part for part in embedded.SPLITS if split in (part, "all")]
        texts = chain.from_iterable(embedded.documents(part) for part in parts)
        return SourceContent(chain.from_iterable(map(_pieces_of, texts)), are_rows=False)
    whole = _whole(source, text_column)
    return whole._replace(pieces=split_pieces(whole.pieces, split, rows=whole.are_rows))


def check_source(source: str, text_column: str | None, remedy: str) -> None:
    """Check that a local source can be read, by reading its first document or row.

    Raises:
        TokensError: if it cannot be read. If it does not exist and cannot be the name of a dataset
            on the hub, the error gives the remedy.
    """
    if source == EMBEDDED_MODEL:
        return
    if not source.strip():  # as a path, it would be the current folder
        raise TokensError("the tokens", "have an empty name", remedy)
    path = Path(source)
    if path.is_symlink() and not path.exists():
        raise TokensError(source, "is a link to a file that is not there", f"mend it, or {remedy}")
    if not path.exists():
        name = source.partition(":")[0]
        as_file = ending(path) in (*TEXTS, *RECORDS, *IDS) or path.suffix in reading.PACKED
        if as_file or not _HUB_NAME.fullmatch(source) or "--" in name:
            raise TokensError(source, "is no file and no folder here", remedy)
        return
    if next(content(source, "all", text_column).pieces, None) is None:
        raise TokensError(source, "is empty", "give text")


def _whole(source: str, text_column: str | None) -> SourceContent:
    path = Path(source)
    if path.is_file():
        if path in files_of_runs(path):
            raise TokensError(source, "belongs to a run, and is no text", _NAME_TEXT)
        return _of_files(source, [path], text_column)
    if path.is_dir() and not _is_saved_dataset(path):
        return _of_files(source, _files(path), text_column)
    if path.exists() and not path.is_dir():
        raise TokensError(source, "is no file, but a pipe or a device", "write a file, and name it")
    opened = [(source, lambda columns: _dataset(source, columns))]
    return _of_records(source, opened, text_column)


def _files(folder: Path) -> list[Path]:
    """The files of a folder's text: those of the one kind that holds most of the bytes.

    Files of token ids are taken if the folder holds no text. What belongs to runs is none.
    """
    of_runs = files_of_runs(folder)
    visible = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path not in of_runs
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    by_kind = [
        [path for path in visible if ending(path) in kinds]
        for kinds in (TEXTS, JSON_LINES, JSON, tuple(TABLES), (PARQUET,))
    ]
    found = max(by_kind, key=lambda paths: sum(path.stat().st_size for path in paths))
    if found := found or [path for path in visible if ending(path) in IDS]:
        return found
    if of_runs:
        raise TokensError(folder, "holds runs, and no text", _NAME_TEXT)
    raise TokensError(
        folder,
        "holds no .txt, .md, .py, .jsonl, .json, .csv, .tsv, .parquet, .npy or .safetensors file",
        "name a folder of text",
    )


def _of_files(source: str, files: list[Path], text_column: str | None) -> SourceContent:
    kind = kind_of(files[0])
    if kind in RECORDS:
        opened = [(file, file_records(file, kind_of(file))) for file in files]
        return _of_records(source, opened, text_column)
    if text_column is not None:
        what = "holds token ids" if kind in IDS else "is text"
        raise TokensError(
            source, f"{what} and has no columns", "leave out --text-column, or name other text"
        )
    if kind in IDS:
        return _of_ids(files)
    pieces = chain.from_iterable(_text(file) for file in files)
    return SourceContent(pieces, are_rows=False)


def _text(file: Path) -> Iterator[Piece]:
    if (kind := kind_of(file)) in RECORDS:
        raise TokensError(
            file,
            f"begins as a {kind} file does, beside files of text",
            f"name it {kind}, or move it",
        )
    return text_pieces(reading.chunks(file))


def _of_ids(files: list[Path]) -> SourceContent:
    """Rows of token ids, or documents of token ids, whichever the first file holds."""
    are_rows = read_ids(files[0], kind_of(files[0]))[0].ndim == 2

    def pieces(file: Path) -> Iterator[Piece]:
        ids, mask = read_ids(file, kind_of(file))
        if (ids.ndim == 2) != are_rows:
            raise TokensError(file, f"holds ids of {ids.ndim} dimensions, unlike the first file",
                              "give [n] everywhere, or [rows, T]")  # fmt: skip
        return row_pieces(ids, mask) if are_rows else id_pieces(ids if mask is None else ids[mask])

    return SourceContent(chain.from_iterable(map(pieces, files)), are_rows)


def _of_records(
    source: str, opened: list[tuple[Any, Open]], text_column: str | None
) -> SourceContent:
    found = values(source, opened, text_column)
    head = list(islice(found, _HEAD))
    lengths = {len(value[0]) for value in head if not isinstance(value, str)}
    are_ids = not any(isinstance(value, str) for value in head)
    if len(head) > 1 and len(lengths) == 1 and 0 not in lengths and are_ids:
        rows = (Piece(ids, real=mask) for ids, mask in _ids(source, chain(head, found)))
        return SourceContent(rows, are_rows=True)
    pieces = chain.from_iterable(map(_pieces_of, chain(head, found)))
    return SourceContent(pieces, are_rows=False)


def _ids(source: str, found: Iterator[Value]) -> Iterator[Any]:
    for row, value in enumerate(found):
        if isinstance(value, str):
            raise TokensError(source, f"row {row} (from 0) is text where others are token ids",
                              "write the rows again")  # fmt: skip
        yield value


def _pieces_of(value: Value) -> Iterator[Piece]:
    if isinstance(value, str):
        return text_pieces([value])
    ids, mask = value
    return id_pieces(ids if mask is None else ids[mask])


def _is_saved_dataset(folder: Path) -> bool:
    return any((folder / f"{name}.json").exists() for name in ("dataset_info", "dataset_dict"))


def _dataset(source: str, columns: list[str] | None) -> Iterator[Record]:
    """Records of a dataset that ``save_to_disk`` wrote, or of one that is streamed from the hub."""
    try:
        data = _open_dataset(source)
        if columns is not None and data.column_names is not None:
            data = data.select_columns([name for name in columns if name in data.column_names])
        yield from data
    except (OSError, ValueError, LookupError, TypeError, ConnectionError) as error:
        reason = str(error).partition("\n")[0]
        raise TokensError(
            source,
            f"is no file, and no dataset that can be read ({reason})",
            "check the name, or name text with --tokens",
        ) from None


def _open_dataset(source: str) -> Any:
    import datasets

    if Path(source).is_dir():
        data: Any = datasets.load_from_disk(source).with_format(None)  # gives plain lists
        if isinstance(data, datasets.Dataset):
            return data
        return data["train"] if "train" in data else next(iter(data.values()))
    name, _, configuration = source.partition(":")
    return datasets.load_dataset(name, configuration or None, split="train", streaming=True)


def identity(source: str) -> str | None:
    """A hash that identifies a source's content; None if there is none, as for one on the hub."""
    digest = hashlib.sha256()
    if source == EMBEDDED_MODEL:
        for part in embedded.SPLITS:
            for text in embedded.documents(part):
                digest.update(hashlib.sha256(text.encode()).digest())
        return digest.hexdigest()
    path = Path(source)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    whole = sum(file.stat().st_size for file in files) <= _HASHED_BYTES
    for file in files:
        # The file's name is part of the hash, because its ending decides how it is read.
        digest.update(f"{file.relative_to(path)} {ending(file)} ".encode())
        with file.open("rb") as data:
            if whole:
                digest.update(hashlib.file_digest(data, "sha256").digest())
                continue
            status = file.stat()
            digest.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns} ".encode())
            for at in (0, status.st_size // 2, max(0, status.st_size - _SAMPLE)):
                data.seek(at)
                digest.update(data.read(_SAMPLE))
    return digest.hexdigest()
