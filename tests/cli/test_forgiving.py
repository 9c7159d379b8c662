"""Other spellings of names are accepted, and near misses get a suggestion."""

from pathlib import Path

import pytest

from prolu_eval import frontier
from prolu_eval.analysis import Question
from prolu_eval.comparison import parse_tolerances
from prolu_eval.errors import ConfigError, UsageError
from prolu_eval.evaluation import EvaluationOptions
from prolu_eval.metrics import METRICS, metric_key
from prolu_eval.training import read_sweep_file
from tests.helpers.made_results import result, write_sweep


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("L0", "l0"),
        ("fvu", "nmse"),
        ("FVU", "nmse"),
        ("loss_recovered", "ce_recovered_zero"),
        ("CE degradation", "ce_degradation"),
        ("ce-degradation", "ce_degradation"),
        ("sqrt-L1", "sqrt_l1"),
        ("R2", "explained_variance"),
    ],
)
def test_a_metric_goes_by_its_other_names(name: str, key: str) -> None:
    assert metric_key(name) == key


def test_every_key_and_title_names_its_own_metric() -> None:
    for key, metric in METRICS.items():
        assert metric_key(key) == key
        assert METRICS[metric_key(metric.title)].title == metric.title


@pytest.mark.parametrize(
    ("name", "meant"),
    [("ce_degredation", "ce_degradation"), ("L00", "l0"), ("explained_var", "explained_variance")],
)
def test_a_near_miss_is_told_what_may_be_meant(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"write .*{meant}"):
        metric_key(name, "--x")
    with pytest.raises(UsageError, match="not a metric; see `prolu-eval metrics`"):
        metric_key("zzzzzz", "--x")


def test_other_names_are_taken_wherever_metrics_are_named(tmp_path: Path) -> None:
    asked = Question.asked("L0", "FVU", splits=[("Loss recovered", 0.5)], at=[("L0", 3)])
    assert (asked.keys, dict(asked.splits)) == (("l0", "nmse"), {"ce_recovered_zero": [0.5]})
    assert asked.at == {"l0": 3}
    options = EvaluationOptions(target_se={"FVU": 0.1})
    assert options.target_se == {"nmse": 0.1}
    assert EvaluationOptions(target_se="L0=0.1").target_se == {"l0": 0.1}  # type: ignore[arg-type]
    assert EvaluationOptions(race="L0,FVU").race == ("l0", "nmse")  # type: ignore[arg-type]
    assert list(parse_tolerances(["fvu=+2%"])) == ["nmse"]
    values = [(3.0, 0.4), (9.0, 0.2)]
    write_sweep(
        tmp_path,
        [result(f"r{i}", "relu+l1", {"l0": x, "nmse": y}) for i, (x, y) in enumerate(values)],
    )
    assert frontier(tmp_path, "L0", "fvu").groups[0].question.keys == ("l0", "nmse")


def test_all_mistakes_of_a_sweep_file_are_told_at_once_in_its_own_terms(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        "[shared]\nbatch_size = 0\nd_sae = 8\nfoo = 1\nhook = 'h'\n"
        "[within]\nlearning_rates = []\n"
        "[[sweep]]\nvariant = 'relu'\ncoefficients = [1]\n"
        "[[sweep]]\nvariant = 'rely'\ncoefficients = [1]\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_sweep_file(file)
    told = str(caught.value)
    for part in (
        "shared.n_tokens: is missing",
        "shared.foo: is no setting",
        "shared.batch_size: 0 does not do: should be greater than 0",
        "within.learning_rates: is empty",
        "sweep 2: variant 'rely' is unknown",
        "see `prolu-eval sweep --example`",
    ):
        assert part in told
    assert "\n" not in told
