"""The forward pass of stacked autoencoders over a batch, up to their losses."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prolu_eval.saes import SparseAutoencoder, VariantOptions
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.layouts import Layout
from prolu_eval.training.objectives import OBJECTIVES, Encoded, reconstruct_dead, squared_error
from prolu_eval.training.on_device import GatheredMixed, GatheredOnDevice, Whole, WholeMixed
from prolu_eval.training.products import Full, Gathered

# Number of codes computed at one time on a CPU: few enough to fit in its caches, and enough to
# outweigh the cost of a call.
CODES_AT_ONCE: dict[type[Layout], int] = {Full: 1 << 20, Gathered: 1 << 23}
_OTHER_CODES_AT_ONCE = 1 << 22
# Below this share of active entries, products over gathered entries are faster than whole ones.
_GATHERED_BELOW = 0.25
# A GPU tries gathered products only below this share, because gathered pairs of rows otherwise
# need more memory than whole codes.
_GATHERED_BELOW_ON_DEVICE = 0.02
# On a GPU: the number of tensors of the codes' size in one pass, and the share of free memory that
# a pass may use.
DENSE_TENSORS, _MEMORY_SHARE = 10, 0.5


class Losses(NamedTuple):
    """What one step measured of each autoencoder. [n] each, fired [n, d_sae] bool

    All but ``auxiliary`` are means over the batch. ``sizes`` are the codes' l0, l1 and sqrt_l1, [n,
    3], or [n, 0] if they were not requested. ``share`` is the fraction of entries that took part;
    on a GPU it is one, because no step there needs it.
    """

    loss: Tensor
    squared_error: Tensor
    penalty: Tensor
    auxiliary: Tensor
    fired: Tensor
    share: Tensor
    sizes: Tensor

    @property
    def l0(self) -> Tensor:
        """Active features per token. [n]"""
        return self.sizes[:, 0]

    @property
    def l1(self) -> Tensor:
        """Sum of the codes' magnitudes per token. [n]"""
        return self.sizes[:, 1]

    @property
    def sqrt_l1(self) -> Tensor:
        """Sum of the square roots of the codes' magnitudes per token. [n]"""
        return self.sizes[:, 2]


class Chunk(NamedTuple):
    """Autoencoders of a stack that are computed together, and the layout of their pass."""

    which: slice
    layout: type[Layout]


class Forward:
    """Computes the losses of the autoencoders of a stack on a batch.

    Args:
        plans: the runs, which share their sweep.
        saes: the individual autoencoders, whose options may differ in ``k``.
        shared: the settings of all sweeps.
        layout: the layout of passes; if None, the share of active entries decides on a CPU, and
            :meth:`choose` on a GPU.
        device: the device of the parameters.

    Attributes:
        objective: the variant's objective.
        fixed: the layout of all passes; None if the share of active entries decides.
        chooses: whether :meth:`choose` should be called from time to time.
        coefficients: the penalty's coefficients. [n]
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        saes: Sequence[SparseAutoencoder],
        shared: Shared,
        layout: type[Layout] | None,
        device: torch.device,
    ) -> None:
        self.objective = OBJECTIVES[plans[0].sweep.variant]
        self.coefficients = torch.tensor([p.coefficient or 0.0 for p in plans], device=device)
        self._penalty = plans[0].sweep.penalty
        mixed = shared.precision_on(device) == "mixed"
        self._whole: type[Layout] = WholeMixed if mixed else Whole
        self._gathered: type[Layout] = GatheredMixed if mixed else GatheredOnDevice
        self.chooses = layout is None and device.type != "cpu"
        self._saes, self._shared = saes, shared
        self.fixed = self._whole if self.chooses else layout
        self._at_once = 0
        self._d_sae = saes[0].d_sae
        self._all = torch.ones_like(self.coefficients)
        self._memory = self.coefficients.new_empty(0)

    def chunks(self, batch: int, share: Tensor) -> Iterator[Chunk]:
        """The stack, divided into chunks that are computed one after another.

        Args:
            batch: the number of activations in the batch.
            share: the expected fraction of entries that take part, as in :class:`Losses`. [n]
        """
        start = 0
        for layout, group in groupby(self._layouts(share)):
            end = start + len(list(group))
            at_once = max(1, self._codes_at_once(layout) // (batch * self._d_sae))
            for first in range(start, end, at_once):
                yield Chunk(slice(first, min(end, first + at_once)), layout)
            start = end

    def _layouts(self, share: Tensor) -> list[type[Layout]]:
        if self.fixed is not None:
            return [self.fixed] * len(share)  # does not wait for a GPU to return the share
        return [Gathered if part < _GATHERED_BELOW else Full for part in share.tolist()]

    def choose(self, share: float, seconds: Callable[[], float]) -> None:
        """On a GPU, measure which layout is faster now, and use it from here on.

        Args:
            share: the fraction of entries that take part.
            seconds: a function that measures the seconds of a pass with the current layout.
        """
        self.fixed = self._whole
        whole = seconds()
        if share < _GATHERED_BELOW_ON_DEVICE:
            self.fixed = self._gathered
            if seconds() > whole:
                self.fixed = self._whole

    def _codes_at_once(self, layout: type[Layout]) -> int:
        if self.coefficients.is_cuda:
            if not self._at_once:  # asked before torch keeps memory in reserve
                free, _ = torch.cuda.mem_get_info(self.coefficients.device)
                self._at_once = int(_MEMORY_SHARE * free) // (4 * DENSE_TENSORS)
            return self._at_once
        return CODES_AT_ONCE.get(layout, _OTHER_CODES_AT_ONCE)

    def run(
        self,
        chunk: Chunk,
        x: Tensor,
        leaves: dict[str, Tensor],
        options: VariantOptions | None = None,
    ) -> Encoded[Any]:
        """The pass of some of the autoencoders over a batch.

        Args:
            chunk: the autoencoders.
            x: the batch. [batch, d_in]
            leaves: their stacked tensors, in the form of :attr:`Stack.parameters`.
            options: options to use instead of the sweep's.
        """
        alone = self._saes[chunk.which]
        leaves = {"W_enc": leaves["W_dec"], **leaves}
        whole = alone[0].with_tensors(leaves)
        whole.options = options or whole.options
        m = chunk.layout.product(x, whole.W_enc, whole.b_dec, self._room)
        constant = whole.with_tensors({name: leaf.detach() for name, leaf in leaves.items()})
        selected = partial(self.objective.select, alone, constant, m.detach())
        active = chunk.layout(selected)
        values = {
            name: active.per_feature(leaf.expand(-1, self._d_sae))
            for name, leaf in leaves.items()
            if name not in ("W_enc", "W_dec", "b_dec")
        }
        sae = whole.with_tensors(values)
        active_m = active.pre_activations(m, x, whole.W_enc, whole.b_dec)
        codes = self.objective.codes(sae, active_m, active)
        return Encoded(x, m, whole, active, sae, active_m, codes)

    def losses(
        self, chunk: Chunk, encoded: Encoded[Any], dead: Tensor, n_done: int, *, sizes: bool
    ) -> Losses:
        """The losses of some of the autoencoders after their pass.

        Args:
            chunk: the autoencoders.
            encoded: their pass.
            dead: which of their features are dead. [n, d_sae] bool
            n_done: the number of steps done, which decides the coefficients' warm-up.
            sizes: whether to measure the codes' sizes, which takes further passes over the codes.
        """
        batch, objective = len(encoded.x), self.objective
        parts = objective.reconstructions(encoded)
        errors = [squared_error(encoded.x, x_hat) for x_hat in parts]
        zero = torch.zeros_like(self.coefficients[chunk.which])
        penalty = auxiliary = zero
        if self._penalty is not None:
            values = objective.penalty(self._penalty, encoded, self._norms(encoded))
            penalty = encoded.active.total(values) / batch
        if (further := objective.auxiliary(encoded)) is not None:
            auxiliary = further / batch
        if objective.has_auxk and self._shared.auxk and dead.any():
            auxiliary = auxiliary + self._auxk(encoded, parts[-1].detach(), dead)
        shared = self._shared
        warmed = rate_factor(n_done, shared.n_steps, shared.coefficient_warmup, 0)
        coefficients = self.coefficients[chunk.which] * warmed
        loss = torch.stack(errors).mean(0) / batch + coefficients * penalty + auxiliary
        with torch.no_grad():
            size = objective.magnitudes(encoded.codes.detach())
            fired = encoded.active.fired(size)
            share = self._all[chunk.which] if self.chooses else encoded.active.share()
            measured = self._sizes(encoded, size) if sizes else loss.new_empty(len(loss), 0)
        return Losses(loss, errors[-1] / batch, penalty, auxiliary, fired, share, measured)

    def _sizes(self, encoded: Encoded[Any], size: Tensor) -> Tensor:
        # A CPU takes twenty times as long to compute the root of exact zeros.
        root = size.clamp(min=torch.finfo(size.dtype).tiny).sqrt()
        totals = [encoded.active.total(values) for values in (size.sign(), size, root)]
        return torch.stack(totals, dim=1) / len(encoded.x)

    def _norms(self, encoded: Encoded[Any]) -> Tensor | None:
        if self._shared.decoder_norm == "unit":
            return None
        return encoded.active.per_feature(encoded.whole.W_dec.norm(dim=-1))

    def _auxk(self, encoded: Encoded[Any], x_hat: Tensor, dead: Tensor) -> Tensor:
        k_aux = self._shared.k_aux or max(1, encoded.x.shape[1] // 2)
        error = reconstruct_dead(encoded, encoded.x - x_hat, dead, k_aux)
        return self._shared.auxk / len(encoded.x) * error

    def _room(self, *shape: int) -> Tensor:
        """Memory that is reused in every step: new pages cost more time than filling them."""
        size = math.prod(shape)
        if self._memory.numel() < size:
            self._memory = self.coefficients.new_empty(size)
        return self._memory[:size].view(shape)


def rate_factor(step: int, n_steps: int, warmup: float, decay: float) -> float:
    """The learning rate's factor at a step: a linear rise, a plateau, and a linear fall."""
    rising = (step + 1) / max(1.0, warmup * n_steps)
    falling = (n_steps - step) / max(1.0, decay * n_steps)
    return max(0.0, min(1.0, rising, falling))
