"""The interface of layouts: which entries of a stack's codes take part in a step, and how.

:class:`Dense` is the reference: it computes all entries of any number of autoencoders and leaves
gradients to autograd. Training uses the layouts of :mod:`prolu_eval.training.products` on a CPU and
those of :mod:`prolu_eval.training.on_device` on a GPU, whose gradients are written by hand. All of
them offer the same operations with the same derivatives.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

Room = Callable[..., Tensor]
Mask = Callable[[], Tensor]
"""Computes the mask of the entries that take part, when it is called. [n, batch, d_sae] bool"""


class Layout(Protocol):
    """A choice of entries of [n, batch, d_sae]. A tensor of one number per entry is its values."""

    def __init__(self, mask: Mask) -> None: ...

    @classmethod
    def product(cls, x: Tensor, W_enc: Tensor, b_dec: Tensor, room: Room) -> Tensor:
        """``m = (x - b_dec) W_enc^T`` of all entries. [n, batch, d_sae]

        Args:
            x: the batch. [batch, d_in]
            W_enc: the encoder, one row per feature. [n, d_sae, d_in]
            b_dec: the decoder bias, which is subtracted from x. [n, d_in]
            room: a function that returns memory for a tensor of a shape.
        """

    def pre_activations(self, m: Tensor, x: Tensor, W_enc: Tensor, b_dec: Tensor) -> Tensor:
        """The values of ``m``, which :meth:`product` computed from the other arguments."""

    def chosen(self, values: Tensor) -> Tensor:
        """The values, set to zero at entries that were not chosen, if the values include such.

        The operations below expect values in this form.
        """

    def per_feature(self, tensor: Tensor) -> Tensor:
        """The values of a tensor that has one number per feature. [n, d_sae]"""

    def decode(self, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        """The reconstructions. values, [n, d_sae, d_in], [n, d_in] -> [n, batch, d_in]"""

    def total(self, values: Tensor) -> Tensor:
        """Sum of the values of each autoencoder. [n]"""

    def fired(self, values: Tensor) -> Tensor:
        """Which features have a value above zero. [n, d_sae] bool"""

    def smallest(self, values: Tensor) -> Tensor:
        """The smallest positive value of each autoencoder; infinity if it has none. [n]"""

    def share(self) -> Tensor:
        """The fraction of entries that were chosen. [n]"""


class Dense:
    """Every entry, as whole tensors."""

    def __init__(self, mask: Mask) -> None:
        self._make_mask = mask

    @cached_property
    def mask(self) -> Tensor:
        """Which entries were chosen. [n, batch, d_sae] bool"""
        return self._make_mask()

    @classmethod
    def product(cls, x: Tensor, W_enc: Tensor, b_dec: Tensor, room: Room) -> Tensor:
        return (x - b_dec[:, None]) @ W_enc.transpose(1, 2)

    def pre_activations(self, m: Tensor, x: Tensor, W_enc: Tensor, b_dec: Tensor) -> Tensor:
        return m

    def chosen(self, values: Tensor) -> Tensor:
        return values * self.mask

    def per_feature(self, tensor: Tensor) -> Tensor:
        return tensor[:, None]

    def decode(self, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        return values @ W_dec + b_dec[:, None]

    def total(self, values: Tensor) -> Tensor:
        return values.sum((1, 2))

    def fired(self, values: Tensor) -> Tensor:
        return values.amax(1) > 0

    def smallest(self, values: Tensor) -> Tensor:
        return torch.where(values > 0, values, torch.inf).amin((1, 2))

    def share(self) -> Tensor:
        return self.mask.count_nonzero((1, 2)) / self.mask[0].numel()
