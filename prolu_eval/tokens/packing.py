"""Documents to token ids, and these to rows of equal length."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from prolu_eval.choices import Packing
from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens.sources import Document

_ENCODED_AT_ONCE = 256


def encode(
    documents: Iterable[Document], model: LanguageModel, source: str
) -> Iterator[NDArray[np.int64]]:
    """Token ids of each document, without special tokens added.

    Raises:
        TokensError: if a document is text and the model has no tokenizer.
    """
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


def pack(
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
