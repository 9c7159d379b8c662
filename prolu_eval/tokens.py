"""Token rows to train and evaluate on: from text or token ids, the same for every run.

A source is ``embedded`` (the standard library's source files), a text file (documents separated by
``<|endoftext|>`` where it has that marker), a folder of text files (a document each), token ids in
``.npy`` or ``.safetensors``, or a Hugging Face dataset (a folder that ``save_to_disk`` wrote, or a
name) with a ``text`` or ``input_ids`` column. Documents are packed into rows of equal length, each
document begun by the BOS token where the tokenizer has one. A tenth of the documents, chosen by
their content, is held out, so that training and evaluation can share one source.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from prolu_eval import embedded
from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.runs import EMBEDDED_MODEL

Split = Literal["train", "heldout", "all"]
Packing = Literal["concatenate", "separate"]

BOUNDARY = "<|endoftext|>"
_HELDOUT_ONE_IN = 10
_ENCODED_AT_ONCE = 256

Document = str | NDArray[np.int64]


@dataclass(frozen=True)
class TokenRows:
    """Rows of token ids, and which positions count.

    ``ids`` [n_rows, T] int64 and ``counted`` [n_rows, T] bool are on the CPU; a position counts if
    its own token is not special.
    """

    ids: Tensor
    counted: Tensor
    source: str

    @cached_property
    def fingerprint(self) -> str:
        """What tells these ids and this mask from any others."""
        rows, counted = self.ids.numpy(), self.counted.numpy()
        digest = hashlib.sha256(rows.tobytes() + counted.tobytes() + str(rows.shape).encode())
        return digest.hexdigest()[:32]

    def first(self, n_rows: int) -> "TokenRows":
        """The first rows alone."""
        if n_rows == len(self):
            return self
        return TokenRows(self.ids[:n_rows], self.counted[:n_rows], self.source)

    def __len__(self) -> int:
        return len(self.ids)


def load_tokens(
    source: str,
    model: LanguageModel,
    *,
    split: Split,
    n_tokens: int | None,
    context_length: int,
    prepend_bos: bool = True,
    packing: Packing = "concatenate",
    include_special: bool = False,
) -> TokenRows:
    """Read a source, tokenise it for a model, and pack it into rows.

    Args:
        source: see the module's text.
        model: whose tokenizer and vocabulary count.
        split: nine tenths of the documents, the tenth that is held out, or all.
        n_tokens: stop after so many tokens, rounded down to rows; None for all there are.
        context_length: length of a row.
        prepend_bos: whether rows begin with the BOS token.
        packing: ``concatenate`` lets rows run on from one document into the next, ``separate``
            begins each document with a row of its own and drops what does not fill one.
        include_special: whether special positions count too.

    Raises:
        TokensError: if the source cannot be read, is empty or shorter than one row, holds ids
            outside the vocabulary, or rows are longer than the model's context.
    """
    if model.context_length is not None and context_length > model.context_length:
        raise TokensError(
            source,
            f"rows of {context_length} tokens exceed the context of {model.name}",
            f"choose a context length of at most {model.context_length}",
        )
    rows = _ready_rows(source, context_length)
    if rows is None:
        documents = _encode(_documents(source, split), model, source)
        packed = _pack(documents, model, context_length, prepend_bos, packing)
        wanted = None if n_tokens is None else max(1, n_tokens // context_length)
        rows = np.array(list(islice(packed, wanted)), dtype=np.int64).reshape(-1, context_length)
    elif n_tokens is not None:
        rows = rows[: max(1, n_tokens // context_length)]
    if len(rows) == 0:
        raise TokensError(
            source,
            f"has less than one row of {context_length} tokens in its {split} documents",
            "give more text or a smaller context length",
        )
    if rows.min() < 0 or rows.max() >= model.vocab_size:
        raise TokensError(
            source,
            f"has token ids outside the vocabulary of {model.name} (0 to {model.vocab_size - 1})",
            "give ids of this model's tokenizer",
        )
    special = np.array(sorted(model.special_ids), dtype=np.int64)
    counted = np.ones_like(rows, bool) if include_special else ~np.isin(rows, special)
    if not counted.any():
        raise TokensError(source, "has special tokens only", "count them too, or give text")
    return TokenRows(torch.from_numpy(rows), torch.from_numpy(counted), source)


def _is_heldout(document: Document) -> bool:
    content = document.encode() if isinstance(document, str) else document.tobytes()
    return hashlib.sha256(content).digest()[0] % _HELDOUT_ONE_IN == 0


def _documents(source: str, split: Split) -> Iterator[Document]:
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
    if path.is_file() and path.suffix in (".npy", ".safetensors"):
        yield _read_ids(path)
    elif path.is_file():
        yield from filter(str.strip, _read_text(path).split(BOUNDARY))
    elif path.is_dir() and not (path / "dataset_info.json").exists():
        texts = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md", ".py"))
        if not texts:
            raise TokensError(source, "holds no .txt, .md or .py file", "name a folder of text")
        yield from filter(str.strip, map(_read_text, texts))
    else:
        yield from _dataset_documents(source)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokensError(path, f"is no readable text ({error})", "give UTF-8 text") from None


def _ready_rows(source: str, context_length: int) -> NDArray[np.int64] | None:
    """Token ids that are rows already ([n_rows, T] in a file), cut to the context length."""
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
    except (OSError, ValueError, StopIteration, SafetensorError) as error:
        raise TokensError(path, f"cannot be read ({error})", "write the file again") from None
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2):
        raise TokensError(
            path,
            f"holds {ids.dtype} of {ids.ndim} dimensions, no token ids",
            "give integers, [n] or [rows, T]",
        )
    return np.asarray(ids, dtype=np.int64)


def _dataset_documents(source: str) -> Iterator[Document]:
    import datasets

    try:
        if Path(source).is_dir():
            data: Any = datasets.load_from_disk(source)
            data = data if isinstance(data, datasets.Dataset) else next(iter(data.values()))
        else:
            data = datasets.load_dataset(source, split="train", streaming=True)
        column = next(c for c in ("input_ids", "tokens", "text") if c in data.features)
    except StopIteration:
        raise TokensError(
            source, "has no text, tokens or input_ids column", "rename the column"
        ) from None
    except (OSError, ValueError, ConnectionError) as error:
        reason = str(error).partition("\n")[0]
        raise TokensError(
            source, f"is no file, and no dataset that can be read ({reason})", "check the name"
        ) from None
    for record in data:
        value = record[column]
        yield value if isinstance(value, str) else np.asarray(value, dtype=np.int64)


def _encode(
    documents: Iterable[Document], model: LanguageModel, source: str
) -> Iterator[NDArray[np.int64]]:
    """Token ids of each document, without special tokens added."""
    iterator = iter(documents)
    while batch := list(islice(iterator, _ENCODED_AT_ONCE)):
        texts = [document for document in batch if isinstance(document, str)]
        if texts and model.tokenizer is None:
            raise TokensError(source, f"is text, and {model.name} has no tokenizer", "give ids")
        encoded = iter(
            model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            if texts
            else ()
        )
        for document in batch:
            ids = next(encoded) if isinstance(document, str) else document
            yield np.asarray(ids, dtype=np.int64)


def _pack(
    documents: Iterable[NDArray[np.int64]],
    model: LanguageModel,
    context_length: int,
    prepend_bos: bool,
    packing: Packing,
) -> Iterator[NDArray[np.int64]]:
    """Rows cut from the stream of documents, each document and each row begun by BOS."""
    bos_id = None if model.tokenizer is None else model.tokenizer.bos_token_id
    bos = np.array([] if bos_id is None or not prepend_bos else [bos_id], dtype=np.int64)
    length = context_length - len(bos)
    stream = np.empty(0, dtype=np.int64)
    for document in documents:
        joins = len(stream) > 0 and packing == "concatenate"
        stream = np.concatenate([stream, bos, document]) if joins else document
        whole = len(stream) // length * length
        for row in stream[:whole].reshape(-1, length):
            yield np.concatenate([bos, row])
        stream = stream[whole:]
