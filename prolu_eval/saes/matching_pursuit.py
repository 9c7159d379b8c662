"""Matching pursuit autoencoders (Costa et al., arXiv 2506.03093), as SAELens runs them."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prolu_eval.activations import Thresholding
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class MatchingPursuitOptions(VariantOptions):
    """The conditions under which a token's pursuit ends."""

    residual_threshold: float = Field(0.0, allow_inf_nan=False)
    max_iterations: int | None = Field(None, gt=0, le=1_000_000, description="None stands for d_in")
    stop_on_duplicate_support: bool = True


class MatchingPursuit(SparseAutoencoder):
    """Greedy encoding: in each iteration, the best aligned decoder row explains its projection.

    The projection of the residual on that row is added to the feature's code and subtracted from
    the residual. A token's pursuit ends when its set of active features no longer grows (if the
    options ask for that), when the residual's norm falls below the threshold, or after
    ``max_iterations``. The decoder's rows also serve as encoder. :meth:`pre_activation` runs the
    pursuit and returns the codes.
    """

    variant = "matching_pursuit"
    feature_tensors = ()
    Options: ClassVar[type[VariantOptions]] = MatchingPursuitOptions

    options: MatchingPursuitOptions

    @classmethod
    def tensor_shapes(
        cls, d_in: int, d_sae: int, options: VariantOptions
    ) -> dict[str, tuple[int, ...]]:
        return {"W_dec": (d_sae, d_in), "b_dec": (d_in,)}

    def pre_activation(self, z: Tensor) -> Tensor:
        """The codes of a normalised activation. [..., d_in] -> [..., d_sae]"""
        options = self.options
        residual = (z - self.b_dec if self.apply_b_dec_to_input else z).reshape(-1, self.d_in)
        codes = residual.new_zeros(len(residual), self.d_sae)
        running = torch.ones(len(residual), dtype=torch.bool, device=z.device)
        for _ in range(options.max_iterations or self.d_in):
            value, index = torch.relu(residual @ self.W_dec.T).max(-1, keepdim=True)
            value = torch.where(running[:, None], value, 0)
            running = running & (value[:, 0] != 0)
            grown = codes.scatter_add(-1, index, value)
            residual = residual - value * self.W_dec[index[:, 0]]
            if options.stop_on_duplicate_support:
                running = running & ((grown != 0) != (codes != 0)).any(-1)
            running = running & (residual.norm(dim=-1) >= options.residual_threshold)
            codes = grown
            if not running.any():
                break
        return codes.reshape(*z.shape[:-1], self.d_sae)

    def activate(self, m: Tensor) -> Tensor:
        return m

    def thresholding(self) -> Thresholding:
        return Thresholding(both_signs=True)

    def effective_threshold(self) -> Tensor:
        return self.W_dec.new_full((self.d_sae,), torch.nan)

    def encoder_bias(self) -> None:
        return None
