"""Turning documents into token ids, and token ids into rows of equal length."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prolu_eval.choices import Packing
from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens.pieces import Piece

# Characters passed to the tokenizer at once. The first batch is small, because a caller may want
# only a few tokens.
_FIRST_BATCH, _LARGEST_BATCH = 1 << 14, 1 << 20


class TokenizedPiece(NamedTuple):
    """The token ids of a piece of a document, and whether it is the document's first piece."""

    ids: NDArray[np.int64]
    begins: bool


def encode(pieces: Iterable[Piece], model: LanguageModel, source: str) -> Iterator[TokenizedPiece]:
    """The token ids of each piece; no special tokens are added.

    Raises:
        TokensError: if a piece is text and the model has no tokenizer.
    """
    for batch in _batches(pieces):
        texts = [piece.content for piece in batch if isinstance(piece.content, str)]
        if texts and model.tokenizer is None:
            raise TokensError(source, f"is text, and {model.name} has no tokenizer", "give ids")
        encoded = iter(
            model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            if texts
            else ()
        )
        for piece in batch:
            ids = next(encoded) if isinstance(piece.content, str) else piece.content
            yield TokenizedPiece(np.asarray(ids, dtype=np.int64), piece.begins)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size, limit = 0, _FIRST_BATCH
    for piece in pieces:
        batch.append(piece)
        size += len(piece.content)
        if size >= limit:
            yield batch
            batch, size, limit = [], 0, min(2 * limit, _LARGEST_BATCH)
    if batch:
        yield batch


def pack(
    documents: Iterable[TokenizedPiece],
    model: LanguageModel,
    context_length: int,
    prepend_bos: bool,
    packing: Packing,
) -> Iterator[NDArray[np.int64]]:
    """Rows cut from the stream of documents; each document and each row begins with BOS.

    A document of token ids that already begins with BOS gets no second one.
    """
    bos_id = None if model.tokenizer is None else model.tokenizer.bos_token_id
    bos = np.array([] if bos_id is None or not prepend_bos else [bos_id], dtype=np.int64)
    length = context_length - len(bos)
    stream = np.empty(0, dtype=np.int64)
    for document, begins in documents:
        ids = document
        if begins:
            if len(bos) and np.array_equal(document[:1], bos):
                ids = document[1:]
            if packing == "separate":
                stream = stream[:0]
            elif len(stream):
                stream = np.concatenate([stream, bos])
        stream = np.concatenate([stream, ids]) if len(stream) else ids
        whole = len(stream) // length * length
        for row in stream[:whole].reshape(-1, length):
            yield np.concatenate([bos, row])
        stream = stream[whole:]
