"""TensorBoard and Weights & Biases receive the values of the histories, and are chosen by name."""

import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from safetensors.torch import load_file

from tests.helpers.cli import run

Seen = dict[str, dict[int, dict[str, float]]]


class FakeWriter:
    """TensorBoard's SummaryWriter, as far as it is used."""

    seen: ClassVar[Seen] = defaultdict(lambda: defaultdict(dict))
    closed: ClassVar[list[str]] = []

    def __init__(self, folder: str) -> None:
        self.run = Path(folder).name

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.seen[self.run][step][name] = value

    def close(self) -> None:
        self.closed.append(self.run)


class FakeRun:
    """A run of Weights & Biases."""

    seen: ClassVar[Seen] = defaultdict(lambda: defaultdict(dict))
    closed: ClassVar[list[str]] = []

    def __init__(self, project: str, name: str, **_: Any) -> None:
        self.run = name
        assert project == "my-project"

    def log(self, values: dict[str, float], step: int) -> None:
        self.seen[self.run][step] |= values

    def finish(self) -> None:
        self.closed.append(self.run)


@pytest.mark.parametrize(
    ("option", "value", "module", "attribute", "fake"),
    [
        ("--tensorboard", "logs", "torch.utils.tensorboard", "SummaryWriter", FakeWriter),
        ("--wandb", "my-project", "wandb", "init", FakeRun),
    ],
)
def test_loggers_get_what_the_history_holds(
    sweep_file: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    module: str,
    attribute: str,
    fake: Any,
) -> None:
    stand_in = ModuleType(module)
    setattr(stand_in, attribute, fake)
    monkeypatch.setitem(sys.modules, module, stand_in)
    out = sweep_file.parent / "runs"
    arguments = ("sweep", sweep_file, "--out", out, "--device", "cpu", "--quiet", option, value)
    assert run(capfd, *arguments).code == 0
    names = sorted(path.name for path in out.iterdir() if (path / "config.json").exists())
    assert sorted(fake.closed) == sorted(fake.seen) == names
    for name in names:
        history = load_file(out / name / "history.safetensors")
        for row, step in enumerate(history["step"].int().tolist()):
            logged = fake.seen[name][step]
            assert logged["l0"] == history["l0"][row].item()
            assert logged["mse"] == history["mse"][row].item()
        assert "bias_negative_fraction" in logged


@pytest.mark.parametrize(
    ("option", "module"), [("--tensorboard", "torch.utils.tensorboard"), ("--wandb", "wandb")]
)
def test_a_logger_that_is_not_installed_is_named(
    sweep_file: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    out = sweep_file.parent / "runs"
    ran = run(capfd, "sweep", sweep_file, "--out", out, option, "x")
    assert ran.code == 2
    assert "is not installed; pip install" in ran.err
    assert not out.exists()
