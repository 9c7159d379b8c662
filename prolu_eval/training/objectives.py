"""How each variant is trained: which entries take part, its penalty, its auxiliary loss.

The loss of every autoencoder is ``mean ||x - x_hat||^2 + coefficient * penalty + auxiliary``. What
a variant's paper does otherwise is one small class here, named in :data:`OBJECTIVES`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from prolu_eval.saes import Gated, JumpRelu, Matryoshka, SparseAutoencoder
from prolu_eval.training.active import Active
from prolu_eval.training.penalties import PENALTIES

# The variant that an objective is of.
_V = TypeVar("_V", bound=SparseAutoencoder)


@dataclass(frozen=True)
class Encoded(Generic[_V]):
    """One pass of n autoencoders over a batch, as far as the codes.

    Attributes:
        x: the batch. [batch, d_in]
        m: pre-activations of all entries. [n, batch, d_sae]
        whole: stacked tensors: ``W_enc`` and ``W_dec`` [n, d_sae, d_in], ``b_dec`` [n, d_in], and
            per-feature ones [n, d_sae].
        active: the entries that take part.
        sae: its per-feature tensors are values of those entries.
        active_m, codes: values of those entries.
    """

    x: Tensor
    m: Tensor
    whole: _V
    active: Active
    sae: _V
    active_m: Tensor
    codes: Tensor

    def decode(self, values: Tensor, *, frozen: bool = False) -> Tensor:
        """Reconstruction from codes, or from other values of the same entries.

        ``frozen``: with no gradient for the decoder. [n, batch, d_in]
        """
        W_dec, b_dec = self.whole.W_dec, self.whole.b_dec
        if frozen:
            W_dec, b_dec = W_dec.detach(), b_dec.detach()
        return self.active.decode(values, W_dec, b_dec)


class Objective(Generic[_V]):
    """Reconstruction error plus a penalty on the codes: the standard loss.

    ``learning_rate`` is what sweeps take that name none: the best of five on SmolLM2-135M
    (reports/tables-smollm2.md, "Learning rates"), at batches of 2,048.
    """

    learning_rate: ClassVar[float] = 4e-3
    penalties: ClassVar[tuple[str, ...]] = ("l1", "sqrt_l1")
    takes_k: ClassVar[bool] = False
    has_auxk: ClassVar[bool] = False
    learns_threshold: ClassVar[bool] = False

    def select(self, alone: Sequence[_V], whole: _V, m: Tensor) -> Tensor:
        """Which entries have a code or a gradient. [n, batch, d_sae] -> bool of that shape

        ``alone`` are the autoencoders one by one, whose options may differ in ``k``.
        """
        threshold = torch.atleast_2d(whole.gradient_threshold()).unsqueeze(1)
        if m.device.type != "cpu":
            return torch.gt(m, threshold)
        return torch.from_numpy(np.greater(m.numpy(), threshold.numpy()))  # three times as fast

    def codes(self, sae: _V, m: Tensor, active: Active) -> Tensor:
        """Codes of the selected entries, from their pre-activations. values -> values"""
        return sae.activate(m)

    def magnitudes(self, codes: Tensor) -> Tensor:
        """|a_i|, whose derivative at zero is one where codes cannot be negative."""
        return codes

    def reconstructions(self, encoded: Encoded[_V]) -> list[Tensor]:
        """Those whose mean error is the loss, the autoencoder's own last. [n, batch, d_in] each"""
        return [encoded.decode(encoded.codes)]

    def penalty(self, name: str, encoded: Encoded[_V], norms: Tensor | None) -> Tensor:
        """The penalty of each entry; ``norms`` of decoder rows weigh it. values -> values"""
        return PENALTIES[name](_weighed(self.magnitudes(encoded.codes), norms))

    def auxiliary(self, encoded: Encoded[_V]) -> Tensor | None:
        """A further squared error, summed over the batch; None for none. [n]"""
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
    """arXiv 2407.14435: the penalty is L0, whose gradient reaches the thresholds alone.

    ``tanh`` is the smooth count that Anthropic trains with, whose gradient reaches all parameters.
    """

    penalties = ("l0", "tanh")

    def penalty(self, name: str, encoded: Encoded[JumpRelu], norms: Tensor | None) -> Tensor:
        if name == "l0":
            return encoded.sae.fires(encoded.active_m)
        return super().penalty(name, encoded, norms)


class SelectingObjective(Objective[_V]):
    """Variants that keep the largest codes (arXiv 2406.04093): no penalty, AuxK for dead features.

    The variant's own activation selects; what it keeps is ``m + b_enc``.
    """

    learning_rate = 1e-3
    penalties = ()
    takes_k = True
    has_auxk = True

    def select(self, alone: Sequence[_V], whole: _V, m: Tensor) -> Tensor:
        return torch.stack(
            [
                one.with_tensors({"b_enc": bias}).activate(own) != 0
                for one, bias, own in zip(alone, whole.b_enc, m, strict=True)
            ]
        )

    def codes(self, sae: _V, m: Tensor, active: Active) -> Tensor:
        return active.chosen(m + sae.b_enc)

    def magnitudes(self, codes: Tensor) -> Tensor:
        return codes.abs()


class BatchTopKObjective(SelectingObjective[_V]):
    """arXiv 2412.06410: the threshold used at inference follows the smallest code kept."""

    learns_threshold = True


class MatryoshkaObjective(BatchTopKObjective[Matryoshka]):
    """arXiv 2503.17547: the mean over prefixes of groups of their own reconstruction error."""

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
    """AuxK of arXiv 2406.04093: the squared error of dead features at what the others leave.

    Of each token the ``k_aux`` largest dead features reconstruct ``error``, the residual.

    Args:
        encoded: the pass.
        error: x - x_hat, without gradients. [n, batch, d_in]
        dead: which features are. [n, d_sae] bool
        k_aux: features per token.

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
