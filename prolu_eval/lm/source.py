"""What training and measuring need of whatever gives activations, a language model or another."""

from typing import Any, Protocol

import torch
from torch import Tensor


class ActivationSource(Protocol):
    """Gives activations at hook points; :class:`~prolu_eval.lm.LanguageModel` is one.

    Attributes:
        name: what it is called.
        fingerprint: what tells it from any other.
        device: where activations are given.
        dtype: in what precision.
        tokenizer: of its tokens, or None.
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
        """Where a hook point lies that is read, for something to be put in at another."""
        ...

    def usual_name(self, hook: str) -> str:
        """The name that a hook point usually goes by."""
        ...
