"""Answers to questions about a frontier: ranking, savings, advice, budgets and folders agree."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from prolu_eval.analysis import Answer, Gap, Question, answer
from prolu_eval.analysis.savings import _WIDEST, Saving
from prolu_eval.analysis.statement import tied
from prolu_eval.errors import UsageError
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS
from prolu_eval.plain_text import aligned
from prolu_eval.render.tables import folder_tables
from prolu_eval.results import PER_SEQUENCE, Result, prefix_names_with_folder
from tests.analysis.test_savings import KEYS, runs, with_sequences
from tests.helpers.made_results import result

REPORTS = Path(__file__).parent.parent.parent / "reports"
RELU, STE = "prolu/relu+l1", "prolu/ste+l1"


def variant(label: str, factor: float, n: int = 8, seed: int = 0) -> list[Result]:
    """Runs with CE degradation factor / L0, at L0 4 to 64, each with its own coefficient."""
    made = runs(label, *[(x, factor / x) for x in np.geomspace(4, 64, n)])
    made = [
        r.model_copy(update={"run": r.run.model_copy(update={"coefficient": 0.1 * 2.0**-i})})
        for i, r in enumerate(made)
    ]
    return with_sequences(made, 0.02, seed)


def only(results: list[Result], **question: object) -> Answer:
    (found,) = answer(results, Question(**question), 200)  # type: ignore[arg-type]
    return found


def stored(seed: int = 0) -> list[Result]:
    """The stored sweeps of one seed, of the variants that were trained at most coefficients."""
    spec = importlib.util.spec_from_file_location("collected", REPORTS / "collected.py")
    assert spec is not None
    assert spec.loader is not None
    collected = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(collected)
    results, _ = collected.read(REPORTS / "results" / "embedded")
    kept = {RELU, STE, "relu+l1", "relu+sqrt_l1"}
    return [r for r in results if r.run.label in kept and r.run.seed == seed]


def test_sentence_ranking_and_savings_say_the_same() -> None:
    found = only([*variant("a", 8), *variant("b", 10, seed=1), *variant("c", 8, seed=2)])
    ranks = {v.label: (v.rank, v.tied_with) for v in found.variants}
    assert ranks == {"a": (1, ("c",)), "c": (1, ("a",)), "b": (3, ())}
    best, worst = found.variants[0].label, found.saving(found.variants[0].label, "b", "l0")
    assert worst.status == "likely"
    assert worst.amount.value == pytest.approx(0.2, abs=0.02)
    assert f"{best} is better than b" in found.sentence
    assert f"{worst.amount:%} fewer active features" in found.sentence
    assert "tied within what these runs can tell" in found.sentence
    assert {(s.better, s.worse) for s in found.lead_ranges} == {("a", "b"), ("c", "b")}
    assert "1 seed" in found.notes


def test_parts_of_the_runs_are_answered_apart() -> None:
    made = [*runs("a", (10, 4), (30, 1)), *runs("b", (20, 3), (40, 2))]
    parts = only(made, splits={"l0": [25]}).splits
    below, above = parts["l0 < 25"].details, parts["l0 >= 25"].details
    assert (below.frontier, above.frontier) == (["a0", "b0"], ["a1"])
    assert below.reference == pytest.approx((21, 4.1))
    assert above.reference == pytest.approx((41, 2.1))
    with pytest.raises(UsageError, match="not measured"):
        only(made, splits={"scale_consistency_additivity_x": [1]})
    three = only(made, splits={"l0": [25, 15]}).splits
    assert {title: part.details.frontier for title, part in three.items()} == {
        "l0 < 15": ["a0"], "l0 >= 15 and l0 < 25": ["b0"], "l0 >= 25": ["a1"],
    }  # fmt: skip


def test_a_gap_may_lie_below_zero() -> None:
    advice = Gap("a", "explained_variance", -0.25, 0.5).advice
    assert advice == "add a runs between explained variance -0.25 and 0.50"


def test_signs_follow_directions() -> None:
    made = []
    for label, gain in (("a", 0.1), ("b", 0.0)):
        points = [(x, 0.2 + gain + 0.1 * np.log(x)) for x in np.geomspace(4, 64, 8)]
        made += runs(label, *points, key="explained_variance")
    found = only(made, y="explained_variance")
    saving = found.saving("a", "b", "explained_variance")
    assert saving.amount.value == pytest.approx(0.1)
    assert (found.saving("a", "b", "l0").amount.value or 0) > 0, "better is less L0"
    assert found.variants[0].label == "a"


def test_runs_added_to_a_gap_keep_ranking_and_savings() -> None:
    """With straight lines across gaps, three more or fewer runs reversed the ranking."""
    results = stored()
    coefficients = sorted({r.run.coefficient or 0 for r in results if r.run.label == RELU})
    full = only(results)
    for first in (3, 4, 5):
        dropped = coefficients[first : first + 3]
        less = only([
            r for r in results if r.run.label != RELU or r.run.coefficient not in dropped
        ])  # fmt: skip
        before, after = (
            {v.label: (v.rank, v.tied_with) for v in found.variants} for found in (full, less)
        )
        for one, (rank, ties) in before.items():
            for two, (other_rank, _) in before.items():
                if one != two and two not in ties and two not in after[one][1]:
                    assert (rank < other_rank) == (after[one][0] < after[two][0])
        for other in (STE, "relu+l1", "relu+sqrt_l1"):
            known, wider = (found.saving(RELU, other, "l0").amount for found in (full, less))
            (low, high), (wide_low, wide_high) = known.ci95, wider.ci95
            assert None not in (low, high, wide_low, wide_high)
            assert (wide_high or 0) - (wide_low or 0) > (high or 0) - (low or 0)
            assert (wide_low or 0) < (known.value or 0) < (wide_high or 0)


def demo(*left_out: float) -> list[Result]:
    """The runs of `prolu-eval demo` and three more of ProLU-ReLU, some of which are left out.

    demo.npz has their sums over the sequences of the embedded text, as `evaluate` stored them.
    """
    with np.load(Path(__file__).parent / "demo.npz") as file:
        shared = {key: file[key].astype(float) for key in ("n", "n_next", "ce_clean")}
        columns = zip(
            file["labels"], file["coefficients"], file["l0"], file["ce_spliced"],
            strict=True,
        )  # fmt: skip
        made = []
        for label, coefficient, l0, spliced in columns:
            if label == RELU and coefficient in left_out:
                continue
            sums = shared | {"l0": l0.astype(float), "ce_spliced": spliced.astype(float)}
            values = {key: estimate(METRICS[key], sums) for key in KEYS}
            r = result(f"{label}{coefficient}", str(label), {}, coefficient=float(coefficient))
            arrays = {PER_SEQUENCE + name: column for name, column in sums.items()}
            made.append(r.model_copy(update={"metrics": r.metrics | values, "arrays": arrays}))
    return made


def test_three_more_runs_in_the_demos_gap_contradict_nothing() -> None:
    """They once reversed the ranking and halved a saving."""
    without, beside = only(demo(0.05, 0.06, 0.07)), only(demo())
    assert (len(without.runs), len(beside.runs)) == (24, 27)
    before, after = ({v.label: v for v in found.variants} for found in (without, beside))
    for one in before:
        for two in set(before) - {one, *before[one].tied_with, *after[one].tied_with}:
            assert (before[one].rank < before[two].rank) == (after[one].rank < after[two].rank)
    assert STE in before[RELU].tied_with
    assert STE in after[RELU].tied_with
    for saving in without.savings:
        if saving.amount.value is not None:
            other = beside.saving(saving.first, saving.second, saving.metric).amount
            assert (saving.amount.low or 0) < (other.high or 0)
            assert (other.low or 0) < (saving.amount.high or 0)


def test_a_gap_is_named_with_coefficients_to_train() -> None:
    results = stored()
    coefficients = sorted({r.run.coefficient or 0 for r in results if r.run.label == RELU})
    dropped = coefficients[4:7]
    found = only([r for r in results if r.run.label != RELU or r.run.coefficient not in dropped])
    saving = found.saving(RELU, STE, "l0")
    assert saving.gap is not None
    assert saving.gap.label == RELU
    assert saving.gap.low < 34 < saving.gap.high
    assert all(coefficients[3] < c < coefficients[7] for c in saving.gap.coefficients)
    assert saving.advice.startswith(f"add {RELU} runs between L0 ")


@pytest.mark.parametrize("label", [RELU, STE, "relu+l1", "relu+sqrt_l1"])
def test_one_sweep_in_two_halves_is_no_lead(label: str) -> None:
    for seed in (0, 1, 2):
        sweep = [r for r in stored(seed) if r.run.label == label]
        sweep.sort(key=lambda r: r.run.coefficient or 0)
        halves = [
            r.model_copy(update={"run": r.run.model_copy(update={"label": "ab"[i % 2]})})
            for i, r in enumerate(sweep)
        ]
        found = only(halves)
        assert found.lead_ranges == ()
        assert found.saving("a", "b", "l0").status == "tied"
        assert "tied within what these runs can tell" in found.sentence


def test_different_seeds_are_in_the_intervals_or_noted() -> None:
    """All runs of a seed begin with the same weights, and differ from others' alike."""

    def trained(label: str, seeds: tuple[int | None, ...]) -> list[Result]:
        made = []
        for seed in seeds:
            for r in variant(label, 8 + (seed or 0) / 10, 5, seed=seed or 0):
                run = r.run.model_copy(update={"seed": seed, "name": f"{r.run.name}-{seed}"})
                made.append(r.model_copy(update={"run": run}))
        return made

    for one, other, noted in (
        ((0,), (0,), False),
        ((0,), (1,), True),
        ((0,), (None,), False),
        ((0, 1), (0,), False),
        ((0, 1), (2, 3), False),
    ):
        notes = only([*trained("a", one), *trained("b", other)]).notes
        assert any("different seeds" in note for note in notes) is noted
    widths = []
    for seeds in ((0, 1), (1, 2), (2, 3)):
        found = only([*trained("a", (0, 1)), *trained("b", seeds)])
        low, high = found.saving("a", "b", "l0").amount.ci95
        assert low is not None
        assert high is not None
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]


def test_a_nearly_dead_run_gives_no_absurd_interval() -> None:
    made = []
    for label, seed in (("a", 1), ("b", 2)):
        made += variant(label, 8, 5, seed)
        (dead,) = with_sequences(runs(f"{label}dead", (0.009, 5.0)), 0.02)
        rare = np.zeros(64)
        rare[seed] = 0.009 * 64
        arrays = {**dead.arrays, "per_sequence/l0": rare}
        run = dead.run.model_copy(update={"label": label})
        made.append(dead.model_copy(update={"arrays": arrays, "run": run}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = only(made)
    for saving in found.savings:
        low, high = saving.amount.ci95
        if low is not None and high is not None:
            assert (1 - low) / (1 - high) <= _WIDEST
    assert any("curves leave out adead0, bdead0" in note for note in found.notes)


def test_budgets() -> None:
    found = only(
        [*variant("a", 8), *variant("b", 10, seed=1)], at={"l0": 20.0, "ce_degradation": 0.3}
    )
    at = {(a.label, a.metric): a for a in found.at}
    one = at["a", "l0"]
    assert one.value.value == pytest.approx(8 / 20, rel=0.01)
    assert one.value.low is not None
    assert one.value.low < 0.4 < (one.value.high or 0)
    assert one.nearest.x.value == pytest.approx(19.5, abs=0.1)
    assert one.within == one.nearest
    assert (one.rank, at["b", "l0"].rank) == (1, 2)
    assert at["b", "ce_degradation"].value.value == pytest.approx(10 / 0.3, rel=0.01)
    assert f"At L0 20, a is best: CE degradation {one.value}. Best run near L0 20: a4 (L0 19." in (
        found.sentence
    )
    equal = only([*variant("a", 8), *variant("c", 8, seed=2)], at={"l0": 20.0})
    first, second = equal.at
    assert (first.rank, second.rank) == (1, 1)
    assert f"cannot be told from {second.label}. Best run near L0 20: {first.nearest.name} (" in (
        equal.sentence
    )
    outside = only([*variant("a", 8), *runs("one", (3.0, 5.0))], at={"l0": 2.0})
    (beyond,) = (part for part in outside.at if part.label == "a")
    assert (beyond.value.value, beyond.rank, beyond.within) == (None, None, None)
    assert "No variant has runs on both sides of L0 2; the nearest run is one0 (L0 3" in (
        outside.sentence
    )


def of_folder(folder: str, label: str, factor: float, seed: int) -> list[Result]:
    return [prefix_names_with_folder(r, folder) for r in variant(label, factor, seed=seed)]


def test_folders_are_compared_variant_by_variant_and_in_all() -> None:
    """Folders keep their order, and labels may contain what separates them from their folder."""
    parts_of = (("b", "x: y", 8), ("a", "x: y", 10), ("b", "z", 4), ("a", "z", 4), ("a", "w", 4))
    made = [r for seed, part in enumerate(parts_of) for r in of_folder(*part, seed)]
    found = only(made, grouping="folder")
    parts = {(f.variant, f.first): f.saving for f in found.folders if f.saving.metric == "l0"}
    assert parts["x: y", "b"].amount.value == pytest.approx(0.2, abs=0.01)
    assert parts["z", "b"].status == "tied"
    assert parts[None, "b"].amount.value == pytest.approx(1 - np.sqrt(0.8), abs=0.01)
    assert found.sentence.startswith("b is better than a: 10.")
    assert "at equal CE degradation, over 2 variants. b is better than a for x: y: 2" in (
        found.sentence
    )
    assert "For z, b and a are tied within what these runs can tell: b has " in found.sentence
    assert found.sentence.endswith("Only in one of the two folders: w (a).")
    ((head, rows),) = folder_tables(found)
    assert head == ["b compared with a", "less L0", "less CE degradation", "better"]
    assert [(row[0], row[-1]) for row in rows] == [("all", "b"), ("x: y", "b"), ("z", "tied")]
    assert all(len(line) <= 80 for line in aligned([head, *rows]))


def test_folders_without_a_variant_in_common_are_not_compared() -> None:
    made = [*of_folder("b", "x", 8, 0), *of_folder("a", "y", 10, 1)]
    found = only(made, grouping="folder")
    assert found.folders == ()
    assert found.sentence.startswith(
        "b and a hold no variant in common. b: x is better than a: y: "
    )


def test_a_tie_whose_interval_excludes_zero_is_explained() -> None:
    known = {
        key: Saving("a", "b", *keys, Estimate(value=value, ci95=ends), (1.0, 2.0))
        for key, keys, value, ends in (
            ("x", KEYS, 0.1, (0.01, 0.19)),
            ("unsure", KEYS[::-1], 0.05, (-0.05, 0.15)),
            ("sure", KEYS[::-1], 0.05, (0.01, 0.09)),
        )
    }
    shown = known["x"]
    assert tied("a", [shown, known["unsure"]], shown).endswith(
        "but at equal L0 they are not told apart: 5 % [-5, 15] less CE degradation"
    )
    assert tied("a", [shown, known["sure"]], shown).endswith(
        "which is not certain once all comparisons are counted"
    )


def test_a_question_is_asked_again_by_its_arguments() -> None:
    asked = Question.asked("l0", "mse", splits=[("l0", 20.0)], at=[("l0", 32.0)])
    assert asked.arguments() == ["-x", "l0", "-y", "mse", "--split=l0=20", "--at=l0=32"]
    twice = [("l0", 1.0), ("l0", 2.0)]
    for wrong in ({"at": [("kl", 1.0)]}, {"reference": [("kl", 1.0)]}, {"z": "l0"}, {"at": twice},
                  {"z": "kl", "at": [("l0", 1.0)]}):  # fmt: skip
        with pytest.raises(UsageError):
            Question.asked("l0", "mse", **wrong)
