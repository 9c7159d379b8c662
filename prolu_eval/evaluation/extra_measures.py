"""Optional measurements of runs in addition to those on the text: tasks of several kinds.

They complete a stored result, old or new. Tasks that the result already has are not measured again.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prolu_eval.errors import UsageError
from prolu_eval.estimates import Estimate
from prolu_eval.evaluation.behaviour import Behaviour
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.features import exact
from prolu_eval.evaluation.measuring import load
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.preparation import Prepared
from prolu_eval.evaluation.probing import Probing, TasksDone
from prolu_eval.evaluation.records import Record
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS, PROBE_KS
from prolu_eval.results import PER_TASK, Array, Result, StoredArrays, TaskSet
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tasks.labelled import PACKAGE, LabelledTask, probe_tasks

_NUMBERS = {"probes": "probe_tasks", "behaviour": "behaviour_tasks"}


class _Measure(Protocol):
    def wanted(self, run: Run) -> TaskSet: ...

    def of(self, run: Run, sae: SparseAutoencoder) -> TasksDone: ...


@dataclass(frozen=True)
class ExtraMeasures:
    """The additional measurements that the options ask for, with all that they need but a model.

    Attributes:
        measures: ``probes``, ``behaviour``, or both.
        tasks: the labelled prompts of probes.
        source: the source of these prompts.
        ks: the numbers of latents for which probes are fitted.
    """

    measures: tuple[str, ...] = ()
    tasks: Sequence[LabelledTask] = ()
    source: str = ""
    ks: tuple[int, ...] = PROBE_KS

    @classmethod
    def by(cls, options: EvaluationOptions) -> "ExtraMeasures":
        """The additional measurements that the options ask for.

        Raises:
            TokensError: if the labelled prompts cannot be read.
            UsageError: if the prompts do not exist, or scikit-learn is not installed.
        """
        measures, source = options.measure, options.probe_data
        check_installed(measures)
        if "probes" not in measures:
            return cls(measures)
        tasks = probe_tasks(source, options.tasks)
        name = PACKAGE if source is None else source.name
        return cls(measures, tasks, name, options.k or PROBE_KS)


def check_installed(measures: Sequence[str], node: str = "") -> None:
    """Check that the packages are installed that additional measurements need.

    Args:
        measures: the measurements.
        node: the machine, if it is not the user's own.

    Raises:
        UsageError: if one is missing.
    """
    if "probes" in measures and importlib.util.find_spec("sklearn") is None:
        where = f" on {node}" if node else ""
        raise UsageError("--measure", f"probes need scikit-learn, which is not installed{where}",
                         'run `pip install "prolu-eval[probes]"`')  # fmt: skip


class Completion:
    """Completes results of runs under the same conditions.

    Args:
        extra: the additional measurements.
        prepared: the model and tokens with which the runs are measured.
        shown: whether to show the progress of longer work.

    Raises:
        UsageError: if the runs are on a benchmark, or reconstruct several layers.
    """

    def __init__(self, extra: ExtraMeasures, prepared: Prepared, *, shown: bool) -> None:
        self._engine = engine = prepared.engine
        self._measures: dict[str, _Measure] = {}
        if not extra.measures:
            return
        if type(engine) is not Engine:
            reason = f"{' and '.join(extra.measures)} need one hook point of a language model"
            raise UsageError("--measure", f"{reason}, not {engine.hook} of {engine.model.name}",
                             "evaluate these runs without")  # fmt: skip
        setting = prepared.settings[max(prepared.settings)]
        if "probes" in extra.measures:
            self._measures["probes"] = Probing(
                engine, setting, extra.tasks, extra.source, extra.ks, shown=shown
            )
        if "behaviour" in extra.measures:
            self._measures["behaviour"] = Behaviour(engine, setting)

    def completed(self, record: Record, n_shards: int, result: Result) -> tuple[Result, bool]:
        """A stored result with all additional measurements, and whether any had to be measured.

        Raises:
            CheckpointError: if the run cannot be loaded any more.
            ResultsError: if the result cannot be stored.
        """
        run = record.run
        if not self._missing(run, result.tasks):
            return result, False
        with record.parts.whole():
            result = record.result(n_shards) or result  # another process may have completed it
            done = self.measured(run, result.tasks, lambda: load(run, self._engine))
            if done:
                result = record.write(with_tasks(result, done))
        record.parts.remove()
        return result, bool(done)

    def measured(
        self, run: Run, known: Mapping[str, TaskSet], sae: Callable[[], SparseAutoencoder]
    ) -> dict[str, TasksDone]:
        """Measure a run on the tasks that it lacks.

        Args:
            run: the run.
            known: the tasks on which it was measured before.
            sae: a function that loads its autoencoder, which may be changed.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        missing = self._missing(run, known)
        loaded = sae() if missing else None
        return {
            over: measure.of(run, loaded) for over, measure in missing.items() if loaded is not None
        }

    def _missing(self, run: Run, known: Mapping[str, TaskSet]) -> Mapping[str, _Measure]:
        return {
            over: measure
            for over, measure in self._measures.items()
            if not _has(known.get(over), measure.wanted(run))
        }


def _has(known: TaskSet | None, wanted: TaskSet) -> bool:
    return (
        known is not None
        and known.fingerprint == wanted.fingerprint
        and set(wanted.k) <= set(known.k)
    )


def with_tasks(result: Result, done: Mapping[str, TasksDone]) -> Result:
    """A result with new measurements on tasks, and with those that it had of the same tasks."""
    for over, measured in done.items():
        result = _with(result, over, measured)
    return result


def _with(result: Result, over: str, done: TasksDone) -> Result:
    stored = result.arrays
    arrays: dict[str, Array] = stored.under("") if isinstance(stored, StoredArrays) else {**stored}
    tasks, sums = done.tasks, dict(done.sums)
    if (known := result.tasks.get(over)) is not None and known.fingerprint == tasks.fingerprint:
        sums = {**result.sums(over), **sums}
        tasks = tasks.model_copy(update={"k": tuple(sorted({*known.k, *tasks.k}))})
    kept = {key: a for key, a in arrays.items() if not key.startswith(f"{PER_TASK}{over}/")}
    own = {f"{PER_TASK}{over}/{column}": values for column, values in sums.items()}
    others = {key: e for key, e in result.metrics.items() if METRICS[key].over != over}
    return result.model_copy(
        update={
            "arrays": {**kept, **own},
            "tasks": {**result.tasks, over: tasks},
            "metrics": {**others, **_estimates(over, sums)},
        }
    )


def _estimates(over: str, sums: Mapping[str, Array]) -> dict[str, Estimate]:
    found = {_NUMBERS[over]: exact(float(len(sums["n_tasks"])))}
    for key, metric in METRICS.items():
        if metric.over == over and metric.numerator and metric.numerator.keys() <= sums.keys():
            found[key] = estimate(metric, sums)
    return found
