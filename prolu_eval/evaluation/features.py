"""Per-feature statistics, and the scalar metrics that are computed from them.

Firing is counted separately in :data:`FOLDS` interleaved sets of sequences. A delete-a-group
jackknife over these sets gives the standard errors of the fractions of dead and dense features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.dictionaries.geometry import effective_rank, nth_projection, overlap
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import with_interval
from prolu_eval.saes import SparseAutoencoder

Statistic = Callable[[NDArray[Any]], float]

FOLDS = 20
DENSE_RATE = 0.1
_SUMS = ("fired", "total", "largest", "tokens")


class FeatureSums:
    """Sums over evaluated tokens for each feature; instances over disjoint tokens can be added."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.fired = torch.zeros(FOLDS, d_sae, dtype=torch.int64, device=device)
        self.total = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.largest = torch.full((d_sae,), -torch.inf, dtype=torch.float32, device=device)
        self.tokens = torch.zeros(FOLDS, dtype=torch.int64, device=device)
        self._one = torch.ones(1, dtype=torch.int64, device=device)

    def count_tokens(self, fold: Tensor) -> None:
        """Count evaluated tokens, each given by the fold of its sequence. [N] int64"""
        self.tokens.index_add_(0, fold, self._one.expand(len(fold)))

    def add(self, feature: Tensor, value: Tensor, fold: Tensor) -> None:
        """Add active codes, given by feature, value and fold of the sequence. [n_active] each"""
        fold_and_feature = fold * len(self.total) + feature
        self.fired.view(-1).index_add_(0, fold_and_feature, self._one.expand(len(fold)))
        self.total.index_add_(0, feature, value.double())
        self.largest.scatter_reduce_(0, feature, value.float(), "amax")

    def stored(self) -> dict[str, NDArray[np.generic]]:
        """The sums as arrays for a file."""
        return {name: getattr(self, name).cpu().numpy() for name in _SUMS}

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "FeatureSums":
        """The sums from the arrays of :meth:`stored`, on the CPU."""
        sums = cls(len(arrays["total"]), torch.device("cpu"))
        for name in _SUMS:
            setattr(sums, name, torch.from_numpy(arrays[name]))
        return sums

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        both = FeatureSums(len(self.total), self.total.device)
        both.fired, both.total = self.fired + other.fired, self.total + other.total
        both.tokens = self.tokens + other.tokens
        both.largest = torch.maximum(self.largest, other.largest)
        return both

    def scalars(self) -> dict[str, Estimate]:
        """Fractions of dead and of dense features, with jackknifed standard errors."""
        fired, tokens = self.fired.cpu().numpy(), self.tokens.cpu().numpy()
        used = tokens > 0
        counts = np.column_stack([tokens, fired])[used]
        return {
            "dead_fraction": jackknife(counts, lambda n: float((n[1:] == 0).mean())),
            "dense_fraction": jackknife(
                counts, lambda n: float((n[1:] / n[0] > DENSE_RATE).mean())
            ),
        }

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Firing rate, mean when active, and maximum (NaN if never active). [d_sae] each"""
        fired = self.fired.sum(0)
        never = fired == 0
        values = {
            "firing_rate": fired / self.tokens.sum(),
            "mean_when_active": torch.where(never, torch.nan, self.total / fired),
            "max": torch.where(never, torch.nan, self.largest),
        }
        return {name: value.float().cpu().numpy() for name, value in values.items()}


def jackknife(sums: NDArray[Any], statistic: Statistic) -> Estimate:
    """A statistic of sums over folds, with its delete-a-group jackknife standard error.

    Args:
        sums: the sums of each fold. [n_folds, ...]
        statistic: a function of the folds' total. [...] -> float
    """
    total, folds = sums.sum(0), len(sums)
    value = statistic(total)
    if folds < 2:
        return with_interval(value, np.nan, 0)
    left_out = np.array([statistic(total - of_fold) for of_fold in sums])
    spread = np.sqrt((folds - 1) / folds * np.square(left_out - left_out.mean()).sum())
    return with_interval(value, float(spread), folds - 1)


def exact(value: float) -> Estimate:
    """An estimate without sampling error."""
    return with_interval(value, 0.0, 1)


def weight_arrays(sae: SparseAutoencoder) -> dict[str, NDArray[np.float32]]:
    """The per-feature arrays that depend on the weights alone. [d_sae] each

    They are the encoder bias, the effective threshold, and, as ``alignment``, the cosine of each
    feature's encoder column and decoder row (NaN if either is zero). There is no alignment for a
    transcoder, whose column and row are in different spaces, or for autoencoders of several sites,
    which have a column and a row for each site.
    """
    bias = sae.encoder_bias()
    arrays = {"effective_threshold": sae.effective_threshold()}
    if not sae.transcodes and "W_dec" in dict(sae.named_parameters()):
        encoder, decoder = sae.W_enc.T, sae.W_dec
        norms = encoder.norm(dim=1) * decoder.norm(dim=1)
        cosine = (encoder * decoder).sum(1) / torch.where(norms > 0, norms, torch.nan)
        arrays["alignment"] = cosine
    if bias is not None:
        arrays["bias"] = bias
    return {name: value.detach().float().cpu().numpy() for name, value in arrays.items()}


def weight_scalars(sae: SparseAutoencoder) -> dict[str, Estimate]:
    """Metrics of the weights, without sampling error: signs of biases, geometry of decoder rows."""
    bias = sae.encoder_bias()
    share = np.nan if bias is None else float((bias < 0).double().mean())
    return {"bias_negative_fraction": exact(share), **_geometry(sae)}


def _geometry(sae: SparseAutoencoder) -> dict[str, Estimate]:
    """Metrics of the decoder rows' geometry; none for autoencoders of several layers."""
    decoder = dict(sae.named_parameters()).get("W_dec")
    if decoder is None:
        return {}
    lie, alignment = overlap(decoder), weight_arrays(sae).get("alignment")
    known = {
        "decoder_cosine": lie.mean,
        "decoder_cosine_nearest": lie.nearest,
        "decoder_cosine_median": lie.quantile(0.5),
        "decoder_cosine_p99": lie.quantile(0.99),
        "effective_rank": effective_rank(decoder),
        "encoder_alignment": np.nan if alignment is None else float(_mean(alignment)),
    }
    return {key: exact(value) for key, value in known.items()}


def projection_scalar(sae: SparseAutoencoder, first: Tensor, second: Tensor) -> Estimate:
    """The n-th decoder projection, from one pair of activations per sequence. [n, d_in] each

    It is undefined for a transcoder, whose decoder writes to another site than it reads.
    """
    if sae.transcodes or not len(first):
        return Estimate(value=None)
    rows = sae.W_dec.detach().to(first.device)
    centred = (sae.normalise(x).z - sae.b_dec for x in (first, second))
    values = torch.stack([nth_projection(rows, x) for x in centred]).double().mean(0)
    known = values[values.isfinite()].cpu().numpy()
    if not len(known):
        return Estimate(value=None)
    n = len(known)
    spread = known.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return with_interval(float(known.mean()), float(spread), n - 1)


def _mean(values: NDArray[np.float32]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
