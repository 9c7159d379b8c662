"""Sources of token ids: reading files and rows of them, their masks and their padding.

Rows stay as they are: no BOS token is added, no row continues in the next, and each row falls on
one side of the split. If there is an attention mask, the padding of a row is all that the mask
leaves out. Without a mask, it is a run of the tokenizer's PAD or EOS token at either end of the
row, with these exceptions:

- the first token of a trailing run of EOS is no padding, because it ends the text;
- the last token of a leading run of BOS is no padding, because it begins the text;
- a single leading EOS is no padding, unless it is also the PAD token or BOS follows it.

The other tokens of a row are moved to its beginning, so that positions start at the first of them
and, in a causal model, none of them attends to padding.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens.pieces import Piece
from prolu_eval.tokens.records import MASKS

_NAMES = ("input_ids", "tokens", "ids")
# Masks that say nothing about padding. Which tokens are special is known from the ids.
_NO_PADDING = ("special_tokens_mask",)
# If at least this many first ids are all zeros and ones, they are taken for a mask.
_MANY = 64


def read_ids(path: Path, kind: str) -> tuple[NDArray[np.integer], NDArray[np.bool_] | None]:
    """The token ids of a file, read when they are used, and their attention mask. [n] or [rows, T]

    Args:
        path: the file.
        kind: ``.npy`` or ``.safetensors``.

    Raises:
        TokensError: if the file cannot be read, or holds no token ids.
    """
    ids, mask = (_npy(path), None) if kind == ".npy" else _safetensors(path)
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2):
        raise TokensError(
            path,
            f"holds {ids.dtype} of {ids.ndim} dimensions, not token ids",
            "give integers, [n] or [rows, T]",
        )
    if ids.size == 0:
        raise TokensError(path, f"holds no token ids (its shape is {list(ids.shape)})", "give some")
    first = ids[:_MANY]
    if first.size >= _MANY and first.max() <= 1 and first.min() >= 0:
        raise TokensError(path, "holds only zeros and ones, as an attention mask does", "give ids")
    if mask is not None and (mask.shape != ids.shape or not np.isin(mask, (0, 1)).all()):
        raise TokensError(
            path, f"has no {MASKS[0]} of one 0 or 1 for each token id", "write the file again"
        )
    return ids, None if mask is None else mask.astype(bool)


def _npy(path: Path) -> NDArray[Any]:
    try:
        ids: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise TokensError(path, f"cannot be read ({error})", "write the file again") from None
    return ids


def _safetensors(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
            ids = [name for name in _NAMES if name in names]
            others = [name for name in names if "mask" not in name]
            masks = [name for name in names if "mask" in name and name not in _NO_PADDING]
            if unknown := sorted({*masks} - {*MASKS}):
                raise TokensError(
                    path,
                    f"has a tensor {unknown[0]}, a mask of unknown meaning",
                    f"call it {MASKS[0]} if it masks padding, or remove it",
                )
            if not ids and len(others) != 1:
                raise TokensError(
                    path,
                    f"has no tensor input_ids, tokens or ids, but {', '.join(names) or 'none'}",
                    "give the tensor of token ids one of these names",
                )
            found = file.get_tensor((ids or others)[0])
            mask = next((name for name in MASKS if name in names), None)
            return found, None if mask is None else file.get_tensor(mask)
    except (OSError, TypeError, SafetensorError) as error:
        raise TokensError(path, f"cannot be read ({error})", "write the file again") from None


def row_pieces(ids: NDArray[np.integer], mask: NDArray[np.bool_] | None) -> Iterator[Piece]:
    """One piece for each row of ids, with the row of the mask. [rows, T]"""
    for row in range(len(ids)):
        yield Piece(ids[row], real=None if mask is None else mask[row])


def rows_of(
    pieces: Sequence[Piece], model: LanguageModel, length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows' ids, and which of their positions are no padding. [rows, length] both

    Padding is moved to the ends of rows first; longer rows are then cut and shorter ones padded.
    """
    width = max(length, *(len(piece.content) for piece in pieces))
    ids = np.zeros((len(pieces), width), dtype=np.int64)
    real = np.zeros(ids.shape, dtype=bool)
    for row, piece in enumerate(pieces):
        n = len(piece.content)
        ids[row, :n], real[row, :n] = piece.content, True if piece.real is None else piece.real
        if piece.real is None:
            real[row, :n] = ~_padding(ids[row, :n], model)
    if (real[:, 1:] > real[:, :-1]).any():
        order = np.argsort(~real, axis=1, kind="stable")
        ids, real = np.take_along_axis(ids, order, 1), np.take_along_axis(real, order, 1)
    ids, real = ids[:, :length], real[:, :length]
    outside = ~real & ((ids < 0) | (ids >= model.vocab_size))
    return np.where(outside, 0, ids), np.ascontiguousarray(real)


def _padding(ids: NDArray[np.int64], model: LanguageModel) -> NDArray[np.bool_]:
    """Which tokens of a row without a mask are padding. [n] -> [n]"""
    padding = np.zeros(len(ids), dtype=bool)
    if model.tokenizer is None or len(ids) == 0:
        return padding
    tokenizer = model.tokenizer
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    first, last = int(ids[0]), int(ids[-1])
    if first in (pad, eos):
        run = _run(ids, first)
        is_pad_alone = first == pad and first != eos
        if first == bos:
            run -= 1
        elif run == 1 and not is_pad_alone and (len(ids) == 1 or ids[1] != bos):
            run = 0
        padding[:run] = True
    if last in (pad, eos):
        run = _run(ids[::-1], last)
        padding[len(ids) - run + (last == eos) :] = True
    return padding


def _run(ids: NDArray[np.int64], token: int) -> int:
    """The length of the run of ``token`` with which the ids begin."""
    others = np.flatnonzero(ids != token)
    return int(others[0]) if len(others) else len(ids)
