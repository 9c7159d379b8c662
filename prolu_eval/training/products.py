"""Layouts for a CPU, whole or gathered, and their products with gradients written by hand.

A step has five products: encoding, decoding, the codes' gradient, and both weights' gradients. They
are as fast as the arithmetic allows only if their operands stay in cache and are read few times.
:class:`Full` therefore computes the entries of a few autoencoders at a time, with gradients written
by hand. Soon after the start of training only a few per cent of the entries are active.
:class:`Gathered` takes these from the encoder's product, which remains the only dense product, and
computes everything else on them alone.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from prolu_eval.kernels import on_cpu
from prolu_eval.training.layouts import Dense, Mask, Room


class Products:
    """The products over chosen entries, built from a layout's operations on values and rows."""

    multiply: Callable[[Tensor, Tensor], Tensor] = staticmethod(torch.bmm)
    """The batched product of operands."""

    @staticmethod
    def operand(tensor: Tensor) -> Tensor:
        """A tensor converted for :attr:`multiply`, to be kept for the backward pass."""
        return tensor

    @classmethod
    @torch.no_grad()
    def product(cls, x: Tensor, W_enc: Tensor, b_dec: Tensor, room: Room) -> Tensor:
        if x.is_cuda or cls.multiply is not torch.bmm:
            return cls.multiply(x - b_dec[:, None], W_enc.transpose(1, 2))
        m = room(len(W_enc), len(x), W_enc.shape[1])
        return torch.bmm(x - b_dec[:, None], W_enc.transpose(1, 2), out=m)

    def pre_activations(self, m: Tensor, x: Tensor, W_enc: Tensor, b_dec: Tensor) -> Tensor:
        return cast(Tensor, _PreActivations.apply(W_enc, b_dec, m, x, self))  # type: ignore[no-untyped-call]

    def decode(self, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        products = cast(Tensor, _Decoded.apply(values, W_dec, self))  # type: ignore[no-untyped-call]
        return products + b_dec[:, None]

    def gather(self, m: Tensor) -> Tensor:
        """The values of a tensor of all entries. [n, batch, d_sae]"""
        raise NotImplementedError

    def over_tokens(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each feature, a weighted sum of token rows. [n, batch, d] -> [n, d_sae, d]

        The weights are the feature's values; for each autoencoder this is values^T rows.
        """
        raise NotImplementedError

    def over_features(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each token, the sum of feature rows times values. [n, d_sae, d] -> [n, batch, d]"""
        raise NotImplementedError

    def dot(self, tokens: Tensor, features: Tensor) -> Tensor:
        """The inner product of each entry's token and feature row. [n, batch, d], [n, d_sae, d]"""
        raise NotImplementedError

    def per_feature_sum(self, values: Tensor) -> Tensor:
        """Sum of each feature's values. [n, d_sae]"""
        raise NotImplementedError


class Full(Products, Dense):
    """Every entry, as whole tensors of so few autoencoders that the tensors stay in cache."""

    def gather(self, m: Tensor) -> Tensor:
        return m.view_as(m)

    def over_tokens(self, values: Tensor, rows: Tensor) -> Tensor:
        return (rows.transpose(1, 2) @ values).transpose(1, 2)  # faster than values^T rows

    def over_features(self, values: Tensor, rows: Tensor) -> Tensor:
        return self.multiply(values, rows)

    def dot(self, tokens: Tensor, features: Tensor) -> Tensor:
        return self.multiply(tokens, features.transpose(1, 2))

    def per_feature_sum(self, values: Tensor) -> Tensor:
        return values.sum(1)

    def share(self) -> Tensor:
        # NumPy counts ten times as fast as torch.
        counts = [np.count_nonzero(mask) for mask in self.mask.numpy()]
        return torch.tensor(counts) / self.mask[0].numel()


class Chosen(Products):
    """Only the chosen entries, in order of token; values are [n_active].

    A subclass finds them. ``feature`` is the row of each entry among all autoencoders' features,
    and ``flat`` its place among all entries.
    """

    n: int
    batch: int
    d_sae: int
    feature: Tensor
    flat: Tensor

    def chosen(self, values: Tensor) -> Tensor:
        return values

    def fired(self, values: Tensor) -> Tensor:
        return self.per_feature_sum(values) > 0

    def gather(self, m: Tensor) -> Tensor:
        return m.reshape(-1).index_select(0, self.flat)

    def per_feature_sum(self, values: Tensor) -> Tensor:
        summed = values.new_zeros(self.n * self.d_sae)
        return summed.index_add_(0, self.feature, values).view(self.n, self.d_sae)


class Gathered(Chosen):
    """The chosen entries, found and multiplied by the kernels for a CPU.

    Args:
        mask: makes the mask of the entries that are chosen. [n, batch, d_sae] bool
    """

    def __init__(self, mask: Mask) -> None:
        chosen = mask()
        self.n, self.batch, self.d_sae = chosen.shape
        self._entries = on_cpu.entries(chosen)
        self.feature = torch.from_numpy(self._entries.feature)
        self.flat = torch.from_numpy(self._entries.flat)
        self._sizes = np.diff(self._entries.starts[:: self.batch]).tolist()

    def per_feature(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, _PerFeature.apply(tensor, self))  # type: ignore[no-untyped-call]

    def total(self, values: Tensor) -> Tensor:
        return torch.stack([part.sum() for part in values.split(self._sizes)])

    def smallest(self, values: Tensor) -> Tensor:
        positive = torch.where(values > 0, values, torch.inf)
        whole = positive.new_tensor([torch.inf])
        return torch.stack([torch.cat([part, whole]).min() for part in positive.split(self._sizes)])

    def share(self) -> Tensor:
        return torch.tensor(self._sizes) / (self.batch * self.d_sae)

    def over_tokens(self, values: Tensor, rows: Tensor) -> Tensor:
        of_all = rows.expand(self.n, -1, -1).flatten(0, 1)
        summed = on_cpu.over_tokens(self._entries, values, of_all, self.n, self.d_sae)
        return summed.view(self.n, self.d_sae, -1)

    def over_features(self, values: Tensor, rows: Tensor) -> Tensor:
        summed = on_cpu.over_features(self._entries, values, rows.flatten(0, 1))
        return summed.view(self.n, self.batch, -1)

    def dot(self, tokens: Tensor, features: Tensor) -> Tensor:
        return on_cpu.dot(self._entries, tokens.flatten(0, 1), features.flatten(0, 1))


class _PreActivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, W_enc: Tensor, b_dec: Tensor, m: Tensor, x: Tensor, active: Products
    ) -> Tensor:
        ctx.save_for_backward(W_enc, b_dec, x)
        ctx.active = active
        return active.gather(m)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        W_enc, b_dec, x = ctx.saved_tensors
        grad_W_enc = ctx.active.over_tokens(grad, x - b_dec[:, None])
        # The gradient of x itself is never needed, so b_dec's comes from sums over the batch.
        grad_b_dec = -(ctx.active.per_feature_sum(grad)[:, None] @ W_enc)[:, 0]
        return grad_W_enc, grad_b_dec, None, None, None


class _PerFeature(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, active: Gathered) -> Tensor:
        ctx.active = active
        return tensor.reshape(-1).index_select(0, active.feature)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.active.per_feature_sum(upstream[0]), None


class _Decoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, active: Products) -> Tensor:
        values, W_dec = active.operand(values), active.operand(W_dec)
        ctx.save_for_backward(values, W_dec)
        ctx.active = active
        return active.over_features(values, W_dec)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        values, W_dec = ctx.saved_tensors
        grad_W_dec = ctx.active.over_tokens(values, grad) if ctx.needs_input_grad[1] else None
        return ctx.active.dot(grad.contiguous(), W_dec), grad_W_dec, None
