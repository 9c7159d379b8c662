"""The functions of the public interface that combine several parts of the package."""

import html
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from prolu_eval.comparison.pairs import is_selected
from prolu_eval.comparison.reading import read_results, unevaluated
from prolu_eval.errors import ProluEvalError, UsageError
from prolu_eval.metrics import METRICS
from prolu_eval.results import (
    Result,
    prefix_names_with_folder,
    read_result,
    select,
)
from prolu_eval.run_names import folder_titles
from prolu_eval.spelling import suggesting

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from prolu_eval.training import Settings, SweepFile, Trained

Paths = PathLike | Sequence[PathLike]
Warn = Callable[[str], object]


def _warn(sentence: str) -> None:
    """Warn at the line of the caller's own code that called into the package."""
    level = 1
    while sys._getframe(level).f_globals["__name__"].partition(".")[0] == __package__:
        level += 1
    warnings.warn(sentence, stacklevel=level + 1)


@dataclass(frozen=True, repr=False)
class FrontierAnswer:
    """Which runs and variants are better: the frontier of every group of comparable results.

    ``groups`` has an answer for each group of comparable results, the largest group first.
    """

    groups: tuple[Answer, ...]

    @property
    def sentence(self) -> str:
        """The answer in a few sentences; with several groups, a line for each after its title."""
        if len(self.groups) == 1:
            return self.groups[0].sentence
        return "\n".join(f"{found.title}: {found.sentence}" for found in self.groups)

    @property
    def table(self) -> "pd.DataFrame":
        """A row for each run, with ``group``, ``on_frontier``, ``membership`` and the metrics."""
        from prolu_eval.render.table_files import run_frame

        return run_frame(self.groups)

    def figure(self, group: int = 0) -> "go.Figure":
        """The figure of a group's runs over its first two metrics, as the page draws it."""
        from prolu_eval.render.figures import View, view_figure

        n = of_type(group, int, "group", "give its number, from 0")
        if not 0 <= n < len(self.groups):
            known = f"0 to {len(self.groups) - 1}"
            raise UsageError("group", f"{n} is not one of {known}", "give its number, from 0")
        of = self.groups[n]
        x, y, *_ = of.question.keys
        drawn = view_figure(of.group, View(x, y, "frontiers", "", frontier=True))
        return drawn.update_layout(title=of.title, margin={"t": 64})

    def report(self, path: PathLike) -> Path:
        """Write the HTML page, one self-contained file, and return its path.

        Raises:
            ResultsError: if the file cannot be written.
            UsageError: if ``path`` is not a path.
        """
        from prolu_eval.render.page import write_report

        return write_report(self.groups, as_path(path, "the page"))

    def __repr__(self) -> str:
        return f"<FrontierAnswer: {self.sentence}>"

    def _repr_html_(self) -> str:
        drawn = "".join(  # the first figure includes plotly's script, so that no network is needed
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
    """The Pareto frontier of stored results, without torch or a model.

    Args:
        runs: a folder of runs with results; or several folders, which are compared with each other
            (``groups[0].folders``) and whose names are put before those of their variants; or a
            table of :func:`prolu_eval.load_results`; or results.
        x: a metric; :data:`prolu_eval.METRICS` says whether less or more of it is better.
        y: another metric.
        z: a third metric, or None.
        tokens: the text of the evaluation to use, if the runs were evaluated several times.
        splits: by metric, values that divide the runs into parts, which are answered separately as
            well.
        reference: by metric, the reference point of hypervolumes.
        at: by metric, a value at which variants are compared, such as ``{"l0": 32}``; the answers
            are in ``groups[0].at``.

    Raises:
        UsageError: if a metric is unknown or has no better direction, if a folder does not exist,
            or if a table was not made by :func:`prolu_eval.load_results`.
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
    """The results of a table's rows, read again from their files because the table has no sums."""
    if "file" not in table or table["file"].isna().any():
        reason = "does not say where its results are stored"
        raise UsageError("the table", reason, "give one of load_results, or name the folder")
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
    """Compare runs with a baseline, as ``prolu-eval compare`` does, without torch or a model.

    Args:
        runs: a folder of runs with results, or several.
        baseline: the JSON file of :func:`prolu_eval.save_baseline`, or a folder of runs to compare
            with instead.
        tolerance: how much worse metrics may get, such as ``"ce_degradation=+2%,l0=+1"``.
        frontier: two metrics ``x,y`` whose frontier is judged; None to judge no frontier.
        match: ``name``, ``configuration``, or a regular expression whose groups identify a run.
        only: names of runs, or shell patterns of names; other runs are left out on both sides.
        unpaired: compare results on different tokens as independent samples.
        alpha: the error rate of the whole family of tests.
        warn: a function that gets a sentence for each result that is left out.

    Returns:
        The comparison: ``verdict`` (pass, regression or incomparable), ``rows`` and ``exit_code``.
        If the baseline is a folder, ``folders`` also says which of the two folders is better.

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
    current = read_results(folders, settings=settings, warn=warn)
    found = compare_results(current, kept, options, partial(unevaluated, folders))
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
    """The folders compared with each other; empty if an axis has no better direction."""
    if any(METRICS[key].direction == "none" for key in axes):
        return ()
    results = [
        prefix_names_with_folder(result, title)
        for folder, title in folder_titles(list(beside)).items()
        for result in beside[folder]
        if is_selected(result.run.name, only)
    ]
    answers = answer(results, Question.asked(*axes, grouping="folder"))
    return tuple(found for found in answers if len(found.group.folders) > 1)


def _baseline(baseline: Paths, warn: Warn) -> list[Result]:
    folders = as_paths(baseline, "the baseline")
    if any(folder.is_dir() for folder in folders):
        return read_results(folders, warn=warn)
    if len(folders) > 1:
        raise UsageError("the baseline", "is several files", "name one file, or folders of runs")
    return load_baseline(folders[0])


def save_baseline(
    runs: "Paths | pd.DataFrame | Iterable[Result]",
    path: PathLike,
    *,
    tokens: PathLike | None = None,
) -> None:
    """Write stored results as a baseline: the file ``path``, and the file of their sums beside it.

    Args:
        runs: a folder of runs with results, or several; or a table of
            :func:`prolu_eval.load_results`; or results.
        path: the JSON file to write.
        tokens: the text of the evaluation to use, if the runs were evaluated several times.

    Raises:
        BaselineError: if two results have the same name, or if the file's name does not end in
            .json.
        ResultsError: if there are no results, or if a file cannot be written.
        UsageError: if ``runs`` is neither folders nor a table nor results, or ``path`` not a path.
    """
    write_baseline(_results(runs, tokens), as_path(path, "the baseline"))


@dataclass(frozen=True)
class Converted:
    """A checkpoint written in another format: the path written, or why it could not be written."""

    run: str
    path: Path | None
    error: str | None = None


def convert(source: PathLike, destination: PathLike, to: str = "native") -> list[Converted]:
    """Write checkpoints of any format as native runs, or as checkpoints that SAELens can load.

    Args:
        source: a checkpoint, a folder of checkpoints, or ``hub:owner/name[/folder]``.
        destination: the folder to write; if there are several runs, each gets a folder in it.
        to: ``native`` or ``saelens``.

    Returns:
        An entry for each checkpoint found. One that cannot be loaded or written does not stop the
        others.

    Raises:
        CheckpointError: if no checkpoint is found.
        UsageError: if ``to`` is another format, or if a path is not a path.
    """
    from prolu_eval.checkpoints import discover, load_run
    from prolu_eval.checkpoints.native import write_native
    from prolu_eval.checkpoints.saelens_writer import write_saelens
    from prolu_eval.runs import Broken

    writers = {"native": write_native, "saelens": write_saelens}
    if of_type(to, str, "--to", f"choose {', '.join(writers)}") not in writers:
        remedy = suggesting(to, writers, f"choose {' or '.join(writers)}")
        raise UsageError("--to", f"cannot write {to!r}", remedy)
    folder, place = as_path(destination, "the destination"), as_path(source, "the source")
    if folder.resolve() == place.resolve():
        raise UsageError(folder, "is what is to be converted", "name a new or empty folder")
    found = discover(place)
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
    """Train every run of a sweep that is not in ``out`` yet, each into a folder of its own.

    Args:
        sweep: a TOML file, the content of one, or None for the write-up's four sweeps.
        out: the folder for the runs.
        settings: device, cache, checkpoints, progress and loggers.
        shared: replacements for settings that all runs of the file share: ``model``, ``hook``,
            ``tokens``, ``n_tokens`` (activations trained on), ``context_length``, ``d_sae``;
            or for those that it varies: ``learning_rates``, ``seeds``, ``coefficients``, ``k``,
            ``target_l0``, ``variants``.

    Returns:
        An entry for each run, in the sweep's order, with ``status`` (trained, present or failed),
        ``folder`` and ``error``.

    Raises:
        ConfigError: if the sweep cannot be read, or if a folder holds a run of another
            configuration.
        ModelError, TokensError: if the model, the hook point or the text cannot be used.
        ResultsError: if ``out`` cannot be written to.
        UsageError: if ``shared`` is given with a sweep that is not a file.
    """
    from prolu_eval.target_l0 import find_coefficients, with_coefficients
    from prolu_eval.training import FOUR_SWEEPS, SweepFile, read_sweep_file, train_sweep

    folder = as_path(out, "out")
    if isinstance(sweep, SweepFile):
        if shared:
            raise UsageError("the sweep", "is not a file", f"set {', '.join(shared)} in it")
        file = sweep
    else:
        path = FOUR_SWEEPS if sweep is None else as_path(sweep, "the sweep")
        file = read_sweep_file(path, **shared)
    found = find_coefficients(file, folder, settings)
    return train_sweep(with_coefficients(file, found), folder, settings)
