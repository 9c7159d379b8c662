"""Options of an evaluation are converted if they can have only one meaning, and else refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval.errors import ProluEvalError, UsageError
from prolu_eval.evaluation import EvaluationOptions


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("n_tokens", 1e4, 10_000),
        ("n_tokens", np.int64(77), 77),
        ("dtype", torch.float32, "float32"),
        ("dtype", torch.bfloat16, "bfloat16"),
        ("device", torch.device("cuda", 1), "cuda:1"),
        ("results", "out", Path("out")),
        ("tokens", Path("text.txt"), "text.txt"),
        ("model", Path("folder/model"), "folder/model"),
        ("shard", "1/4", (1, 4)),
        ("shard", [1, 4], (1, 4)),
        ("target_se", "l0=0.5", {"l0": 0.5}),
        ("target_se", ["l0=0.5", "kl=0.1"], {"l0": 0.5, "kl": 0.1}),
        ("target_se", {"l0": "0.5"}, {"l0": 0.5}),
        ("target_se", None, {}),
        ("measure", "probes, behaviour", ("probes", "behaviour")),
        ("measure", ["probes"], ("probes",)),
        ("measure", None, ()),
        ("tasks", "5_*", ("5_*",)),
        ("k", 16, (16,)),
        ("k", "1,16", (1, 16)),
    ],
)
def test_what_can_mean_one_thing_is_converted(name: str, value: Any, meant: object) -> None:
    made: Any = EvaluationOptions(**{name: value})
    assert getattr(made, name) == meant
    assert type(getattr(made, name)) is type(meant)
    changed: Any = replace(EvaluationOptions(), **{name: value})
    assert changed == made, "replaced fields are checked too"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"split": "test"}, ["split", "'test'", "'heldout'"]),
        ({"split": "held-out"}, ["split", "'held-out'"]),
        ({"dtype": torch.int8}, ["dtype", "'int8'", "'bfloat16'"]),
        ({"packing": "none"}, ["packing", "'separate'"]),
        ({"special_tokens": True}, ["special_tokens", "True"]),
        ({"weight_processing": "folded"}, ["weight_processing", "'processed'"]),
        ({"n_tokens": 0}, ["n_tokens", "1 or more"]),
        ({"n_tokens": 10.5}, ["n_tokens", "10.5"]),
        ({"n_tokens": "many"}, ["n_tokens", "'many'"]),
        ({"context_length": 1}, ["context_length", "2 or more"]),
        ({"batch_size": -1}, ["batch_size", "1 or more"]),
        ({"shard_tokens": 0}, ["shard_tokens"]),
        ({"hook": 3}, ["hook", "3"]),
        ({"results": 3}, ["results", "3"]),
        ({"prepend_bos": "perhaps"}, ["prepend_bos", "'perhaps'"]),
        ({"shard": (4, 4)}, ["--shard", "4/4"]),
        ({"shard": (1, 2, 3)}, ["shard", "(1, 2, 3)"]),
        ({"shard": "half"}, ["--shard", "'half'"]),
        ({"target_se": {"zero": 1}}, ["--target-se", "'zero'"]),
        ({"target_se": {"dead_fraction": 0.1}}, ["--target-se", "dead_fraction"]),
        ({"target_se": {"feature_f1": 0.1}}, ["--target-se", "feature_f1"]),
        ({"target_se": "scale_consistency_additivity=0.1"}, ["--target-se", "additivity"]),
        ({"target_se": {"l0": 0}}, ["--target-se", "above zero"]),
        ({"target_se": {"l0": float("nan")}}, ["--target-se", "above zero"]),
        ({"target_se": {"l0": -1}}, ["--target-se", "above zero"]),
        ({"target_se": {"l0": "-1"}}, ["--target-se", "above zero"]),
        ({"target_se": {"l0": "small"}}, ["target_se", "'small'"]),
        ({"target_se": 3}, ["target_se", "3"]),
        ({"shard": "0/2", "target_se": "l0=1"}, ["--shard", "--target-se"]),
        ({"target_se": {"probe_auc_k1": 0.1}}, ["--target-se", "probe_auc_k1"]),
        ({"measure": "all"}, ["measure", "'all'", "'behaviour'"]),
        ({"k": (1, 3)}, ["--k", "3", "1, 2, 5, 16, 128"]),
        ({"k": "few"}, ["--k", "'few'"]),
        ({"splits": "train"}, ["splits", "no option", "split"]),
    ],
)
def test_anything_else_is_refused_in_one_sentence(values: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as told:
        EvaluationOptions(**values)
    assert isinstance(told.value, ProluEvalError)
    for word in words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)


def test_every_option_is_described_and_has_a_place_in_help() -> None:
    from prolu_eval.evaluation.options import Panel

    fields: Any = EvaluationOptions.__pydantic_fields__  # type: ignore[attr-defined]
    for name, info in fields.items():
        assert info.description, name
        assert sum(isinstance(part, Panel) for part in info.metadata) == 1, name
