"""Layouts for a GPU: products on tensor cores, or products over the gathered entries alone.

Without either, training is limited by float32 arithmetic. With tensor cores, one elementwise pass
over [n, batch, d_sae] takes about as long as a product, so there are few such passes: gradients are
written by hand, a mask is computed only where it is needed, and operands of products in another
precision are converted once for the forward and the backward pass. Everything here also runs on a
CPU, where it is tested.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from prolu_eval.training.layouts import Mask
from prolu_eval.training.products import Chosen, Full


def in_bfloat16(one: Tensor, other: Tensor) -> Tensor:
    """The batched product of two tensors rounded to bfloat16, summed in float32.

    [n, i, j], [n, j, k] -> [n, i, k] float32
    """
    one, other = one.bfloat16(), other.bfloat16()
    if one.is_cuda:
        return torch.bmm(one, other, out_dtype=torch.float32)
    return one.float() @ other.float()


class Whole(Full):
    """Every entry; products in float32, or in TF32 if torch is set to use it."""

    def over_tokens(self, values: Tensor, rows: Tensor) -> Tensor:
        return self.multiply(values.transpose(1, 2), rows)

    def share(self) -> Tensor:
        mask = self.mask
        return mask.count_nonzero((1, 2)) / mask[0].numel()


class WholeMixed(Whole):
    """Every entry; products of bfloat16 operands, but float32 codes, thresholds and sums."""

    multiply = staticmethod(in_bfloat16)

    @staticmethod
    def operand(tensor: Tensor) -> Tensor:
        return tensor.bfloat16()


class GatheredOnDevice(Chosen):
    """The chosen entries, found on the device.

    Only the encoder's product is over all entries; the others are over the chosen entries alone.
    ``token`` is the token row of each entry, and the entries of token row t begin at
    ``token_starts[t]``. ``order`` sorts the entries by feature; ``token_by_feature`` are their
    token rows in that order, in which the entries of feature row f begin at ``feature_starts[f]``.
    """

    def __init__(self, mask: Mask) -> None:
        chosen = mask()
        self.n, self.batch, self.d_sae = chosen.shape
        self.flat = chosen.flatten().nonzero()[:, 0]
        row = self.flat // self.d_sae
        self.feature = self.flat - row * self.d_sae + row // self.batch * self.d_sae
        self.token = row
        per_token = torch.zeros(self.n * self.batch + 1, dtype=torch.int64, device=chosen.device)
        per_token[1:] = chosen.sum(-1).flatten()
        self.token_starts = per_token.cumsum(0)
        feature_in_order, self.order = self.feature.sort(stable=True)
        self.token_by_feature = self.token[self.order]
        features = torch.arange(self.n * self.d_sae + 1, device=chosen.device)
        self.feature_starts = torch.searchsorted(feature_in_order, features)
        self._ends = self.token_starts[:: self.batch]

    def over_tokens(self, values: Tensor, rows: Tensor) -> Tensor:
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
        summed = embedding_bag(
            self.feature,
            rows.reshape(self.n * self.d_sae, -1),
            self.token_starts,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )
        return summed.view(self.n, self.batch, -1)

    def per_feature(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).index_select(0, self.feature)

    def total(self, values: Tensor) -> Tensor:
        summed = values.new_zeros(self.n)
        return summed.index_add(0, self.token // self.batch, values)

    def smallest(self, values: Tensor) -> Tensor:
        least = values.new_full((self.n,), torch.inf)
        positive = torch.where(values > 0, values, torch.inf)
        return least.scatter_reduce(0, self.token // self.batch, positive, "amin")

    def share(self) -> Tensor:
        return self._ends.diff() / (self.batch * self.d_sae)

    def dot(self, tokens: Tensor, features: Tensor) -> Tensor:
        one, other = tokens.flatten(0, 1), features.flatten(0, 1)
        found = [
            (one.index_select(0, token) * other.index_select(0, feature)).sum(-1)
            for token, feature in zip(
                self.token.split(_PAIRS), self.feature.split(_PAIRS), strict=True
            )
        ]
        return torch.cat(found) if found else one.new_empty(0)


class GatheredMixed(GatheredOnDevice):
    """As :class:`GatheredOnDevice`, but with the encoder's product in bfloat16."""

    multiply = staticmethod(in_bfloat16)


# Number of pairs of rows that are multiplied at one time.
_PAIRS = 1 << 18
