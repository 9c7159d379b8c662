"""Documents of a source: text or token ids, from files, folders and datasets."""

import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from prolu_eval import embedded
from prolu_eval.choices import Split
from prolu_eval.errors import TokensError
from prolu_eval.runs import EMBEDDED_MODEL

Document = str | NDArray[np.int64]

BOUNDARY = "<|endoftext|>"
_HELDOUT_ONE_IN = 10
_TEXTS = (".txt", ".md", ".py")
# Local sources up to this size are identified by their bytes, larger ones by sizes and times.
_HASHED_BYTES = 1 << 30


def _is_heldout(document: Document) -> bool:
    content = document.encode() if isinstance(document, str) else document.tobytes()
    return hashlib.sha256(content).digest()[0] % _HELDOUT_ONE_IN == 0


def documents(source: str, split: Split) -> Iterator[Document]:
    """The documents of a split of a source, in order.

    Raises:
        TokensError: if the source cannot be read.
    """
    if source == EMBEDDED_MODEL:
        for part in ("train", "heldout"):
            if split in (part, "all"):
                yield from embedded.documents(part)
        return
    for document in _all_documents(source):
        if split == "all" or (split == "heldout") == _is_heldout(document):
            yield document


def _all_documents(source: str) -> Iterator[Document]:
    path = Path(source)
    if path.is_symlink() and not path.exists():
        raise TokensError(source, "is a link to what is not there", "mend it")
    if path.is_file() and path.suffix in (".npy", ".safetensors"):
        yield _read_ids(path)
    elif path.is_file() and path.suffix != ".parquet":
        yield from filter(str.strip, _read_text(path).split(BOUNDARY))
    elif path.is_dir() and not _is_dataset(path):
        texts = sorted(p for p in path.rglob("*") if p.suffix in _TEXTS)
        if not texts:
            raise TokensError(
                source, "holds no .txt, .md, .py or .parquet file", "name a folder of text"
            )
        yield from filter(str.strip, map(_read_text, texts))
    else:
        yield from _dataset_documents(source)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokensError(path, f"is no readable text ({error})", "give UTF-8 text") from None


def ready_rows(source: str, context_length: int) -> NDArray[np.int64] | None:
    """Token ids that are rows already ([n_rows, T] in a file), cut to the context length.

    Raises:
        TokensError: if the file cannot be read, or its rows are too short.
    """
    path = Path(source)
    if not path.is_file() or path.suffix not in (".npy", ".safetensors"):
        return None
    ids = _read_ids(path)
    if ids.ndim == 1:
        return None
    if ids.shape[1] < context_length:
        raise TokensError(
            path,
            f"has rows of {ids.shape[1]} tokens, shorter than the context of {context_length}",
            f"choose a context length of at most {ids.shape[1]}",
        )
    return np.ascontiguousarray(ids[:, :context_length])


def _read_ids(path: Path) -> NDArray[np.int64]:
    try:
        if path.suffix == ".npy":
            ids = np.load(path, allow_pickle=False)
        else:
            arrays = load_file(path)
            ids = arrays["tokens"] if "tokens" in arrays else next(iter(arrays.values()))
    except (OSError, EOFError, ValueError, StopIteration, SafetensorError) as error:
        raise TokensError(path, f"cannot be read ({error})", "write the file again") from None
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2):
        raise TokensError(
            path,
            f"holds {ids.dtype} of {ids.ndim} dimensions, no token ids",
            "give integers, [n] or [rows, T]",
        )
    return np.asarray(ids, dtype=np.int64)


def _is_dataset(folder: Path) -> bool:
    return (
        (folder / "dataset_info.json").exists()
        or (folder / "dataset_dict.json").exists()
        or (any(folder.rglob("*.parquet")))
    )


def _dataset_documents(source: str) -> Iterator[Document]:
    try:
        data = _dataset(source)
        records = iter(data)
        first: dict[str, Any] = next(records, {})
        column = next(c for c in ("input_ids", "tokens", "text") if c in first)
    except StopIteration:
        raise TokensError(
            source, "has no text, tokens or input_ids column", "rename the column"
        ) from None
    except (OSError, ValueError, ConnectionError) as error:
        reason = str(error).partition("\n")[0]
        raise TokensError(
            source, f"is no file, and no dataset that can be read ({reason})", "check the name"
        ) from None
    for record in chain([first], records):
        value = record[column]
        yield value if isinstance(value, str) else np.asarray(value, dtype=np.int64)


def _dataset(source: str) -> Any:
    """A dataset's records, streamed where it is on the hub or in Parquet files."""
    import datasets

    path = Path(source)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet"))):
        files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        names = [str(file) for file in files]
        return datasets.load_dataset("parquet", data_files=names, split="train", streaming=True)
    if path.is_dir():
        data: Any = datasets.load_from_disk(source)
        return data if isinstance(data, datasets.Dataset) else next(iter(data.values()))
    name, _, configuration = source.partition(":")
    return datasets.load_dataset(name, configuration or None, split="train", streaming=True)


def identity(source: str) -> str | None:
    """What tells a source's content from any other; None if that cannot be known (on the hub)."""
    digest = hashlib.sha256()
    if source == EMBEDDED_MODEL:
        for part in ("train", "heldout"):
            for text in embedded.documents(part):
                digest.update(hashlib.sha256(text.encode()).digest())
        return digest.hexdigest()
    path = Path(source)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    whole = sum(file.stat().st_size for file in files) <= _HASHED_BYTES
    for file in files:
        digest.update(f"{file.relative_to(path)} ".encode())
        if whole:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        else:
            digest.update(f"{file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()
