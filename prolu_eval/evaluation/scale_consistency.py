"""How much an autoencoder violates scale consistency on real activations.

The write-up's three desiderata use f(v) = encode(v + b_dec), in the units of the weights, where
v = z - b_dec for a normalised activation z (v = z if b_dec is not subtracted from the input):

1. additivity: f_i(v1) > 0 and f_i(v2) > 0 imply f_i(v1) + f_i(v2) = f_i(v1 + v2);
2. homogeneity: f_i(v) > 0 and k > 1 imply f_i(k v) = k f_i(v);
3. threshold: b_i < 0 implies that some eta > 0 has f_i(eta v) = 0 and f_i((eta + e) v) > 0 for
   every e > 0.

They are measured on pairs of activations of one sequence, as sums over active features, so that
these metrics are ratios of per-sequence sums like all others.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.lm import ActivationSource
from prolu_eval.metrics import CONSISTENCY_COLUMNS
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows

# Number of sequences from which a pair of activations is taken.
N_PAIRS = 128
FACTORS = (1.25, 2.0, 4.0)
# Scales at which responses are computed; the first stands for an arbitrarily small scale.
_SCALES = (1e-9, *(2.0 ** (i / 2) for i in range(-12, 5)))
N_CURVES = 8
CURVE_SCALES = tuple(i / 20 for i in range(41))
_SEED = 0
_ROWS_AT_ONCE = 8


class Pairs(NamedTuple):
    """The places of pairs of activations: rows [n], and two counted positions of each [n, 2]."""

    row: Tensor
    position: Tensor


class Sample(NamedTuple):
    """Pairs of activations in the model's units, and their rows.

    ``row`` [n] int64; ``first`` and ``second`` [n, d_in].
    """

    row: Tensor
    first: Tensor
    second: Tensor


def draw_pairs(tokens: TokenRows) -> Pairs:
    """Rows that are evenly spread over the tokens, and two random positions in each, seeded.

    Rows with fewer than two counted positions are left out.
    """
    eligible = (tokens.counted.sum(1) > 1).nonzero()[:, 0]
    n = min(N_PAIRS, len(eligible))
    row = eligible[torch.arange(n) * len(eligible) // max(n, 1)]
    if n == 0:
        return Pairs(row, row.new_empty(0, 2))
    generator = torch.Generator().manual_seed(_SEED)
    return Pairs(row, torch.multinomial(tokens.counted[row].float(), 2, generator=generator))


def sample(model: ActivationSource, hook: str, tokens: TokenRows) -> Sample:
    """Activations of :func:`draw_pairs` at a hook point, in float32."""
    row, position = draw_pairs(tokens)
    parts = [torch.empty(0, 2, model.width(hook), device=model.device)]
    for start in range(0, len(row), _ROWS_AT_ONCE):
        rows, positions = (part[start : start + _ROWS_AT_ONCE] for part in (row, position))
        found = model.activations(tokens.ids[rows].to(model.device), hook)
        parts.append(found[torch.arange(len(rows))[:, None], positions].float())
    first, second = torch.cat(parts).unbind(1)
    return Sample(row, first, second)


def sums_and_curves(
    sae: SparseAutoencoder, pairs: Sample, n_rows: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[Any]]]:
    """Violations summed per row [n_rows], by column, and the arrays of response curves, by name.

    The autoencoder is moved to the sample's device and to float32, and stays there.
    """
    sae = sae.to(pairs.first.device, torch.float32)
    sums = {}
    for column, values in violations(sae, pairs.first, pairs.second).items():
        of_row = np.zeros(n_rows)
        of_row[pairs.row.numpy()] = values.cpu().numpy()
        sums[column] = of_row
    curves = response_curves(sae, pairs.first)
    return sums, {name: value.numpy() for name, value in curves._asdict().items()}


@torch.inference_mode()
def violations(sae: SparseAutoencoder, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Sums over features for pairs of activations in the model's units, by column.

    Args:
        sae: the autoencoder.
        first: the first activation of each pair. [n, d_in]
        second: the second activation of each pair. [n, d_in]

    Returns:
        By column: the magnitudes of the expected responses and of the differences from them, summed
        over features (and factors) with the norms of decoder rows as weights, so that rescaling
        features changes nothing; the number of active features that need a threshold, and the
        number of those that have none. [n] float64 each
    """
    norms = sae.W_dec.norm(dim=1)
    v, w = _centred(sae, first), _centred(sae, second)
    f, g = _respond(sae, v), _respond(sae, w)
    both = (f > 0) & (g > 0)
    expected = (f + g) * both * norms
    gap = (_respond(sae, v + w) - f - g).abs() * both * norms
    sums = {"additivity_gap": gap, "additivity_size": expected}
    scaled = [(_respond(sae, k * v) - k * f).abs() for k in FACTORS]
    sums["homogeneity_gap"] = torch.stack(scaled).sum(0) * (f > 0) * norms
    sums["homogeneity_size"] = sum(FACTORS) * f * (f > 0) * norms
    needed = (f > 0) & _below_zero(sae)
    sums["threshold_needed"] = needed
    sums["threshold_missing"] = needed & ~_has_threshold(sae, v)
    return {column: sums[column].double().sum(-1) for column in CONSISTENCY_COLUMNS}


def _centred(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    z = sae.normalise(x.to(sae.W_dec.dtype)).z
    return z - sae.b_dec if sae.apply_b_dec_to_input else z


def _respond(sae: SparseAutoencoder, v: Tensor) -> Tensor:
    """The response f(v). [..., d_in] -> [..., d_sae]"""
    return sae.activate(sae.pre_activation(v + sae.b_dec if sae.apply_b_dec_to_input else v))


def _below_zero(sae: SparseAutoencoder) -> Tensor:
    """The features that need a threshold, which are those with a negative bias. [d_sae]"""
    bias = sae.encoder_bias()
    return sae.effective_threshold() > 0 if bias is None else bias < 0


def _has_threshold(sae: SparseAutoencoder, v: Tensor) -> Tensor:
    """Whether each feature's responses to growing multiples of v have a threshold. [n, d_sae]

    They have one if the response is zero at the smallest scale, positive at the largest, and stays
    positive once it is positive.
    """
    on = torch.zeros(len(v), sae.d_sae, dtype=torch.bool, device=v.device)
    holds = _respond(sae, _SCALES[0] * v) == 0
    for scale in _SCALES[1:]:
        now = _respond(sae, scale * v) > 0
        holds &= now | ~on
        on |= now
    return holds & on


class ResponseCurves(NamedTuple):
    """Responses of some features to multiples of an activation on which they fire.

    Attributes:
        features: the indices of the features. [n_curves] int64
        scales: the multiples of v. [n_scales] float32
        activations: f_i(k v) for each feature's own v. [n_curves, n_scales] float32
        pre_activations: (v W_enc)_i, the response at k = 1 of a feature without bias. [n_curves]
    """

    features: Tensor
    scales: Tensor
    activations: Tensor
    pre_activations: Tensor


@torch.inference_mode()
def response_curves(sae: SparseAutoencoder, x: Tensor) -> ResponseCurves:
    """Response curves of features that fire on x [n, d_in], evenly chosen in order of frequency.

    For each feature, v is the activation of x on which it fires most strongly.
    """
    v = _centred(sae, x)
    codes = _respond(sae, v)
    count = (codes > 0).sum(0)
    order = torch.argsort(count, stable=True)[int((count == 0).sum()) :].flip(0)
    n = min(N_CURVES, len(order))
    features = order[torch.arange(n, device=order.device) * len(order) // max(n, 1)]
    chosen = v[codes[:, features].argmax(0)] if n else v[:0]  # without x, none fires
    scales = torch.tensor(CURVE_SCALES, device=v.device, dtype=v.dtype)
    responses = [_respond(sae, k * chosen).gather(1, features[:, None]) for k in scales]
    plain = sae.pre_activation(chosen + sae.b_dec if sae.apply_b_dec_to_input else chosen)
    return ResponseCurves(
        features.cpu(),
        scales.float().cpu(),
        torch.cat(responses, 1).float().cpu(),
        plain.gather(1, features[:, None])[:, 0].float().cpu(),
    )
