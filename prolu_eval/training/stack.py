"""Autoencoders of one shape that train together: stacked parameters, one batched pass for all.

Each autoencoder's loss depends on its own slice of the parameters alone, so the gradient of the sum
of losses is each one's own gradient, and training them together equals training each alone.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from prolu_eval.saes import VARIANTS, SparseAutoencoder
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.penalties import PENALTIES


class Losses(NamedTuple):
    """What one step measured, per autoencoder. [n] each, codes [n, batch, d_sae]"""

    squared_error: Tensor
    penalty: Tensor
    codes: Tensor


class _Objective(nn.Module):
    """One autoencoder with its loss: mean over tokens of ||x - x_hat||^2 + coefficient P(a)."""

    def __init__(self, sae: SparseAutoencoder, penalty: str) -> None:
        super().__init__()
        self.sae, self.penalty = sae, PENALTIES[penalty]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes, x_hat, _ = self.sae.reconstruct(x)
        return (x - x_hat).square().sum(-1).mean(), self.penalty(codes).mean(), codes


class Stack:
    """Autoencoders of one variant, options, penalty and learning rate, and their optimiser.

    Weights start as random unit decoder rows, their transpose as encoder, zero encoder biases, and
    the mean activation as decoder bias; decoder rows stay at unit norm throughout. Dead features
    are not resampled.

    Args:
        plans: the runs; they share their sweep and learning rate.
        shared: the settings of all sweeps.
        mean: mean activation, in training units. [d_in]
        n_steps: how many steps there will be.
    """

    def __init__(self, plans: Sequence[Plan], shared: Shared, mean: Tensor, n_steps: int) -> None:
        self.plans = plans
        sweep, rate = plans[0].sweep, plans[0].learning_rate
        cls = VARIANTS[sweep.variant]
        options = cls.Options.model_validate(sweep.options)
        self._saes = [cls(len(mean), shared.d_sae, options) for _ in plans]
        for sae, plan in zip(self._saes, plans, strict=True):
            _initialise(sae, plan.seed, mean.cpu())
        objective = _Objective(self._saes[0], sweep.penalty)
        self.parameters = {
            name: torch.stack([sae.get_parameter(name).detach() for sae in self._saes])
            .to(mean.device)
            .requires_grad_()
            for name, _ in self._saes[0].named_parameters()
        }
        self.coefficients = torch.tensor([plan.coefficient for plan in plans], device=mean.device)

        def run(parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            named = {f"sae.{name}": tensor for name, tensor in parameters.items()}
            result: tuple[Tensor, Tensor, Tensor] = torch.func.functional_call(
                objective, named, (x,)
            )
            return result

        self._run = torch.func.vmap(run, in_dims=(0, None))
        self._optimiser = torch.optim.Adam(
            self.parameters.values(), lr=rate, betas=(shared.beta1, shared.beta2), fused=True
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: rate_factor(step, n_steps, shared.warmup, shared.decay)
        )

    def step(self, x: Tensor) -> Losses:
        """Train on a batch of activations in training units. [batch, d_in]"""
        squared_error, penalty, codes = self._run(self.parameters, x)
        (squared_error + self.coefficients * penalty).sum().backward()
        W_dec = self.parameters["W_dec"]
        with torch.no_grad():
            gradient = cast(Tensor, W_dec.grad)
            gradient -= (gradient * W_dec).sum(-1, keepdim=True) * W_dec
            self._optimiser.step()
            self._schedule.step()
            self._optimiser.zero_grad()
            W_dec /= W_dec.norm(dim=-1, keepdim=True)
        return Losses(squared_error.detach(), penalty.detach(), codes.detach())

    def autoencoder(self, index: int, scale: float) -> SparseAutoencoder:
        """One of the autoencoders, taking activations in the model's units.

        Training saw ``scale`` times each activation; the factor is folded into the weights. Codes
        and encoder biases stay in training units.
        """
        factors = {"W_enc": scale, "W_dec": 1 / scale, "b_dec": 1 / scale}
        sae = self._saes[index]
        for name, stacked in self.parameters.items():
            sae.get_parameter(name).data = stacked[index].detach().cpu() * factors.get(name, 1.0)
        return sae


def rate_factor(step: int, n_steps: int, warmup: float, decay: float) -> float:
    """Learning-rate factor of a step: a linear rise, a plateau, a linear fall."""
    rising = (step + 1) / max(1.0, warmup * n_steps)
    falling = (n_steps - step) / max(1.0, decay * n_steps)
    return max(0.0, min(1.0, rising, falling))


@torch.no_grad()
def _initialise(sae: SparseAutoencoder, seed: int, mean: Tensor) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sae.W_dec.shape, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    sae.W_dec.copy_(rows)
    sae.W_enc.copy_(rows.T)
    sae.b_dec.copy_(mean)
