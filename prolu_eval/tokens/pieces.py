"""Cutting documents into pieces, and choosing by a fixed rule which pieces are held out.

A source is a sequence of *pieces*. A piece is a whole short document, a part of a long one, or one
row of token ids from the source. Long documents are cut between paragraphs; if there is no such
place, between lines; else at spaces; and else by position. Sizes are in characters; a token id
counts as four characters.

The rule depends on the pieces alone, not on the tokenizer, the context length or the requested
number of tokens. Every evaluation of a run therefore holds out the same pieces as its training. The
rule's version is part of every fingerprint. The rule:

- In a source of more than 2 Mi characters a piece (of at most 8,192 characters) is held out if the
  first byte of its SHA-256 is divisible by ten.
- A smaller source is read as a whole before the choice. Its pieces are at most a twentieth of it
  (128 to 8,192 characters long). They are held out in the order of their hashes until the held-out
  part is a tenth of the source and at least 3,072 characters, but never more than half of it.
- Pieces of equal content fall on the same side of the split. If too little could be held out that
  way, as of a text that repeats one sentence, a piece's position in the source is hashed with it.

Neighbouring pieces of a document that fall on the same side are joined again. Where the side
changes, a document ends, so that no sequence holds tokens of both sides.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prolu_eval.choices import Split

Content = str | NDArray[np.integer]

SPLIT_VERSION = 2
# 1: whole documents, by their hash (2026-11)
# 2: long documents are cut into pieces; every source has a part on each side (2026-11)

BOUNDARY = "<|endoftext|>"
LARGEST = 8192
_SMALLEST = 128
_ID_SIZE = 4
_HELDOUT_ONE_IN = 10
_LEAST_HELDOUT = 3072
# Characters and pieces that are read before the rule for large sources applies.
_HEAD_SIZE, _HEAD_PIECES = 1 << 21, 256


class Piece(NamedTuple):
    """Text or token ids, and whether they begin a document or continue one.

    ``real`` [n] bool is the attention mask: it is true for ids that are no padding. None means that
    there is no mask.
    """

    content: Content
    begins: bool = True
    real: NDArray[np.bool_] | None = None


def text_pieces(chunks: Iterable[str]) -> Iterator[Piece]:
    """Pieces of a text that comes in chunks of any size and whose marker separates documents."""
    rest, begins = "", True
    for chunk in chain(chunks, (BOUNDARY,)):
        *whole, rest = (rest + chunk).split(BOUNDARY)
        for document in whole:
            yield from _cut(document, LARGEST, begins)
            begins = True
        while len(rest) > 2 * LARGEST:  # the chunk may end within the marker
            at = _place_to_cut(rest, LARGEST)
            for piece in _cut(rest[:at], LARGEST, begins):
                yield piece
                begins = False
            rest = rest[at:]


def id_pieces(ids: NDArray[np.integer]) -> Iterator[Piece]:
    """Pieces of one document of token ids. [n]"""
    return _cut(ids, LARGEST, begins=True)


def split_pieces(pieces: Iterable[Piece], split: Split, *, rows: bool) -> Iterator[Piece]:
    """The pieces on one side of the split, by the rule above; rows are never cut."""
    if split == "all":
        yield from pieces
        return
    before: bool | None = None
    for piece, is_heldout in _sided(iter(pieces), rows=rows):
        if is_heldout == (split == "heldout"):
            yield piece._replace(begins=piece.begins or before != is_heldout)
        before = is_heldout


def _sided(pieces: Iterator[Piece], *, rows: bool) -> Iterator[tuple[Piece, bool]]:
    """Each piece, and whether it is held out."""
    head: list[Piece] = []
    size = 0
    for piece in pieces:
        head.append(piece)
        size += _size(piece.content)
        if size > _HEAD_SIZE and len(head) > _HEAD_PIECES:
            break
    else:
        if not rows:
            largest = min(LARGEST, max(_SMALLEST, size // 20))
            head = [part for piece in head for part in _cut(piece.content, largest, piece.begins)]
        yield from zip(head, _heldout_of_whole(head), strict=True)
        return
    share = sum(_falls_out(_digest(piece.content)) for piece in head) / len(head)
    by_content = 1 / 50 < share < 1 / 2
    for index, piece in enumerate(chain(head, pieces)):
        digest = _digest(piece.content)
        yield piece, _falls_out(digest if by_content else _digest_at(digest, index))


def _heldout_of_whole(pieces: list[Piece]) -> list[bool]:
    digests = [_digest(piece.content) for piece in pieces]
    chosen, enough = _chosen(pieces, digests)
    if not enough:
        digests = [_digest_at(digest, index) for index, digest in enumerate(digests)]
        chosen, _ = _chosen(pieces, digests)
    return [digest in chosen for digest in digests]


def _chosen(pieces: list[Piece], digests: list[bytes]) -> tuple[set[bytes], bool]:
    """The contents to hold out, in the order of their hashes, and whether they are enough.

    They never make up more than half of the source.
    """
    sizes: dict[bytes, int] = defaultdict(int)
    for piece, digest in zip(pieces, digests, strict=True):
        sizes[digest] += _size(piece.content)
    whole = sum(sizes.values())
    wanted = max(whole / _HELDOUT_ONE_IN, min(whole / 2, _LEAST_HELDOUT))
    chosen: set[bytes] = set()
    held = 0
    for digest in sorted(sizes):
        if held < wanted and held + sizes[digest] <= whole / 2:
            chosen.add(digest)
            held += sizes[digest]
    return chosen, held >= wanted


def _falls_out(digest: bytes) -> bool:
    return digest[0] % _HELDOUT_ONE_IN == 0


def _digest(content: Content) -> bytes:
    data = content.encode() if isinstance(content, str) else content.astype("<i8").tobytes()
    return hashlib.sha256(data).digest()


def _digest_at(digest: bytes, index: int) -> bytes:
    return hashlib.sha256(digest + index.to_bytes(8, "little")).digest()


def _size(content: Content) -> int:
    return len(content) if isinstance(content, str) else _ID_SIZE * len(content)


def _cut(content: Content, largest: int, begins: bool) -> Iterator[Piece]:
    """The pieces of a document or of a part of one; blank text is left out."""
    while _size(content) > largest:
        at = _place_to_cut(content, largest)
        if not isinstance(content, str) or content[:at].strip():
            yield Piece(content[:at], begins)
            begins = False
        content = content[at:]
    if content.strip() if isinstance(content, str) else len(content):
        yield Piece(content, begins)


def _place_to_cut(content: Content, largest: int) -> int:
    if not isinstance(content, str):
        return largest // _ID_SIZE
    for between in ("\n\n", "\n", " "):
        at = content.rfind(between, largest // 2, largest)
        if at >= 0:
            return at + len(between)
    return largest
