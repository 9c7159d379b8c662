"""Rows of token ids, read from a source or the cache, and the positions that count."""

import hashlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.choices import Packing, Split
from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.plain_text import printable
from prolu_eval.tokens.cache import remembered
from prolu_eval.tokens.packing import encode, pack
from prolu_eval.tokens.pieces import SPLIT_VERSION, Piece
from prolu_eval.tokens.sources import content
from prolu_eval.tokens.token_ids import rows_of

# Version of the rule that decides which positions count; part of every fingerprint.
_VERSION = 2
# 1: positions of special tokens do not count (2026-11)
# 2: nor do positions of padding; predicting either kind of token does not count (2026-11)

_PARTS = {"train": "the part to train on", "heldout": "the held-out part", "all": "all of it"}
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class TokenRows:
    """Rows of token ids, and which positions count.

    ``ids`` [n_rows, T] int64 and ``counted`` [n_rows, T] bool are on the CPU. A position counts if
    its own token is neither special nor padding (or, if special tokens are included, if it is no
    padding). The next token is a prediction target if both positions count. Padding comes after all
    other tokens of a row, so that no counted position of a causal model attends to it. Every row
    has at least one position that counts.
    """

    ids: Tensor
    counted: Tensor
    source: str

    @cached_property
    def fingerprint(self) -> str:
        """A hash that identifies these ids and this mask."""
        rows, counted = self.ids.numpy(), self.counted.numpy()
        digest = hashlib.sha256(rows.tobytes() + counted.tobytes() + str(rows.shape).encode())
        digest.update(f"{_VERSION} {SPLIT_VERSION}".encode())
        return digest.hexdigest()[:32]

    def first(self, n_rows: int) -> "TokenRows":
        """Only the first ``n_rows`` rows."""
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
    text_column: str | None = None,
) -> TokenRows:
    """Read a source, tokenise it for a model, and pack it into rows.

    Args:
        source: one of the sources that :mod:`prolu_eval.tokens` lists.
        model: the model whose tokenizer and vocabulary are used.
        split: the part to train on, the tenth that is held out, or the whole source.
        n_tokens: stop after so many tokens, rounded down to whole rows; None for all tokens.
        context_length: the length of a row; longer rows of token ids are cut to it.
        prepend_bos: whether rows that are packed here begin with the BOS token.
        packing: with ``concatenate`` a row may hold the end of one document and the beginning of
            the next; with ``separate`` each document begins a new row, and its last tokens are
            dropped if they do not fill a row.
        include_special: whether special positions count too.
        text_column: the column of the text or the token ids, in a source that has columns.

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
    found = content(source, split, text_column)
    if found.are_rows:
        rows, real = _given(source, found.pieces, model, n_tokens, context_length)
    else:

        def packed() -> NDArray[np.int64]:
            encoded = encode(found.pieces, model, source)
            made = islice(pack(encoded, model, context_length, prepend_bos, packing), wanted)
            return np.array(list(made), dtype=np.int64).reshape(-1, context_length)

        wanted = _wanted(n_tokens, context_length)
        how = (split, wanted, context_length, prepend_bos, packing, text_column, SPLIT_VERSION)
        rows = remembered(source, model, how, packed)
        real = np.ones(rows.shape, dtype=bool)
    if len(rows) == 0:
        raise TokensError(
            source,
            f"has less than one row of {context_length} tokens in {_PARTS[split]}",
            "give more text with --tokens, or a smaller --context-length",
        )
    if rows.min() < 0 or rows.max() >= model.vocab_size:
        raise TokensError(
            source,
            f"has token ids outside the vocabulary of {model.name} (0 to {model.vocab_size - 1})",
            "give ids of this model's tokenizer",
        )
    special = np.array(sorted(model.special_ids), dtype=np.int64)
    counted = real if include_special else real & ~np.isin(rows, special)
    used = counted.any(1)
    if not used.any():
        raise TokensError(
            source, "has special tokens and padding only", "count them too, or give text"
        )
    return TokenRows(torch.from_numpy(rows[used]), torch.from_numpy(counted[used]), source)


def _wanted(n_tokens: int | None, length: int) -> int | None:
    """How many rows of a length hold ``n_tokens`` tokens, rounded down; at least one."""
    return None if n_tokens is None else min(max(1, n_tokens // length), sys.maxsize)


@cache
def _warn_of_short_rows(source: str, width: int, context_length: int) -> None:
    """Warn once for each source, however often and in however many parts it is read."""
    logging.getLogger(__name__).warning(
        "%s: has rows of %d tokens; they are used as they are, shorter than the context of %d.",
        printable(source), width, context_length,
    )  # fmt: skip


def _given(
    source: str,
    pieces: Iterator[Piece],
    model: LanguageModel,
    n_tokens: int | None,
    context_length: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """As many of the source's own rows as hold ``n_tokens`` tokens, and their real positions."""
    first = next(pieces, None)
    if first is None:
        return np.empty((0, context_length), np.int64), np.empty((0, context_length), bool)
    width = min(context_length, len(first.content))
    if width < context_length:
        _warn_of_short_rows(source, width, context_length)
    wanted = _wanted(n_tokens, width)
    rows = islice(chain([first], pieces), wanted)
    parts = []
    while piece_rows := list(islice(rows, _ROWS_AT_ONCE)):
        parts.append(rows_of(piece_rows, model, width))
    ids, real = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(real)
