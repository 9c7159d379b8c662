"""The complete answer to a question about results; sentences, tables and figures show parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from prolu_eval.analysis.advice import Gap, advised
from prolu_eval.analysis.bootstrap import Replicates, n_replicates, resample
from prolu_eval.analysis.chance import AgainstChance, about_chance, against_chance
from prolu_eval.analysis.dominations import Domination
from prolu_eval.analysis.frontiers import Computation, Frontier, VariantFrontier, membership
from prolu_eval.analysis.groups import Group, comparable, rows_by_range
from prolu_eval.analysis.pareto import costs, front
from prolu_eval.analysis.questions import Question
from prolu_eval.analysis.savings import Curves, Range, Saving, Status
from prolu_eval.analysis.splines import Reading
from prolu_eval.analysis.statement import amount, at_budgets, statement, tied
from prolu_eval.estimates import CONFIDENCE, Estimate
from prolu_eval.intervals import holm
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result


@dataclass(frozen=True)
class RunPlace:
    """A run's values of the objectives, and the frontiers that it is on.

    ``membership`` is the share of replicates in which the run is on the frontier of all runs; it is
    None where there are no replicates. ``values`` has one value for each objective.
    """

    name: str
    label: str
    values: tuple[Estimate, ...]
    on_frontier: bool
    on_own_frontier: bool
    membership: float | None

    @property
    def x(self) -> Estimate:
        """The first objective."""
        return self.values[0]

    @property
    def y(self) -> Estimate:
        """The second objective."""
        return self.values[1]


@dataclass(frozen=True)
class CurvePoint:
    """A variant's frontier at one value of x: y, with an interval that counts interpolation."""

    x: float
    y: Estimate


@dataclass(frozen=True)
class VariantAnswer:
    """A variant, its place in the ranking by savings, and its frontier.

    ``saving`` is how much x the best variant saves at equal y compared with this one, or how much y
    at equal x if only that is known. It is None for the best variant. ``details`` has the
    hypervolume and the shares.
    """

    label: str
    rank: int
    tied_with: tuple[str, ...]
    saving: Saving | None
    n_seeds: int
    curve: tuple[CurvePoint, ...]
    details: VariantFrontier


@dataclass(frozen=True)
class AdvisedSaving(Saving):
    """A saving, and what would make it surer: the gap to fill, if there is one, and advice."""

    gap: Gap | None = None
    advice: str = ""


@dataclass(frozen=True)
class LeadRange:
    """A range of ``metric`` over which one variant is better than another.

    ``status`` is ``certain`` if this follows from runs that dominate others, and ``likely`` if it
    relies on interpolation between runs.
    """

    better: str
    worse: str
    metric: str
    range: Range
    status: Status


@dataclass(frozen=True)
class BudgetReading:
    """A variant at a budget: a fixed value of one of the two objectives.

    Attributes:
        label: the variant.
        metric: the objective whose value is fixed.
        budget: the value that it is fixed at.
        other: the other objective, which is read off at the budget.
        value: the value of ``other`` on the variant's frontier; None outside the frontier's range.
        nearest: the run whose value of ``metric`` is nearest to the budget.
        within: the run that is best in ``other`` among those within the budget; None if there is
            none.
        rank: 1 for the best value and for those that cannot be told from it; None where there is no
            value.
    """

    label: str
    metric: str
    budget: float
    other: str
    value: Estimate
    nearest: RunPlace
    within: RunPlace | None
    rank: int | None


@dataclass(frozen=True)
class FolderSaving:
    """What the first folder saves compared with the second, for one variant or for all.

    Where ``variant`` is None, the saving is the mean over all variants that both folders hold and
    whose frontiers in the two share a range; ``n_variants`` is their number.
    """

    first: str
    second: str
    variant: str | None
    n_variants: int
    saving: Saving


@dataclass(frozen=True)
class Answer:
    """The answer for one group of comparable results.

    Attributes:
        question: the question.
        group: the runs.
        title: the group's hook point, model, and whatever else tells it from other groups.
        n_replicates: how many resampled sets of sequences the intervals rest on; 0 if none.
        seeds_resampled: whether configurations were trained with several seeds, so that the answer
            holds for new training runs too.
        runs: the runs, in order of x.
        variants: the variants, in order of rank.
        dominations: the dominations between runs that are certain for all pairs at once.
        savings: the savings of every variant compared with every other, in both metrics.
        lead_ranges: the ranges over which one variant is better than another.
        at: the variants at the question's budgets.
        folders: the folders compared with each other, if the question asks for that.
        details: hypervolumes, shares, epsilon indicators and attainment surfaces.
        splits: the answers for parts of the group, by the condition that defines each part.
        chance: the variants compared with chance baselines.
        sentence: the answer in a few sentences, including the budgets.
        notes: short remarks, such as ``1 seed``, and what is missing.
    """

    question: Question
    group: Group
    title: str
    n_replicates: int
    seeds_resampled: bool
    runs: tuple[RunPlace, ...]
    variants: tuple[VariantAnswer, ...]
    dominations: tuple[Domination, ...]
    savings: tuple[AdvisedSaving, ...]
    lead_ranges: tuple[LeadRange, ...]
    at: tuple[BudgetReading, ...]
    folders: tuple[FolderSaving, ...]
    details: Frontier
    splits: dict[str, "Answer"]
    chance: tuple[AgainstChance, ...]
    sentence: str
    notes: tuple[str, ...]

    def saving(self, first: str, second: str, metric: str) -> AdvisedSaving:
        """How much of a metric the first variant saves compared with the second."""
        return next(s for s in self.savings if (s.first, s.second, s.metric)
                    == (first, second, metric))  # fmt: skip


def answer(
    results: Sequence[Result], question: Question, replicates: int | None = None, seed: int = 0
) -> list[Answer]:
    """Answer a question for every group of comparable results, the largest group first.

    Args:
        results: the results of runs.
        question: the question.
        replicates: how often sequences are resampled; None for a number that decreases with the
            number of runs (:func:`~prolu_eval.analysis.bootstrap.n_replicates`).
        seed: the seed of the resampling.

    Raises:
        UsageError: if an objective is unknown, has no better direction, or was not measured.
    """
    found = []
    for group in comparable(results, question.keys):
        own = question.about(group)
        n = replicates or n_replicates(group)
        found.append(answer_group(group, own, resample(group.with_chance(), own.keys, n, seed)))
    return found


def answer_group(group: Group, question: Question, replicates: Replicates | None) -> Answer:
    """Answer a question for one group.

    Args:
        group: the runs.
        question: the question.
        replicates: the objectives of the group's runs and of its chance baselines over resampled
            sequences, for intervals.
    """
    chance = against_chance(group, question.keys, replicates)
    replicates = replicates and replicates.subset(np.arange(len(group.results)))
    made = Computation(group, question.keys, replicates, question.reference, question.at)
    found = _after_the_race(made.frontier(), group, question, replicates)
    runs = _runs(group, question, found)
    curves = made.curves
    savings = _savings(curves, group, found)
    folders = _folders(curves, group) if question.grouping == "folder" else ()
    at = _budgets(curves, question, runs) if curves else ()
    return Answer(
        question=question,
        group=group,
        title=group.title,
        n_replicates=found.n_replicates,
        seeds_resampled=found.seeds_resampled,
        runs=runs,
        variants=_variants(curves, group, found, savings),
        dominations=tuple(found.dominations),
        savings=savings,
        lead_ranges=_lead_ranges(found),
        at=at,
        folders=folders,
        details=found,
        splits={
            title: answer_group(
                group.subset(rows),
                replace(question, splits={}),
                replicates and replicates.subset(rows),
            )
            for title, rows in rows_by_range(group, question.splits).items()
        },
        chance=chance,
        sentence=" ".join(
            [
                _folder_sentence(folders, group, found)
                if question.grouping == "folder"
                else statement(found),
                *about_chance(chance),
                *at_budgets(question.keys, at),
            ]
        ),
        notes=_notes(group, found, question),
    )


def _after_the_race(
    found: Frontier, group: Group, question: Question, replicates: Replicates | None
) -> Frontier:
    """After a race: a frontier whose members are found among the runs that stayed to the end.

    Everything else in ``found`` is computed on the tokens that all runs share. The members are
    found again on all tokens, among the runs that stayed, because a run that left the race was
    beaten by another one in the race's objectives. If the question has other objectives than the
    race, ``found`` is returned as it is.
    """
    stayed = [result for result in group.raced if result.dropped is None]
    lost = [result.dropped for result in group.raced if result.dropped is not None]
    if not lost or any(set(why.objectives) != set(question.keys) for why in lost):
        return found
    (whole,) = comparable(stayed, question.keys)
    n = len(replicates.values[question.x]) if replicates is not None else 1
    again = replicates and resample(whole, question.keys, n, replicates.seed)
    on = membership(whole, question.keys, again)
    names = whole.table["name"].to_numpy()
    frontier = [str(names[i]) for i in front(costs(whole.table, question.keys))]
    share = dict.fromkeys(found.membership, 0.0) | on
    variants = [
        replace(v, on_frontier=sum(own in frontier for own in _named(group, v.label)))
        for v in found.variants
    ]
    return replace(found, frontier=frontier, membership=share if on else {}, variants=variants)


def _named(group: Group, label: str) -> list[str]:
    return [result.run.name for result in group.results if result.run.label == label]


def _runs(group: Group, question: Question, found: Frontier) -> tuple[RunPlace, ...]:
    on = set(found.frontier)
    own = {name for variant in found.variants for name in variant.frontier}
    places = [
        RunPlace(
            result.run.name,
            result.run.label,
            tuple(result.metrics.get(key, Estimate(value=None)) for key in question.keys),
            result.run.name in on,
            result.run.name in own,
            found.membership.get(result.run.name),
        )
        for result in group.measured
    ]
    places.sort(key=lambda run: (run.x.value is None, run.x.value or 0.0, run.name))
    return tuple(places)


def _savings(curves: Curves | None, group: Group, found: Frontier) -> tuple[AdvisedSaving, ...]:
    if curves is None:
        return ()
    savings = []
    for saving in found.savings:
        gap, advice = advised(curves, group.table, saving)
        parts = {name: getattr(saving, name) for name in Saving.__dataclass_fields__}
        savings.append(AdvisedSaving(**parts, gap=gap, advice=advice))
    return tuple(savings)


def _variants(
    curves: Curves | None, group: Group, found: Frontier, savings: Sequence[AdvisedSaving]
) -> tuple[VariantAnswer, ...]:
    details = {variant.label: variant for variant in found.variants}
    best = found.ranking[0].label
    labels = group.table["label"].to_numpy()
    variants = []
    for place in found.ranking:
        known = {s.metric: s for s in savings if (s.first, s.second) == (best, place.label)}
        against = next((s for key in found.keys if (s := known.get(key)) and s.range), None)
        seeds = [len(rows) for rows in group.configurations if labels[rows[0]] == place.label]
        variants.append(
            VariantAnswer(
                place.label,
                place.rank,
                place.tied_with,
                against,
                max(seeds),
                _curve(curves, place.label),
                details[place.label],
            )
        )
    return tuple(variants)


def _curve(curves: Curves | None, label: str) -> tuple[CurvePoint, ...]:
    if curves is None:
        return ()
    return tuple(
        CurvePoint(curves.scales[0].value(level), curves.read_off(reading, 0))
        for level, reading in curves.over[0].curve(label)
    )


def _lead_ranges(found: Frontier) -> tuple[LeadRange, ...]:
    """The ranges where a band shows one variant ahead; certain where dominations show it too."""
    lead_ranges = []
    for lead in found.leads:
        sides = (
            (lead.first, lead.second, lead.first_ahead, lead.first_certain),
            (lead.second, lead.first, lead.second_ahead, lead.second_certain),
        )
        for better, worse, ahead, certain in sides:
            for low, high in ahead:
                sure = any(a <= low and high <= b for a, b in certain)
                status: Status = "certain" if sure else "likely"
                lead_ranges.append(LeadRange(better, worse, lead.x, (low, high), status))
    return tuple(lead_ranges)


def _budgets(
    curves: Curves, question: Question, runs: Sequence[RunPlace]
) -> tuple[BudgetReading, ...]:
    found: list[BudgetReading] = []
    for metric, budget in question.at.items():
        over = question.keys.index(metric)
        found += _budget(curves, over, budget, runs)
    return tuple(found)


def _budget(
    curves: Curves, over: int, budget: float, runs: Sequence[RunPlace]
) -> list[BudgetReading]:
    """All variants at one budget, the best one first."""
    splines, scale = curves.over[over], curves.scales[over]
    place = float(scale.coordinates(scale.cost(budget)))
    covering = [
        label
        for label in curves.labels
        if (span := splines.range_of(label)) and span[0] <= place <= span[1]
    ]
    values = {label: splines.read(label, place) for label in covering}
    order = sorted(covering, key=lambda label: values[label].value)
    gaps = [splines.gap_at(order[0], label, place) for label in order[1:]]
    known = curves.has_intervals
    adjusted = holm([gap.p_value for gap in gaps]) if known else np.ones(len(gaps))
    behind = dict(zip(order[1:], adjusted <= 1 - CONFIDENCE, strict=True))
    last = 2 + sum(not late for late in behind.values())
    rest = [label for label in curves.labels if label not in values]
    found = []
    for label in [*order, *rest]:
        own = [run for run in runs if run.label == label and _finite(run)]
        if not own:
            continue
        cost = curves.scales[1 - over].cost
        keeping = [run for run in own if scale.cost(_value(run, over)) <= scale.cost(budget)]
        found.append(
            BudgetReading(
                label,
                curves.keys[over],
                budget,
                curves.keys[1 - over],
                curves.read_off(values[label], over) if label in values else Estimate(value=None),
                min(own, key=lambda run: abs(_value(run, over) - budget)),
                min(keeping, key=lambda run: float(cost(_value(run, 1 - over))), default=None),
                None if label not in values else last if behind.get(label) else 1,
            )
        )
    return found


def _finite(run: RunPlace) -> bool:
    return all(value.value is not None for value in run.values)


def _value(run: RunPlace, axis: int) -> float:
    return run.values[axis].value or 0.0


def _folders(curves: Curves | None, group: Group) -> tuple[FolderSaving, ...]:
    """Folders compared with each other: for all variants together, and for each that both hold.

    One folder is better than another by the rule that holds for variants: both savings exclude zero
    with the same sign. The p-values of the variants of two folders are adjusted together (Holm).
    """
    if curves is None:
        return ()
    by_folder = _by_folder(group)
    found = []
    for first, second in combinations(by_folder, 2):
        one, two = by_folder[first], by_folder[second]
        readings: list[tuple[int, str | None, int, Reading]] = []  # over, variant, n_variants, gap
        for over in (1, 0):
            splines = curves.over[over]
            pairs = {v: (one[v], two[v]) for v in one
                     if v in two and splines.shared(one[v], two[v])}  # fmt: skip
            if pairs:
                overall = splines.mean_of_gaps(list(pairs.values()))
                readings.append((over, None, len(pairs), overall))
                readings += [(over, v, 1, splines.mean_gap(*pair)) for v, pair in pairs.items()]
        decided = _decided(readings) if curves.has_intervals else set()
        for over, variant, n, gap in readings:
            for names, sign in (((first, second), 1), ((second, first), -1)):
                estimate = curves.amount(gap, over, sign)
                status: Status = "likely" if variant in decided else "tied"
                if estimate.value is None:
                    status = "undetermined"
                metrics = curves.keys[1 - over], curves.keys[over]
                saving = Saving(*names, *metrics, estimate, None, status)
                found.append(FolderSaving(*names, variant, n, saving))
    return tuple(found)


def _by_folder(group: Group) -> dict[str, dict[str, str]]:
    """By folder, and then by a variant's name in its folder, the variant's label in the group.

    Folders are in the order in which they were named.
    """
    by_folder: dict[str, dict[str, str]] = {folder: {} for folder in group.folders}
    for result in group.results:
        label = result.run.label
        by_folder[result.folder][label.removeprefix(f"{result.folder}: ")] = label
    return by_folder


def _decided(readings: Sequence[tuple[int, str | None, int, Reading]]) -> set[str | None]:
    """The variants for which one of two folders is better; None stands for all together."""
    by_variant: dict[str | None, list[Reading]] = {}
    for _, variant, _, gap in readings:
        by_variant.setdefault(variant, []).append(gap)
    p_values = {
        variant: max(gap.p_value for gap in gaps)
        if len({np.sign(gap.value) for gap in gaps}) == 1
        else 1.0
        for variant, gaps in by_variant.items()
    }
    variants = [variant for variant in p_values if variant is not None]
    adjusted = holm([p_values[variant] for variant in variants])
    sure = dict(zip(variants, adjusted.tolist(), strict=True)) | {None: p_values.get(None, 1.0)}
    return {variant for variant, p in sure.items() if p <= 1 - CONFIDENCE}


def _folder_sentence(folders: Sequence[FolderSaving], group: Group, found: Frontier) -> str:
    """Which folder is better, for all variants together and for each one."""
    by_folder = _by_folder(group)
    sentences = []
    for first, second in combinations(by_folder, 2):
        common = [v for v in by_folder[first] if v in by_folder[second]]
        own = [p for p in folders if (p.first, p.second) == (first, second)]
        shown: dict[str | None, list[FolderSaving]] = {}
        for part in own:
            shown.setdefault(part.variant, []).append(part)
        if not common:
            sentences.append(f"{first} and {second} hold no variant in common.")
        elif not shown:
            sentences.append(
                f"{first} and {second} share no range of {METRICS[found.x].title} or "
                f"{METRICS[found.y].title} in any variant."
            )
        else:
            sentences.append(_folder_pair(first, second, folders, shown))
        apart = [
            f"{v} ({folder})"
            for folder, other in ((first, second), (second, first))
            for v in by_folder[folder]
            if common and v not in by_folder[other]
        ]
        sentences += [f"Only in one of the two folders: {', '.join(apart)}."] if apart else []
    if not folders:
        sentences.append(statement(found))
    return " ".join(sentences)


def _folder_pair(
    first: str,
    second: str,
    folders: Sequence[FolderSaving],
    shown: Mapping[str | None, Sequence[FolderSaving]],
) -> str:
    """Two folders compared: one sentence for all variants together, and one for each variant.

    Each sentence states the saving of the first metric at equal values of the second, or the other
    way round if only that is known.
    """
    sentences = []
    for variant, parts in shown.items():
        part = next((p for p in parts if p.saving.amount.value is not None), parts[0])
        saving = part.saving
        plural = "s" if part.n_variants > 1 else ""
        over = f", over {part.n_variants} variant{plural}" if variant is None else ""
        of = "" if variant is None else f" for {variant}"
        if saving.status == "likely":
            ahead = (saving.amount.value or 0) > 0
            one, two = (first, second) if ahead else (second, first)
            back = (one, variant, saving.metric)
            better = next(p.saving for p in folders
                          if (p.first, p.variant, p.saving.metric) == back
                          and p.second == two)  # fmt: skip
            equal = f" at equal {METRICS[saving.at_equal].title}"
            sentences.append(f"{one} is better than {two}{of}: {amount(better)}{equal}{over}.")
        else:
            said = tied(first, [p.saving for p in parts], saving)
            sentences.append(f"{f'For {variant}, ' if variant else ''}{first} and {second} "
                             f"{said}{over}.")  # fmt: skip
    return " ".join(sentences)


def _seeds(group: Group) -> dict[str, frozenset[int]]:
    """The seeds of each variant whose runs all say theirs."""
    found: dict[str, set[int | None]] = {}
    for result in group.results:
        found.setdefault(result.run.label, set()).add(result.run.seed)
    return {
        label: frozenset(seed for seed in seeds if seed is not None)
        for label, seeds in found.items()
        if None not in seeds
    }


def _notes(group: Group, found: Frontier, question: Question) -> tuple[str, ...]:
    notes = [question.instead] if question.instead else []
    labels = group.table["label"].to_numpy()
    seeds = {label: max(len(r) for r in group.configurations if labels[r[0]] == label)
             for label in group.labels}  # fmt: skip
    if max(seeds.values()) == 1:
        notes.append("1 seed")
    elif min(seeds.values()) == 1:
        single = ", ".join(label for label, n in seeds.items() if n == 1)
        notes.append(
            f"1 seed of {single}: variation between seeds is estimated from the variants with more"
        )
    else:
        fewest, most = min(seeds.values()), max(seeds.values())
        notes.append(f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds")
    if not group.has_seeds and len(set(_seeds(group).values())) > 1:
        notes.append(
            "variants were trained with different seeds: what all runs of a seed have in common is "
            "not in the intervals between them"
        )
    unfinished = sum(result.run.not_converged is not None for result in group.results)
    if unfinished:
        among = f"{unfinished} of {len(group.results)} runs"
        notes.append(
            f"{among} not converged: longer training (sweep with more --n-tokens and a new "
            "--out) would change their results"
        )
    lost = sum(result.dropped is not None for result in group.raced)
    if lost:
        shared = group.results[0].setting.n_counted
        notes.append(
            f"{lost} of {len(group.raced)} runs left a race: variants are compared on the "
            f"{shared:,} tokens that all runs have"
        )
    if not found.n_replicates:
        notes.append("no intervals: these results have no sums per sequence")
    if found.vague:
        notes.append(
            f"curves leave out {', '.join(found.vague)}: on these sequences, the place is too "
            "uncertain"
        )
    return tuple(notes)
