"""BatchTopK (Bussmann et al., arXiv 2412.06410) and its Matryoshka form (arXiv 2503.17547)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prolu_eval.activations import Thresholding, gate
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class BatchTopKOptions(VariantOptions):
    """How many features may be active per token, on average over a training batch."""

    k: float = Field(1, gt=0, allow_inf_nan=False)


class BatchTopK(SparseAutoencoder):
    """With z = ReLU(m + b_enc): a = z where z > threshold, one threshold for all features.

    In training mode the k * batch largest z of a batch are kept instead, where the batch is all
    dimensions but the last. A trainer averages :meth:`smallest_kept` over steps into ``threshold``.
    """

    variant = "batchtopk"
    Options: ClassVar[type[VariantOptions]] = BatchTopKOptions

    options: BatchTopKOptions
    threshold: Tensor

    @classmethod
    def tensor_shapes(
        cls, d_in: int, d_sae: int, options: VariantOptions
    ) -> dict[str, tuple[int, ...]]:
        return {**super().tensor_shapes(d_in, d_sae, options), "threshold": ()}

    def activate(self, m: Tensor) -> Tensor:
        z = torch.relu(m + self.b_enc)
        if not self.training:
            return gate(z, z - self.threshold)
        return torch.where(z >= self.smallest_kept(z), z, 0)

    def thresholding(self) -> Thresholding:
        bound = self.threshold.clamp(min=0).expand(self.d_sae).contiguous()
        return Thresholding(shift=self.b_enc, bound=bound)

    def smallest_kept(self, z: Tensor) -> Tensor:
        """The smallest of the k * batch largest activations of a batch. [..., d_sae] -> []"""
        n = round(self.options.k * z[..., 0].numel())
        return z.flatten().topk(min(max(n, 1), z.numel())).values[-1].detach()

    def effective_threshold(self) -> Tensor:
        return self.threshold.clamp(min=0) - self.b_enc


class MatryoshkaOptions(BatchTopKOptions):
    """Besides k, the sizes of the feature groups, which add up to d_sae; empty for one group."""

    group_sizes: tuple[int, ...] = ()

    def check(self, d_sae: int) -> None:
        sizes = self.group_sizes
        if sizes and (min(sizes) < 1 or sum(sizes) != d_sae):
            raise ValueError(f"groups of {list(sizes)[:9]} do not add up to {d_sae} features")


class Matryoshka(BatchTopK):
    """BatchTopK in which each prefix of groups is trained to reconstruct on its own."""

    variant = "matryoshka"
    Options: ClassVar[type[VariantOptions]] = MatryoshkaOptions

    options: MatryoshkaOptions

    def nested(self, codes: Tensor) -> Sequence[Tensor]:
        """Reconstructions from each prefix of groups; the last is from all. [..., d_in] each

        The training loss of arXiv 2503.17547 is the mean of their errors.
        """
        sizes = self.options.group_sizes or (self.d_sae,)
        parts, start = [], 0
        total = self.b_dec
        for size in sizes:
            stop = start + size
            total = total + codes[..., start:stop] @ self.W_dec[start:stop]
            parts.append(total)
            start = stop
        return parts
