"""How well an autoencoder recovers a benchmark's known features.

Decoder rows are matched one to one with the true directions, so that the sum of absolute cosines is
largest. The activations of a matched latent are then compared with its feature's known magnitudes,
on each sample. A latent's *recovered magnitude* of its feature is the component of its output along
the feature's direction, ``a_j W_dec_j . d_i``, in the units of the activations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.dictionaries.matching import one_to_one
from prolu_eval.estimates import Estimate
from prolu_eval.evaluation.autoencoding import by_row
from prolu_eval.evaluation.features import FOLDS, FeatureSums, exact, jackknife
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.synthetic import Samples, SyntheticActivations
from prolu_eval.tokens import TokenRows

Array = NDArray[np.float64]

COLUMNS = (
    "true_positives", "matched_firing", "true_active", "absorbed", "absorbable",
)  # fmt: skip
# The cosine from which a feature counts as recovered, and the cosine from which a latent counts as
# a latent of its nearest feature.
RECOVERED, ALIKE = 0.9, 0.7
# A latent absorbs its feature's parent if its cosine with the parent's direction exceeds that of
# its feature by more than this.
_ABSORBED = 0.2
# A feature's slope needs at least so many samples in which the feature and its latent are active.
_LEAST = 30
_SAMPLES, _ORACLE_SAMPLES = 8192, 16_384
_THRESHOLDS = 24
_SEED = 0


class Found(NamedTuple):
    """Sums per row by column [n_rows], scalar metrics, and arrays by name."""

    by_row: dict[str, Array]
    scalars: dict[str, Estimate]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Match:
    """The matching of latents and features.

    Attributes:
        latent: the latent of each feature, -1 for none. [n_true] int64
        cosine: each feature's cosine with its latent, 0 for none. [n_true]
        nearest: the feature nearest to each latent. [d_sae] int64
        nearest_cosine: each latent's absolute cosine with its nearest feature. [d_sae]
    """

    latent: NDArray[np.int64]
    cosine: Array
    nearest: NDArray[np.int64]
    nearest_cosine: Array

    @classmethod
    def of(cls, directions: Array, rows: Array) -> "Match":
        """Match true directions [n_true, d] with decoder rows [d_sae, d] of any norm and sign."""
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = directions @ np.divide(rows, norms, where=norms > 0, out=np.zeros_like(rows)).T
        alike = np.abs(cosines)
        latent = one_to_one(alike)
        cosine = np.where(latent >= 0, cosines[np.arange(len(latent)), latent], 0)
        return cls(latent, cosine, alike.argmax(0), alike.max(0))

    @property
    def mcc(self) -> float:
        """The mean absolute cosine of matched pairs (as in arXiv 2602.14687)."""
        return float(np.abs(self.cosine[self.latent >= 0]).mean())


@dataclass
class Sums:
    """Sums over samples, for each fold of rows separately, and per row.

    In ``of_features`` [FOLDS, len(NAMES), n_true], t is the true magnitude and r the recovered one,
    over samples in which both the feature and its latent are active; ``all_t`` is over samples in
    which the feature is active.
    """

    NAMES = ("both", "t", "r", "tt", "rr", "tr", "active", "all_t", "all_tt", "fired")

    of_features: Array
    by_row: dict[str, list[Array]] = field(default_factory=lambda: {c: [] for c in COLUMNS})


class Truth:
    """Measures how well autoencoders recover a benchmark's features, on rows of samples.

    Args:
        model: the benchmark.
        rows: the indices of samples; each row takes the place of a sequence.
    """

    def __init__(self, model: SyntheticActivations, rows: TokenRows) -> None:
        self._model, self._rows = model, rows
        self._known = model.dictionary
        self._oracle = {f"oracle_{name}": values for name, values in self._frontier().items()}

    def of(self, sae: SparseAutoencoder, features: FeatureSums) -> Found:
        """The recovery by an autoencoder; ``features`` are its sums over the same rows.

        The autoencoder is moved to the benchmark's device and to float32, and stays there.
        """
        sae = sae.to(self._model.device, torch.float32)
        decoder = sae.W_dec.detach().cpu().double().numpy()
        match = Match.of(self._known.directions, decoder)
        sums = self._sums(sae, decoder, match)
        of_features = sums.of_features
        used = of_features[features.tokens.cpu().numpy() > 0]
        per_feature = _per_feature(of_features.sum(0))
        recovered = np.abs(match.cosine) >= RECOVERED
        fired = features.fired.sum(0).cpu().numpy() > 0
        scalars = {
            "mcc": exact(match.mcc),
            "mcc_chance": exact(self._chance(sae.d_sae)),
            "recovered_fraction": exact(float(recovered.mean())),
            "splitting": exact(_split(match, fired)),
            "spurious_fraction": _spurious(match, features),
            "feature_f1_macro": jackknife(used, lambda s: float(np.nanmean(_per_feature(s)["f1"]))),
        }
        steady = recovered & (of_features.sum(0)[Sums.NAMES.index("both")] >= _LEAST)
        for name in ("slope", "intercept", "r2"):
            scalars[f"magnitude_{name}"] = jackknife(used, _mean_of(name, steady))
        return Found(
            {column: np.concatenate(parts) for column, parts in sums.by_row.items()},
            scalars,
            {
                **self._oracle,
                **{name: values.astype(np.float32) for name, values in per_feature.items()},
                "latent": match.latent,
                "cosine": match.cosine.astype(np.float32),
                "nearest": match.nearest,
                "nearest_cosine": match.nearest_cosine.astype(np.float32),
                "firing_probability": self._known.firing_probability.astype(np.float32),
                "parent": self._known.parent,
            },
        )

    def _chance(self, d_sae: int) -> float:
        """The MCC of a random dictionary of the same shape."""
        rng = np.random.default_rng(_SEED)
        rows = rng.standard_normal((d_sae, self._model.benchmark.d_in))
        return Match.of(self._known.directions, rows).mcc

    def _batches(self, most: int | None = None) -> Iterator[tuple[range, Samples]]:
        length = self._rows.ids.shape[1]
        size = max(1, _SAMPLES // length)
        n_rows = len(self._rows) if most is None else min(len(self._rows), -(-most // length))
        for start in range(0, n_rows, size):
            rows = range(start, min(start + size, n_rows))
            yield rows, self._model.samples(self._rows.ids[rows.start : rows.stop])

    @torch.inference_mode()
    def _sums(self, sae: SparseAutoencoder, decoder: Array, match: Match) -> Sums:
        device, length = self._model.device, self._rows.ids.shape[1]
        n_true = len(match.latent)
        has = torch.from_numpy(match.latent >= 0).to(device)
        latent = torch.from_numpy(match.latent).clamp(min=0).to(device)
        written = (decoder[match.latent] * self._known.directions).sum(1)
        along = torch.from_numpy(written).to(device).float() * has
        absorption = _Absorption(self._known.directions, self._known.parent, decoder, match, device)
        sums = Sums(np.zeros((FOLDS, len(Sums.NAMES), n_true)))
        for rows, (x, true) in self._batches():
            normalised = sae.normalise(x)
            codes = sae.activate(sae.pre_activation(normalised.z)).index_select(1, latent)
            recovered = codes * along
            if normalised.scale is not None:
                recovered = recovered * normalised.scale
            fires, active = (codes != 0) & has, true > 0
            both = fires & active
            starts = torch.arange(len(rows) + 1, device=device) * length
            counts = [both.sum(1), fires.sum(1), active.sum(1), *absorption.counts(active, fires)]
            for column, values in zip(COLUMNS, by_row(torch.stack(counts), starts), strict=True):
                sums.by_row[column].append(values.cpu().numpy())
            t, r = (torch.where(both, values, 0).double() for values in (true, recovered))
            every = true.double()
            parts = (both, t, r, t * t, r * r, t * r, active, every, every * every, fires)
            fold = torch.arange(rows.start, rows.stop, device=device).repeat_interleave(length)
            for i, part in enumerate(parts):
                total = torch.zeros(FOLDS, n_true, dtype=torch.float64, device=device)
                total.index_add_(0, fold % FOLDS, part.double())
                sums.of_features[:, i] += total.cpu().numpy()
        return sums

    def _frontier(self) -> dict[str, Array]:
        """L0 and error of an oracle that knows the true codes and keeps the largest of them.

        Codes that it does not keep are replaced by their mean. The first threshold keeps all codes.
        [n_thresholds] each
        """
        parts = [samples for _, samples in self._batches(_ORACLE_SAMPLES)]
        x, true = (torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True))
        deviation = float(np.square(x - x.mean(0)).sum(1).mean())
        magnitudes = true[true > 0]
        levels = np.quantile(magnitudes, np.linspace(0, 1, _THRESHOLDS)) if magnitudes.size else []
        found = []
        for level in [0.0, *levels]:
            kept = np.where(true > level, true, 0)
            left = x - kept @ self._known.directions
            error = float(np.square(left - left.mean(0)).sum(1).mean())
            found.append(((kept > 0).sum(1).mean(), error, error / deviation))
        columns = np.array(found).T.copy()
        return dict(zip(("l0", "mse", "nmse"), columns, strict=True))


class _Absorption:
    """Detects absorption: a parent's latent is silent, and a child's latent contains the parent."""

    def __init__(
        self,
        directions: Array,
        parent: NDArray[np.int64],
        decoder: Array,
        match: Match,
        device: torch.device,
    ) -> None:
        child = np.flatnonzero((parent >= 0) & (match.latent >= 0))
        child = child[match.latent[parent[child]] >= 0]
        rows = decoder[match.latent[child]] * np.sign(match.cosine[child])[:, None]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        of_parent = directions[parent[child]]
        extra = (rows * of_parent).sum(1) - (directions[child] * of_parent).sum(1)
        self._child = torch.from_numpy(child).to(device)
        self._parent = torch.from_numpy(parent[child]).to(device)
        self._absorbs = torch.from_numpy(extra >= _ABSORBED).to(device)

    def counts(self, active: Tensor, fires: Tensor) -> tuple[Tensor, Tensor]:
        """The number of absorbed parents, and the number that could be absorbed. [n] each

        Args:
            active: which features are active. [n, n_true] bool
            fires: which features' latents are active. [n, n_true] bool
        """
        there = active[:, self._child]
        spoken = there & fires[:, self._child] & self._absorbs
        could, does = (self._by_parent(part, active.shape) for part in (there, spoken))
        return (does & ~fires).sum(1), could.sum(1)

    def _by_parent(self, of_child: Tensor, shape: torch.Size) -> Tensor:
        counts = torch.zeros(shape, dtype=torch.int64, device=of_child.device)
        return counts.index_add_(1, self._parent, of_child.long()) > 0


def _per_feature(sums: Array) -> dict[str, Array]:
    """The metrics of each feature, from its sums [len(NAMES), n_true]; NaN where undefined."""
    s = dict(zip(Sums.NAMES, sums, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = s["tt"] - s["t"] ** 2 / s["both"]
        slope = (s["tr"] - s["t"] * s["r"] / s["both"]) / variance
        intercept = (s["r"] - slope * s["t"]) / s["both"]
        # A latent that is silent where its feature is active recovers nothing of it.
        error = s["rr"] - 2 * s["tr"] + s["all_tt"]
        spread = s["all_tt"] - s["all_t"] ** 2 / s["active"]
        found = {
            "precision": s["both"] / s["fired"],
            "recall": s["both"] / s["active"],
            "f1": np.where(s["active"] > 0, 2 * s["both"] / (s["fired"] + s["active"]), np.nan),
            "slope": slope,
            "intercept": intercept / (s["all_t"] / s["active"]),
            "r2": 1 - error / spread,
        }
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in found.items()}


def _mean_of(name: str, chosen: NDArray[np.bool_]) -> Callable[[Array], float]:
    def mean(sums: Array) -> float:
        values = _per_feature(sums)[name][chosen]
        return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan

    return mean


def _split(match: Match, fired: NDArray[np.bool_]) -> float:
    """The fraction of features that have two or more latents."""
    standing = match.nearest[fired & (match.nearest_cosine >= ALIKE)]
    return float((np.bincount(standing, minlength=len(match.latent)) > 1).mean())


def _spurious(match: Match, features: FeatureSums) -> Estimate:
    """The fraction of firing latents that are near no feature, with a jackknifed standard error."""
    alone = match.nearest_cosine < ALIKE

    def fraction(fired: Array) -> float:
        lives = fired > 0
        return float(alone[lives].mean()) if lives.any() else np.nan

    used = features.tokens.cpu().numpy() > 0
    return jackknife(features.fired.cpu().numpy()[used], fraction)
