"""One autoencoder over the activations of a batch: reconstructions, and every sum over its codes.

Codes are almost all zero, so they are read once, densely, in chunks, to find the active ones;
decoding and all statistics then work on those alone. Kernels do that where there are some that suit
(:mod:`prolu_eval.kernels`), the eager code here everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from prolu_eval import kernels
from prolu_eval.evaluation.examples import StrongestExamples
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.evaluation.sums import RowSums
from prolu_eval.saes import Normalised, SparseAutoencoder, TopK

CODE_COLUMNS = ("l0", "l1", "l1_raw", "sqrt_l1", "sqrt_l1_raw")
RECONSTRUCTION_COLUMNS = (
    "squared_error", "cosine_similarity", "norm_ratio", "x_hat_squared", "x_hat_dot_x",
)  # fmt: skip
COLUMNS = CODE_COLUMNS + RECONSTRUCTION_COLUMNS
# Of transcoders with a skip connection alone.
SKIP_COLUMNS = ("squared_skip_error",)
# Tokens by which slots for the active codes are dimensioned, and how many more there are of them
# than any of these tokens needs. Tokens with more are read otherwise: right, but slower.
_SAMPLE, _MARGIN = 512, 4


@dataclass(frozen=True)
class Sizes:
    """How much is worked on at a time; results do not depend on it.

    ``codes`` is the number of codes of a chunk, ``active`` that of active codes whose statistics
    are taken together. Where more than ``dense_above`` of a chunk's codes are active, it is decoded
    by a dense product.
    """

    codes: int = 1 << 19
    active: int = 1 << 22
    dense_above: float = 0.25

    @classmethod
    def of(cls, device: torch.device) -> "Sizes":
        """What suits a device: a CPU's cache, or a GPU's many cores."""
        return cls() if device.type == "cpu" else cls(codes=1 << 28, active=1 << 26)


class Activations(NamedTuple):
    """Activations at the counted positions of consecutive rows. ``x`` [N, d_in]

    ``y`` [N, d_out] are those that a reconstruction is to be of, where they are others than x;
    ``starts`` [n_rows + 1] says where in ``x`` each row begins, and where the last ends; ``fold``
    [N] is the index, modulo the number of folds, of the row that each belongs to, among all rows;
    ``place`` [N] is the index of each position among those of all rows, where examples are kept.
    """

    x: Tensor
    starts: Tensor
    fold: Tensor
    place: Tensor | None = None
    y: Tensor | None = None


class _Active(NamedTuple):
    """Codes that are not zero, by token and feature, in order. [n] each"""

    token: Tensor
    feature: Tensor
    value: Tensor


class Autoencoding:
    """Accumulates the sums of one autoencoder over batches of activations.

    Attributes:
        sums: sums per row, by column of :data:`COLUMNS`, and with a skip connection also of
            :data:`SKIP_COLUMNS`, on the device.
        features: per-feature sums.
        examples: the strongest activations of each feature, if they are asked for.
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
        self._thresholding = sae.thresholding()
        self._capacity: int | None = None

    @torch.inference_mode()
    def reconstruct(self, activations: Activations, first_row: int) -> Tensor:
        """Reconstruct the activations of rows from ``first_row`` on, and add up their statistics.

        Returns:
            x_hat, in the dtype of the activations. [N, d_out]
        """
        x = activations.x.to(self.sae.W_dec.dtype)
        normalised = self.sae.normalise(x)
        fused = kernels.suit(x.device, x.dtype)
        z_hat = (self._fused if fused else self._eager)(normalised, activations, first_row)
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
        """Reconstructions of normalised activations, by kernels; the codes' sums are added up."""
        from prolu_eval.kernels import codes as fused

        if self._capacity is None:
            size_slots([self], [activations])
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

    def n_active(self, activations: Activations) -> Tensor:
        """How many codes of some tokens are active, on average and at most. [2] float32"""
        sae = self.sae
        size = max(1, min(_SAMPLE, self._sizes.codes // sae.d_sae))
        z = sae.normalise(activations.x[:size].to(sae.W_dec.dtype)).z
        count = (sae.activate(sae.pre_activation(z)) != 0).sum(1).float()
        return torch.stack([count.mean(), count.max()])

    def provide_slots(self, mean: float, most: float) -> None:
        """Choose slots for the active codes of a token, none if they are better taken as dense."""
        known = self._thresholding is not None or isinstance(self.sae, TopK)
        dense = not known or mean > self._sizes.dense_above * self.sae.d_sae
        self._capacity = 0 if dense else 1 << int(max(most, 4) * _MARGIN - 1).bit_length()

    def _eager(self, normalised: Normalised, activations: Activations, first_row: int) -> Tensor:
        """What :meth:`_fused` does, without kernels."""
        sae = self.sae
        scale = sae.code_scale(normalised)
        size = max(1, self._sizes.codes // sae.d_sae)
        z_hat, pending, n_pending = [], [], 0
        for i, z in enumerate(normalised.z.split(size)):
            active, codes = self._encode(z)
            z_hat.append(self._decode(codes, active, z))
            pending.append(active._replace(token=active.token + i * size))
            n_pending += len(active.value)
            if n_pending > self._sizes.active:
                self._add_codes(_joined(pending), activations, scale, first_row)
                pending, n_pending = [], 0
        if pending:
            self._add_codes(_joined(pending), activations, scale, first_row)
        return torch.cat(z_hat)

    def _encode(self, z: Tensor) -> tuple[_Active, Tensor | None]:
        """The active codes of normalised activations, and all [n, d_sae] if they were looked at."""
        sae = self.sae
        sparse = isinstance(sae, TopK) and sae.k <= self._sizes.dense_above * sae.d_sae
        if sparse and z.device.type == "cpu":
            found = sae.active_(sae.pre_activation(z))
            if found is not None:
                return _Active(*map(torch.from_numpy, found)), None
        codes = sae.activate(sae.pre_activation(z))
        return _active(codes), codes

    def _decode(self, codes: Tensor | None, active: _Active, z: Tensor) -> Tensor:
        """Active codes of normalised activations z, decoded; ``codes`` are all. [n, d_in]"""
        sae = self.sae
        if codes is not None and (
            not sae.decodes_linearly or len(active.value) > self._sizes.dense_above * codes.numel()
        ):
            return sae.decode_normalised(codes)
        bags = torch.arange(len(z), device=z.device)
        return sae.b_dec + torch.nn.functional.embedding_bag(
            active.feature.int(),  # read nearly twice as fast
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


def size_slots(running: Sequence[Autoencoding], activations: Sequence[Activations]) -> None:
    """Provide slots for all autoencodings at once, by how many codes of some tokens are active.

    ``activations`` are those that each reads.
    """
    counts = [one.n_active(read) for one, read in zip(running, activations, strict=True)]
    found = torch.stack(counts).tolist()
    for one, (mean, most) in zip(running, found, strict=True):
        one.provide_slots(mean, most)


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
    """Squared norms of differences, in float32 at least. [n, d] twice -> [n]"""
    exact = torch.promote_types(x.dtype, torch.float32)
    return (x.to(exact) - x_hat.to(exact)).square().sum(1)


def by_row(columns: Tensor, starts: Tensor) -> Tensor:
    """Sums in float64 over consecutive stretches, in one fixed order. -> [k, n_rows]

    Args:
        columns: [k, n]
        starts: where each stretch begins, and where the last ends. [n_rows + 1]
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
    """The quotient, and 0 where the denominator is 0 (an activation or reconstruction of zero)."""
    return torch.where(denominator == 0, 0, numerator / denominator)


def _active(codes: Tensor) -> _Active:
    """The codes [n, d_sae] that are not zero."""
    fired = codes.bool()
    if codes.is_cuda:
        token, feature = fired.nonzero(as_tuple=True)
        return _Active(token, feature, codes[token, feature])
    place = np.flatnonzero(fired.numpy())
    tokens = place // codes.shape[1]  # three times as fast as torch's division
    features = place - tokens * codes.shape[1]
    value = codes.view(-1).index_select(0, torch.from_numpy(place))
    return _Active(torch.from_numpy(tokens), torch.from_numpy(features), value)


def _joined(parts: list[_Active]) -> _Active:
    return parts[0] if len(parts) == 1 else _Active(*map(torch.cat, zip(*parts, strict=True)))
