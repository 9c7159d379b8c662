"""The entries of a stack's codes that take part in a step, and the products over them alone.

A step needs the full encoder product once, to find which of the [n, batch, d_sae] entries are
active. After training has begun a few per cent are, so :class:`Sparse` gathers those and does
everything else (decoding, both weight gradients, the codes' own) on them: one dense product
instead of six. :class:`Dense` does the same with whole tensors, for devices where gathering does
not pay and as the reference. Both offer the same operations, differentiable alike.
"""

import warnings
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import embedding_bag

Room = Callable[..., Tensor]


class Active(Protocol):
    """A choice of entries of [n, batch, d_sae]; what is one number per entry is called values."""

    def __init__(self, mask: Tensor) -> None: ...

    @staticmethod
    def product(x: Tensor, W_enc: Tensor, b_dec: Tensor, room: Room) -> Tensor:
        """``m = (x - b_dec) W_enc^T`` of all entries. [n, batch, d_sae]

        Args:
            x: the batch. [batch, d_in]
            W_enc: encoder, a row per feature. [n, d_sae, d_in]
            b_dec: what is subtracted from x. [n, d_in]
            room: gives memory for a tensor of a shape.
        """

    def pre_activations(self, m: Tensor, x: Tensor, W_enc: Tensor, b_dec: Tensor) -> Tensor:
        """Values of ``m``, which :meth:`product` computed from the other three."""

    def per_feature(self, tensor: Tensor) -> Tensor:
        """Values of a tensor that has one number per feature. [n, d_sae]"""

    def decode(self, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        """Reconstructions. values, [n, d_sae, d_in], [n, d_in] -> [n, batch, d_in]"""

    def total(self, values: Tensor) -> Tensor:
        """Sum of the values of each autoencoder. [n]"""

    def fired(self, values: Tensor) -> Tensor:
        """Which features have a value other than zero. [n, d_sae] bool"""

    def smallest(self, values: Tensor) -> Tensor:
        """The least positive value of each autoencoder; infinity where there is none. [n]"""


class Dense:
    """Every entry, as whole tensors; those that were not chosen have value zero."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    @staticmethod
    def product(x: Tensor, W_enc: Tensor, b_dec: Tensor, room: Room) -> Tensor:
        return (x - b_dec[:, None]) @ W_enc.transpose(1, 2)

    def pre_activations(self, m: Tensor, x: Tensor, W_enc: Tensor, b_dec: Tensor) -> Tensor:
        return m

    def per_feature(self, tensor: Tensor) -> Tensor:
        return tensor[:, None]

    def decode(self, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        return self._chosen(values) @ W_dec + b_dec[:, None]

    def total(self, values: Tensor) -> Tensor:
        return self._chosen(values).sum((1, 2))

    def fired(self, values: Tensor) -> Tensor:
        return (self._chosen(values) != 0).any(1)

    def smallest(self, values: Tensor) -> Tensor:
        values = self._chosen(values)
        return torch.where(values > 0, values, torch.inf).amin((1, 2))

    def _chosen(self, values: Tensor) -> Tensor:
        return torch.where(self._mask, values, 0)


class Sparse:
    """The chosen entries alone, in order of token; values are [n_active]. On the CPU.

    Args:
        mask: which entries are chosen. [n, batch, d_sae] bool
    """

    def __init__(self, mask: Tensor) -> None:
        self.n, self.batch, self.d_sae = mask.shape
        flat = np.flatnonzero(mask.numpy())
        tokens, features = self.n * self.batch, self.n * self.d_sae
        starts = np.searchsorted(flat, np.arange(tokens + 1) * self.d_sae).astype(np.int32)
        token = np.arange(tokens)
        first_feature = token // self.batch * self.d_sae
        feature = flat - np.repeat(token * self.d_sae - first_feature, np.diff(starts))
        feature = feature.astype(np.int32)
        # Entry numbers in order of feature: a transposed sparse matrix of them.
        order = csr_array(
            (np.arange(len(flat), dtype=np.int32), feature, starts), shape=(tokens, features)
        ).tocsc()
        self.flat = torch.from_numpy(flat)
        self.feature = torch.from_numpy(feature)
        self.token_starts = torch.from_numpy(starts)
        self.order = torch.from_numpy(order.data)
        self.token_by_feature = torch.from_numpy(order.indices)
        self.feature_starts = torch.from_numpy(order.indptr)
        self._sizes = np.diff(starts[:: self.batch]).tolist()

    @staticmethod
    @torch.no_grad()
    def product(x: Tensor, W_enc: Tensor, b_dec: Tensor, room: Room) -> Tensor:
        m = room(len(W_enc), len(x), W_enc.shape[1])
        return torch.bmm(x - b_dec[:, None], W_enc.transpose(1, 2), out=m)

    def pre_activations(self, m: Tensor, x: Tensor, W_enc: Tensor, b_dec: Tensor) -> Tensor:
        return cast(Tensor, _PreActivations.apply(W_enc, b_dec, m, x, self))  # type: ignore[no-untyped-call]

    def per_feature(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, _PerFeature.apply(tensor, self))  # type: ignore[no-untyped-call]

    def decode(self, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        products = cast(Tensor, _Decoded.apply(values, W_dec, self))  # type: ignore[no-untyped-call]
        return products + b_dec[:, None]

    def total(self, values: Tensor) -> Tensor:
        return torch.stack([part.sum() for part in values.split(self._sizes)])

    def fired(self, values: Tensor) -> Tensor:
        return self.per_feature_sum((values != 0).float()) > 0

    def smallest(self, values: Tensor) -> Tensor:
        positive = torch.where(values > 0, values, torch.inf)
        whole = positive.new_tensor([torch.inf])
        return torch.stack([torch.cat([part, whole]).min() for part in positive.split(self._sizes)])

    def over_tokens(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each feature, its tokens' rows summed with its values. [n, batch, d] -> [n, d_sae, d]

        This is values^T rows, for each autoencoder.
        """
        summed = embedding_bag(
            self.token_by_feature,
            rows.reshape(self.n * self.batch, -1),
            self.feature_starts,
            mode="sum",
            per_sample_weights=values.index_select(0, self.order),
            include_last_offset=True,
        )
        return summed.view(self.n, self.d_sae, -1)

    def over_features(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each token, its features' rows summed. [n, d_sae, d] -> [n, batch, d]"""
        summed = embedding_bag(
            self.feature,
            rows.reshape(self.n * self.d_sae, -1),
            self.token_starts,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )
        return summed.view(self.n, self.batch, -1)

    def dot(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Inner product of each entry's token row and feature row. [n, batch, d], [n, d_sae, d]"""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            pattern = torch.sparse_csr_tensor(
                self.token_starts,
                self.feature,
                torch.zeros(len(self.feature), dtype=tokens.dtype),
                (self.n * self.batch, self.n * self.d_sae),
                check_invariants=False,
            )
        products = torch.sparse.sampled_addmm(
            pattern, tokens.flatten(0, 1), features.flatten(0, 1).T, beta=0
        )
        return cast(Tensor, products.values())

    def per_feature_sum(self, values: Tensor) -> Tensor:
        """Sum of each feature's values. [n, d_sae]"""
        summed = torch.zeros(self.n * self.d_sae, dtype=values.dtype)
        return summed.index_add_(0, self.feature, values).view(self.n, self.d_sae)


class _PreActivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, W_enc: Tensor, b_dec: Tensor, m: Tensor, x: Tensor, active: Sparse
    ) -> Tensor:
        ctx.save_for_backward(W_enc, b_dec, x)
        ctx.active = active
        return m.view(-1).index_select(0, active.flat)

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
    def forward(ctx: Any, tensor: Tensor, active: Sparse) -> Tensor:
        ctx.active = active
        return tensor.reshape(-1).index_select(0, active.feature)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.active.per_feature_sum(upstream[0]), None


class _Decoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, active: Sparse) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.active = active
        return active.over_features(values, W_dec)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        values, W_dec = ctx.saved_tensors
        grad_W_dec = ctx.active.over_tokens(values, grad) if ctx.needs_input_grad[1] else None
        return ctx.active.dot(grad.contiguous(), W_dec), grad_W_dec, None
