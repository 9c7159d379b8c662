"""`--dtype auto`: the fastest precision that moves no metric by a tenth of its standard error.

What a precision does to a metric is measured on the first shard, run by run, against float32. The
standard error is that of the whole evaluation, as the first shard's foretells it. Runs that are
measured together get the same precision, or they could not be compared. What was measured is kept
in the cache folder (:mod:`prolu_eval.cache`), so that a second call, or another process that shares
the work, chooses alike without measuring.
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
from prolu_eval.estimates import Estimate, rough
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

# The share of a metric's standard error that a precision may move it by.
TOLERATED = 0.1
# Relative differences that sums in float32 make by their order alone. Some metrics are the same for
# every sequence, so that their standard error is no larger.
_ROUNDING = 1e-6
_VERSION = 1

Effects = dict[str, float]
"""By metric, how far a precision moves it, in standard errors; infinite where that has no sense."""


def choose(
    conditions: Conditions,
    runs: Sequence[Run],
    preparation: Preparation,
    options: EvaluationOptions,
    progress: bool = False,
) -> Precision:
    """The precision that options name, or the one that suits runs of the same conditions.

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
    """The first candidate that suits every run, else float32; ``found`` is by run and candidate."""
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
    return f"{rough(effect)} standard errors" if effect < inf else "what can be told"


class _Effects:
    """What precisions do to the metrics of runs under the same conditions."""

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
        """By run and candidate, remembered or measured now; none of runs that cannot be measured.

        The model is loaded in the first candidate's precision in any case: that is needed to know
        what was remembered, and is what is most likely needed afterwards.
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
        """Where the effects on a run are remembered: named by all that decides them."""
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
        """Let no other process measure the same meanwhile, where the cache has locks."""
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
        # What is loaded already comes first, and what shares its weights with another beside it.
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
        """Every metric of runs on the first shard, in a precision; none of those that fail."""
        with matrix_products(tf32=dtype == "tf32"):
            prepared = self._prepared(runs, dtype, shown.update)
            (rows,) = prepared.shards
            shown.total += len(rows) * (len(runs) + 2)
            assembly = Assembly(prepared, 1)
            metrics: dict[str, Mapping[str, Estimate]] = {}
            for portion in portions(runs):
                saes, by_name = {}, {run.name: run for run in portion}
                for run in portion:
                    with contextlib.suppress(ProluEvalError):  # told when it is to be measured
                        saes[run.name] = load(run, prepared.engine)
                for name, measured in prepared.engine.measure_saes(saes, rows).items():
                    if isinstance(measured, Measurement):
                        metrics[name] = assembly.metrics(by_name[name], saes[name], measured)
            return metrics


def _share(prepared: Prepared) -> float:
    """The share of the rows that the first shard is."""
    return len(prepared.shards[0]) / len(prepared.engine.tokens)


def _effects(
    found: Mapping[str, Estimate] | None, exact: Mapping[str, Estimate], share: float
) -> Effects:
    """How far metrics are from the exact ones, in standard errors of the whole evaluation.

    The geometry of decoder rows is left out: it is of the weights, and has no such error.
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
    """Remembered effects of the candidates; None if there are none."""
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
    logging.getLogger(__name__).warning("%s What precisions do is not remembered.", error)
