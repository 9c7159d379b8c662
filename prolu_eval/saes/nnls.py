"""Codes for a fixed dictionary by non-negative least squares."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class NnlsOptions(VariantOptions):
    """The weight of the penalty on the codes' sum, and when the search for codes ends."""

    penalty: float = Field(0.0, ge=0, allow_inf_nan=False)
    tolerance: float = Field(1e-5, gt=0, allow_inf_nan=False)
    max_iterations: int = Field(2000, gt=0, le=1_000_000)


class Nnls(SparseAutoencoder):
    """a = argmin over a >= 0 of norm(z - b_dec - a W_dec)^2 / 2 + penalty sum a.

    The codes are found by accelerated projected gradient descent (Beck and Teboulle 2009), which
    restarts its momentum when it overshoots (O'Donoghue and Candes 2015). The search ends for a
    token when none of its gradients exceeds the tolerance times the largest at the start, or after
    ``max_iterations``. Without a penalty, a dictionary with more rows than dimensions has many
    optimal codes, and the ones found are dense. The decoder's rows also serve as encoder.
    :meth:`pre_activation` runs the search and returns the codes.
    """

    variant = "nnls"
    feature_tensors = ()
    Options: ClassVar[type[VariantOptions]] = NnlsOptions

    @classmethod
    def label_of(cls, options: VariantOptions) -> str:
        penalty = options.model_dump()["penalty"]
        return cls.variant if penalty == 0 else f"{cls.variant}+l1"

    @classmethod
    def tensor_shapes(
        cls, d_in: int, d_sae: int, options: VariantOptions
    ) -> dict[str, tuple[int, ...]]:
        return {"W_dec": (d_sae, d_in), "b_dec": (d_in,)}

    def pre_activation(self, z: Tensor) -> Tensor:
        """The codes of a normalised activation. [..., d_in] -> [..., d_sae]"""
        options = self.options.model_dump()
        target = (z - self.b_dec if self.apply_b_dec_to_input else z).reshape(-1, self.d_in)
        step = 1 / max(self._largest_eigenvalue(), torch.finfo(torch.float64).tiny)
        codes = target.new_zeros(len(target), self.d_sae)
        enough = options["tolerance"] * (target @ self.W_dec.T).amax(-1, keepdim=True).clamp(min=0)
        ahead, momentum = codes, torch.ones_like(enough)
        running = torch.ones_like(enough, dtype=torch.bool)
        for _ in range(options["max_iterations"]):
            gradient = (ahead @ self.W_dec - target) @ self.W_dec.T + options["penalty"]
            unsettled = torch.where(ahead > 0, gradient.abs(), -gradient).amax(-1, keepdim=True)
            codes = torch.where(running & (unsettled <= enough), ahead, codes)
            running = running & (unsettled > enough)
            if not running.any():
                break
            found = torch.where(running, torch.relu(ahead - step * gradient), codes)
            overshot = ((ahead - found) * (found - codes)).sum(-1, keepdim=True) > 0
            grown = torch.where(overshot, 1.0, (1 + (1 + 4 * momentum**2).sqrt()) / 2)
            pull = torch.where(overshot, 0.0, (momentum - 1) / grown)
            ahead = torch.relu(found + pull * (found - codes))
            codes, momentum = found, grown
        return codes.reshape(*z.shape[:-1], self.d_sae)

    def _largest_eigenvalue(self) -> float:
        """The largest eigenvalue of W_dec^T W_dec, which may overflow in the weights' dtype."""
        atoms = self.W_dec.double()
        largest = float(atoms.abs().max()) or 1.0
        atoms = atoms / largest
        return float(torch.linalg.eigvalsh(atoms.T @ atoms)[-1]) * largest * largest

    def activate(self, m: Tensor) -> Tensor:
        return m

    def effective_threshold(self) -> Tensor:
        return self.W_dec.new_full((self.d_sae,), torch.nan)

    def encoder_bias(self) -> None:
        return None
