"""Which results can be compared: one definition, which every reader of results uses."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prolu_eval.analysis import comparable, pareto_frontier
from prolu_eval.comparison import ComparisonOptions, compare_results
from prolu_eval.errors import UsageError
from prolu_eval.evaluation.records import fingerprint_of
from prolu_eval.results import (
    NOT_COMPARED,
    Result,
    RunSummary,
    Setting,
    frame,
    load_results,
    titles,
    write_result,
)
from prolu_eval.runs import Run
from tests.helpers.cli import run
from tests.helpers.synthetic import Sae, result

OTHER: dict[str, Any] = {
    "model": "elsewhere/tiny", "model_fingerprint": "n" * 16, "tokens": "/other/text.txt",
    "tokens_fingerprint": "0123456789abcdef", "n_sequences": 255, "context_length": 8,
    "n_counted": 99, "special_tokens": "include", "dtype": "bfloat16", "metric_version": 99,
    "prepend_bos": False, "packing": "separate", "weight_processing": "processed",
}  # fmt: skip


def other_value(field: str, value: object) -> object:
    """Another value that a field may have; this also works for fields that are added later."""
    if field in OTHER:
        return OTHER[field]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}, changed"


def changed(field: str, original: Result) -> Result:
    """A result of a run with another name that differs in one field of its setting."""
    value = other_value(field, getattr(original.setting, field))
    at = original.setting.model_copy(update={field: value})
    named = original.run.model_copy(update={"name": "changed", "path": "runs/changed"})
    update = {"setting": at, "run": named, "fingerprint": "f" * 32}
    return original.model_copy(update=update)


@pytest.mark.parametrize("field", sorted(Setting.model_fields))
def test_results_that_differ_in_a_field_never_meet_on_a_frontier(
    field: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = result(Sae())
    second = changed(field, first)
    meet = field in NOT_COMPARED
    assert first.setting.differences(second.setting) == ([] if meet else [field])
    assert (first.comparison_key() == second.comparison_key()) == meet
    assert len(comparable([first, second])) == (1 if meet else 2)
    for r in (first, second):
        write_result(r, tmp_path / r.run.name / "evaluation")
    table = load_results(tmp_path)
    assert table["comparison_key"].nunique() == (1 if meet else 2)
    if meet:
        assert len(pareto_frontier(table)) == 2
    else:
        with pytest.raises(UsageError, match="cannot be compared"):
            pareto_frontier(table)
    ran = run(capfd, "report", tmp_path, "--json")
    document = ran.json()
    groups = document.get("groups", [document])
    assert [len(group["runs"]) for group in groups] == ([2] if meet else [1, 1])
    found = compare_results([second], [first], ComparisonOptions(match="configuration"))
    assert found.verdict == ("pass" if meet else "incomparable")
    run_at = Run("a", tmp_path, "native", "relu", "relu", 4, 8, ())
    names = {fingerprint_of(run_at, {}, r.setting) for r in (first, second)}
    assert len(names) == (1 if meet else 2), "a stored result is taken for another's"


def test_results_at_other_hooks_never_meet() -> None:
    first, second = result(Sae()), result(Sae(), name="b", hook="blocks.2.hook_resid_post")
    assert first.differences(second) == ["hook"]
    assert first.comparison_key() != second.comparison_key()
    assert first.setting.comparison_key() == second.setting.comparison_key()
    with pytest.raises(UsageError, match="mixes 2 evaluations"):
        pareto_frontier(frame([first, second]))


def test_tables_of_ones_own_may_have_no_key() -> None:
    table = pd.DataFrame({"l0": [1.0, 2.0], "ce_degradation": [2.0, 3.0]})
    assert pareto_frontier(table).index.tolist() == [0]


def test_evaluations_are_called_by_their_text_and_by_what_else_tells_them_apart() -> None:
    base = result(Sae()).setting
    on = {"tokens": "/home/me/stories.txt", "tokens_fingerprint": "s" * 16}
    other = base.model_copy(update=on)
    shorter = base.model_copy(update={"n_counted": 64, "tokens_fingerprint": "u" * 16})
    assert titles([base, other]) == ["text.txt", "stories.txt"]
    assert titles([base, base]) == ["text.txt", "text.txt"]
    assert titles([base, shorter, other]) == [
        "text.txt, 4,096 tokens", "text.txt, 64 tokens", "stories.txt",
    ]  # fmt: skip
    alike = base.model_copy(update={"tokens_fingerprint": "v" * 16})
    here, there = (
        base.model_copy(update={"tokens": f"/{place}/text.txt", "tokens_fingerprint": place * 16})
        for place in "ab"
    )
    assert titles([here, there]) == ["text.txt, /a/text.txt", "text.txt, /b/text.txt"]
    assert titles([base, alike])[1] == "text.txt, version vvvvvvvv"


def summary(**changes: Any) -> RunSummary:
    """A run of a sweep over k."""
    made: dict[str, Any] = {
        "name": "topk_k4_s0", "path": "runs/topk_k4_s0", "format": "native", "variant": "topk",
        "label": "topk", "d_in": 4, "d_sae": 8, "hook": "h", "learning_rate": 1e-3, "seed": 0,
        "options": {"k": 4, "rectify": True},
    }  # fmt: skip
    return RunSummary(**(made | changes))


def test_a_configuration_is_every_option_but_the_seed_and_the_name() -> None:
    first = summary()
    assert first.configuration == summary(name="b", path="c", seed=1).configuration
    assert first.is_repeatable
    assert first.k == 4
    for field, value in {
        "variant": "abstopk", "label": "abstopk", "d_in": 5, "d_sae": 9, "hook": "i",
        "learning_rate": 2e-3, "penalty": "l1", "coefficient": 0.5, "options": {"k": 8},
    }.items():  # fmt: skip
        assert first.configuration != summary(**{field: value}).configuration, field
    unknown: dict[str, Any] = {"coefficient": None, "options": {}}
    assert not summary(**unknown).is_repeatable
    assert not summary(seed=None).is_repeatable


def test_training_of_a_native_run_is_part_of_its_configuration() -> None:
    def trained(seed: int, **training: object) -> RunSummary:
        config = {"options": {"k": 4}, "training": {"n_tokens": 1000, **training}}
        return summary(seed=seed, options=None, provenance={"config": config})

    assert trained(0).k == 4, "read from its own config.json where nothing else tells"
    assert trained(0, data_seed=0).configuration == trained(1, data_seed=7).configuration
    assert trained(0).configuration != trained(0, batch_size=64).configuration


def test_a_result_of_the_first_schema_is_read(tmp_path: Path) -> None:
    old = result(Sae())
    path = write_result(old, tmp_path / "evaluation")
    document = json.loads(path.read_text())
    document["schema_version"] = 1
    del document["run"]["options"]
    document["run"]["provenance"] = {"config": {"options": {"k": 3}}}
    path.write_text(json.dumps(document))
    assert load_results(tmp_path)["k"].tolist() == [3]
