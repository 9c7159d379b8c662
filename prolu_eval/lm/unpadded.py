"""Passes that skip Transformers' search for padding and for packed sequences.

To search, Transformers reads the values of token and position ids, and the host has to wait for the
device twice in each pass. The search is not needed here, since all rows have one length and their
positions count from zero.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import masking_utils

_PACKED, _PADDED = "find_packed_sequence_indices", "warn_if_padding_and_no_attention_mask"


def never_padded(trunk: nn.Module) -> None:
    """Make a network skip the search for padding in its token ids."""
    if hasattr(trunk, _PADDED):
        setattr(trunk, _PADDED, lambda *_: None)


@contextlib.contextmanager
def never_packed() -> Iterator[None]:
    """Until the block ends, make passes skip the search for several sequences in one row."""
    search: Any = getattr(masking_utils, _PACKED, None)
    if search is None:
        yield
        return
    setattr(masking_utils, _PACKED, lambda _: None)
    try:
        yield
    finally:
        setattr(masking_utils, _PACKED, search)
