"""The interface through which training and evaluation read activations, of any model."""

from typing import Any, Protocol

import torch
from torch import Tensor


class ActivationSource(Protocol):
    """A source of activations at hook points, such as a :class:`~prolu_eval.lm.LanguageModel`.

    Attributes:
        name: its name.
        fingerprint: a hash that identifies it.
        device: the device on which it returns activations.
        dtype: their precision.
        tokenizer: the tokenizer of its tokens, or None.
    """

    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any

    def width(self, hook: str) -> int:
        """Width of the activations at a hook point."""
        ...

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Activations at a hook point. [B, T] int64 -> [B, T, d]"""
        ...

    def source(self, hook: str, into: str) -> Any:
        """Where a hook point is that a dictionary reads, to replace the activation at ``into``."""
        ...

    def canonical_name(self, hook: str) -> str:
        """The most usual of all names that a hook point has."""
        ...
