"""One autoencoder over the activations of a batch: reconstructions, and every sum over its codes.

Codes are almost all zero, so they are read once, densely, in chunks that stay in cache, to find the
active ones; decoding and all statistics then work on those alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prolu_eval.evaluation.compiling import compiled_encoder
from prolu_eval.evaluation.examples import StrongestExamples
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.evaluation.sums import RowSums
from prolu_eval.saes import SparseAutoencoder

CODE_COLUMNS = ("l0", "l1", "l1_raw", "sqrt_l1", "sqrt_l1_raw")
RECONSTRUCTION_COLUMNS = (
    "squared_error", "cosine_similarity", "norm_ratio", "x_hat_squared", "x_hat_dot_x",
)  # fmt: skip
COLUMNS = CODE_COLUMNS + RECONSTRUCTION_COLUMNS


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

    ``starts`` [n_rows + 1] says where in ``x`` each row begins, and where the last ends; ``fold``
    [N] is the index, modulo the number of folds, of the row that each belongs to, among all rows;
    ``place`` [N] is the index of each position among those of all rows, where examples are kept.
    """

    x: Tensor
    starts: Tensor
    fold: Tensor
    place: Tensor | None = None


class _Active(NamedTuple):
    """Codes that are not zero, by token and feature, in order. [n] each"""

    token: Tensor
    feature: Tensor
    value: Tensor


class Autoencoding:
    """Accumulates the sums of one autoencoder over batches of activations.

    Attributes:
        sums: sums per row, by column of :data:`COLUMNS`, on the device.
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
        compiled: bool = False,
        n_examples: int = 0,
    ) -> None:
        self.sae = sae.to(device, dtype)
        self.sums = RowSums(COLUMNS, n_rows, device)
        self.features = FeatureSums(sae.d_sae, device)
        self.examples = StrongestExamples(sae.d_sae, n_examples, device) if n_examples else None
        self._norms = sae.W_dec.float().norm(dim=1)
        self._sizes = sizes or Sizes.of(device)
        self._encode = compiled_encoder(self.sae) if compiled else self._encode_eagerly

    @torch.inference_mode()
    def reconstruct(self, given: Activations, first_row: int) -> Tensor:
        """Reconstruct the activations of rows from ``first_row`` on, and add up their statistics.

        Returns:
            x_hat, in the dtype of the activations. [N, d_in]
        """
        sae = self.sae
        x = given.x.to(sae.W_dec.dtype)
        normalised = sae.normalise(x)
        size = max(1, self._sizes.codes // sae.d_sae)
        z_hat, pending, n_pending = [], [], 0
        for i, z in enumerate(normalised.z.split(size)):
            codes = self._encode(z)
            active = _active(codes)
            z_hat.append(self._decode(codes, active))
            pending.append(active._replace(token=active.token + i * size))
            n_pending += len(active.value)
            if n_pending > self._sizes.active:
                self._add_codes(_joined(pending), given, normalised.scale, first_row)
                pending, n_pending = [], 0
        if pending:
            self._add_codes(_joined(pending), given, normalised.scale, first_row)
        x_hat = normalised.restore(torch.cat(z_hat))
        columns = _reconstruction_columns(x.float(), x_hat.float())
        self.sums.add(RECONSTRUCTION_COLUMNS, first_row, by_row(columns, given.starts))
        self.features.count_tokens(given.fold)
        return x_hat.to(given.x.dtype)

    def _encode_eagerly(self, z: Tensor) -> Tensor:
        return self.sae.activate(self.sae.pre_activation(z))

    def _decode(self, codes: Tensor, active: _Active) -> Tensor:
        """Codes [n, d_sae], given also as the active ones among them, decoded. [n, d_in]"""
        sae = self.sae
        if len(active.value) > self._sizes.dense_above * codes.numel():
            return sae.decode_normalised(codes)
        bags = torch.arange(len(codes), device=codes.device)
        return sae.b_dec + torch.nn.functional.embedding_bag(
            active.feature,
            sae.W_dec,
            torch.searchsorted(active.token, bags),
            mode="sum",
            per_sample_weights=active.value,
        )

    def _add_codes(
        self, active: _Active, given: Activations, scale: Tensor | None, first_row: int
    ) -> None:
        size = active.value.float().abs()
        weighted = size * self._norms.index_select(0, active.feature)
        if scale is not None:
            weighted = weighted * scale[:, 0].index_select(0, active.token)
        starts = torch.searchsorted(active.token, given.starts)
        norms = by_row(torch.stack((weighted, size, weighted.sqrt(), size.sqrt()), 1), starts)
        self.sums.add(CODE_COLUMNS, first_row, torch.cat([starts.diff()[None].double(), norms]))
        fold = given.fold.index_select(0, active.token)
        self.features.add(active.feature, active.value, fold)
        if self.examples is not None and given.place is not None:
            self.examples.add(active.feature, active.value, active.token, given.place)


def _reconstruction_columns(x: Tensor, x_hat: Tensor) -> Tensor:
    """The values of :data:`RECONSTRUCTION_COLUMNS` per position. [N, n_columns]"""
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
    return torch.stack(columns, 1)


def by_row(columns: Tensor, starts: Tensor) -> Tensor:
    """Sums in float64 over consecutive stretches. [n, k], [n_rows + 1] -> [k, n_rows]"""
    return torch.segment_reduce(
        columns.double(), "sum", lengths=starts.diff(), axis=0, unsafe=True
    ).T


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0 (an activation or reconstruction of zero)."""
    return torch.where(denominator == 0, 0, numerator / denominator)


def _active(codes: Tensor) -> _Active:
    """The codes [n, d_sae] that are not zero."""
    fired = codes.bool()
    if codes.is_cuda:
        token, feature = fired.nonzero(as_tuple=True)
        return _Active(token, feature, codes[token, feature])
    flat = torch.from_numpy(np.flatnonzero(fired.numpy()))
    token = torch.div(flat, codes.shape[1], rounding_mode="floor")
    return _Active(token, flat - token * codes.shape[1], codes.view(-1).index_select(0, flat))


def _joined(parts: list[_Active]) -> _Active:
    return parts[0] if len(parts) == 1 else _Active(*map(torch.cat, zip(*parts, strict=True)))
