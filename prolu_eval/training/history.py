"""Logging while a stack trains: loss terms, sparsity, gradients and histograms of biases."""

import torch
from torch import Tensor

from prolu_eval.training.forward import Losses
from prolu_eval.training.gradients import compare_gradients
from prolu_eval.training.heap import give_back_freed
from prolu_eval.training.stack import Stack

BIAS_EDGES = torch.linspace(-4, 4, 81)


class History:
    """Logged values of each autoencoder of a stack, in training units.

    ``dead_fraction`` is the fraction of features that did not fire since the last log. Biases
    beyond the outermost edges are counted in the outermost bins.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._fired = torch.zeros_like(stack.silent, dtype=torch.bool)
        self._scalars: dict[str, list[Tensor]] = {}
        self._histograms: list[Tensor] = []

    @property
    def latest(self) -> dict[str, Tensor]:
        """The values that were logged last. [n] each"""
        return {name: values[-1] for name, values in self._scalars.items()}

    @torch.no_grad()
    def observe(self, losses: Losses) -> None:
        """Record which features fired in a step."""
        self._fired |= losses.fired

    def log(self, step: int, x: Tensor, losses: Losses) -> None:
        """Log a step, from its batch [batch, d_in] and its losses."""
        bias = self._stack.biases()
        values = {
            "step": torch.full_like(losses.loss, step),
            "loss": losses.loss,
            "mse": losses.squared_error,
            "penalty": losses.penalty,
            "auxiliary": losses.auxiliary,
            "l0": losses.l0,
            "l1": losses.l1,
            "sqrt_l1": losses.sqrt_l1,
            "explained_variance": 1
            - losses.squared_error / (x - x.mean(0)).square().sum(-1).mean(),
            "dead_fraction": 1 - self._fired.float().mean(-1),
            **compare_gradients(self._stack, x),
        }
        if bias is not None:
            values["bias_negative_fraction"] = (bias < 0).float().mean(-1)
            inside = bias.cpu().clamp(BIAS_EDGES[0], BIAS_EDGES[-1])
            counts = [torch.histogram(b, BIAS_EDGES).hist.to(torch.int32) for b in inside]
            self._histograms.append(torch.stack(counts))
        for name, value in values.items():
            self._scalars.setdefault(name, []).append(value.detach().float().cpu())
        self._fired.zero_()
        give_back_freed()

    def failed(self, index: int) -> bool:
        """Whether an autoencoder's loss is no longer finite."""
        return bool(self._scalars) and not bool(torch.isfinite(self.latest["loss"][index]))

    def tensors(self, index: int) -> dict[str, Tensor]:
        """The history of one autoencoder: scalars [n_logs], ``bias_histogram`` [n_logs, bins]."""
        logged = {name: torch.stack(v)[:, index] for name, v in self._scalars.items()}
        if self._histograms:
            logged["bias_histogram"] = torch.stack(self._histograms)[:, index]
            logged["bias_edges"] = BIAS_EDGES
        return {name: tensor.contiguous() for name, tensor in logged.items()}

    def state(self) -> dict[str, Tensor]:
        """All logged values, and which features fired since the last log."""
        scalars = {f"scalars/{name}": torch.stack(v) for name, v in self._scalars.items()}
        if self._histograms:
            scalars["histograms"] = torch.stack(self._histograms)
        return {"fired": self._fired, **scalars}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Continue from the state of another history of the same stack."""
        self._fired.copy_(state["fired"])
        self._histograms = list(state.get("histograms", []))
        self._scalars = {
            name.removeprefix("scalars/"): list(values)
            for name, values in state.items()
            if name.startswith("scalars/")
        }
