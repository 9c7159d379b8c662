"""The JSON documents of runs and frontiers that --json prints, and their types.

A number that is undefined is null. The reference publishes a JSON Schema of the documents.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from prolu_eval.analysis import Answer
from prolu_eval.analysis.answers import BudgetReading, FolderSaving
from prolu_eval.analysis.attainment import Surface
from prolu_eval.analysis.better import Better, MeasureAt
from prolu_eval.analysis.chance import Standing
from prolu_eval.analysis.dominations import Domination
from prolu_eval.analysis.epsilon import Epsilon
from prolu_eval.analysis.frontiers import Frontier, VariantFrontier
from prolu_eval.analysis.ranking import Rank
from prolu_eval.analysis.savings import Lead, Range, Saving
from prolu_eval.estimates import Estimate
from prolu_eval.json_text import Document
from prolu_eval.render.better import better_of
from prolu_eval.results import Result, TaskSet
from prolu_eval.runs import ChanceKind, is_range

SCHEMA_VERSION = 1
# 1: first version (2026-11)

Interval = tuple[float | None, float | None]
Status = Literal["ok", "cached", "partial", "dropped", "failed"]


class TasksDocument(TaskSet):
    """The tasks that a run was measured on: which they are, and the values of each task.

    ``per_task`` has the values by task and column, with intervals over the task's examples.
    """

    per_task: dict[str, dict[str, Estimate]]


class RunDocument(Document):
    """A run: its name and kind, whether it was evaluated, and its metrics.

    Attributes:
        per_layer: of a run that covers several layers, by metric a number for each layer.
        tasks: the tasks that it was measured on, by kind.
        provenance: the setting and the environment of the measurement, and what the run's own
            files say of its training.
    """

    run: str
    path: str
    variant: str | None
    format: str | None
    chance: ChanceKind | None = None
    status: Status
    error: str | None
    metrics: dict[str, Estimate] = Field(default_factory=dict)
    per_layer: dict[str, list[float]] = Field(default_factory=dict)
    tasks: dict[str, TasksDocument] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)


class VariantDocument(Document):
    """A variant's own frontier, and its part in the frontier of all runs."""

    label: str
    runs: int
    frontier: list[str]
    hypervolume: float | None
    hypervolume_ci95: Interval
    hypervolume_share: float | None
    hypervolume_share_ci95: Interval
    on_frontier: int
    exclusive_share: float | None
    exclusive_share_ci95: Interval

    @classmethod
    def of(cls, found: VariantFrontier) -> Self:
        """The document of a variant."""
        estimates = ("hypervolume", "hypervolume_share", "exclusive_share")
        return cls.filled(found, **_with_ci95(found, *estimates))


class VariantAtDocument(Document):
    """A variant under one measure: its value at the L0, and the ranks that it may have."""

    at_l0: Estimate
    ranks: tuple[int, int] | None


class MeasureDocument(Document):
    """A measure of all variants, and whether it orders configurations as fidelity does."""

    variants: dict[str, VariantAtDocument]
    agreement: Estimate
    agreement_at_equal_l0: Estimate

    @classmethod
    def of(cls, found: MeasureAt) -> Self:
        """The document of a measure."""
        variants = {
            v.variant: VariantAtDocument(at_l0=v.value, ranks=v.ranks) for v in found.variants
        }
        return cls.filled(found, variants=variants, agreement_at_equal_l0=found.at_equal_l0)


class BetterDocument(Document):
    """All measures of the variants at one L0."""

    l0: float
    fidelity: str
    n_configurations: int
    sentence: str
    measures: dict[str, MeasureDocument]

    @classmethod
    def of(cls, found: Better) -> Self:
        """The document of this section."""
        measures = {m.metric: MeasureDocument.of(m) for m in found.measures}
        return cls.filled(found, measures=measures)


class ChanceDocument(Document):
    """A variant compared with a chance baseline."""

    variant: str
    baseline: str
    standing: Standing
    metric: str
    at_equal: str
    amount: Estimate
    range: Range | None


class _Titled(Document):
    group: str


class _Found(Document):
    keys: tuple[str, ...]
    reference: tuple[float, ...]
    hypervolume: float | None
    hypervolume_ci95: Interval
    frontier: list[str]
    membership: dict[str, float]
    dominations: list[Domination]
    savings: list[Saving]
    leads: list[Lead]
    epsilons: list[Epsilon]
    ranking: list[Rank]
    vague: list[str]
    surfaces: dict[str, dict[str, Surface]]
    n_replicates: int
    seeds_resampled: bool


class StretchDocument(_Found):
    """The frontier of a part of a group's runs."""

    variants: list[VariantDocument]


class GroupDocument(_Found, _Titled):
    """The answer for one group of comparable runs."""

    variants: dict[str, VariantDocument]
    stretches: dict[str, StretchDocument]
    at: tuple[BudgetReading, ...]
    folders: tuple[FolderSaving, ...]
    better: BetterDocument | None
    chance: list[ChanceDocument]
    statement: str
    notes: tuple[str, ...]
    runs: list[RunDocument]


class _Asked(Document):
    schema_version: int = SCHEMA_VERSION
    x: str
    y: str


class OneFrontier(GroupDocument, _Asked):
    """The answer where all runs can be compared; ``runs`` also has those without a result.

    ``report`` is the page that was written, and ``figures`` are files of figures, if any.
    """

    report: str | None
    figures: list[str] | None = None


class SeveralFrontiers(_Asked):
    """The answers for several groups of comparable runs, or for none.

    ``runs`` are those that are in no group, since they have no result. The other fields are those
    of :class:`OneFrontier`.
    """

    groups: list[GroupDocument]
    runs: list[RunDocument]
    report: str | None
    figures: list[str] | None = None


FrontierDocument = OneFrontier | SeveralFrontiers


def run_document(
    name: str,
    path: str,
    variant: str | None,
    kind: str | None,
    result: Result | None,
    *,
    status: Status = "cached",
    error: str | None = None,
) -> RunDocument:
    """The document of a run, evaluated or not."""
    about = {"run": name, "path": path, "variant": variant, "format": kind}
    if result is None:
        return RunDocument(**about, status=status, error=error)
    layers = result.per_layer() if is_range(result.run.hook) else {}
    return RunDocument(
        **about,
        chance=result.run.chance,
        status=status,
        error=error,
        metrics=result.metrics,
        per_layer={key: values.tolist() for key, values in layers.items()},
        tasks={
            over: TasksDocument(**part.model_dump(), per_task=result.per_task(over))
            for over, part in result.tasks.items()
        },
        provenance={
            "fingerprint": result.fingerprint,
            "setting": result.setting.model_dump(mode="json"),
            "environment": result.environment,
            **result.run.provenance,
        },
    )


def result_document(result: Result) -> RunDocument:
    """The document of a run with a stored result, as an evaluation that reuses it prints it."""
    run = result.run
    return run_document(run.name, run.path, run.variant, run.format, result)


def frontier_document(
    answers: Sequence[Answer],
    keys: Sequence[str],
    report: Path | None,
    runs: Callable[[Answer], list[RunDocument]],
    *,
    others: Sequence[RunDocument] = (),
    figures: Sequence[Path] | None = None,
) -> FrontierDocument:
    """The document of the answers for all groups; with one group, as usual, it is that group's.

    Args:
        answers: the answers for all groups.
        keys: the objectives that were asked for; with one group its own objectives replace them.
        report: the page that was written, if any.
        runs: a function that gives the documents of a group's runs.
        others: the runs that are in no group, since they have no result.
        figures: the files of figures that were written, if any.
    """
    groups = [_group(answer, runs(answer)) for answer in answers]
    written: dict[str, Any] = {
        "report": None if report is None else str(report),
        "figures": None if figures is None else [str(figure) for figure in figures],
    }
    if len(groups) != 1:
        return SeveralFrontiers(x=keys[0], y=keys[1], groups=groups, runs=[*others], **written)
    x, y, *_ = answers[0].question.keys
    everything = [*groups[0].runs, *others]
    return OneFrontier.filled(groups[0], x=x, y=y, runs=everything, **written)


def _group(answer: Answer, runs: list[RunDocument]) -> GroupDocument:
    found = answer.details
    return GroupDocument.filled(
        found,
        **_with_ci95(found, "hypervolume"),
        group=answer.title,
        variants={v.label: VariantDocument.of(v) for v in found.variants},
        stretches={title: _stretch(part.details) for title, part in answer.splits.items()},
        at=answer.at,
        folders=answer.folders,
        better=None if (better := better_of(answer)) is None else BetterDocument.of(better),
        chance=[ChanceDocument.filled(part, part.saving) for part in answer.chance],
        statement=answer.sentence,
        notes=answer.notes,
        runs=runs,
    )


def _stretch(found: Frontier) -> StretchDocument:
    variants = [VariantDocument.of(variant) for variant in found.variants]
    return StretchDocument.filled(found, **_with_ci95(found, "hypervolume"), variants=variants)


def _with_ci95(found: object, *names: str) -> dict[str, Any]:
    """Some of an object's estimates, each as a value and, by ``NAME_ci95``, its interval."""
    estimates = {name: getattr(found, name) for name in names}
    values = {name: estimate.value for name, estimate in estimates.items()}
    return values | {f"{name}_ci95": estimate.ci95 for name, estimate in estimates.items()}
