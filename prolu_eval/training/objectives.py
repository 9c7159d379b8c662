"""How each variant is trained: which entries take part, its penalty, its auxiliary loss.

The loss of every autoencoder is ``mean ||x - x_hat||^2 + coefficient * penalty + auxiliary``. Where
a variant's paper differs from this, a small class here says how; :data:`OBJECTIVES` names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from prolu_eval.saes import Gated, JumpRelu, Matryoshka, SparseAutoencoder
from prolu_eval.training.layouts import Layout
from prolu_eval.training.penalties import PENALTIES

# The variant that an objective trains.
_V = TypeVar("_V", bound=SparseAutoencoder)


@dataclass(frozen=True)
class Encoded(Generic[_V]):
    """One pass of n autoencoders over a batch, up to the codes.

    Attributes:
        x: the batch. [batch, d_in]
        m: the pre-activations of all entries. [n, batch, d_sae]
        whole: the stacked tensors: ``W_enc`` and ``W_dec`` [n, d_sae, d_in], ``b_dec`` [n, d_in],
            and per-feature tensors [n, d_sae].
        active: the entries that take part.
        sae: an autoencoder whose per-feature tensors hold the values of those entries.
        active_m, codes: the pre-activations and the codes, as values of those entries.
    """

    x: Tensor
    m: Tensor
    whole: _V
    active: Layout
    sae: _V
    active_m: Tensor
    codes: Tensor

    def decode(self, values: Tensor, *, frozen: bool = False) -> Tensor:
        """The reconstruction from codes, or from other values of the same entries. [n, batch, d_in]

        If ``frozen``, the decoder gets no gradient from it.
        """
        W_dec, b_dec = self.whole.W_dec, self.whole.b_dec
        if frozen:
            W_dec, b_dec = W_dec.detach(), b_dec.detach()
        return self.active.decode(values, W_dec, b_dec)


class Objective(Generic[_V]):
    """Reconstruction error plus a penalty on the codes: the standard loss.

    ``learning_rate`` is the rate of sweeps that name none: the best of five on SmolLM2-135M
    (reports/tables-smollm2.md, "Learning rates"), with batches of 2,048 activations.
    """

    learning_rate: ClassVar[float] = 4e-3
    penalties: ClassVar[tuple[str, ...]] = ("l1", "sqrt_l1")
    takes_k: ClassVar[bool] = False
    has_auxk: ClassVar[bool] = False
    learns_threshold: ClassVar[bool] = False

    def select(self, alone: Sequence[_V], whole: _V, m: Tensor) -> Tensor:
        """Which entries have a code or a gradient. [n, batch, d_sae] -> bool of that shape

        ``alone`` holds the individual autoencoders, whose options may differ in ``k``.
        """
        threshold = torch.atleast_2d(whole.gradient_threshold()).unsqueeze(1)
        if m.device.type != "cpu":
            return torch.gt(m, threshold)
        return torch.from_numpy(np.greater(m.numpy(), threshold.numpy()))  # three times as fast

    def codes(self, sae: _V, m: Tensor, active: Layout) -> Tensor:
        """Codes of the selected entries, from their pre-activations. values -> values"""
        return sae.activate(m)

    def magnitudes(self, codes: Tensor) -> Tensor:
        """|a_i|; if codes cannot be negative, its derivative at zero is one."""
        return codes

    def reconstructions(self, encoded: Encoded[_V]) -> list[Tensor]:
        """Reconstructions whose mean error is the loss; the full one is last. [n, batch, d_in]"""
        return [encoded.decode(encoded.codes)]

    def penalty(self, name: str, encoded: Encoded[_V], norms: Tensor | None) -> Tensor:
        """The penalty of each entry, times its decoder row's norm if given. values -> values"""
        return PENALTIES[name](_weighed(self.magnitudes(encoded.codes), norms))

    def auxiliary(self, encoded: Encoded[_V]) -> Tensor | None:
        """An additional squared error, summed over the batch; None if there is none. [n]"""
        return None


class GatedObjective(Objective[Gated]):
    """arXiv 2404.16014, equation 8: the penalty and a second reconstruction act on the gate."""

    penalties = ("l1",)

    def penalty(self, name: str, encoded: Encoded[Gated], norms: Tensor | None) -> Tensor:
        return PENALTIES[name](_weighed(self._gate(encoded), norms))

    def auxiliary(self, encoded: Encoded[Gated]) -> Tensor:
        return squared_error(encoded.x, encoded.decode(self._gate(encoded), frozen=True))

    def _gate(self, encoded: Encoded[Gated]) -> Tensor:
        return encoded.sae.gate_activation(encoded.active_m)


class JumpReluObjective(Objective[JumpRelu]):
    """arXiv 2407.14435: the penalty is L0, which has a gradient for the thresholds only.

    The penalty ``tanh`` is Anthropic's smooth count, which has a gradient for all parameters.
    """

    penalties = ("l0", "tanh")

    def penalty(self, name: str, encoded: Encoded[JumpRelu], norms: Tensor | None) -> Tensor:
        if name == "l0":
            return encoded.sae.fires(encoded.active_m)
        return super().penalty(name, encoded, norms)


class SelectingObjective(Objective[_V]):
    """Variants that keep the largest codes (arXiv 2406.04093): no penalty, AuxK for dead features.

    The variant's own activation function selects the codes; a selected code is ``m + b_enc``.
    """

    learning_rate = 1e-3
    penalties = ()
    takes_k = True
    has_auxk = True

    def select(self, alone: Sequence[_V], whole: _V, m: Tensor) -> Tensor:
        return torch.stack(
            [
                one.with_tensors({"b_enc": bias}).activate(own).bool()  # faster than != 0
                for one, bias, own in zip(alone, whole.b_enc, m, strict=True)
            ]
        )

    def codes(self, sae: _V, m: Tensor, active: Layout) -> Tensor:
        return active.chosen(m + sae.b_enc)

    def magnitudes(self, codes: Tensor) -> Tensor:
        return codes.abs()


class BatchTopKObjective(SelectingObjective[_V]):
    """arXiv 2412.06410: the threshold for inference is an average of the smallest codes kept."""

    learns_threshold = True


class MatryoshkaObjective(BatchTopKObjective[Matryoshka]):
    """arXiv 2503.17547: the loss is the mean reconstruction error over prefixes of groups."""

    def reconstructions(self, encoded: Encoded[Matryoshka]) -> list[Tensor]:
        d_sae = encoded.whole.W_dec.shape[1]
        ends = np.cumsum(encoded.sae.options.group_sizes or (d_sae,))
        index = torch.arange(d_sae, device=encoded.m.device).expand(len(encoded.m), d_sae)
        within = encoded.active.per_feature(index)
        return [encoded.decode(torch.where(within < int(end), encoded.codes, 0)) for end in ends]


class SignedObjective(Objective[SparseAutoencoder]):
    """TLin, whose features are active on both sides of zero."""

    def select(
        self, alone: Sequence[SparseAutoencoder], whole: SparseAutoencoder, m: Tensor
    ) -> Tensor:
        return whole.activate(m) != 0

    def magnitudes(self, codes: Tensor) -> Tensor:
        return codes.abs()


OBJECTIVES: dict[str, Objective[Any]] = {
    "relu": Objective(),
    "prolu": Objective(),
    "prolu_relu_hybrid": Objective(),
    "trec": Objective(),
    "tlin": SignedObjective(),
    "gated": GatedObjective(),
    "jumprelu": JumpReluObjective(),
    "topk": SelectingObjective(),
    "abstopk": SelectingObjective(),
    "groupmax": SelectingObjective(),
    "batchtopk": BatchTopKObjective(),
    "matryoshka": MatryoshkaObjective(),
}


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """||x - x_hat||^2 summed over the batch. [batch, d_in], [n, batch, d_in] -> [n]"""
    return (x - x_hat).square().sum((1, 2))


def reconstruct_dead(encoded: Encoded[Any], error: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    """AuxK of arXiv 2406.04093: the squared error with which dead features predict the residual.

    For each token, the ``k_aux`` dead features with the largest codes reconstruct ``error``.

    Args:
        encoded: the pass.
        error: the residual x - x_hat, without gradients. [n, batch, d_in]
        dead: which features are dead. [n, d_sae] bool
        k_aux: the number of dead features per token.

    Returns:
        The squared error, summed over the batch; zero where no feature is dead. [n]
    """
    whole = encoded.whole
    with torch.no_grad():
        z = torch.where(dead[:, None], encoded.m + whole.b_enc[:, None], -torch.inf)
        top = z.topk(min(k_aux, z.shape[-1]), sorted=False).indices
        mask = torch.zeros_like(z, dtype=torch.bool).scatter_(-1, top, True) & (z > 0)
    active = type(encoded.active)(lambda: mask)
    m = active.pre_activations(encoded.m, encoded.x, whole.W_enc, whole.b_dec)
    codes = active.chosen(m + active.per_feature(whole.b_enc))
    e_hat = active.decode(codes, whole.W_dec, torch.zeros_like(whole.b_dec))
    return (error - e_hat).square().sum((1, 2)) * dead.any(1)


def _weighed(codes: Tensor, norms: Tensor | None) -> Tensor:
    return codes if norms is None else codes * norms
