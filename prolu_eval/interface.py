"""The functions of the public interface that join several parts: answers, comparisons, sweeps."""

import html
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prolu_eval.analysis import Answer, Question, answer
from prolu_eval.arguments import PathLike, as_path, as_paths, as_texts, of_type
from prolu_eval.baseline import about_baseline, load_baseline
from prolu_eval.baseline import save_baseline as write_baseline
from prolu_eval.comparison import (
    DEFAULT,
    Comparison,
    ComparisonOptions,
    compare_results,
    parse_tolerances,
)
from prolu_eval.comparison.obtain import obtain_results
from prolu_eval.comparison.pairs import is_selected
from prolu_eval.errors import ProluEvalError, UsageError
from prolu_eval.metrics import METRICS
from prolu_eval.results import (
    Result,
    folder_titles,
    named_in_folder,
    read_result,
    result_files,
    select,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from prolu_eval.training import Settings, SweepFile, Trained

Paths = PathLike | Sequence[PathLike]
Warn = Callable[[str], object]


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=3)


@dataclass(frozen=True)
class FrontierAnswer:
    """Which runs and variants are better: the frontier of every group of comparable results.

    ``groups`` are the answers for comparable groups, the largest group first.
    """

    groups: tuple[Answer, ...]

    @property
    def sentence(self) -> str:
        """The answer in a few sentences; of several groups, each with its title."""
        if len(self.groups) == 1:
            return self.groups[0].sentence
        return "\n".join(f"{found.title}: {found.sentence}" for found in self.groups)

    @property
    def table(self) -> "pd.DataFrame":
        """The runs, one row each, with ``group``, ``on_frontier``, ``membership`` and metrics."""
        from prolu_eval.render.table_files import run_frame

        return run_frame(self.groups)

    def figure(self, group: int = 0) -> "go.Figure":
        """The runs of a group over its first two metrics, as the page draws them."""
        from prolu_eval.render.figures import View, view_figure

        n = of_type(group, int, "group", "give its number, from 0")
        if not 0 <= n < len(self.groups):
            known = f"0 to {len(self.groups) - 1}"
            raise UsageError("group", f"{n} is none of {known}", "give its number, from 0")
        of = self.groups[n]
        x, y, *_ = of.question.keys
        drawn = view_figure(of.group, View(x, y, "frontiers", "", frontier=True))
        return drawn.update_layout(title=of.title, margin={"t": 64})

    def report(self, path: PathLike) -> Path:
        """Write the HTML page, one file that needs nothing else; its path.

        Raises:
            ResultsError: if it cannot be written.
            UsageError: if the path is none.
        """
        from prolu_eval.render.page import write_report

        return write_report(self.groups, as_path(path, "the page"))

    def _repr_html_(self) -> str:
        drawn = "".join(  # the first brings plotly's script along: nothing is loaded from a network
            self.figure(i).to_html(full_html=False, include_plotlyjs=not i)
            for i in range(len(self.groups))
        )
        return f"<p>{html.escape(self.sentence)}</p>{drawn}"


def frontier(
    runs: "Paths | pd.DataFrame | Iterable[Result]",
    x: str = "l0",
    y: str = "ce_degradation",
    z: str | None = None,
    *,
    tokens: PathLike | None = None,
    splits: Mapping[str, Sequence[float]] | None = None,
    reference: Mapping[str, float] | None = None,
    at: Mapping[str, float] | None = None,
) -> FrontierAnswer:
    """The Pareto frontier of stored results; needs neither torch nor a model.

    Args:
        runs: a folder of runs with results, or several, whose variants then bear their names and
            which are compared with each other (``groups[0].folders``); or a table of
            :func:`prolu_eval.load_results`; or results.
        x: a metric (:data:`prolu_eval.METRICS`), which direction is better being its own.
        y: another.
        z: a third, or None.
        tokens: of several evaluations of the runs, the one on this text.
        splits: by metric, values that part the runs into stretches, each answered too.
        reference: by metric, where hypervolumes reach up to.
        at: by metric, a value at which variants are compared, such as ``{"l0": 32}``; the answers
            are in ``groups[0].at``.

    Raises:
        UsageError: if a metric is unknown or has no better direction, a folder does not exist, or a
            table was not made by :func:`prolu_eval.load_results`.
        ResultsError: if there are no results.
    """
    parts = [
        (key, value)
        for key, values in _pairs("splits", splits)
        for value in (values if isinstance(values, Sequence) else [values])
    ]
    question = Question.asked(
        x, y, z, splits=parts, reference=_pairs("reference", reference), at=_pairs("at", at)
    )
    results = _results(runs, tokens)
    if len({result.folder for result in results}) > 1:
        question = replace(question, grouping="folder")
    return FrontierAnswer(tuple(answer(results, question)))


def _pairs(name: str, given: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    if not isinstance(given, Mapping | None):
        raise UsageError(name, f"{given!r} names no metric", f'write {name}={{"l0": ...}}')
    return list((given or {}).items())


def _results(
    runs: "Paths | pd.DataFrame | Iterable[Result]", tokens: PathLike | None
) -> Sequence[Result]:
    import pandas as pd

    if isinstance(runs, pd.DataFrame):
        return _of_table(runs)
    if isinstance(runs, Iterable) and not isinstance(runs, str | bytes | os.PathLike):
        items = list(runs)
        results = [item for item in items if isinstance(item, Result)]
        if results and len(results) == len(items):
            return results
        folders = as_paths(items, "the runs")
    else:
        folders = as_paths(runs, "the runs")
    chosen = select(folders, tokens=tokens, titled=True)
    for sentence in chosen.remarks:
        _warn(sentence)
    return chosen.results


def _of_table(table: "pd.DataFrame") -> list[Result]:
    """The results of a table's rows, read again for their sums."""
    if "file" not in table or table["file"].isna().any():
        reason = "does not say where its results are stored"
        raise UsageError("the table", reason, "take one of load_results, or name the folder")
    return [read_result(Path(file), arrays="stored") for file in table["file"]]


def compare(
    runs: Paths,
    baseline: Paths,
    *,
    tolerance: str | Sequence[str] | None = None,
    frontier: str | None = "l0,ce_degradation",
    match: str = "name",
    only: str | Sequence[str] = (),
    unpaired: bool = False,
    alpha: float = 0.05,
    warn: Warn = _warn,
) -> Comparison:
    """Judge runs by a baseline, as ``prolu-eval compare`` does; needs neither torch nor a model.

    Args:
        runs: a folder of runs with results, or several.
        baseline: the JSON file of :func:`prolu_eval.save_baseline`, or a folder of runs that is
            compared with in its stead.
        tolerance: how much worse metrics may get, such as ``"ce_degradation=+2%,l0=+1"``.
        frontier: two metrics ``x,y`` whose frontier is judged; None for none.
        match: ``name``, ``configuration``, or a regular expression whose groups identify a run.
        only: names of runs, or shell patterns of them.
        unpaired: compare results on different tokens as independent samples.
        alpha: the error rate of the whole family of tests.
        warn: is passed a sentence for each result that is left out.

    Returns:
        The comparison: ``verdict`` (pass, regression or incomparable), ``rows``, ``exit_code``;
        against a folder also ``folders``, the answer which of the two is better.

    Raises:
        BaselineError: if the baseline cannot be read.
        ResultsError: if there are no results.
        UsageError: if options make no sense or runs cannot be told apart.
    """
    texts = as_texts(
        DEFAULT if tolerance is None else tolerance, "--tolerance", f"write for example {DEFAULT}"
    )
    options = ComparisonOptions(
        tolerances=parse_tolerances(texts if any(texts) else [DEFAULT]),
        frontier=frontier,
        match=match,
        only=only,
        unpaired=unpaired,
        alpha=alpha,
    )
    kept = _baseline(baseline, warn)
    settings = {result.setting for result in kept}
    folders = as_paths(runs, "the runs")
    current = obtain_results(folders, settings=settings, warn=warn)
    found = compare_results(current, kept, options)
    before = as_paths(baseline, "the baseline")
    named = {"baseline": _joined(before) if before[0].is_dir() else about_baseline(before[0])}
    found = replace(found, provenance={**named, "current": _joined(folders), **found.provenance})
    sides = [*before, *folders]
    if len(sides) != 2 or not sides[0].is_dir() or not found.axes:
        return found
    beside = dict(zip(sides, (kept, current), strict=True))
    return replace(found, folders=_folder_answers(beside, found.axes, only))


def _joined(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def _folder_answers(
    beside: Mapping[Path, Sequence[Result]], axes: tuple[str, str], only: str | Sequence[str]
) -> tuple[Answer, ...]:
    """What folders save against each other; nothing for an axis without a better direction."""
    if any(METRICS[key].direction == "none" for key in axes):
        return ()
    results = [
        named_in_folder(result, title)
        for folder, title in folder_titles(list(beside)).items()
        for result in beside[folder]
        if is_selected(result.run.name, only)
    ]
    answers = answer(results, Question.asked(*axes, grouping="folder"))
    return tuple(found for found in answers if len(found.group.folders) > 1)


def _baseline(baseline: Paths, warn: Warn) -> list[Result]:
    folders = as_paths(baseline, "the baseline")
    if any(folder.is_dir() and any(result_files([folder])) for folder in folders):
        return obtain_results(folders, warn=warn)
    if len(folders) > 1:
        raise UsageError("the baseline", "is several files", "name one, or folders of runs")
    return load_baseline(folders[0])


def save_baseline(
    runs: "Paths | pd.DataFrame | Iterable[Result]",
    path: PathLike,
    *,
    tokens: PathLike | None = None,
) -> None:
    """Write stored results as a baseline: ``path`` and, beside it, their sums over sequences.

    Args:
        runs: a folder of runs with results, or several; or a table of
            :func:`prolu_eval.load_results`; or results.
        path: the JSON file to write.
        tokens: of several evaluations of the runs, the one on this text.

    Raises:
        BaselineError: if two results have the same name, or the file's own does not end in .json.
        ResultsError: if there are no results, or a file cannot be written.
        UsageError: if what is given is none of these.
    """
    write_baseline(_results(runs, tokens), as_path(path, "the baseline"))


@dataclass(frozen=True)
class Converted:
    """A checkpoint that was written in another format: where, or why it was not."""

    run: str
    path: Path | None
    error: str | None = None


def convert(source: PathLike, destination: PathLike, to: str = "native") -> list[Converted]:
    """Write checkpoints of any format as native runs, or as what SAELens itself loads.

    Args:
        source: a checkpoint, a folder of them, or ``hub:owner/name[/folder]``.
        destination: the folder to write, one folder in it for each run if there are several.
        to: ``native`` or ``saelens``.

    Returns:
        One for each checkpoint found; one that cannot be loaded or written does not stop others.

    Raises:
        CheckpointError: if no checkpoint is found.
        UsageError: if ``to`` is no format to write, or a path is none.
    """
    from prolu_eval.checkpoints import discover, load_run
    from prolu_eval.checkpoints.native import write_native
    from prolu_eval.checkpoints.saelens_writer import write_saelens
    from prolu_eval.runs import Broken

    writers = {"native": write_native, "saelens": write_saelens}
    if of_type(to, str, "--to", f"choose {', '.join(writers)}") not in writers:
        raise UsageError("--to", f"{to!r} is no format to write", f"choose {', '.join(writers)}")
    folder = as_path(destination, "the destination")
    found = discover(as_path(source, "the source"))
    converted = []
    for item in found:
        target = folder
        if len(found) > 1:
            target /= item.name.replace(":", "/")
        try:
            if isinstance(item, Broken):
                converted.append(Converted(item.name, None, item.error))
                continue
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise UsageError(target, "exists already", "name a new or empty folder")
            writers[to](target, load_run(item), item)
        except ProluEvalError as failure:
            converted.append(Converted(item.name, None, str(failure)))
        else:
            converted.append(Converted(item.name, target))
    return converted


def train(
    sweep: "PathLike | SweepFile | None",
    out: PathLike,
    settings: "Settings | None" = None,
    **shared: Any,
) -> "list[Trained]":
    """Train every run of a sweep that is not in ``out`` yet, one folder each.

    Args:
        sweep: a TOML file, the content of one, or None for the write-up's four sweeps.
        out: the folder for the runs.
        settings: device, cache, checkpoints, progress and loggers.
        shared: settings that replace those of the file that all runs share: ``model``, ``hook``,
            ``dataset``, ``n_tokens`` (activations trained on), ``context_length``, ``d_sae``.

    Returns:
        One for each run, in the sweep's order: ``status`` (trained, present or failed), ``folder``,
        ``error``.

    Raises:
        ConfigError: if the sweep cannot be read, or a folder holds a run of another configuration.
        ModelError, TokensError: if the model, hook or text cannot be used.
        ResultsError: if ``out`` cannot be written to.
        UsageError: if settings are to replace those of a sweep that is no file.
    """
    from prolu_eval.training import FOUR_SWEEPS, SweepFile, read_sweep_file, train_sweep

    folder = as_path(out, "out")
    if isinstance(sweep, SweepFile):
        if shared:
            raise UsageError("the sweep", "is no file", f"set {', '.join(shared)} in it")
        return train_sweep(sweep, folder, settings)
    file = read_sweep_file(FOUR_SWEEPS if sweep is None else as_path(sweep, "the sweep"), **shared)
    return train_sweep(file, folder, settings)
