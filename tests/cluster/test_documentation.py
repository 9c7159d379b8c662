"""The commands of docs/cluster.md are commands, and its files can be read."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from prolu_eval.cluster.address import Shares, shares_of
from prolu_eval.errors import UsageError
from prolu_eval.evaluation import EvaluationOptions
from tests.helpers.cli import run
from tests.helpers.pages import DOCS, blocks

BLOCKS = [(block.language, block.text) for block in blocks(DOCS / "cluster.md")]
COMMANDS = [
    line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()
    if line.startswith("prolu-eval")
]  # fmt: skip
EVALUATIONS = [line for line in COMMANDS if line.split()[1] in ("evaluate", "frontier")]


@pytest.mark.parametrize("line", EVALUATIONS)
def test_a_command_is_understood(
    line: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[EvaluationOptions] = []

    def evaluate(paths: Any, options: EvaluationOptions, **_: Any) -> list[Any]:
        given.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("prolu_eval.evaluation.evaluate", evaluate)
    words = [word for word in shlex.split(line)[1:] if word != "--dry-run"]
    assert run(capfd, *words).code == 130
    assert given[0].on is not None
    assert shares_of(given[0].ray)


def test_a_sweep_is_understood(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sweep_file: Path
) -> None:
    given: list[Any] = []

    def train_sweep(grid: Any, out: Path, settings: Any) -> list[Any]:
        given.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("prolu_eval.training.train_sweep", train_sweep)
    monkeypatch.chdir(sweep_file.parent)
    (line,) = [line for line in COMMANDS if line.split()[1] == "sweep"]
    assert run(capfd, *shlex.split(line)[1:]).code == 130
    assert given[0].on == "ray"


def test_files_are_yaml() -> None:
    found = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
    cluster, job = found
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert job["kind"] == "RayJob"
    assert job["spec"]["entrypoint"].split()[:2] == ["prolu-eval", "evaluate"]


def test_shares_are_numbers_above_zero() -> None:
    assert shares_of("cpus=2, gpus=0.5,workers=3") == Shares(2, 0.5, 3)
    assert shares_of(None) == Shares()
    for text, reason in (
        ("cpus=none", "cpus=none is no number above zero"),
        ("gpus=0", "gpus=0 is no number above zero"),
        ("nodes=3", "'nodes' is no setting of it"),
        ("cpus", "'cpus' is no setting"),
    ):
        with pytest.raises(UsageError, match=reason):
            shares_of(text)
