"""Chance baselines that are computed from a sample of activations instead of trained."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prolu_eval.saes import VARIANTS, SparseAutoencoder
from prolu_eval.training.baselines import FITTED
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.initial import initialise, measure_statistics

_ITERATIONS = 10
# Number of activations whose projections on all centres are in memory at one time.
_ROWS = 4096


def fit(plans: Sequence[Plan], x: Tensor, shared: Shared) -> Iterator[SparseAutoencoder]:
    """The autoencoder of each plan, in the model's units.

    With principal components, a code has a token's k coordinates of largest magnitude along them.
    With cluster centres, codes come from matching pursuit with k steps; with one step that is the
    nearest centre times the projection on it. The untrained autoencoder keeps the k largest
    projections on the random directions from which trainings start.

    Args:
        plans: plans of baselines that are computed.
        x: activations, normalised as the autoencoders will normalise them. [n, d_in]
        shared: the settings of the sweep.
    """
    dictionaries: dict[tuple[str, int], Tensor] = {}
    centre = x.mean(0).cpu()
    d_in = x.shape[1]
    for plan in plans:
        kind = plan.sweep.chance
        if kind is None:
            raise ValueError(f"{plan.name} is no chance baseline")
        d_sae = shared.dictionary_size(d_in)
        if (kind, plan.seed) not in dictionaries and kind != "untrained":
            rows = principal_components(x, d_sae) if kind == "pca" else _clustered(x, d_sae, plan)
            dictionaries[kind, plan.seed] = rows.cpu()
        k = FITTED[kind].k(int(plan.value), d_in, d_sae)
        if kind == "untrained":
            yield _untrained(plan, x, k, shared)
            continue
        rows = dictionaries[kind, plan.seed]
        sae = _empty(plan, d_in, len(rows), k, shared)
        with torch.no_grad():
            sae.W_dec.copy_(rows)
            sae.b_dec.copy_(centre)
            if "W_enc" in sae.shapes():
                sae.W_enc.copy_(rows.T)
        yield sae


def principal_components(x: Tensor, n: int) -> Tensor:
    """The n directions of largest variance, in decreasing order; fewer if x has fewer. [n, d_in]"""
    centred = (x - x.mean(0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    rows: Tensor = vectors.flip(1).T[:n]
    return rows.float()


def cluster_directions(x: Tensor, n: int, seed: int) -> Tensor:
    """Centres of norm one by gain-shape k-means: directions near which many activations lie.

    Each activation belongs to the centre on which its projection is largest. Each centre becomes
    the direction of the sum of its activations, weighted by their projections (Coates and Ng,
    Learning feature representations with k-means, 2012). A centre without activations restarts at a
    randomly drawn activation. Ten iterations start from randomly drawn activations.

    Args:
        x: activations minus their mean. [N, d_in]
        n: the number of centres.
        seed: the seed of the random draws.

    Returns:
        The centres. [n, d_in]
    """
    generator = torch.Generator().manual_seed(seed)
    centres = _drawn(x, n, generator)
    for _ in range(_ITERATIONS):
        sums = torch.zeros_like(centres)
        for part in x.split(_ROWS):
            value, which = (part @ centres.T).max(1)
            sums.index_add_(0, which, value.clamp(min=0)[:, None] * part)
        norms = sums.norm(dim=1, keepdim=True)
        empty = norms[:, 0] <= 0
        centres = sums / norms.clamp(min=torch.finfo(norms.dtype).tiny)
        centres[empty] = _drawn(x, int(empty.sum()), generator)
    return centres


def _drawn(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Directions of randomly drawn activations, without repeats if there are enough. [n, d_in]"""
    rounds = [torch.randperm(len(x), generator=generator) for _ in range(-(-n // len(x)))]
    which = torch.cat([*rounds, torch.empty(0, dtype=torch.int64)])[:n]
    rows = x[which.to(x.device)]
    return torch.nn.functional.normalize(rows, dim=1)


def _clustered(x: Tensor, d_sae: int, plan: Plan) -> Tensor:
    return cluster_directions(x - x.mean(0), d_sae, plan.seed)


def _untrained(plan: Plan, x: Tensor, k: int, shared: Shared) -> SparseAutoencoder:
    sae = _empty(plan, x.shape[1], shared.dictionary_size(x.shape[1]), k, shared)
    statistics = measure_statistics(x, shared)
    initialise(sae, plan.seed, statistics, shared.b_enc_init)
    with torch.no_grad():
        for bias in (sae.b_dec, sae.b_enc):  # which are in training units
            bias /= statistics.scale
    return sae


def _empty(plan: Plan, d_in: int, d_sae: int, k: int, shared: Shared) -> SparseAutoencoder:
    cls = VARIANTS[plan.sweep.variant]
    own = {"k": k}
    if "k" not in cls.Options.model_fields:
        own = {"max_iterations": k, "stop_on_duplicate_support": False}
    options = cls.Options.model_validate(own)
    return cls(d_in, d_sae, options, normalisation=shared.sae_normalisation)
