"""Autoencoders of one shape that train together: stacked parameters, one batched pass for all.

Each autoencoder's loss depends only on its own slice of the parameters. The gradient of the sum of
losses is therefore each autoencoder's own gradient in its slice, and training them together gives
the same result as training each alone.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from prolu_eval.kernels import suit
from prolu_eval.saes import SparseAutoencoder, VariantOptions
from prolu_eval.saes.trec import TrecOptions
from prolu_eval.training.baselines import HELD, NEAR
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.forward import Chunk, Forward, Losses, rate_factor
from prolu_eval.training.initial import Statistics, initialise
from prolu_eval.training.layouts import Layout
from prolu_eval.training.objectives import Encoded

# A GPU's layout is chosen after these numbers of steps, and at every multiple of the last.
_CHOICES = (0, 20, 100, 500)


class Stack:
    """Autoencoders of one sweep and learning rate, and their optimiser.

    :func:`~prolu_eval.training.initial.initialise` sets the first weights.

    Args:
        plans: the runs, which share their sweep and learning rate.
        shared: the settings of all sweeps.
        statistics: statistics of the activations.
        layout: the layout of passes; if None, the device and the share of active entries decide.

    Attributes:
        parameters: the stacked parameters: ``W_enc`` and ``W_dec`` [n, d_sae, d_in], one row per
            feature; ``b_dec`` [n, d_in]; the variant's own parameters [n, d_sae], or [n, 1] for one
            that all features share.
        silent: the number of tokens since each feature last fired. [n, d_sae]
        n_done: the number of steps done.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        shared: Shared,
        statistics: Statistics,
        *,
        layout: type[Layout] | None = None,
    ) -> None:
        self.plans, self.shared = plans, shared
        self.n_done = 0
        d_in = len(statistics.mean)
        self.d_sae = shared.dictionary_size(d_in)
        device = statistics.mean.device
        self._saes: list[SparseAutoencoder] = []
        self.parameters: dict[str, Tensor] = {}
        for index, plan in enumerate(plans):
            sae = plan.sweep.autoencoder(d_in, self.d_sae, plan.k, shared.sae_normalisation)
            initialise(sae, plan.seed, statistics, shared.b_enc_init)
            for name, parameter in sae.named_parameters():
                own = _by_feature(name, parameter)
                if name not in self.parameters:
                    self.parameters[name] = torch.empty(len(plans), *own.shape, device=device)
                self.parameters[name][index] = own
                # The stacked tensors replace these parameters, of which only the shape is needed.
                parameter.data = parameter.new_zeros(()).expand(parameter.shape)
            self._saes.append(sae)
        for stacked in self.parameters.values():
            stacked.requires_grad_()
        # Per-feature tensors start with one value for all features, to which a restarted feature
        # returns.
        self._first = {name: p[0, 0].detach().clone() for name, p in self.parameters.items()}
        self._chance = plans[0].sweep.chance
        self._start = self.parameters["W_dec"].detach()
        if self._chance == "frozen_decoder":
            self.parameters["W_dec"].requires_grad_(False)
        elif self._chance == "soft_frozen_decoder":
            self._start = self._start.clone()
        if shared.b_enc_init == "uniform" and "b_enc" in self._first:
            self._first["b_enc"].zero_()  # the mean of their first values
        self._forward = Forward(plans, self._saes, shared, layout, device)
        if self._forward.objective.learns_threshold:
            self.parameters["threshold"].requires_grad_(False)
        self.silent = torch.zeros(len(plans), self.d_sae, dtype=torch.int64, device=device)
        self._share = torch.ones(len(plans), device=device)
        self._optimiser = torch.optim.Adam(
            self.trained.values(),
            lr=plans[0].learning_rate,
            betas=(shared.beta1, shared.beta2),
            fused=True,
        )

    @property
    def variant(self) -> type[SparseAutoencoder]:
        """The class of the autoencoders."""
        return type(self._saes[0])

    @property
    def options(self) -> VariantOptions:
        """The sweep's options of the variant; ``k`` may differ between runs."""
        return self._saes[0].options

    @property
    def holds_decoder(self) -> bool:
        """Whether decoder rows stay as they started, or near their start."""
        return self._chance in HELD

    def batch_for_step(self, x: Tensor) -> Tensor:
        """The batch on which the next step trains, from a batch in training units. [batch, d_in]

        It is the same batch, or for the baseline on shuffled activations its shuffled form.
        """
        return shuffled(x, self.shared.data_seed, self.n_done) if self._chance == "shuffled" else x

    @property
    def layout(self) -> type[Layout] | None:
        """The layout that all passes use now; None if it differs between autoencoders."""
        return self._forward.fixed

    @property
    def trained(self) -> dict[str, Tensor]:
        """The parameters that the optimiser changes."""
        return {name: p for name, p in self.parameters.items() if p.requires_grad}

    def step(self, x: Tensor, *, sizes: bool = True) -> Losses:
        """Train on a batch of activations in training units. [batch, d_in]

        If ``sizes``, the codes' l0, l1 and sqrt_l1 are measured too.
        """
        if self._forward.chooses and (self.n_done in _CHOICES or self.n_done % _CHOICES[-1] == 0):
            self._choose(x)
        losses = [self._descend(chunk, x, sizes=sizes) for chunk in self._chunks(x)]
        measured = Losses(*(torch.cat(part) for part in zip(*losses, strict=True)))
        shared, rate = self.shared, self.plans[0].learning_rate
        factor = rate_factor(self.n_done, shared.n_steps, shared.warmup, shared.decay)
        self._update(rate * factor)
        self.silent += len(x)
        self.silent.masked_fill_(measured.fired, 0)  # an index would wait for the GPU
        self._share = measured.share
        self.n_done += 1
        return measured

    def biases(self) -> Tensor | None:
        """Encoder biases, or their counterpart; None if the variant has none. [n, d_sae]"""
        whole = self._saes[0].with_tensors(self.parameters)
        bias = whole.encoder_bias()
        return None if bias is None else bias.detach()

    def gradients(self, x: Tensor, options: VariantOptions | None = None) -> dict[str, Tensor]:
        """The gradients of each autoencoder's loss on a batch, by parameter. [n, ...] each

        ``options`` replace those of the sweep, for example with another synthetic gradient.
        """
        parts = [part for (part,) in self.gradients_in_parts(x, options)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.trained}

    def gradients_in_parts(
        self, x: Tensor, *options: VariantOptions | None
    ) -> Iterator[tuple[dict[str, Tensor], ...]]:
        """As :meth:`gradients` for each of several options, chunk by chunk of the stack."""
        for chunk in self._chunks(x):
            yield tuple(self._differentiate(chunk, x, chosen)[0] for chosen in options)

    def try_out(self, x: Tensor) -> None:
        """Do most of a step's work for some of the stack, without changing anything."""
        self._differentiate(next(self._chunks(x)), x)

    def _choose(self, x: Tensor) -> None:
        """On a GPU, measure which layout is faster for the current share of active entries."""
        chunk = next(self._chunks(x))
        leaves = {name: p.detach()[chunk.which] for name, p in self.parameters.items()}
        share = float(self._forward.run(chunk, x, leaves).active.share().max())

        def seconds() -> float:
            times = []
            for _ in range(3):
                torch.cuda.synchronize(x.device)
                start = time.perf_counter()
                self.try_out(x)
                torch.cuda.synchronize(x.device)
                times.append(time.perf_counter() - start)
            return min(times)

        self._forward.choose(share, seconds)

    def _chunks(self, x: Tensor) -> Iterator[Chunk]:
        return self._forward.chunks(len(x), self._share)

    def _differentiate(
        self,
        chunk: Chunk,
        x: Tensor,
        options: VariantOptions | None = None,
        *,
        sizes: bool = False,
    ) -> tuple[dict[str, Tensor], Losses, Encoded[Any]]:
        leaves = {name: p.detach()[chunk.which] for name, p in self.parameters.items()}
        wanted = {name: leaves[name].requires_grad_() for name in self.trained}
        encoded = self._forward.run(chunk, x, leaves, options)
        dead = self.silent[chunk.which] >= self.shared.dead_after
        losses = self._forward.losses(chunk, encoded, dead, self.n_done, sizes=sizes)
        gradients = torch.autograd.grad(
            losses.loss.sum(), list(wanted.values()), materialize_grads=True
        )
        measured = Losses(*(value.detach() for value in losses))
        return dict(zip(wanted, gradients, strict=True)), measured, encoded

    def _descend(self, chunk: Chunk, x: Tensor, *, sizes: bool) -> Losses:
        """Store a chunk's gradients for the optimiser, and return its losses."""
        gradients, losses, encoded = self._differentiate(chunk, x, sizes=sizes)
        for name, gradient in gradients.items():
            parameter = self.parameters[name]
            if len(gradient) == len(parameter) and gradient.is_contiguous():
                parameter.grad = gradient
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad[chunk.which] = gradient
        if self._forward.objective.learns_threshold:
            self._follow_threshold(chunk, encoded)
        return losses

    @torch.no_grad()
    def _follow_threshold(self, chunk: Chunk, encoded: Encoded[Any]) -> None:
        """Update the threshold: a bias-corrected exponential average of the smallest code kept."""
        keep = self.shared.threshold_ema
        weight = (1 - keep) / (1 - keep ** (self.n_done + 1))
        smallest = encoded.active.smallest(encoded.codes)[:, None]
        threshold = self.parameters["threshold"][chunk.which]
        threshold += torch.where(smallest.isfinite(), weight * (smallest - threshold), 0)

    @torch.no_grad()
    def _update(self, rate: float) -> None:
        """Take Adam's step; decoder rows of unit norm keep their norm.

        The part of the gradient that is parallel to such a row is removed first, so that Adam's
        moments contain only the part that turns the row. The kernel does all of this at once.
        """
        W_dec, unit = self.parameters["W_dec"], self.shared.decoder_norm == "unit"
        self._optimiser.param_groups[0]["lr"] = rate
        unit = unit and W_dec.requires_grad
        fused = unit and suit(W_dec.device, W_dec.dtype)
        if fused:
            self._step_unit_rows(rate)
        elif unit:
            for rows, gradient in zip(W_dec, cast(Tensor, W_dec.grad), strict=True):
                gradient.addcmul_(rows, (gradient * rows).sum(-1, keepdim=True), value=-1)
        self._optimiser.step()
        if unit and not fused:
            W_dec /= W_dec.norm(dim=-1, keepdim=True)
        if self._chance == "soft_frozen_decoder":
            turn_back_to(W_dec, self._start, NEAR)
        if "threshold" in self.trained:
            self.parameters["threshold"].clamp_(min=0)

    def _step_unit_rows(self, rate: float) -> None:
        """Take Adam's step of the decoder's rows in the kernel; the optimiser then skips them."""
        from prolu_eval.kernels.decoder import step_unit_rows

        W_dec = self.parameters["W_dec"]
        state, settings = self._optimiser.state[W_dec], self._optimiser.param_groups[0]
        if not state:
            state["step"] = torch.zeros((), device=W_dec.device)
            state |= {name: torch.zeros_like(W_dec) for name in ("exp_avg", "exp_avg_sq")}
        state["step"] += 1
        step_unit_rows(
            W_dec,
            cast(Tensor, W_dec.grad),
            state["exp_avg"],
            state["exp_avg_sq"],
            step=self.n_done + 1,
            rate=rate,
            betas=settings["betas"],
            epsilon=settings["eps"],
        )
        W_dec.grad = None

    @torch.no_grad()
    def reconstructions(self, x: Tensor) -> Tensor:
        """Each autoencoder's x_hat of a batch. [batch, d_in] -> [n, batch, d_in]"""
        leaves = {name: p.detach() for name, p in self.parameters.items()}
        parts = []
        for chunk in self._chunks(x):
            own = {name: leaf[chunk.which] for name, leaf in leaves.items()}
            encoded = self._forward.run(chunk, x, own)
            parts.append(self._forward.objective.reconstructions(encoded)[-1])
        return torch.cat(parts)

    def restart(self, index: int, features: Tensor, rows: Tensor, encoder_share: float) -> None:
        """Restart some features of one autoencoder in the directions ``rows``. [r], [r, d_in]

        Encoder rows get ``encoder_share`` of the mean norm of the other features' rows.
        """
        others = torch.ones(self.d_sae, dtype=torch.bool, device=rows.device)
        others[features] = False
        for name, parameter in self.trained.items():
            if name == "b_dec":
                continue
            if name == "W_enc":
                value = rows * (encoder_share * parameter[index, others].norm(dim=-1).mean())
            elif name == "W_dec":
                value = rows
            else:
                value = self._first[name].to(rows.device)
            parameter[index, features] = value
            for moment in ("exp_avg", "exp_avg_sq"):
                self._optimiser.state[parameter][moment][index, features] = 0
        self.silent[index, features] = 0

    def state(self) -> dict[str, Tensor]:
        """All tensors that decide how training continues."""
        moments = {
            f"{name}/{moment}": tensor
            for name, parameter in self.trained.items()
            for moment, tensor in self._optimiser.state[parameter].items()
        }
        progress = {
            "silent": self.silent, "share": self._share, "n_done": torch.tensor(self.n_done)
        }  # fmt: skip
        return {**self.parameters, **moments, **progress}

    @torch.no_grad()
    def resume(self, state: dict[str, Tensor]) -> None:
        """Continue from the state of another stack with the same arguments."""
        self.n_done = int(state["n_done"])
        self.silent.copy_(state["silent"])
        self._share.copy_(state["share"])
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])
            if parameter.requires_grad and self.n_done:
                self._optimiser.state[parameter] = {
                    moment: state[f"{name}/{moment}"].to(parameter.device)
                    for moment in ("step", "exp_avg", "exp_avg_sq")
                }

    def autoencoder(self, index: int, scale: float) -> SparseAutoencoder:
        """One of the autoencoders, for activations in the model's units.

        In training, activations were multiplied by ``scale``. This factor is folded into the
        weights; codes and encoder biases stay in training units.
        """
        factors = {"W_enc": scale, "W_dec": 1 / scale, "b_dec": 1 / scale}
        sae = self._saes[index]
        if isinstance(sae.options, TrecOptions) and sae.options.tied:
            # The same rows encode and decode, so the factor is folded into the threshold.
            factors |= {"W_dec": 1.0}
            sae.options = sae.options.model_copy(update={"theta": sae.options.theta / scale})
        for name, stacked in self.parameters.items():
            own = _by_feature(name, stacked[index].detach().cpu())
            parameter = sae.get_parameter(name)
            parameter.data = (own * factors.get(name, 1.0)).reshape(parameter.shape)
        return sae


def shuffled(x: Tensor, seed: int, step: int) -> Tensor:
    """A batch in which each coordinate comes from other tokens than the others. [batch, d_in]

    Each column is rotated by a random number of places; the numbers differ if the batch is large
    enough. Columns keep their own distributions and lose all dependence on one another.
    """
    n, d = x.shape
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 63))
    places = [torch.randperm(n, generator=generator) for _ in range(-(-d // n))]
    rows = torch.arange(n)[:, None] + torch.cat(places)[:d]
    return x.gather(0, (rows % n).to(x.device))


def turn_back_to(rows: Tensor, start: Tensor, least: float) -> None:
    """Turn rows back, in place, until their cosine with their start is ``least``. [..., d]

    Rows that are nearer to their start are unchanged, and all rows keep their norms.
    """
    norms, start = rows.norm(dim=-1, keepdim=True), start / start.norm(dim=-1, keepdim=True)
    unit = rows / norms
    cosine = (unit * start).sum(-1, keepdim=True)
    aside = torch.nn.functional.normalize(unit - cosine * start, dim=-1)
    turned = least * start + (1 - least**2) ** 0.5 * aside
    rows.copy_(torch.where(cosine < least, norms * turned, rows))


def _by_feature(name: str, tensor: Tensor) -> Tensor:
    """Convert an autoencoder's tensor to the form that it has in the stack, or back."""
    if name == "W_enc":
        return tensor.detach().T.contiguous()
    return tensor.detach()[None] if tensor.dim() == 0 else tensor.detach()
