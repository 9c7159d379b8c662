"""Every option of an evaluation reaches it, from each command that evaluates."""

from pathlib import Path
from typing import Any

import pytest

from prolu_eval.checkpoints import discover, discover_all
from prolu_eval.evaluation import EvaluationOptions
from prolu_eval.training.config import Shared
from tests.helpers.cli import run

CASES: dict[str, tuple[list[str], object]] = {
    "model": (["--model", "m"], "m"),
    "hook": (["--hook", "h"], "h"),
    "hook_out": (["--hook-out", "h"], "h"),
    "tokens": (["--tokens", "t"], "t"),
    "text_column": (["--text-column", "body"], "body"),
    "split": (["--split-tokens", "train"], "train"),
    "n_tokens": (["--n-tokens", "77"], 77),
    "context_length": (["--context-length", "9"], 9),
    "prepend_bos": (["--no-prepend-bos"], False),
    "measure": (["--measure", "probes,behaviour"], ("probes", "behaviour")),
    "probe_data": (["--probe-data", "d"], Path("d")),
    "tasks": (["--tasks", "1_*,2_a"], ("1_*", "2_a")),
    "k": (["--k", "1,16"], (1, 16)),
    "examples": (["--examples", "5"], 5),
    "encoder": (["--encoder", "top-k=3"], "top-k=3"),
    "plugin": (["--plugin", "m:f"], "m:f"),
    "estimate_scale": (["--estimate-scale"], True),
    "packing": (["--packing", "separate"], "separate"),
    "special_tokens": (["--special-tokens", "include"], "include"),
    "weight_processing": (["--weight-processing", "processed"], "processed"),
    "batch_size": (["--batch-size", "3"], 3),
    "device": (["--device", "cpu"], "cpu"),
    "device_map": (["--device-map", "auto"], "auto"),
    "dtype": (["--dtype", "tf32"], "tf32"),
    "target_se": (["--target-se", "l0=0.5", "--target-se", "kl=0.1"], {"l0": 0.5, "kl": 0.1}),
    "race": (["--race"], ("l0", "ce_degradation")),
    "shard": (["--shard", "1/4"], (1, 4)),
    "shard_tokens": (["--shard-tokens", "64"], 64),
    "on": (["--on", "ray"], "ray"),
    "ray": (["--ray", "cpus=2"], "cpus=2"),
    "slurm": (["--slurm", "array=2"], "array=2"),
    "max_failures": (["--max-failures", "3"], 3),
    "results": (["--results", "r"], Path("r")),
}


@pytest.mark.parametrize("command", ["evaluate", "frontier"])
@pytest.mark.parametrize("name", CASES)
def test_an_option_reaches_the_evaluation(
    command: str,
    name: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    given: list[EvaluationOptions] = []

    def evaluate(paths: Any, options: EvaluationOptions, **_: Any) -> list[Any]:
        given.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("prolu_eval.evaluation.evaluate", evaluate)
    arguments, value = CASES[name]
    assert run(capfd, command, tmp_path, *arguments).code == 130
    assert given == [EvaluationOptions(**{name: value})]  # type: ignore[arg-type]


def test_every_option_has_a_case() -> None:
    assert CASES.keys() == EvaluationOptions.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    "arguments",
    [["--shard", "4"], ["--shard", "4/4"], ["--target-se", "l0"], ["--target-se", "zero=1"],
     ["--target-se", "l0=1", "--shard", "0/2"]],
)  # fmt: skip
def test_options_that_make_no_sense(
    arguments: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran = run(capfd, "evaluate", tmp_path, *arguments)
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert arguments[0] in ran.err or arguments[-2] in ran.err


def test_the_home_folder_goes_by_its_sign(
    sweep_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In paths of every command, also in ``--option=~/path``, in sweep files and in Python."""
    monkeypatch.setenv("HOME", str(tmp_path))
    ran = run(capfd, "sweep", f"~/{sweep_file.name}", "--out=~/runs", "--device", "cpu")
    assert ran.code == 0, ran.err
    assert (tmp_path / "runs").is_dir()
    assert len(run(capfd, "inspect", "~/runs", "--json").json()["runs"]) == len(discover("~/runs"))
    assert discover_all(["~/runs", str(tmp_path / "runs")]) == discover("~/runs")
    (tmp_path / "text").write_text("words")
    assert Shared(hook="h", dataset="~/text", n_tokens=1, d_sae=1, batch_size=1).dataset == str(
        tmp_path / "text"
    )
    given: dict[str, Any] = {"tokens": "~/text", "results": "~/results", "probe_data": "~/probes"}
    options = EvaluationOptions(**given)
    assert options.tokens == str(tmp_path / "text")
    assert (options.results, options.probe_data) == (tmp_path / "results", tmp_path / "probes")
    assert EvaluationOptions(tokens="~", hook="~x").hook == "~x"
