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


def test_a_mistake_hides_no_other(tmp_path: Path) -> None:
    """Mistakes of single settings, of whole tables, and of settings that do not suit a variant."""
    file = tmp_path / "sweep.toml"
    file.write_text(
        "[shared]\nmodel = 3\nn_token = 5\nbatch_size = 'many'\nhook = 'h'\n"
        "tokens = 'a.txt'\ndataset = 'b.txt'\n"
        "[[sweep]]\nvariant = 'rely'\ncoefficients = [1]\nfoo = 1\n"
        "[[sweep]]\nvariant = 'relu'\ncoefficients = '1,2'\npenalty = 'l7'\n"
        "options = { colour = 1 }\n"
        "[[sweep]]\nvariant = 'topk'\nseeds = ['x']\n"
        "[[sweep]]\nvariant = 'prolu'\nk = [3]\npenalty = 'l7'\noptions = { gradient = 'stee' }\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_sweep_file(file)
    told = str(caught.value)
    for part in (
        "tokens and dataset are the same",
        "shared.model: 3 does not do: should be a valid string",
        "shared.n_token: is no setting: write n_tokens",
        "shared.n_tokens: is missing",
        "shared.batch_size: 'many' does not do",
        "shared: give either d_sae or expansion",
        "sweep 1.foo: is no setting",
        "sweep 1: variant 'rely' is unknown: write relu",
        "sweep 2.coefficients: is no list: write it in brackets",
        "sweep 2: unknown penalty 'l7' of variant 'relu'",
        "options.colour: is no setting",
        "sweep 3.seeds.1: 'x' does not do",
        "sweep 3: variant 'topk' varies in k",
        "sweep 4: variant 'prolu' varies in coefficients",
        "unknown penalty 'l7' of variant 'prolu'",
        "options.gradient: 'stee' does not do: write ste",
    ):
        assert part in told, part
    assert "sweep 2: variant 'relu' varies" not in told, "a list of the wrong type is told as such"
    assert "\n" not in told


@pytest.mark.parametrize("line", ["warmup = 0,5", "coefficients = [0,5; 2]"])
def test_a_decimal_comma_is_told_as_such(tmp_path: Path, line: str) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(f"[shared]\n{line}\n")
    with pytest.raises(ConfigError, match=r"cannot be read .*; write decimals with a point"):
        read_sweep_file(file)


def test_a_missing_text_hides_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        "[shared]\nmodel = 'own'\nn_tokens = 9\nbatch_size = 3\nhook = 'h'\nd_sae = 8\n"
        "[[sweep]]\nvariant = 'topk'\nk = [3, 9]\n[[sweep]]\nvariant = 'batchtopk'\nk = [10]\n"
    )
    with pytest.raises(UsageError, match="no text is named to train on for own"):
        read_sweep_file(file)
    with pytest.raises(ConfigError) as caught:
        read_sweep_file(file, tokens="a.txt")
    assert "topk: k = 9 is more than the 8 features" in str(caught.value)
    assert "batchtopk: k = 10 is more than the 8 features" in str(caught.value)
    file.write_text(file.read_text().replace("topk", "topq"))
    with pytest.raises(ConfigError) as caught:
        read_sweep_file(file)
    assert "variant 'topq' is unknown" in str(caught.value)
    assert "shared.tokens: is missing" in str(caught.value)
