"""All measures side by side at one L0: values, ranks, and how they agree with fidelity."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from prolu_eval.analysis import answer
from prolu_eval.analysis.better import Better, _within, agreements, better
from prolu_eval.analysis.groups import comparable
from prolu_eval.analysis.questions import Question
from prolu_eval.estimates import Estimate
from prolu_eval.metrics import METRICS, Metric
from prolu_eval.render.better import better_table
from prolu_eval.render.documents import frontier_document
from prolu_eval.render.markdown import frontier_markdown
from prolu_eval.render.page import write_report
from prolu_eval.results import Result
from tests.helpers.synthetic import sweep


def found(results: list[Result], **at: float) -> Better:
    (group,) = comparable(results)
    whole = better(group, Question(at=at))
    assert whole is not None
    return whole


def with_metric(
    results: list[Result], key: str, values: dict[str, float], se: float
) -> list[Result]:
    """Results that hold a further metric, by run's name."""
    estimate = {n: Estimate(value=v, standard_error=se) for n, v in values.items()}
    return [r.model_copy(update={"metrics": {**r.metrics, key: estimate[r.run.name]}})
            for r in results]  # fmt: skip


def test_every_measure_of_quality_is_taken_and_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    results = sweep()
    keys = [measure.metric for measure in found(results).measures]
    assert keys[0] == "ce_degradation"
    assert {"nmse", "kl"} <= set(keys)
    assert not {"l0", "l1", "mse", "bits_lost", "explained_variance", "dead_fraction"} & set(keys)
    monkeypatch.setitem(METRICS, "probe", Metric("probe", "probing", "", "max", "of a test"))
    values = {r.run.name: (r.run.variant == "relu") + 0.1 * (r.run.coefficient or 0)
              for r in results}  # fmt: skip
    whole = found(with_metric(results, "probe", values, 0.01))
    probe = next(m for m in whole.measures if m.metric == "probe")
    assert probe.first == "relu+l1"
    assert whole.measures[0].first == "prolu+l1"
    assert "ranks another variant first (probing (relu+l1))" in whole.sentence
    assert whole.sentence.startswith("At L0 ")


def test_values_are_those_of_a_run_at_its_l0() -> None:
    results = sweep()
    chosen = next(r for r in results if r.run.name == "prolu/0.35")
    l0 = chosen.metrics["l0"].value
    assert l0 is not None
    whole = found(results, l0=l0)
    assert whole.l0 == l0
    for measure in whole.measures:
        value = chosen.metrics[measure.metric].value
        at = next(v for v in measure.variants if v.variant == "prolu+l1")
        assert value is not None
        assert at.value.low is not None
        assert at.value.high is not None
        assert at.value.low <= value <= at.value.high, measure.metric
        assert at.value.value == pytest.approx(value, rel=0.05)
    fewer = [r for r in results if r.run.name not in ("relu/0.1", "relu/0.2", "relu/0.35")]
    (group,) = comparable(fewer)
    assert better(group, Question(at={"l0": l0})) is None, "one variant alone is first of nothing"


def test_order_does_not_matter_and_alike_variants_are_tied() -> None:
    results = sweep()
    whole, turned = found(results), found(results[::-1])
    assert whole.sentence == turned.sentence
    twin = [r.model_copy(update={"run": r.run.model_copy(
        update={"name": f"twin/{r.run.name}", "label": "twin"})})
        for r in results if r.run.variant == "prolu"]  # fmt: skip
    ranks = {v.variant: v.ranks for v in found([*results, *twin]).measures[0].variants}
    assert ranks == {"prolu+l1": (1, 2), "twin": (1, 2), "relu+l1": (3, 3)}
    (group,) = comparable(twin)
    assert better(group, Question()) is None, "nothing to compare it with"


@pytest.mark.parametrize(
    ("value", "interval", "known", "expected"),
    [
        (0.9, (0.7, 1.1), (0.2, 0.9), (0.7, 1.0)),
        (0.1, (-0.1, 0.3), (0.1, 0.9), (0.0, 0.3)),
        (1.2, (1.03, 1.4), (0.5, 1.5), (1.03, 1.4)),
        (1.01, (0.9, 1.1), (0.5, 0.99), (0.9, 1.01)),
        (-0.2, (-0.4, 0.1), (-0.3, 0.9), (-0.4, 0.1)),
    ],
)
def test_intervals_of_fractions_end_where_these_do_and_never_before_the_value(
    value: float, interval: tuple[float, float], known: tuple[float, ...],
    expected: tuple[float, float],
) -> None:  # fmt: skip
    made = Estimate(value=value, ci95=interval)
    assert _within(made, "nmse", np.array(known)).ci95 == expected


def test_agreements_by_hand() -> None:
    x = np.arange(8.0)
    l0 = np.array([3, 1, 2, 5, 4, 8, 7, 6.0])
    plain, held = agreements(x, np.exp(x), l0)
    assert plain.value == pytest.approx(1)
    assert held.value == pytest.approx(1)
    assert plain.low is not None
    assert 0.9 < plain.low < 1
    back, _ = agreements(x, -x, l0)
    assert back.value == pytest.approx(-1)
    y = np.array([2, 1, 4, 3, 8, 5, 7, 6.0])
    plain, held = agreements(x, y, l0)
    assert plain.value == pytest.approx(1 - 6 * np.square(rankdata(x) - y).sum() / (8 * 63))
    trend = np.stack([np.ones(8), rankdata(l0)], 1)
    rest = [part - trend @ np.linalg.lstsq(trend, part, rcond=None)[0]
            for part in (rankdata(x), rankdata(y))]  # fmt: skip
    assert held.value == pytest.approx(np.corrcoef(rest)[0, 1])
    assert agreements(x[:5], y[:5], l0[:5])[0].value is None
    assert agreements(x, np.ones(8), l0)[0].value is None
    assert agreements(x, y, x)[1].value is None, "nothing is left where L0 decides all"


@pytest.mark.parametrize(("rho", "n"), [(0.0, 12), (0.6, 24), (0.9, 72)])
def test_intervals_of_agreements_hold_the_truth(rho: float, n: int) -> None:
    rng = np.random.default_rng(1)
    true = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's of a bivariate normal
    hits = 0
    for _ in range(600):
        x = rng.standard_normal(n)
        y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(n)
        plain, _ = agreements(x, y, rng.standard_normal(n))
        assert plain.low is not None
        assert plain.high is not None
        hits += plain.low <= true <= plain.high
    assert 0.93 <= hits / 600 <= 0.98


def test_it_stands_in_page_markdown_and_json(tmp_path: Path) -> None:
    answers = answer(sweep(), Question())
    whole = better(answers[0].group, answers[0].question)
    assert whole is not None
    page = write_report(answers, tmp_path / "report.html").read_text()
    assert 'id="g0-better"' in page
    assert "rank 1" in page
    markdown = frontier_markdown(answers[0])
    assert "### Better dictionaries?" in markdown
    document = frontier_document(answers, ("l0", "ce_degradation"), None, lambda _: []).to_json()[
        "better"
    ]
    assert document["sentence"] == whole.sentence
    assert set(document["measures"]["nmse"]["variants"]) == {"prolu+l1", "relu+l1"}
    head, rows = better_table(whole)
    assert all(len(row) == len(head) for row in rows)
    single = [r for r in sweep() if r.run.variant == "prolu"]
    alone = frontier_document(answer(single, Question()), ("l0", "kl"), None, lambda _: [])
    assert alone.to_json()["better"] is None
