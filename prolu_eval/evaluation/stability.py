"""Do trainings that differ only in the seed find the same features?

The decoder rows of every two such trainings are matched one to one by cosine
(:func:`prolu_eval.dictionaries.matching.match`). Random dictionaries of the same shape are matched
in the same way, to show the result of chance. A feature's *stability* is its mean matched cosine
over the other seeds.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.checkpoints import discover_all, load_run
from prolu_eval.devices import default_device
from prolu_eval.dictionaries import matching
from prolu_eval.dictionaries.matching import Matched, match, unit_rows
from prolu_eval.errors import CheckpointError, ProluEvalError, ResultsError
from prolu_eval.estimates import Estimate
from prolu_eval.evaluation.assembly import summary_of
from prolu_eval.evaluation.autoencoding import by_row
from prolu_eval.evaluation.conditions import conditions_of, placed
from prolu_eval.evaluation.measurer import Measurer
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.precisions import choose
from prolu_eval.evaluation.preparation import Preparation
from prolu_eval.intervals import estimate, with_interval
from prolu_eval.metrics import METRICS
from prolu_eval.runs import Broken, Run
from prolu_eval.saes import OF_SEVERAL_SITES, CrossLayerTranscoder, SparseAutoencoder

Array = NDArray[np.float32]

THRESHOLD = 0.7
_SEED = 0
# Variants whose features are active with either sign: a direction and its negative are the same.
_BOTH_SIGNS = ("tlin", "abstopk")
# In large random dictionaries, the number of features whose nearest feature is searched.
_CHANCE_FEATURES = 1024
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Chance:
    """The result for random dictionaries of the same shape.

    ``cosine`` is the mean over features, and ``found`` the fraction that reaches the threshold. For
    dictionaries of more than 4,096 features both are those of the nearest feature, which no
    matching can exceed.
    """

    cosine: float
    found: float


@dataclass(frozen=True)
class Kept:
    """Normalised MSE with all features, with only the stable ones, and with as many random ones."""

    whole: Estimate
    stable: Estimate
    random: Estimate


@dataclass(frozen=True)
class Stability:
    """How similar the features of one configuration's trainings are.

    Attributes:
        label: the variant.
        coefficient: the coefficient or k.
        runs: the names of its runs, one per seed.
        cosine: the mean cosine of matched features, over pairs of seeds.
        nearest: the mean cosine with the nearest feature, which may be nearest to several.
        found: the fraction of features whose match has a cosine of at least the threshold.
        chance: cosine and fraction for random dictionaries of the same shape.
        exact: whether the matchings are optimal; otherwise they are greedy.
        features: the stability of each feature, by run. [d_sae] each
        kept: the errors with only stable features, by run, if they were measured.
    """

    label: str
    coefficient: float | None
    runs: tuple[str, ...]
    cosine: Estimate
    nearest: Estimate
    found: Estimate
    chance: Chance
    exact: bool
    features: dict[str, Array]
    kept: dict[str, Kept] = field(default_factory=dict)


class Compared(NamedTuple):
    """The stability of each configuration, and the runs without one, with the reasons."""

    configurations: list[Stability]
    failed: list[Broken]


def stability(
    paths: Sequence[Path | str],
    options: EvaluationOptions | None = None,
    *,
    threshold: float = THRESHOLD,
    errors: bool = False,
    on_found: Callable[[Stability], Any] = lambda _: None,
) -> Compared:
    """Compare the features of runs that differ only in the seed.

    A run that cannot be read, or that has several decoders, is reported and does not stop the
    others.

    Args:
        paths: folders of runs.
        options: how errors are measured, and on which device.
        threshold: the cosine from which a feature counts as found again.
        errors: whether to measure errors with only stable features, which needs the model.
        on_found: a function that is called with each configuration's stability once it is known.

    Raises:
        CheckpointError: if a path holds no checkpoint.
        ResultsError: if no two comparable runs differ only in the seed.
    """
    options = options or EvaluationOptions()
    items = [_with_one_decoder(item) for item in discover_all(paths)]
    failed = [item for item in items if isinstance(item, Broken)]
    groups = _repeated([item for item in items if isinstance(item, Run)])
    if not groups and not failed:
        raise ResultsError(
            ", ".join(map(str, paths)), "has no two runs that differ only in the seed",
            "train with several seeds, as `seeds = [0, 1, 2]` in a sweep file does",
        )  # fmt: skip
    device = torch.device(options.device or default_device())
    chances: dict[tuple[int, int, bool], Chance] = {}
    preparation = Preparation(options)
    found = []
    for runs in groups:
        signs = runs[0].variant in _BOTH_SIGNS
        shape = runs[0].d_sae, runs[0].d_in, signs
        if shape not in chances:
            chances[shape] = chance(*shape[:2], threshold, absolute=signs, device=device)
        decoders = {}
        for run in runs:
            try:
                decoders[run.name] = load_run(run).W_dec.detach().to(device)
            except ProluEvalError as error:
                failed.append(Broken(run.name, run.path, error))
        if len(decoders) < 2:
            continue
        one = _of_runs(runs[0], decoders, threshold, chances[shape], absolute=signs)
        if errors:
            for run in (run for run in runs if run.name in decoders):
                stable = one.features[run.name] >= threshold
                one.kept[run.name] = _kept(run, stable, preparation, options)
        found.append(one)
        on_found(one)
    return Compared(found, failed)


def _with_one_decoder(item: Run | Broken) -> Run | Broken:
    """The checkpoint unchanged, or broken if it writes to several sites with a decoder for each."""
    if isinstance(item, Broken) or item.variant not in OF_SEVERAL_SITES:
        return item
    kind = (
        "cross-layer transcoder" if item.variant == CrossLayerTranscoder.variant else "crosscoder"
    )
    reason = f"is a {kind}, whose features have a direction at each of several sites"
    return Broken(item.name, item.path, CheckpointError(
        item.path, reason, "compare dictionaries of one site"
    ))  # fmt: skip


def _repeated(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs that differ only in the seed, with at least two seeds."""
    cells: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        summary = summary_of(run)
        if summary.is_repeatable:
            cells[repr(sorted(summary.configuration.items()))].setdefault(run.seed or 0, run)
    return [[cell[seed] for seed in sorted(cell)] for cell in cells.values() if len(cell) > 1]


def match_all(
    decoders: Mapping[str, Tensor], *, absolute: bool = False
) -> tuple[dict[tuple[str, str], Matched], dict[str, Array]]:
    """The matching of every two dictionaries, and each feature's mean cosine over the others.

    A feature without a match counts as cosine 0.

    Args:
        decoders: the decoders by name. [d_sae, d_in] each
        absolute: whether a direction and its negative are the same.
    """
    pairs = {}
    sums = {name: np.zeros(len(rows), np.float32) for name, rows in decoders.items()}
    for first, second in combinations(decoders, 2):
        found = match(decoders[first], decoders[second], absolute=absolute)
        pairs[first, second] = found
        there = found.column >= 0
        sums[first][there] += found.cosine[there]
        sums[second][found.column[there]] += found.cosine[there]
    n = np.float32(len(decoders) - 1)
    return pairs, {name: np.asarray(total / n, np.float32) for name, total in sums.items()}


def _of_runs(
    first: Run, decoders: Mapping[str, Tensor], threshold: float, by_chance: Chance,
    *, absolute: bool,
) -> Stability:  # fmt: skip
    pairs, features = match_all(decoders, absolute=absolute)
    names = list(decoders)
    cosines = {pair: np.nan_to_num(found.cosine) for pair, found in pairs.items()}
    k = first.options.get("k")
    return Stability(
        first.label,
        first.coefficient if k is None else k,
        tuple(names),
        _over_seeds(names, {pair: float(c.mean()) for pair, c in cosines.items()}),
        _over_seeds(names, {pair: float(m.nearest.mean()) for pair, m in pairs.items()}),
        _over_seeds(names, {p: float((c >= threshold).mean()) for p, c in cosines.items()}),
        by_chance,
        all(found.exact for found in pairs.values()),
        features,
    )


def _over_seeds(names: Sequence[str], values: Mapping[tuple[str, str], float]) -> Estimate:
    """The mean over pairs of seeds, with a standard error from leaving out one seed at a time.

    With two seeds there is only one pair, and no standard error.
    """
    value = float(np.mean(list(values.values())))
    n = len(names)
    if n < 3:
        return Estimate(value=value)
    left_out = np.array(
        [np.mean([v for pair, v in values.items() if name not in pair]) for name in names]
    )
    spread = np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
    return with_interval(value, float(spread), n - 1)


def chance(
    d_sae: int,
    d_in: int,
    threshold: float = THRESHOLD,
    *,
    absolute: bool = False,
    device: torch.device | None = None,
) -> Chance:
    """The result for random dictionaries of a shape, by the same matching."""
    generator = torch.Generator().manual_seed(_SEED)
    many = d_sae > matching.EXACT
    n = _CHANCE_FEATURES if many else d_sae
    first, second = (
        torch.randn(rows, d_in, generator=generator).to(device or "cpu") for rows in (n, d_sae)
    )
    if many:
        cosines = unit_rows(first) @ unit_rows(second).T
        values = (cosines.abs() if absolute else cosines).max(1).values.cpu().numpy()
    else:
        values = match(first, second, absolute=absolute).cosine
    return Chance(float(values.mean()), float((values >= threshold).mean()))


@torch.inference_mode()
def _kept(
    run: Run, is_stable: NDArray[np.bool_], preparation: Preparation, options: EvaluationOptions
) -> Kept:
    """The errors of a run with only its stable features. [d_sae]"""
    run = placed(run, options)
    conditions = conditions_of(run, options)
    precision = choose(conditions, [run], preparation, options)
    engine = preparation.prepare(conditions, [run], precision, lambda _: None).engine
    sae = load_run(run).to(engine.model.device, engine.model.dtype)
    stable = torch.from_numpy(is_stable)
    generator = torch.Generator().manual_seed(_SEED)
    order = torch.randperm(len(stable), generator=generator)[: int(stable.sum())]
    random = torch.zeros_like(stable).index_fill(0, order, True)
    sums = _errors(sae, (torch.ones_like(stable), stable, random), engine)
    return Kept(*(estimate(METRICS["nmse"], of_mask) for of_mask in sums))


def _errors(
    sae: SparseAutoencoder, masks: Sequence[Tensor], engine: Measurer
) -> list[dict[str, NDArray[np.float64]]]:
    """Sums per row of errors with only some features, and of squared distances from the mean."""
    model, tokens, device = engine.model, engine.tokens, engine.model.device
    total, n = engine.sum_of_activations()
    mean = torch.from_numpy(total / n).to(device)
    parts: list[list[Tensor]] = []
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        counted = tokens.counted[rows]
        position = counted.flatten().nonzero()[:, 0].to(device)
        x = model.activations(tokens.ids[rows].to(device), engine.hook).flatten(0, 1)[position]
        normalised = sae.normalise(x)
        codes = sae.activate(sae.pre_activation(normalised.z))
        kept = (normalised.restore(sae.decode_normalised(codes * mask.to(device)))
                for mask in masks)  # fmt: skip
        values = [(x - mean).square().sum(1), *((x - x_hat).square().sum(1) for x_hat in kept)]
        starts = torch.nn.functional.pad(counted.sum(1).cumsum(0), (1, 0)).to(device)
        parts.append([by_row(value.float()[None], starts)[0].cpu() for value in values])
    deviation, *errors = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return [{"squared_deviation": deviation, "squared_error": error} for error in errors]
