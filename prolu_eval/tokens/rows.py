"""Rows of token ids, read from a source or the cache, with the positions that count."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.choices import Packing, Split
from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens.cache import remembered
from prolu_eval.tokens.packing import encode, pack
from prolu_eval.tokens.sources import documents, ready_rows


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
    wanted = None if n_tokens is None else max(1, n_tokens // context_length)
    rows = ready_rows(source, context_length)
    if rows is None:

        def packed() -> NDArray[np.int64]:
            encoded = encode(documents(source, split), model, source)
            found = islice(pack(encoded, model, context_length, prepend_bos, packing), wanted)
            return np.array(list(found), dtype=np.int64).reshape(-1, context_length)

        how = (split, wanted, context_length, prepend_bos, packing)
        rows = remembered(source, model, how, packed)
    else:
        rows = rows[:wanted]
    if len(rows) == 0:
        raise TokensError(
            source,
            f"has less than one row of {context_length} tokens in its documents ({split})",
            "give more text, a smaller context length, or all documents (--split-tokens all)",
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
