"""Passes of stacked autoencoders over a batch, as far as their losses."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prolu_eval.saes import SparseAutoencoder, VariantOptions
from prolu_eval.training.active import Dense, Sparse
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.objectives import OBJECTIVES, Pass, reconstruct_dead, squared_error
from prolu_eval.training.penalties import l1

# Codes computed at a time on a CPU: few enough for its last cache, enough to be worth a call.
_CODES_AT_ONCE = 1 << 22
# On a GPU: tensors of the codes' size that a pass holds, and the share of free memory it may take.
_DENSE_TENSORS, _MEMORY_SHARE = 10, 0.5


class Losses(NamedTuple):
    """What one step measured, per autoencoder. [n] each, fired [n, d_sae] bool

    All but ``auxiliary`` are means over the batch; l0, l1 and sqrt_l1 are of the codes.
    """

    loss: Tensor
    squared_error: Tensor
    penalty: Tensor
    auxiliary: Tensor
    l0: Tensor
    l1: Tensor
    sqrt_l1: Tensor
    fired: Tensor


class Passes:
    """How the autoencoders of a stack turn a batch into losses.

    Args:
        plans: the runs; they share their sweep.
        saes: the autoencoders one by one, whose options may differ in ``k``.
        shared: the settings of all sweeps.
        layout: whether passes work on gathered entries or on whole tensors.
        device: where the parameters are.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        saes: Sequence[SparseAutoencoder],
        shared: Shared,
        layout: type[Dense | Sparse],
        device: torch.device,
    ) -> None:
        self.objective = OBJECTIVES[plans[0].sweep.variant]
        self.coefficients = torch.tensor([p.coefficient or 0.0 for p in plans], device=device)
        self._penalty = plans[0].sweep.penalty
        self._saes, self._shared, self._layout = saes, shared, layout
        self._d_sae = saes[0].d_sae
        self._memory = self.coefficients.new_empty(0)

    def chunks(self, batch: int) -> Iterator[slice]:
        """Slices of the stack that pass together."""
        n, codes = len(self._saes), batch * self._d_sae
        if self.coefficients.is_cuda:
            free, _ = torch.cuda.mem_get_info(self.coefficients.device)
            at_once = int(_MEMORY_SHARE * free) // (4 * _DENSE_TENSORS * codes)
        else:
            at_once = _CODES_AT_ONCE // codes
        at_once = max(1, at_once)
        return (slice(start, min(n, start + at_once)) for start in range(0, n, at_once))

    def run(
        self,
        chunk: slice,
        x: Tensor,
        leaves: dict[str, Tensor],
        options: VariantOptions | None = None,
    ) -> Pass:
        """A pass of some of the autoencoders over a batch.

        Args:
            chunk: which.
            x: the batch. [batch, d_in]
            leaves: their stacked tensors, as :attr:`Stack.parameters` has them.
            options: instead of the sweep's.
        """
        alone = self._saes[chunk]
        leaves = {"W_enc": leaves["W_dec"], **leaves}
        whole = alone[0].with_tensors(leaves)
        whole.options = options or whole.options
        m = self._layout.product(x, whole.W_enc, whole.b_dec, self._room)
        constant = whole.with_tensors({name: leaf.detach() for name, leaf in leaves.items()})
        active = self._layout(self.objective.select(alone, constant, m.detach()))
        values = {
            name: active.per_feature(leaf.expand(-1, self._d_sae))
            for name, leaf in leaves.items()
            if name not in ("W_enc", "W_dec", "b_dec")
        }
        sae = whole.with_tensors(values)
        active_m = active.pre_activations(m, x, whole.W_enc, whole.b_dec)
        return Pass(x, m, whole, active, sae, active_m, self.objective.codes(sae, active_m))

    def losses(self, chunk: slice, done: Pass, dead: Tensor, n_done: int) -> Losses:
        """What a pass of some of the autoencoders costs.

        Args:
            chunk: which.
            done: the pass.
            dead: which of their features are dead. [n, d_sae] bool
            n_done: steps done before, which decide the coefficients' warm-up.
        """
        batch, objective = len(done.x), self.objective
        parts = objective.reconstructions(done)
        errors = [squared_error(done.x, x_hat) for x_hat in parts]
        zero = torch.zeros_like(self.coefficients[chunk])
        penalty = auxiliary = zero
        if self._penalty is not None:
            values = objective.penalty(self._penalty, done, self._norms(done))
            penalty = done.active.total(values) / batch
        if (further := objective.auxiliary(done)) is not None:
            auxiliary = further / batch
        if objective.has_auxk and self._shared.auxk and dead.any():
            auxiliary = auxiliary + self._auxk(done, parts[-1].detach(), dead)
        shared = self._shared
        warmed = rate_factor(n_done, shared.n_steps, shared.coefficient_warmup, 0)
        coefficients = self.coefficients[chunk] * warmed
        loss = torch.stack(errors).mean(0) / batch + coefficients * penalty + auxiliary
        with torch.no_grad():
            size = l1(done.codes.detach())
            l0, total, root = (
                done.active.total(values) / batch
                for values in ((size > 0).to(size.dtype), size, size.sqrt())
            )
            fired = done.active.fired(size)
        return Losses(loss, errors[-1] / batch, penalty, auxiliary, l0, total, root, fired)

    def _norms(self, done: Pass) -> Tensor | None:
        if self._shared.decoder_norm == "unit":
            return None
        return done.active.per_feature(done.whole.W_dec.norm(dim=-1))

    def _auxk(self, done: Pass, x_hat: Tensor, dead: Tensor) -> Tensor:
        k_aux = self._shared.k_aux or max(1, done.x.shape[1] // 2)
        error = reconstruct_dead(done, done.x - x_hat, dead, k_aux)
        return self._shared.auxk / len(done.x) * error

    def _room(self, *shape: int) -> Tensor:
        """Memory that is the same in every step: fresh pages cost more than what fills them."""
        size = math.prod(shape)
        if self._memory.numel() < size:
            self._memory = self.coefficients.new_empty(size)
        return self._memory[:size].view(shape)


def rate_factor(step: int, n_steps: int, warmup: float, decay: float) -> float:
    """Learning-rate factor of a step: a linear rise, a plateau, a linear fall."""
    rising = (step + 1) / max(1.0, warmup * n_steps)
    falling = (n_steps - step) / max(1.0, decay * n_steps)
    return max(0.0, min(1.0, rising, falling))
