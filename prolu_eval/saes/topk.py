"""Autoencoders that keep the largest codes (Gao et al., arXiv 2406.04093), and related variants."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prolu_eval import kernels
from prolu_eval.activations import Selection
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


def on_cpu_without_gradient(*tensors: Tensor) -> bool:
    """Whether a function of tensors can be left to a CPU's kernels, which have no gradient."""
    differentiated = torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
    dtypes = {one.dtype for one in tensors}
    suited = all(kernels.suit_cpu(one.device, one.dtype) for one in tensors)
    return suited and len(dtypes) == 1 and not differentiated


class TopKOptions(VariantOptions):
    """How many features may be active, and whether negative codes among them become zero."""

    k: int = Field(1, gt=0)
    rectify: bool = True


class TopK(SparseAutoencoder):
    """With z = m + b_enc: a = ReLU(z) where z is among the k largest of its token, else 0.

    If fewer than k values z are positive, fewer than k features are active. Without ``rectify`` the
    k largest z are kept even if they are negative. Of equal values, either may be kept.
    """

    variant = "topk"
    Options: ClassVar[type[VariantOptions]] = TopKOptions

    options: TopKOptions

    @property
    def k(self) -> int:
        """The number of features that may be active per token."""
        return min(self.options.k, self.d_sae)

    def activate(self, m: Tensor) -> Tensor:
        selection = self.selection()
        if selection is not None and on_cpu_without_gradient(m, selection.shift):
            from prolu_eval.kernels import on_cpu

            active = on_cpu.select(m.reshape(-1, self.d_sae), selection)
            if active is not None:
                return on_cpu.codes_of(active, self.d_sae).view(m.shape)
        value, index = self.selected(m)
        return value.new_zeros(m.shape).scatter(-1, index, value)

    def selected(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """The k selected codes of each token, and their features. [..., k] each"""
        z = m + self.b_enc
        if self.options.rectify:
            z = torch.relu(z)
        value, index = z.topk(self.k, dim=-1, sorted=False)
        return value, index

    def selection(self) -> Selection | None:
        return Selection(self.k, self.b_enc, positive=self.options.rectify)

    def effective_threshold(self) -> Tensor:
        return self.W_dec.new_full((self.d_sae,), torch.nan)


class AbsTopK(TopK):
    """With z = m + b_enc: a = z where abs(z) is among the k largest of its token, else 0."""

    variant = "abstopk"

    def selected(self, m: Tensor) -> tuple[Tensor, Tensor]:
        z = m + self.b_enc
        index = z.abs().topk(self.k, dim=-1, sorted=False).indices
        return z.gather(-1, index), index

    def selection(self) -> Selection:
        return Selection(self.k, self.b_enc, both_signs=True)


class GroupMaxOptions(TopKOptions):
    """How many groups there are, and so how many features may be active."""

    def check(self, d_sae: int) -> None:
        if self.k > d_sae or d_sae % self.k:
            raise ValueError(f"{self.k} groups do not divide {d_sae} features")


class GroupMax(TopK):
    """The features form k groups of equal size; a = ReLU(z) where z is its group's largest.

    This is the variant of EleutherAI's sparsify. Groups are contiguous, and k must divide d_sae.
    """

    variant = "groupmax"
    Options: ClassVar[type[VariantOptions]] = GroupMaxOptions

    def selected(self, m: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.relu(m + self.b_enc)
        size = self.d_sae // self.k
        value, index = z.reshape(*z.shape[:-1], self.k, size).max(-1)
        return value, index + torch.arange(0, self.d_sae, size, device=m.device)

    def selection(self) -> None:
        return None
