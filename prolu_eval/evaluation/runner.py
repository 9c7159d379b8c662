"""Evaluating every run in folders, from paths to stored results.

Runs are found, grouped by the conditions under which they are measured, measured together with the
other runs of their group, and settled one by one. Each step passes its values to the next.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from prolu_eval.arguments import as_paths
from prolu_eval.checkpoints import discover_all
from prolu_eval.checkpoints.modules import from_plugin, runs_of
from prolu_eval.cluster.address import SLURM, engine_of
from prolu_eval.cluster.pool import Pool
from prolu_eval.devices import devices_of, threads_each, working_on
from prolu_eval.errors import EvaluationError, ProluEvalError, ResultsError, UsageError
from prolu_eval.evaluation.assembly import Assembly
from prolu_eval.evaluation.conditions import Conditions, conditions_of, placed
from prolu_eval.evaluation.distributed import Distribution, workers_on
from prolu_eval.evaluation.extra_measures import Completion, ExtraMeasures
from prolu_eval.evaluation.lost_scale import with_estimated_scale
from prolu_eval.evaluation.measuring import Failed, Measured, measure
from prolu_eval.evaluation.memory import check_room
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.outcomes import Outcome, failed, settled
from prolu_eval.evaluation.precisions import choose
from prolu_eval.evaluation.preparation import Preparation, Prepared
from prolu_eval.evaluation.racing import Race
from prolu_eval.evaluation.records import Record, folder_of_results
from prolu_eval.evaluation.rounds import Round, next_round
from prolu_eval.evaluation.shared_work import Rows, SharedWork, shared_work_on
from prolu_eval.evaluation.slurm import outcomes_of_jobs
from prolu_eval.precision import matrix_products
from prolu_eval.progress import Progress
from prolu_eval.runs import Broken, Run
from prolu_eval.tokens import check_source

_NO_EXTRA = ExtraMeasures()


def evaluate(
    paths: str | Path | Sequence[str | Path] | nn.Module | Mapping[str, nn.Module],
    options: EvaluationOptions | None = None,
    *,
    progress: bool = False,
    on_outcome: Callable[[Outcome], Any] = lambda _: None,
    **named: Any,
) -> list[Outcome]:
    """Evaluate every run in folders and store the results; results stored before are used again.

    Args:
        paths: a folder of runs, a single checkpoint, or several of either; or a user's own module
            with ``encode`` and ``decode``, or several by name.
        options: how to evaluate.
        progress: whether to show the progress on stderr: a bar on a terminal, else one line a
            minute.
        on_outcome: a function that is called with each outcome as soon as it is known.
        named: options by name, instead of ``options``: ``hook="blocks.3.hook_mlp_out"``.

    Returns:
        One outcome per checkpoint found, in the order found; a run that cannot be loaded or
        measured is ``failed`` with its reason and does not stop the others.

    Raises:
        CheckpointError: if a path holds no checkpoint at all.
        ResultsError: if results cannot be written.
        EvaluationError: if a cluster has no worker, or more runs failed than ``max_failures``.
        TokensError: if the tokens named by the options do not exist or cannot be read.
        UsageError: if the device does not exist, no path is given, or options are given twice.
    """
    if options is not None and named:
        raise UsageError(next(iter(named)), "is given beside options", "give it in them")
    if not isinstance(options, EvaluationOptions | None):
        reason = f"are of type {type(options).__name__}"
        raise UsageError("options", reason, "give prolu_eval.EvaluationOptions(...)")
    options = options or EvaluationOptions(**named)
    if options.on is not None:
        engine_of(options.on)
    devices = [None] if options.on is not None else devices_of(options.device)
    if len(devices) > 1 and options.device_map is not None:
        raise UsageError(
            "--device-map",
            "spreads a model over devices that several processes share",
            "name one device",
        )
    if len(devices) > 1 and isinstance(paths, nn.Module | Mapping):
        raise UsageError("a module", "is no file that several devices can share", "name one device")
    if options.on == SLURM and isinstance(paths, nn.Module | Mapping):
        raise UsageError("a module", "is no file that jobs can share", "leave out --on")
    found = _found(paths, options)
    if not found:
        raise UsageError("RUNS", "are missing", "name a folder of runs, or a --plugin")
    roots = [] if isinstance(paths, nn.Module | Mapping) else _roots(paths)
    if options.tokens is not None:
        check_source(options.tokens, options.text_column, "name other text with --tokens")
    _check_writable([item for item in found if isinstance(item, Run)], options.results)
    extra = ExtraMeasures.by(options)
    outcomes: dict[str, Outcome] = {}
    n_failed = 0
    with _working(found, roots, devices, options, progress, extra) as coming:
        for outcome in coming:
            outcomes[outcome.name] = outcome
            on_outcome(outcome)
            n_failed += outcome.status == "failed"
            if options.max_failures is not None and n_failed > options.max_failures:
                raise _too_many(list(outcomes.values()), options.max_failures)
    return [outcomes[item.name] for item in found]


def _too_many(outcomes: Sequence[Outcome], most: int) -> EvaluationError:
    errors = [outcome.error for outcome in outcomes if outcome.status == "failed"]
    last = (errors[-1] or "").rstrip(".")
    reason = f"{len(errors)} runs have failed, more than {most} (the last: {last})"
    return EvaluationError("--max-failures", reason, "mend them; results so far are stored")


@contextmanager
def _working(
    found: Sequence[Run | Broken],
    roots: Sequence[str],
    devices: Sequence[str | None],
    options: EvaluationOptions,
    progress: bool,
    extra: ExtraMeasures,
) -> Iterator[Iterator[Outcome]]:
    """The outcome of each checkpoint, measured on devices here or on workers elsewhere."""
    if options.on == SLURM:
        yield outcomes_of_jobs(roots, options, progress)
        return
    if options.on is not None:
        with workers_on(options) as pool:
            yield _elsewhere(found, options, pool, progress, extra)
        return
    with (
        shared_work_on(devices, roots, options) as shared_work,
        working_on(devices[0], threads_each(devices)),
    ):
        own = replace(options, device=devices[0])
        yield _outcomes(found, own, progress, shared_work, extra)


def _elsewhere(
    found: Sequence[Run | Broken],
    options: EvaluationOptions,
    pool: Pool,
    progress: bool,
    extra: ExtraMeasures,
) -> Iterator[Outcome]:
    together, outcomes = _by_conditions(found, options)
    yield from outcomes
    yield from Distribution(together, options, pool, progress, extra).outcomes()


def outcomes_of(
    paths: Sequence[str], options: EvaluationOptions, shared_work: SharedWork
) -> Iterator[Outcome]:
    """The outcome of each run in one of several processes that share an evaluation."""
    return _outcomes(_found(paths, options), options, False, shared_work)


def take_part(paths: Sequence[str], options: EvaluationOptions, shared_work: SharedWork) -> None:
    """Help another process with its evaluation; that process reports the runs that fail here.

    Args:
        paths: the paths of the evaluation.
        options: the options of the evaluation, with another device.
        shared_work: the processes that share it, to which this one reports its work.
    """
    for outcome in outcomes_of(paths, options, shared_work):
        if outcome.status == "ok" and shared_work.send is not None:
            shared_work.send({"measured": outcome.name})


def _found(
    paths: str | Path | Sequence[str | Path] | nn.Module | Mapping[str, nn.Module],
    options: EvaluationOptions,
) -> Sequence[Run | Broken]:
    """The runs to evaluate: checkpoints at paths, modules, and modules of a plugin."""
    own = [] if options.plugin is None else from_plugin(options.plugin)
    if isinstance(paths, nn.Module):
        return [*runs_of({type(paths).__name__: paths}), *own]
    if isinstance(paths, Mapping):
        return [*runs_of(paths), *own]
    roots = [Path(root) for root in _roots(paths)]
    return [*(discover_all(roots, options.encoder) if roots else []), *own]


def _roots(paths: str | Path | Sequence[str | Path]) -> list[str]:
    if paths is None or (isinstance(paths, Sequence) and not paths):
        return []
    return [str(path) for path in as_paths(paths, "the runs")]


def _check_writable(runs: Sequence[Run], results: Path | None) -> None:
    """Check, before a model is loaded, that results can be written for runs that have none yet.

    Raises:
        ResultsError: if the result of a run cannot be written.
    """
    for folder in {folder_of_results(run, results): None for run in runs}:
        if next(folder.glob("*.json"), None) is not None:
            continue  # its stored results may be all that is needed
        place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            reason = "is no folder" if not place.is_dir() else "may not be written to"
            where = f"{place}: {reason}" if place != folder else reason
            remedy = "name a writable folder with --results"
            raise ResultsError(folder, f"results cannot be written ({where})", remedy)


def _outcomes(
    found: Sequence[Run | Broken],
    options: EvaluationOptions,
    progress: bool,
    shared_work: SharedWork,
    extra: ExtraMeasures = _NO_EXTRA,
) -> Iterator[Outcome]:
    """The outcome of each checkpoint, as soon as it is known."""
    together, broken = _by_conditions(found, options)
    yield from broken
    preparation = Preparation(options)
    for group, conditions in enumerate(sorted(together)):
        runs = {run.name: run for run in together[conditions]}
        try:
            own = list(runs.values())
            of_group = _of_one_group(
                group, conditions, own, preparation, options, progress, shared_work, extra
            )
            for outcome in of_group:
                del runs[outcome.name]
                yield outcome
        except ResultsError:
            raise
        except ProluEvalError as error:
            for run in runs.values():
                yield failed(run, error)


def _by_conditions(
    found: Sequence[Run | Broken], options: EvaluationOptions
) -> tuple[dict[Conditions, list[Run]], list[Outcome]]:
    """Runs by their conditions, and the outcomes of runs that have failed already."""
    together: dict[Conditions, list[Run]] = {}
    outcomes = []
    for item in found:
        if isinstance(item, Broken):
            outcomes.append(Outcome(item.name, item.path, "failed", error=item.error))
            continue
        run = placed(item, options)
        try:
            conditions = conditions_of(run, options)
            if options.on is None:
                check_room(run, options)
            together.setdefault(conditions, []).append(run)
        except ProluEvalError as error:
            outcomes.append(failed(item, error))
    return together, outcomes


def _of_one_group(
    group: int,
    conditions: Conditions,
    runs: Sequence[Run],
    preparation: Preparation,
    options: EvaluationOptions,
    progress: bool,
    shared_work: SharedWork,
    extra: ExtraMeasures,
) -> Iterator[Outcome]:
    """The outcome of each of the runs that are measured under the same conditions."""
    precision = choose(conditions, runs, preparation, options, progress)
    with (
        matrix_products(tf32=precision.dtype == "tf32"),
        Progress(conditions.hook, "row", shown=progress) as shown,
    ):
        rows = Rows(shown, shared_work, group)
        prepared = preparation.prepare(conditions, runs, precision, rows.update)
        completion = Completion(extra, prepared, shown=progress)
        if options.estimate_scale and any(run.needs_scale for run in runs):
            runs = with_estimated_scale(runs, prepared.engine)
        records = [Record.of(run, prepared.settings, options) for run in runs]
        shown.total = len(prepared.engine.tokens) * (len(records) + 2)
        race = Race(prepared, options.race, len(runs)) if options.race else None
        now: Round | None = None
        while now is None or not now.last:
            now = next_round(prepared, records, options, now)
            n = now.n_shards
            if now.last:
                by_name = {record.run.name: record for record in records}
                for outcome in _settled_on(n, records, prepared, options, shared_work, rows):
                    yield _completed(outcome, by_name[outcome.name], n, completion)
                return
            missing = records if race is None else race.lacking(records, n)
            cut = prepared.shards[:n]
            for share in shared_work.shares(missing):
                for item in measure(prepared.engine, share, cut, rows.skipped):
                    if isinstance(item, Failed):
                        records = [record for record in records if record is not item.record]
                        yield failed(item.record.run, item.error)
            beaten = {} if race is None else race.beaten(records, n)
            lost = [record for record in records if record.run.name in beaten]
            records = [record for record in records if record.run.name not in beaten]
            by_name = {record.run.name: record for record in lost}
            for outcome in _settled_on(n, lost, prepared, options, shared_work, rows):
                if race is None or outcome.result is None:
                    yield outcome
                    continue
                why = race.dropped(outcome.result, beaten[outcome.name])
                result = by_name[outcome.name].drop(outcome.result, why)
                rows.skipped(len(prepared.engine.tokens) - cut[-1].stop)
                yield replace(outcome, status="dropped", result=result)


def _settled_on(
    n_shards: int,
    records: Sequence[Record],
    prepared: Prepared,
    options: EvaluationOptions,
    shared_work: SharedWork,
    rows: Rows,
) -> Iterator[Outcome]:
    """The outcomes of runs whose results are on the first shards, each as soon as it is known.

    Shards that are measured already are not measured again.
    """
    missing = []
    for record in records:
        if (result := record.result(n_shards)) is None:
            missing.append(record)
            continue
        record.parts.remove()  # its writer may have been killed first
        by_helper = shared_work.has_measured(record.run.name)
        yield settled(record.run, "ok" if by_helper else "cached", result)
    if not missing:
        return
    assembly = Assembly(prepared, n_shards)
    assembly.warn_of_foreign_ids()
    shards = prepared.shards[:n_shards]
    if options.shard is not None:
        index, count = options.shard
        shards = shards[index::count]
    for share in shared_work.shares(missing):
        left = []
        for record in share:
            if (result := record.result(n_shards)) is not None:
                rows.skipped(sum(map(len, shards)))
                yield settled(record.run, "ok", result)
            else:
                left.append(record)
        for item in measure(prepared.engine, left, shards, rows.skipped, waits=shared_work.waits):
            match item:
                case Failed():
                    yield failed(item.record.run, item.error)
                case Measured():
                    yield settled(item.record.run, "ok", assembly.result(item))


def _completed(outcome: Outcome, record: Record, n_shards: int, completion: Completion) -> Outcome:
    """The outcome of a run after its result was completed with the additional measurements."""
    if outcome.result is None:
        return outcome
    try:
        result, measured = completion.completed(record, n_shards, outcome.result)
    except ResultsError:
        raise
    except ProluEvalError as error:
        return failed(record.run, error)
    return replace(outcome, status="ok" if measured else outcome.status, result=result)
