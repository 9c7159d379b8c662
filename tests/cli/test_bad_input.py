"""Each kind of bad input: one line with the file, the reason and the remedy, and nothing lost."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval.checkpoints.native import save_run
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu
from tests.helpers.cli import Ran, run

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def runs(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Path:
    """A folder with one good run of a tiny model, and token ids for it."""
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 96, 640))
    sae = Relu(32, 40)
    torch.nn.init.normal_(sae.W_enc)
    torch.nn.init.normal_(sae.W_dec)
    config = RunConfig(
        variant="",
        d_in=1,
        d_sae=1,
        hook=HOOK,
        model=str(tiny_model("llama")),
        dataset=str(tmp_path / "ids.npy"),
    )
    save_run(tmp_path / "runs" / "good", sae, config)
    return tmp_path / "runs"


def evaluate(capfd: pytest.CaptureFixture[str], folder: Path, *options: object) -> Ran:
    return run(
        capfd, "evaluate", folder, "--device", "cpu", "--context-length", 32,
        "--split-tokens", "all", "--quiet", "--json", *options,
    )  # fmt: skip


def assert_refused(ran: Ran, *words: str) -> None:
    """Assert exit code 2 and a single line on stderr that contains the words."""
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err


def corrupted(runs: Path, change: Callable[[Path], None]) -> Path:
    """A second run, a broken copy of the good one."""
    broken = runs / "broken"
    shutil.copytree(runs / "good", broken)
    change(broken)
    return broken


def set_config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def truncate(folder: Path) -> None:
    path = folder / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def put_nan(folder: Path) -> None:
    sae = Relu(32, 40)
    sae.b_enc.data[3] = torch.nan
    config = json.loads((folder / "config.json").read_text())
    save_run(folder, sae, RunConfig.model_validate(config))


def tamper_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"variant": ')


@pytest.mark.parametrize(
    ("change", "file", "reason"),
    [
        (truncate, "sae.safetensors", "cannot be read"),
        (put_nan, "sae.safetensors", "b_enc has NaN"),
        (tamper_json, "config.json", "cannot be read"),
        (set_config(variant="relo"), "config.json", "unknown variant 'relo'"),
        (set_config(d_sae=41), "sae.safetensors", "W_enc has shape [32, 40], not [32, 41]"),
        (set_config(options={"k": 3}), "config.json", "options.k"),
        (set_config(colour="red"), "config.json", "colour"),
        (set_config(schema_version=99), "config.json", "newer than"),
        (set_config(hook="blocks.9.hook_resid_pre"), "llama", "blocks.9.hook_resid_pre"),
        (set_config(hook=None), "broken", "does not say its hook"),
        (set_config(model="no/such-model-here"), "no/such-model-here", "is no local folder"),
        (set_config(dataset="/no/such/file"), "/no/such/file", "is no file"),
    ],
)
def test_one_broken_run_is_skipped_and_the_rest_measured(
    runs: Path,
    change: Callable[[Path], None],
    file: str,
    reason: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    broken = corrupted(runs, change)
    ran = evaluate(capfd, runs)
    assert ran.code == 1
    outcomes = {outcome["run"]: outcome for outcome in ran.json()["runs"]}
    assert outcomes["good"]["status"] == "ok"
    assert outcomes["broken"]["status"] == "failed"
    error = outcomes["broken"]["error"]
    assert file in error
    assert reason in error
    assert "; " in error, "a remedy follows the reason"
    assert "\n" not in error
    assert not (broken / "evaluation").exists()
    # Here the bad file is the only input.
    alone = evaluate(capfd, broken)
    assert alone.code == 2
    assert alone.json()["runs"][0]["error"] == error


def test_a_run_without_its_weights_is_named(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corrupted(runs, lambda folder: (folder / "sae.safetensors").unlink())
    ran = evaluate(capfd, runs)
    assert ran.code == 1
    error = {outcome["run"]: outcome["error"] for outcome in ran.json()["runs"]}["broken"]
    assert "broken/sae.safetensors: is missing; restore it" in error


def test_an_empty_argument_is_no_folder(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(evaluate(capfd, runs, "--tokens", ""), "is empty")
    assert_refused(run(capfd, "evaluate", ""), "is empty")


def test_the_answer_is_printed_before_a_report_that_cannot_be_written(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runs.parent / "file").write_text("in the way")
    report = runs.parent / "file" / "report.html"
    ran = run(
        capfd, "frontier", runs, "--device", "cpu", "--context-length", 32,
        "--split-tokens", "all", "--quiet", "--report", report,
    )  # fmt: skip
    assert ran.code == 2
    assert "cannot be written" in ran.err.splitlines()[-1]
    assert "good" in ran.out


def test_a_sweep_that_cannot_be_written_is_refused_before_it_trains(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prolu_eval.training.sweep.Training", None)
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "runs"
    assert_refused(run(capfd, "sweep", "--n-tokens", 256, "--out", out, "-q"), "cannot be written")


def test_a_folder_without_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(evaluate(capfd, tmp_path), str(tmp_path), "holds no checkpoint")
    assert_refused(evaluate(capfd, tmp_path / "nowhere"), "nowhere", "does not exist")
    (tmp_path / "a").mkdir()
    for name in ("ae.pt", "other.pt", "cfg.json"):
        (tmp_path / "a" / name).write_text("{}")
    assert_refused(
        evaluate(capfd, tmp_path), "a/ae.pt: there is no config.json beside it",
        "a/other.pt: its format is unknown",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "{tmp}"], ["{tmp}", "no model folder"]),
        (["--hook", "blocks.0.hook_nothing"], ["blocks.0.hook_nothing"]),
        (["--tokens", "{tmp}/outside.npy"], ["outside.npy", "outside the vocabulary"]),
        (["--tokens", "{tmp}/short.npy"], ["short.npy", "less than one row"]),
        (["--context-length", "100"], ["exceed the context"]),
    ],
)
def test_a_wrong_option_fails_every_run_with_its_reason(
    runs: Path, options: list[str], words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = runs.parent
    np.save(folder / "outside.npy", np.full(640, 96))
    np.save(folder / "short.npy", np.ones(9, int))
    ran = evaluate(capfd, runs, *(option.format(tmp=folder) for option in options))
    assert ran.code == 2
    (outcome,) = ran.json()["runs"]
    for word in words:
        assert word.format(tmp=folder) in outcome["error"]
    assert not (runs / "good" / "evaluation").exists()


@pytest.mark.parametrize(
    ("name", "reason"), [("floats.npy", "not token ids"), ("broken.npy", "cannot be read")]
)
def test_tokens_that_no_model_can_use_are_told_once(
    runs: Path, name: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(runs.parent / "floats.npy", np.zeros(640))
    (runs.parent / "broken.npy").write_bytes(b"\x93NUMPY")
    assert_refused(evaluate(capfd, runs, "--tokens", runs.parent / name), name, reason)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--dtype", "float8"), ("--special-tokens", "some"), ("--device", "tpu9")],
)
def test_an_option_that_is_no_choice(
    runs: Path, option: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(evaluate(capfd, runs, option, value), option, value)


def test_a_results_folder_that_cannot_be_written(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runs.parent / "file").write_text("in the way")
    ran = evaluate(capfd, runs, "--results", runs.parent / "file")
    assert_refused(ran, "cannot be written", "writable folder")
    assert (runs.parent / "file").read_text() == "in the way"


def test_a_result_of_a_checkpoint_that_changed_since_is_not_compared(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights, kept = runs / "good" / "sae.safetensors", tmp_path / "before"
    baseline = ("--baseline", tmp_path / "b.json", "--tolerance", "nmse=±1%")
    assert evaluate(capfd, runs).code == 0
    assert run(capfd, "baseline", "save", runs, "-o", tmp_path / "b.json").code == 0
    kept.write_bytes(weights.read_bytes())
    sae = Relu(32, 40)
    torch.nn.init.normal_(sae.W_enc)
    save_run(runs / "good", sae, RunConfig.model_validate_json(_config(runs)))
    forgotten = run(capfd, "compare", runs, *baseline)
    assert forgotten.code == 2
    assert "good has changed since" in forgotten.err
    assert evaluate(capfd, runs).code == 0
    assert run(capfd, "compare", runs, *baseline).code == 1
    # With the former weights, an older result is stored that fits them.
    weights.write_bytes(kept.read_bytes())
    assert evaluate(capfd, runs).json()["runs"][0]["status"] == "cached"
    assert run(capfd, "compare", runs, *baseline).code == 0


def _config(runs: Path) -> str:
    return (runs / "good" / "config.json").read_text()


SWEEP = """
[shared]
model = "{model}"
hook = "blocks.1.hook_resid_post"
dataset = "{ids}"
n_tokens = 256
context_length = 32
d_sae = 40
batch_size = 32
[within]
learning_rates = [1e-3]
[[sweep]]
{sweep}
"""


@pytest.mark.parametrize(
    ("sweep", "reason"),
    [
        ('variant = "groupmax"\nk = [7]', "7 groups do not divide 40 features"),
        (
            'variant = "matryoshka"\nk = [2]\noptions = { group_sizes = [8, 16] }',
            "groups of [8, 16] do not add up to 40 features",
        ),
    ],
)
def test_a_sweep_whose_options_do_not_suit_the_dictionary(
    runs: Path,
    tiny_model: Callable[[str], Path],
    sweep: str,
    reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file, out = runs.parent / "sweep.toml", runs.parent / "trained"
    ids = runs.parent / "ids.npy"
    file.write_text(SWEEP.format(model=tiny_model("llama"), ids=ids, sweep=sweep))
    assert_refused(run(capfd, "sweep", file, "--out", out, "--device", "cpu", "-q"), reason)
    assert not list(out.rglob("*.safetensors"))


@pytest.mark.parametrize("command", ["inspect", "biases", "evaluate"])
def test_a_folder_that_cannot_be_listed_is_said_and_the_rest_done(
    runs: Path, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    closed = runs / "closed"
    closed.mkdir()
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    ran = evaluate(capfd, runs) if command == "evaluate" else run(capfd, command, runs)
    assert ran.code == 1
    assert "good" in ran.out
    assert f"{closed}: cannot be listed (Permission denied)" in ran.out + ran.err


def test_folders_of_one_name_are_told_apart(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for place in ("x", "y"):
        shutil.copytree(runs, tmp_path / place / "runs")
    put_nan(tmp_path / "y" / "runs" / "good")
    folders = tmp_path / "x" / "runs", tmp_path / "y" / "runs", f"{tmp_path}/x/../x/runs/"
    ran = evaluate(capfd, folders[0], *folders[1:], "--results", tmp_path / "kept")
    found = {run["run"]: run["status"] for run in ran.json()["runs"]}
    assert found == {"x/runs/good": "ok", "y/runs/good": "failed"}
    assert len(list((tmp_path / "kept" / "x" / "runs" / "good").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [("empty.npy", "cannot be read"), ("dangling", "is a link to a file that is not there")],
)
def test_tokens_that_are_none_are_told_once(
    runs: Path, tmp_path: Path, name: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.npy").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for i in range(3):
        shutil.copytree(runs / "good", runs / f"copy{i}")
    arguments = ("--device", "cpu", "-q", "--context-length", 32, "--tokens", tmp_path / name)
    ran = run(capfd, "evaluate", runs, *arguments)
    assert_refused(ran, name, reason)
    assert ran.out == ""
    assert "copy" not in ran.err


def test_sequences_too_short_for_pairs_are_measured(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (found,) = evaluate(capfd, runs, "--context-length", 2).json()["runs"]
    assert found["status"] == "ok"
    assert found["metrics"]["l0"]["value"] > 0
    assert found["metrics"]["scale_consistency_additivity"]["value"] is None
