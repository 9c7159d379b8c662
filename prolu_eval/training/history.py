"""What is logged while a stack trains: loss terms, sparsity, and the biases' histograms."""

import torch
from torch import Tensor

from prolu_eval.training.stack import Losses, Stack

BIAS_EDGES = torch.linspace(-4, 4, 81)
_SCALARS = ("step", "loss", "mse", "penalty", "l0", "l1", "sqrt_l1", "explained_variance",
            "dead_fraction", "bias_negative_fraction")  # fmt: skip


class History:
    """Logged values of each autoencoder of a stack, in training units.

    ``dead_fraction`` is over the tokens since the last log; biases beyond the outermost edges are
    counted in the outermost bins.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._fired = torch.zeros(0)
        self._scalars: list[Tensor] = []
        self._histograms: list[Tensor] = []
        self.l0 = float("nan")

    @torch.no_grad()
    def observe(self, losses: Losses) -> None:
        """Note which features fired in a step."""
        fired = (losses.codes != 0).any(1)
        self._fired = self._fired | fired if self._fired.numel() else fired

    @torch.no_grad()
    def log(self, step: int, x: Tensor, losses: Losses) -> None:
        """Log a step, from its batch [batch, d_in] and what it measured."""
        codes, bias = losses.codes.abs(), self._stack.parameters["b_enc"]
        n = len(bias)
        loss = losses.squared_error + self._stack.coefficients * losses.penalty
        values = (
            torch.full((n,), float(step), device=bias.device),
            loss,
            losses.squared_error,
            losses.penalty,
            (codes != 0).sum(-1).float().mean(-1),
            codes.sum(-1).mean(-1),
            codes.sqrt().sum(-1).mean(-1),
            1 - losses.squared_error / (x - x.mean(0)).square().sum(-1).mean(),
            1 - self._fired.float().mean(-1),
            (bias < 0).float().mean(-1),
        )
        self._scalars.append(torch.stack(values, -1).cpu())
        inside = bias.detach().cpu().clamp(BIAS_EDGES[0], BIAS_EDGES[-1])
        self._histograms.append(torch.stack([torch.histogram(b, BIAS_EDGES).hist for b in inside]))
        self._fired = torch.zeros(0)
        self.l0 = float(values[4].mean())

    def failed(self, index: int) -> bool:
        """Whether an autoencoder's loss is no longer finite."""
        return bool(self._scalars) and not bool(torch.isfinite(self._scalars[-1][index, 1]))

    def tensors(self, index: int) -> dict[str, Tensor]:
        """The history of one autoencoder: scalars [n_logs], ``bias_histogram`` [n_logs, bins]."""
        scalars = torch.stack(self._scalars)[:, index]
        histograms = torch.stack(self._histograms)[:, index].to(torch.int32).contiguous()
        columns = {name: scalars[:, i].contiguous() for i, name in enumerate(_SCALARS)}
        return {**columns, "bias_histogram": histograms, "bias_edges": BIAS_EDGES}
