"""dictionary_learning trains and writes, prolu-eval reads, and both compute the same."""

import inspect
import pkgutil
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from dictionary_learning import dictionary as dictionaries
from dictionary_learning import trainers
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.trainers.trainer import SAETrainer
from dictionary_learning.training import trainSAE
from sae_lens import SAE
from torch import nn

from prolu_eval.checkpoints import discover, load_run
from prolu_eval.cli import main
from prolu_eval.runs import Run
from tests.interop.agreement import D_IN, D_SAE, assert_same, inputs, randomise

K = {"k": 5, "threshold_start_step": 0}
# Each trainer with each dictionary class that it can train: settings, and the variant it gives.
CASES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("StandardTrainer", dictionaries.AutoEncoder, {}, "relu"),
    ("StandardTrainer", dictionaries.AutoEncoderNew, {}, "relu"),
    ("StandardTrainerAprilUpdate", dictionaries.AutoEncoder, {}, "relu"),
    ("StandardTrainerAprilUpdate", dictionaries.AutoEncoderNew, {}, "relu"),
    ("PAnnealTrainer", dictionaries.AutoEncoder, {}, "relu"),
    ("GatedSAETrainer", dictionaries.GatedAutoEncoder, {}, "gated"),
    ("GatedAnnealTrainer", dictionaries.GatedAutoEncoder, {}, "gated"),
    ("TopKTrainer", AutoEncoderTopK, K, "topk"),
    ("BatchTopKTrainer", BatchTopKSAE, K, "batchtopk"),
    (
        "MatryoshkaBatchTopKTrainer",
        MatryoshkaBatchTopKSAE,
        {**K, "group_fractions": [0.25, 0.75]},
        "matryoshka",
    ),
    ("JumpReluTrainer", dictionaries.JumpReluAutoEncoder, {}, "jumprelu"),
]


def trainer_classes() -> dict[str, Any]:
    names = (module.name for module in pkgutil.iter_modules(trainers.__path__))
    members = (vars(import_module(f"{trainers.__name__}.{name}")).items() for name in names)
    return {
        name: cls
        for name, cls in chain.from_iterable(members)
        if inspect.isclass(cls) and issubclass(cls, SAETrainer) and cls is not SAETrainer
    }


TRAINERS = trainer_classes()


def test_every_trainer_and_class_is_covered() -> None:
    assert {case[0] for case in CASES} == TRAINERS.keys()
    written = {
        cls
        for cls in (*vars(dictionaries).values(), AutoEncoderTopK, BatchTopKSAE)
        if inspect.isclass(cls) and issubclass(cls, dictionaries.Dictionary)
    } - {dictionaries.Dictionary, dictionaries.IdentityDict}
    assert written <= {case[1] for case in CASES}


def randomised(cls: type[nn.Module]) -> type[nn.Module]:
    """The class under its own name, its instances' biases and thresholds random from the start."""

    def initialise(self: nn.Module, *args: Any, **options: Any) -> None:
        cls.__init__(self, *args, **options)
        randomise(self)

    return type(cls.__name__, (cls,), {"__init__": initialise})


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    ("trainer", "cls", "settings", "variant"), CASES, ids=[f"{c[0]}-{c[1].__name__}" for c in CASES]
)
def test_what_it_trains(
    tmp_path: Path, trainer: str, cls: Any, settings: dict[str, Any], variant: str, normalise: bool
) -> None:
    if normalise and not hasattr(cls, "scale_biases"):
        pytest.skip("dictionary_learning cannot normalise for it")
    config = {
        "trainer": TRAINERS[trainer],
        "dict_class": randomised(cls),
        "steps": 4,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": 1,
        "lm_name": "tiny",
        "lr": 1e-4,
        "warmup_steps": 1,
        "device": "cpu",
        **settings,
    }
    known = inspect.signature(TRAINERS[trainer].__init__).parameters
    early = {"sparsity_warmup_steps": 1, "anneal_start": 2}
    config |= {name: step for name, step in early.items() if name in known}
    trainSAE(
        [inputs(32 + i) for i in range(6)],
        [config],
        steps=4,
        save_dir=str(tmp_path),
        save_steps=[2],
        normalize_activations=normalise,
        device="cpu",
    )
    x = inputs()
    names = {"trainer_0": "ae.pt", "trainer_0/checkpoints/ae_2.pt": "checkpoints/ae_2.pt"}
    found = {run.name: run for run in discover(tmp_path) if isinstance(run, Run)}
    assert found.keys() == names.keys()
    for name, file in names.items():
        state = torch.load(tmp_path / "trainer_0" / file, weights_only=True)
        theirs = empty(cls)
        theirs.load_state_dict(state)
        run = found[name]
        assert (run.variant, run.hook, run.model) == (variant, "blocks.1.hook_resid_post", "tiny")
        # The trainer got no submodule's name, so the message names the one that is assumed.
        (problem,) = run.problems
        assert "does not name its submodule: the output of layer 1" in problem
        # x_hat, f: AutoEncoderNew gives codes times the decoder's norms where it gives both.
        assert_same(load_run(run), x, theirs.encode(x), theirs.decode(theirs.encode(x)))
    assert main(["convert", str(tmp_path), str(tmp_path / "to"), "--to", "saelens"]) == 0
    for name, run in found.items():
        converted = SAE.load_from_disk(tmp_path / "to" / name)
        assert_same(load_run(run), x, converted.encode(x), converted(x))
        assert converted.cfg.metadata.hook_name == "blocks.1.hook_resid_post"


def empty(cls: Any) -> Any:
    if cls is MatryoshkaBatchTopKSAE:
        return cls(D_IN, D_SAE, k=5, group_sizes=[10, 30])
    return cls(D_IN, D_SAE, k=5) if "TopK" in cls.__name__ else cls(D_IN, D_SAE)
