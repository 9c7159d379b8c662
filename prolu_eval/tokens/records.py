"""Records of JSON, CSV and Parquet files and of datasets, and the text or token ids in them.

The text or the token ids of a record are in the column that the caller names, or else in the first
of ``input_ids``, ``tokens``, ``text`` and ``content`` that holds either. The name ``a.b`` refers to
the key b in the objects of column a. A column ``attention_mask`` says which token ids are no
padding; either all records have one or none has.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prolu_eval.errors import TokensError
from prolu_eval.tokens import reading
from prolu_eval.tokens.kinds import (
    COLUMNS,
    DELIMITERS,
    ID_COLUMNS,
    JSON,
    JSON_LINES,
    PARQUET,
    TABLES,
)

Record = dict[str, Any]
# A function that reads the records of a file or a dataset: with all their columns if it is called
# with None, or else with those of the given columns that they have.
Open = Callable[[list[str] | None], Iterator[Record]]
Value = str | tuple[NDArray[np.int64], NDArray[np.bool_] | None]

# Names of a padding mask; the first of them that is present is used.
MASKS = ("attention_mask", "mask")
# An error message lists at most so many columns, with so many characters of each name.
_SHOWN = 24
_FIELD_LIMIT = (1 << 31) - 1


def values(
    source: str | Path, parts: Sequence[tuple[str | Path, Open]], column: str | None
) -> Iterator[Value]:
    """The text, or the token ids and their mask, of each record.

    Args:
        source: the name that errors about the whole source give.
        parts: the files of the source, or the source itself, and the records of each.
        column: the column that the caller names, or None.

    Raises:
        TokensError: if there is no such column, or a row holds neither text nor token ids in it.
    """
    first = next(chain.from_iterable(records(None) for _, records in parts), None)
    if first is None:
        raise TokensError(source, "has no rows", "give some")
    column = _column(source, first, column)
    whole = column if column in first else column.partition(".")[0]
    mask = next((name for name in MASKS if name in first and name != column), None)
    for part, records in parts:
        for row, record in enumerate(records([whole, *MASKS])):
            yield _value(part, row, column, record, mask)


def _column(source: str | Path, first: Record, named: str | None) -> str:
    has = ", ".join(repr(name[:_SHOWN]) for name in islice(_names(first), _SHOWN)) or "no column"
    if named is not None:
        if _has(first, named):
            return named
        raise TokensError(source, f"has no column {named!r}, but {has}", "name another column")
    known = [name for name in COLUMNS if name in first]
    for name in known:
        if isinstance(first[name], str) or _are_ids(first[name]):
            return name
    if known:
        return known[0]
    raise TokensError(
        source,
        f"has no column input_ids, tokens, text or content, but {has}",
        "name the column of the text with --text-column",
    )


def _names(record: Record) -> Iterator[str]:
    """The columns of a record; for a column of objects, the names of their keys as ``a.b``."""
    for name, value in record.items():
        yield from (f"{name}.{inner}" for inner in value) if isinstance(value, dict) else (name,)


def _has(record: Record, column: str) -> bool:
    outer, _, inner = column.partition(".")
    return column in record or (isinstance(record.get(outer), dict) and inner in record[outer])


def _found(record: Record, column: str) -> Any:
    """The value in a column, which the record must have."""
    if column in record:
        return record[column]
    outer, _, inner = column.partition(".")
    return record[outer][inner]


def _are_ids(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(item) is int for item in value)
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 1


def _value(
    source: str | Path, row: int, column: str, record: Record, masked_by: str | None
) -> Value:
    if not _has(record, column):
        raise TokensError(
            source, f"row {row} (from 0) has no column {column!r}", "remove or mend such rows"
        )
    value = _found(record, column)
    where = f"row {row} (from 0), column {column!r}"
    if isinstance(value, str):
        if column in ID_COLUMNS and value.lstrip().startswith("["):
            raise TokensError(source, f"{where} has token ids written out as text",
                              "give them as JSON lines or Parquet")  # fmt: skip
        return _characters(value)
    if value is None:
        raise TokensError(source, f"{where} has nothing in it", "remove or fill such rows")
    ids = _array(value)
    if ids is not None and ids.shape == (0,):
        return np.empty(0, np.int64), None
    if ids is None or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TokensError(
            source,
            f"{where} holds {_described(value, ids)}, neither text nor a list of token ids",
            "name another column with --text-column, or write the rows again",
        )
    there = [name for name in MASKS if name != column and record.get(name) is not None]
    if masked_by not in there and (masked_by or there):
        name = masked_by or there[0]
        has, have = ("no", "have one") if masked_by else ("an", "have none")
        reason = f"row {row} (from 0) has {has} {name}, where the rows before it {have}"
        raise TokensError(source, reason, "write the rows again")
    mask = None if masked_by is None else _mask(source, row, ids, masked_by, record[masked_by])
    return ids.astype(np.int64), mask


def _characters(text: str) -> str:
    """Text in which lone surrogates, which JSON can contain, become replacement characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _array(value: Any) -> NDArray[Any] | None:
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    try:
        return np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return np.empty((0, 0))


def _described(value: Any, array: NDArray[Any] | None) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(islice(value, _SHOWN)) or 'nothing in it'}"
    if array is None:
        return f"a value of type {type(value).__name__}"
    if array.ndim != 1:
        return "nested lists"
    kinds = {"U": "a list of words", "f": "a list of fractions", "b": "a list of true and false"}
    return kinds.get(array.dtype.kind, "a list with values that are no numbers")


def _mask(
    source: str | Path, row: int, ids: NDArray[Any], name: str, mask: Any
) -> NDArray[np.bool_]:
    found = np.asarray(mask) if isinstance(mask, list | np.ndarray) else np.empty(0)
    if found.shape != ids.shape or not np.isin(found, (0, 1)).all():
        raise TokensError(
            source,
            f"row {row} (from 0), column {name!r} has not one 0 or 1 for each of the "
            f"{len(ids)} token ids",
            "write the rows again",
        )
    return found.astype(bool)


def file_records(path: Path, kind: str) -> Open:
    """A function that reads the records of a file; ``kind`` is its ending without compression."""
    if kind == PARQUET:
        return lambda columns: _parquet(path, columns)
    if kind in JSON_LINES:
        return lambda _: _json_lines(path)
    if kind in JSON:
        return lambda _: _json(path)
    return lambda _: _table(path, TABLES[kind])


def _parquet(path: Path, columns: list[str] | None) -> Iterator[Record]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if columns is not None:
                columns = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TokensError(path, f"cannot be read ({reason})", "write it again") from None


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(reading.lines(path), 1):
        if line.strip():
            yield _record(path, f"line {number}", _parsed(path, f"line {number}", line))


def _parsed(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokensError(path, f"{where} is no JSON ({error})", "write it again") from None


def _record(path: Path, where: str, value: Any) -> Record:
    """A record from a JSON value: an object, only a text, or only token ids."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list):
        return {"input_ids": value}
    kind = "nothing" if value is None else f"a value of type {type(value).__name__}"
    raise TokensError(
        path, f"{where} is {kind}, neither an object nor a text", "give one object a row"
    )


def _json(path: Path) -> Iterator[Record]:
    """Records from a list of objects or texts, or from consecutive objects, as in JSON lines."""
    chunks = iter(reading.chunks(path))
    begin = ""
    while not begin.strip() and (chunk := next(chunks, None)) is not None:
        begin += chunk
    if begin.lstrip().startswith("["):
        stream = chain([begin.lstrip()[1:]], chunks)
        for row, value in enumerate(_items(path, stream)):
            yield _record(path, f"row {row} (from 0)", value)
    else:
        stream = chain([begin], chunks)
        for row, value in enumerate(_items(path, stream, separator="", end="")):
            yield _record(path, f"row {row} (from 0)", value)


def _items(
    path: Path, chunks: Iterable[str], separator: str = ",", end: str = "]"
) -> Iterator[Any]:
    """JSON values that follow one another, each as soon as its last chunk is read."""
    decoder, more = json.JSONDecoder(), iter(chunks)
    buffer, row, ended = "", 0, False
    while True:
        buffer = buffer.lstrip()
        if row and separator and buffer.startswith(separator):
            buffer = buffer[1:].lstrip()
        if end and buffer.startswith(end):
            return
        value, at, problem = None, 0, "it ends early"
        if buffer:
            try:
                value, at = decoder.raw_decode(buffer)
            except (ValueError, RecursionError) as error:
                problem = str(error)
        # A number at the very end of the buffer may continue in the next chunk.
        if at and (ended or at < len(buffer)):
            yield value
            buffer, row = buffer[at:], row + 1
            continue
        if ended:
            if not buffer and not end:
                return
            where = f"row {row} (from 0)"
            raise TokensError(path, f"{where} is no JSON ({problem})", "write it again")
        read = 0
        # As much again as the buffer holds is read, so that each byte is parsed only a few times.
        while read <= len(buffer) and not ended:
            chunk = next(more, None)
            ended = chunk is None
            buffer += chunk or ""
            read += len(chunk or "")


def _table(path: Path, delimiter: str) -> Iterator[Record]:
    """Rows of a CSV or TSV file, whose first line names the columns."""
    csv.field_size_limit(_FIELD_LIMIT)
    lines = reading.lines(path)
    first = next(lines, "")
    if first.startswith("sep=") and len(first.strip()) == len("sep=;"):  # written for Excel
        delimiter, first = first[4], next(lines, "")
    if delimiter not in first:
        delimiter = next((other for other in DELIMITERS if other in first), delimiter)
    rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header):
            raise TokensError(path, "names a column twice in its first line", "rename one")
        for number, fields in enumerate(filter(None, rows)):
            if len(fields) != len(header):
                raise TokensError(
                    path,
                    f"row {number} (from 0) has {len(fields)} fields where the first line names "
                    f"{len(header)} columns",
                    "quote fields that hold the delimiter, and name the columns in the first line",
                )
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise TokensError(
            path, f"line {rows.line_num} is no CSV ({error})", "write it again"
        ) from None
