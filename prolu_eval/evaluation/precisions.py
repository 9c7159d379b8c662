"""`--dtype auto`: the fastest precision that changes no metric by a tenth of its standard error.

For each run, the effect of a precision on a metric is measured on the first shard, compared with
float32. The standard error is that of the whole evaluation, extrapolated from the first shard. Runs
that are measured together get the same precision, because otherwise they could not be compared. The
effects are kept in the cache folder (:mod:`prolu_eval.cache`), so that a second call, or another
process that shares the work, makes the same choice without measuring.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf, sqrt
from pathlib import Path
from typing import Any

import torch

from prolu_eval.cache import cache_folder
from prolu_eval.choices import Dtype
from prolu_eval.devices import default_device
from prolu_eval.errors import ProluEvalError, ResultsError
from prolu_eval.estimates import Estimate, two_digits
from prolu_eval.evaluation.assembly import Assembly
from prolu_eval.evaluation.conditions import Conditions, portions
from prolu_eval.evaluation.lost_scale import with_estimated_scale
from prolu_eval.evaluation.measuring import load
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.parts import Parts
from prolu_eval.evaluation.preparation import Precision, Preparation, Prepared
from prolu_eval.evaluation.sums import Measurement
from prolu_eval.metrics import GEOMETRY
from prolu_eval.precision import faster_than_float32, matrix_products
from prolu_eval.progress import Progress
from prolu_eval.results import file_digests, write_json
from prolu_eval.runs import Run

# A precision may change a metric by at most this share of its standard error.
TOLERATED = 0.1
# Relative differences between sums in float32 that only their order causes. They are tolerated,
# because the standard error of a metric that is the same for every sequence may be smaller.
_ROUNDING = 1e-6
_VERSION = 1

Effects = dict[str, float]
"""How much a precision changes each metric, in standard errors; infinite if that is undefined."""


def choose(
    conditions: Conditions,
    runs: Sequence[Run],
    preparation: Preparation,
    options: EvaluationOptions,
    progress: bool = False,
) -> Precision:
    """The precision that the options name, or the one that suits runs of the same conditions.

    Raises:
        EvaluationError: if the model's activations are not finite.
        ModelError: if the model cannot be loaded or lacks the hook point.
        TokensError: if the tokens cannot be read or do not suit the model.
    """
    if options.dtype != "auto":
        return Precision(options.dtype)
    device = torch.device(options.device or default_device())
    candidates = faster_than_float32(device)
    if not candidates:
        return Precision("float32", f"auto: nothing that is exact enough is faster on {device}")
    found = _Effects(conditions, preparation, options, progress).of(runs, candidates)
    return _chosen(candidates, found)


def _chosen(candidates: Sequence[Dtype], found: Mapping[str, Mapping[Dtype, Effects]]) -> Precision:
    """The first candidate that suits every run, else float32; ``found`` has each run's effects."""
    told = []
    for candidate in candidates:
        effects = [of_run[candidate] for of_run in found.values()]
        largest = {key: max(e[key] for e in effects) for key in effects[0]} if effects else {}
        metric = max(largest, key=largest.__getitem__, default="")
        told.append(
            f"{candidate} moves no metric by more than {_shown(largest[metric])} ({metric})"
            if largest
            else f"{candidate} could be measured on no run"
        )
        if largest and largest[metric] < TOLERATED:
            return Precision(candidate, "auto: " + "; ".join(told[::-1]))
    return Precision("float32", "auto: float32, since " + " and ".join(told))


def _shown(effect: float) -> str:
    return f"{two_digits(effect)} standard errors" if effect < inf else "what can be told"


class _Effects:
    """The effects of precisions on the metrics of runs under the same conditions."""

    def __init__(
        self,
        conditions: Conditions,
        preparation: Preparation,
        options: EvaluationOptions,
        progress: bool,
    ) -> None:
        self._conditions, self._preparation = conditions, preparation
        self._options, self._progress = options, progress
        self._folder = cache_folder() / "precisions"

    def of(
        self, runs: Sequence[Run], candidates: Sequence[Dtype]
    ) -> dict[str, dict[Dtype, Effects]]:
        """The effects by run and candidate, from the cache or measured now.

        Runs that cannot be measured are left out. The model is always loaded in the first
        candidate's precision: the names of cached effects depend on it, and that precision is the
        most likely choice.
        """
        prepared = self._prepared(runs, candidates[0], lambda _: None)
        if self._options.estimate_scale:
            runs = with_estimated_scale(runs, prepared.engine)
        paths = {run.name: self._path(run, prepared) for run in runs}
        with self._alone(paths.values()):
            known = {name: _read(path, candidates) for name, path in paths.items()}
            missing = [run for run in runs if known[run.name] is None]
            measured = self._measured(missing, candidates) if missing else {}
            for name, effects in measured.items():
                self._keep(paths[name], effects)
        return {name: effects for name, effects in known.items() if effects} | measured

    def _prepared(
        self, runs: Sequence[Run], dtype: Dtype, progress: Callable[[int], Any]
    ) -> Prepared:
        return self._preparation.prepare(
            self._conditions, runs, Precision(dtype), progress, first_shard=True
        )

    def _path(self, run: Run, prepared: Prepared) -> Path:
        """The cache file of the effects on a run, named by a hash of all that decides them."""
        (setting,) = prepared.settings.values()
        parts = (
            _VERSION, *file_digests(run.files, run.folder).values(), run.part, run.besides,
            *run.hooks, prepared.engine.model.device.type,
            setting.model_copy(update={"dtype": ""}).comparison_key(), _share(prepared),
        )  # fmt: skip
        name = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
        return self._folder / f"{name}.json"

    @contextlib.contextmanager
    def _alone(self, paths: Iterable[Path]) -> Iterator[None]:
        """Prevent other processes from measuring the same, if the cache folder supports locks."""
        name = hashlib.sha256(" ".join(sorted(map(str, paths))).encode()).hexdigest()[:32]
        parts = Parts(self._folder / f"{name}.parts")
        with contextlib.ExitStack() as around:
            try:
                around.enter_context(parts.whole())
                around.callback(parts.remove)
            except ResultsError as error:
                _warn(error)
            yield

    def _keep(self, path: Path, effects: Mapping[Dtype, Effects]) -> None:
        document = {
            dtype: {key: effect if effect < inf else None for key, effect in of_dtype.items()}
            for dtype, of_dtype in effects.items()
        }
        try:
            write_json(path, document)
        except ResultsError as error:
            _warn(error)

    def _measured(
        self, runs: Sequence[Run], candidates: Sequence[Dtype]
    ) -> dict[str, dict[Dtype, Effects]]:
        # The precision that is loaded already comes first, and precisions that share weights come
        # one after the other.
        with Progress("choosing the precision", "row", shown=self._progress) as shown:
            found = {dtype: self._metrics(runs, dtype, shown) for dtype in (*candidates, "float32")}
            prepared = self._prepared(runs, "float32", shown.update)
        exact, share = found.pop("float32"), _share(prepared)
        return {
            name: {
                dtype: _effects(of_runs.get(name), metrics, share)
                for dtype, of_runs in found.items()
            }
            for name, metrics in exact.items()
        }

    def _metrics(
        self, runs: Sequence[Run], dtype: Dtype, shown: Progress
    ) -> dict[str, Mapping[str, Estimate]]:
        """Every metric of runs on the first shard, in a precision; runs that fail are left out."""
        with matrix_products(tf32=dtype == "tf32"):
            prepared = self._prepared(runs, dtype, shown.update)
            (rows,) = prepared.shards
            shown.total += len(rows) * (len(runs) + 2)
            assembly = Assembly(prepared, 1)
            metrics: dict[str, Mapping[str, Estimate]] = {}
            for portion in portions(runs):
                saes, by_name = {}, {run.name: run for run in portion}
                for run in portion:
                    with contextlib.suppress(ProluEvalError):  # reported when it is measured
                        saes[run.name] = load(run, prepared.engine)
                for name, measured in prepared.engine.measure_saes(saes, rows).items():
                    if isinstance(measured, Measurement):
                        metrics[name] = assembly.metrics(by_name[name], saes[name], measured)
            return metrics


def _share(prepared: Prepared) -> float:
    """The share of all rows that are in the first shard."""
    return len(prepared.shards[0]) / len(prepared.engine.tokens)


def _effects(
    found: Mapping[str, Estimate] | None, exact: Mapping[str, Estimate], share: float
) -> Effects:
    """The differences of metrics from exact ones, in standard errors of the whole evaluation.

    Metrics of the decoder rows' geometry are left out: they depend on the weights alone and have no
    such error.
    """
    geometry = {metric.key for metric in GEOMETRY}
    exact = {key: scalar for key, scalar in exact.items() if key not in geometry}
    if found is None:
        return dict.fromkeys(exact, inf)
    return {key: _effect(found[key], scalar, sqrt(share)) for key, scalar in exact.items()}


def _effect(found: Estimate, exact: Estimate, factor: float) -> float:
    if found.value is None or exact.value is None:
        return 0.0 if found.value is exact.value else inf
    gap = abs(found.value - exact.value)
    if gap <= _ROUNDING * abs(exact.value):
        return 0.0
    error = factor * (exact.standard_error or 0.0)
    return gap / error if error else inf


def _read(path: Path, candidates: Sequence[Dtype]) -> dict[Dtype, Effects] | None:
    """Cached effects of the candidates; None if there are none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            dtype: {
                key: inf if effect is None else float(effect)
                for key, effect in document[dtype].items()
            }
            for dtype in candidates
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _warn(error: ResultsError) -> None:
    logging.getLogger(__name__).warning("%s The effects of precisions are not cached.", error)
