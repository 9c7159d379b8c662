"""Passes over rows that are neither padded nor packed, without Transformers looking whether so.

It looks at the values of token and position ids, for which the host waits for the device: twice a
pass. Rows here are of one length, and their positions count from zero.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import masking_utils

_PACKED, _PADDED = "find_packed_sequence_indices", "warn_if_padding_and_no_attention_mask"


def never_padded(trunk: nn.Module) -> None:
    """Spare a network the search for padding in its token ids."""
    if hasattr(trunk, _PADDED):
        setattr(trunk, _PADDED, lambda *_: None)


@contextlib.contextmanager
def never_packed() -> Iterator[None]:
    """Spare passes the search for several sequences in one row; for as long as the block lasts."""
    search: Any = getattr(masking_utils, _PACKED, None)
    if search is None:
        yield
        return
    setattr(masking_utils, _PACKED, lambda _: None)
    try:
        yield
    finally:
        setattr(masking_utils, _PACKED, search)
