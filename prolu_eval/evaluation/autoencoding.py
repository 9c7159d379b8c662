"""One autoencoder over the activations of a batch: reconstructions, and every sum over its codes.

Almost all codes are zero. They are therefore read once, densely, in chunks, to find the active
ones; decoding and all statistics use these alone. Kernels do this where they can run
(:mod:`prolu_eval.kernels`); the eager code in this module runs everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from prolu_eval import kernels
from prolu_eval.evaluation.examples import StrongestExamples
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.evaluation.sums import RowSums
from prolu_eval.saes import Normalised, SparseAutoencoder, TopK

if TYPE_CHECKING:
    from prolu_eval.kernels import on_cpu

CODE_COLUMNS = ("l0", "l1", "l1_raw", "sqrt_l1", "sqrt_l1_raw")
RECONSTRUCTION_COLUMNS = (
    "squared_error", "cosine_similarity", "norm_ratio", "x_hat_squared", "x_hat_dot_x",
)  # fmt: skip
COLUMNS = CODE_COLUMNS + RECONSTRUCTION_COLUMNS
# Columns that only transcoders with a skip connection have.
SKIP_COLUMNS = ("squared_skip_error",)
# The number of tokens from which the number of slots for active codes is chosen, and the factor by
# which it exceeds the largest number of active codes among these tokens. Tokens with more active
# codes are computed by another way, which is correct but slower.
_SAMPLE, _MARGIN = 512, 4


@dataclass(frozen=True)
class Sizes:
    """How much is computed at one time; results do not depend on it.

    ``codes`` is the number of codes in a chunk, and ``active`` the number of active codes whose
    statistics are computed together. If a share of more than ``dense_above`` of a chunk's codes is
    active, the chunk is decoded by a dense product.
    """

    codes: int = 1 << 19
    active: int = 1 << 22
    dense_above: float = 0.25

    @classmethod
    def of(cls, device: torch.device) -> "Sizes":
        """The sizes that suit a device: a CPU's cache, or a GPU's many cores."""
        return cls() if device.type == "cpu" else cls(codes=1 << 28, active=1 << 26)


class Activations(NamedTuple):
    """Activations at the counted positions of consecutive rows. ``x`` [N, d_in]

    ``y`` [N, d_out] are the activations that a transcoder has to predict, if they are not ``x``.
    ``starts`` [n_rows + 1] says where in ``x`` each row begins, and where the last one ends.
    ``fold`` [N] is each position's fold: the index of its row among all rows, modulo the number of
    folds. ``place`` [N] is each position's index among those of all rows; it is given only if
    examples are kept.
    """

    x: Tensor
    starts: Tensor
    fold: Tensor
    place: Tensor | None = None
    y: Tensor | None = None


class _Active(NamedTuple):
    """The codes that are not zero, in order of token and feature. [n] each"""

    token: Tensor
    feature: Tensor
    value: Tensor


class _Part(NamedTuple):
    """What a CPU's kernels find about consecutive tokens.

    ``x_hat`` [n, d_out] are their normalised reconstructions, and ``sums`` [5, n] the values of
    :data:`CODE_COLUMNS`.
    """

    active: "on_cpu.Active"
    x_hat: Tensor
    sums: Tensor


class Autoencoding:
    """Accumulates the sums of one autoencoder over batches of activations.

    Attributes:
        sums: sums per row, by column of :data:`COLUMNS`, and with a skip connection also of
            :data:`SKIP_COLUMNS`, on the device.
        features: per-feature sums.
        examples: the strongest activations of each feature, if they are wanted.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        n_rows: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        sizes: Sizes | None = None,
        *,
        n_examples: int = 0,
    ) -> None:
        self.sae = sae.to(device, dtype)
        self.sums = RowSums(COLUMNS + (SKIP_COLUMNS if sae.skip else ()), n_rows, device)
        self.features = FeatureSums(sae.d_sae, device)
        self.examples = StrongestExamples(sae.d_sae, n_examples, device) if n_examples else None
        self._norms = sae.W_dec.float().norm(dim=1)
        self._sizes = sizes or Sizes.of(device)
        self._thresholding, self._selection = sae.thresholding(), sae.selection()
        self._capacity: int | None = None

    @torch.inference_mode()
    def reconstruct(self, activations: Activations, first_row: int) -> Tensor:
        """Reconstruct the activations of rows, starting at ``first_row``, and add their statistics.

        Returns:
            x_hat, in the dtype of the activations. [N, d_out]
        """
        x = activations.x.to(self.sae.W_dec.dtype)
        normalised = self.sae.normalise(x)
        if kernels.suit(x.device, x.dtype):
            z_hat = self._fused(normalised, activations, first_row)
        elif kernels.suit_cpu(x.device, x.dtype):
            z_hat = self._on_cpu(normalised, activations, first_row)
        else:
            z_hat = self._eager(normalised, activations, first_row)
        x_hat = self.sae.complete(z_hat, normalised, x)
        y = x if activations.y is None else activations.y.to(x.dtype)
        fits = by_row(compared(y, x_hat), activations.starts)
        self.sums.add(RECONSTRUCTION_COLUMNS, first_row, fits)
        if self.sae.skip:
            error = _squared_distance(y, self.sae.skipped(x))
            self.sums.add(SKIP_COLUMNS, first_row, by_row(error[None], activations.starts))
        self.features.count_tokens(activations.fold)
        return x_hat.to(activations.x.dtype)

    def _fused(self, normalised: Normalised, activations: Activations, first_row: int) -> Tensor:
        """Reconstruct normalised activations and add the codes' sums, by kernels."""
        from prolu_eval.kernels import codes as fused

        if self._capacity is None:
            choose_slots([self], [activations])
        sae, features = self.sae, self.features
        size = max(1, self._sizes.codes // sae.d_sae)
        scale = sae.code_scale(normalised)
        scale = None if scale is None else scale[:, 0]
        z_hat, columns = [], []
        for start in range(0, len(normalised.z), size):
            chunk = slice(start, start + size)
            m = sae.pre_activation(normalised.z[chunk])
            codes = None
            if not self._capacity:
                codes = sae.activate(m)
                slots = fused.dense(codes)
                z_hat.append(sae.decode_normalised(codes))
            else:
                if self._thresholding is None:
                    slots = fused.selected(m, *cast(TopK, sae).selected(m))
                else:
                    slots = fused.compact(m, self._thresholding, self._capacity)
                z_hat.append(fused.decode(slots, sae.W_dec, sae.b_dec))
            columns.append(
                fused.add_codes(
                    slots,
                    self._norms,
                    None if scale is None else scale[chunk],
                    activations.fold[chunk],
                    features.fired,
                    features.total,
                    features.largest,
                )
            )
            if self.examples is not None and activations.place is not None:
                listed = fused.listed(slots) if codes is None else None
                if listed is None:
                    active = _active(sae.activate(m) if codes is None else codes)
                else:
                    active = _Active(*listed)
                place = activations.place[chunk]
                self.examples.add(active.feature, active.value, active.token, place)
        by_code = by_row(torch.cat(columns, 1), activations.starts)
        self.sums.add(CODE_COLUMNS, first_row, by_code)
        return torch.cat(z_hat)

    def _on_cpu(self, normalised: Normalised, activations: Activations, first_row: int) -> Tensor:
        """The same as :meth:`_fused`, by the kernels for a CPU."""
        sae = self.sae
        size = max(1, self._sizes.codes // sae.d_sae)
        scale = sae.code_scale(normalised)
        z_hat, columns, done = [], [], 0
        for z in normalised.z.split(size):
            m = sae.pre_activation(z)
            factor = None if scale is None else scale[done : done + len(z), 0]
            for part in self._found(m, factor):
                after = done + len(part.x_hat)
                self._add_part(part.active, activations, slice(done, after))
                z_hat.append(part.x_hat)
                columns.append(part.sums)
                done = after
        by_code = by_row(torch.cat(columns, 1), activations.starts)
        self.sums.add(CODE_COLUMNS, first_row, by_code)
        return torch.cat(z_hat)

    def _found(self, m: Tensor, scale: Tensor | None) -> list["_Part"]:
        """The active codes of pre-activations [n, d_sae], and what follows from them, in parts.

        ``scale`` is the factor from the codes' units to the model's; None means one. [n]
        """
        from prolu_eval.kernels import on_cpu

        sae, norms = self.sae, self._norms

        @torch.inference_mode()  # it holds for the thread alone in which it is set
        def of(first: int, last: int) -> _Part:
            active, codes = self._encode_on_cpu(m[first:last])
            few = len(active.value) <= self._sizes.dense_above * (last - first) * sae.d_sae
            if few and sae.decodes_linearly:
                x_hat = on_cpu.decode(active, sae.W_dec, sae.b_dec)
            else:
                x_hat = sae.decode_normalised(
                    sae.activate(m[first:last]) if codes is None else codes
                )
            sums = on_cpu.sums(active, norms, None if scale is None else scale[first:last])
            return _Part(active, x_hat, sums)

        return on_cpu.spread(len(m), m.numel(), of)

    def _encode_on_cpu(self, m: Tensor) -> tuple["on_cpu.Active", Tensor | None]:
        """The active codes of pre-activations [n, d_sae], and all codes if they were computed."""
        from prolu_eval.kernels import on_cpu

        if self._thresholding is not None:
            return on_cpu.compact(m, self._thresholding), None
        if (
            self._selection is not None
            and (active := on_cpu.select(m, self._selection)) is not None
        ):
            return active, None
        codes = self.sae.activate(m)
        return on_cpu.nonzero(codes), codes

    def _add_part(self, active: "on_cpu.Active", activations: Activations, tokens: slice) -> None:
        """Add the active codes of some tokens to the sums of their features."""
        from prolu_eval.kernels import on_cpu

        features = self.features
        on_cpu.add_features(
            active, activations.fold[tokens], features.fired, features.total, features.largest
        )
        if self.examples is not None and activations.place is not None:
            token = torch.from_numpy(active.token)
            feature, value = map(torch.from_numpy, (active.feature, active.value))
            self.examples.add(feature.long(), value, token, activations.place[tokens])

    def n_active(self, activations: Activations) -> Tensor:
        """The mean and the maximum number of active codes of some tokens. [2] float32"""
        sae = self.sae
        size = max(1, min(_SAMPLE, self._sizes.codes // sae.d_sae))
        z = sae.normalise(activations.x[:size].to(sae.W_dec.dtype)).z
        count = (sae.activate(sae.pre_activation(z)) != 0).sum(1).float()
        return torch.stack([count.mean(), count.max()])

    def choose_slots(self, mean: float, most: float) -> None:
        """Choose the number of slots per token; none if dense codes are cheaper."""
        known = self._thresholding is not None or isinstance(self.sae, TopK)
        dense = not known or mean > self._sizes.dense_above * self.sae.d_sae
        self._capacity = 0 if dense else 1 << int(max(most, 4) * _MARGIN - 1).bit_length()

    def _eager(self, normalised: Normalised, activations: Activations, first_row: int) -> Tensor:
        """The same as :meth:`_fused`, without kernels."""
        sae = self.sae
        scale = sae.code_scale(normalised)
        size = max(1, self._sizes.codes // sae.d_sae)
        z_hat, pending, n_pending = [], [], 0
        for i, z in enumerate(normalised.z.split(size)):
            codes = sae.activate(sae.pre_activation(z))
            active = _active(codes)
            z_hat.append(self._decode(codes, active))
            pending.append(active._replace(token=active.token + i * size))
            n_pending += len(active.value)
            if n_pending > self._sizes.active:
                self._add_codes(_joined(pending), activations, scale, first_row)
                pending, n_pending = [], 0
        if pending:
            self._add_codes(_joined(pending), activations, scale, first_row)
        return torch.cat(z_hat)

    def _decode(self, codes: Tensor, active: _Active) -> Tensor:
        """Decode codes, which are given whole and as the active ones. [n, d_sae] -> [n, d_out]"""
        sae = self.sae
        dense = len(active.value) > self._sizes.dense_above * codes.numel()
        if dense or not sae.decodes_linearly:
            return sae.decode_normalised(codes)
        bags = torch.arange(len(codes), device=codes.device)
        return sae.b_dec + torch.nn.functional.embedding_bag(
            active.feature.int(),  # nearly twice as fast to read
            sae.W_dec,
            torch.searchsorted(active.token, bags, out_int32=True),
            mode="sum",
            per_sample_weights=active.value,
        )

    def _add_codes(
        self, active: _Active, activations: Activations, scale: Tensor | None, first_row: int
    ) -> None:
        size = active.value.float().abs()
        weighted = size * self._norms.index_select(0, active.feature)
        if scale is not None:
            weighted = weighted * scale[:, 0].index_select(0, active.token)
        starts = torch.searchsorted(active.token, activations.starts)
        norms = by_row(torch.stack((weighted, size, weighted.sqrt(), size.sqrt())), starts)
        self.sums.add(CODE_COLUMNS, first_row, torch.cat([starts.diff()[None].double(), norms]))
        fold = activations.fold.index_select(0, active.token)
        self.features.add(active.feature, active.value, fold)
        if self.examples is not None and activations.place is not None:
            self.examples.add(active.feature, active.value, active.token, activations.place)


def choose_slots(running: Sequence[Autoencoding], activations: Sequence[Activations]) -> None:
    """Choose the number of slots of all autoencodings, by their active codes on some tokens.

    ``activations`` holds the activations that each of them reads.
    """
    counts = [one.n_active(read) for one, read in zip(running, activations, strict=True)]
    found = torch.stack(counts).tolist()
    for one, (mean, most) in zip(running, found, strict=True):
        one.choose_slots(mean, most)


def compared(x: Tensor, x_hat: Tensor) -> Tensor:
    """The values of :data:`RECONSTRUCTION_COLUMNS` per position. [5, n]"""
    if kernels.suit(x.device, x.dtype):
        from prolu_eval.kernels.reconstructions import fidelity

        return fidelity(x, x_hat)
    exact = torch.promote_types(x.dtype, torch.float32)
    x, x_hat = x.to(exact), x_hat.to(exact)
    dot = torch.linalg.vecdot(x, x_hat)
    x_norm, x_hat_norm = x.norm(dim=1), x_hat.norm(dim=1)
    error = (x - x_hat).square().sum(1)
    columns = (
        error,
        _over(dot, x_norm * x_hat_norm),
        _over(x_hat_norm, x_norm),
        x_hat_norm.square(),
        dot,
    )
    return torch.stack(columns)


def _squared_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Squared norms of differences, in float32 or higher precision. [n, d] twice -> [n]"""
    exact = torch.promote_types(x.dtype, torch.float32)
    return (x.to(exact) - x_hat.to(exact)).square().sum(1)


def by_row(columns: Tensor, starts: Tensor) -> Tensor:
    """Sums over consecutive segments, in float64 and in a fixed order. -> [k, n_rows]

    Args:
        columns: the values to sum. [k, n]
        starts: where each segment begins, and where the last one ends. [n_rows + 1]
    """
    if kernels.suit(columns.device, columns.dtype):
        from prolu_eval.kernels.segments import sum_segments

        return sum_segments(columns, starts)
    if columns.device.type == "cpu":
        # Twice as fast as torch's segment_reduce.
        filled = starts.diff() > 0
        sums = columns.new_zeros(len(columns), len(filled), dtype=torch.float64)
        if filled.any():
            values, first = columns[:, : int(starts[-1])].double().numpy(), starts[:-1][filled]
            of_filled = np.add.reduceat(values, first.numpy(), axis=1)
            sums[:, filled] = torch.from_numpy(of_filled)
        return sums
    place = torch.arange(columns.shape[1], device=columns.device)
    row = torch.searchsorted(starts, place, right=True) - 1
    sums = columns.new_zeros(len(columns), len(starts) - 1, dtype=torch.float64)
    column = torch.arange(len(columns), device=columns.device)[:, None]
    return sums.index_put_((column, row), columns.double(), accumulate=True)


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient; 0 where the denominator is 0 (for an activation or reconstruction of zero)."""
    return torch.where(denominator == 0, 0, numerator / denominator)


def _active(codes: Tensor) -> _Active:
    """The codes [n, d_sae] that are not zero."""
    token, feature = codes.bool().nonzero(as_tuple=True)
    return _Active(token, feature, codes[token, feature])


def _joined(parts: list[_Active]) -> _Active:
    return parts[0] if len(parts) == 1 else _Active(*map(torch.cat, zip(*parts, strict=True)))
