"""What newcomers stumble over: each ends in one clear line, which is the last thing printed."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prolu_eval.checkpoints import discover
from prolu_eval.checkpoints.native import save_run
from prolu_eval.cli import main
from prolu_eval.runs import Run, RunConfig
from prolu_eval.saes import Relu
from tests.helpers.cli import Ran, run
from tests.helpers.foreign_files import kissane, matrices, saelens, sparsify, write_pt

OPTIONS = ("--device", "cpu", "--context-length", 32, "--split-tokens", "all", "--quiet")


@pytest.fixture
def runs(tmp_path: Path, tiny_run: Callable[[Path], Path]) -> Path:
    """A folder with two good runs."""
    tiny_run(tmp_path / "runs" / "a")
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "b")
    return tmp_path / "runs"


def together(*arguments: object) -> tuple[int, str]:
    """An exit code, and what stands on a terminal, where stdout and stderr are one."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        code = main([str(argument) for argument in arguments])
    return code, screen.getvalue()


def options_of(command: str, tmp_path: Path) -> tuple[object, ...]:
    if command == "convert":
        return tmp_path / "out", "--to", "native"
    return OPTIONS if command in ("evaluate", "frontier") else ()


def passed_over(runs: Path) -> list[str]:
    """Make files of all kinds beside the runs; what is said of those that look like runs."""
    (runs / "c").mkdir()
    (runs / "c" / "sae.safetensors").write_bytes((runs / "a" / "sae.safetensors").read_bytes())
    whole = (runs / "a" / "sae.safetensors").read_bytes()
    (runs / "d").mkdir()
    (runs / "d" / "layer_3.safetensors").write_bytes(whole[:-100])
    (runs / "d" / "empty.pt").touch()
    write_pt(runs / "d" / "mine.pt", {"weight": torch.ones(2)})
    write_pt(runs / "d" / "whole.pt", {"weight": torch.ones(200)})
    (runs / "d" / "whole.pt").write_bytes((runs / "d" / "whole.pt").read_bytes()[:300])
    shutil.copytree(runs / "a", runs / "e" / "evaluation")
    (runs / "a" / "cc_weights.pt").write_bytes(whole)
    for name in ("README.md", "log.txt", "optimizer.pt", "scheduler.pt", "sparsity.safetensors",
                 "training_args.bin", "rng_state_0.pth", "events.out.tfevents.1", "metrics.json",
                 "training.checkpoint.safetensors", "history.safetensors"):  # fmt: skip
        for folder in (runs, runs / "a"):
            (folder / name).write_bytes(b"any")
    return [
        f"{runs}/a/cc_weights.pt skipped: its folder is read as one checkpoint (native); "
        "move it to a folder of its own.",
        f"{runs}/c/sae.safetensors skipped: there is no config.json or cfg.json beside it.",
        f"{runs}/d/empty.pt skipped: it is empty; copy or download it again.",
        f"{runs}/d/mine.pt skipped: its format is unknown.",
        f"{runs}/d/whole.pt skipped: it is cut short; copy or download it again.",
        f"{runs}/e/evaluation skipped: folders of this name hold results; rename it to have the "
        "checkpoints in it read.",
    ]


@pytest.mark.parametrize("command", ["inspect", "evaluate", "frontier", "biases", "convert"])
def test_every_command_names_what_it_passes_over_and_nothing_else(
    runs: Path, tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = passed_over(runs)
    ran = run(capfd, command, runs, *options_of(command, tmp_path))
    assert ran.code == 0, ran.err
    said = [line.removeprefix("prolu-eval: ") for line in ran.err.splitlines() if "skipped" in line]
    (damaged,) = [line for line in said if "layer_3" in line]
    assert damaged.startswith(f"{runs}/d/layer_3.safetensors skipped: it cannot be read (")
    assert sorted(said) == sorted([*expected, damaged])


def test_what_is_passed_over_for_one_reason_is_one_line(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        write_pt(runs / "others" / f"step_{i:02}.pt", {"weight": torch.ones(2)})
    (line,) = run(capfd, "inspect", runs).err.splitlines()
    first = ", ".join(f"{runs}/others/step_{i:02}.pt" for i in range(3))
    assert line == f"prolu-eval: {first} and 9 more skipped: its format is unknown."


def test_a_stray_file_among_checkpoints_of_one_file_each_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kissane(tmp_path, "gelu-2l_L0_1", matrices())
    write_pt(tmp_path / "gelu-2l_L1_2.pt", matrices())
    ran = run(capfd, "inspect", tmp_path)
    assert f"{tmp_path}/gelu-2l_L1_2.pt skipped: its format is unknown." in ran.err
    assert ran.err.count("\n") == 1


def test_all_that_a_checkpoint_does_not_say_is_asked_for_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        sae = Relu(32, 40)
        save_run(tmp_path / name, sae, RunConfig(variant="", d_in=1, d_sae=1))
    ran = run(capfd, "evaluate", tmp_path, *OPTIONS)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "prolu-eval: a and 1 more skipped: does not say its model, hook and tokens; pass --model "
        "NAME --hook blocks.N.hook_resid_post --tokens TEXT.\n"
    )
    alone = run(capfd, "evaluate", tmp_path / "a", *OPTIONS, "--model", "embedded")
    assert alone.err == (
        f"prolu-eval: a skipped: {tmp_path / 'a'}: does not say its hook and tokens; pass --hook "
        "blocks.N.hook_resid_post --tokens TEXT.\n"
    )


@pytest.mark.parametrize("command", ["evaluate", "frontier", "inspect", "biases", "convert"])
def test_what_failed_is_said_last(
    runs: Path, tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = runs / "a" / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    code, screen = together(command, runs, *options_of(command, tmp_path))
    assert code == 1
    last = screen.splitlines()[-1]
    assert f"{path}: cannot be read (" in last
    assert last.endswith("; copy or download the file again.")


def test_a_table_of_failures_alone_is_not_printed(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = run(capfd, "evaluate", runs, *OPTIONS, "--hook", "blocks.0.hook_nothing")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "a and 1 more skipped: " in ran.err


def test_the_json_of_a_frontier_has_what_failed(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runs / "a" / "config.json").write_text("{")
    ran = run(capfd, "frontier", runs, *OPTIONS, "--json")
    assert ran.code == 1
    assert {r["run"]: r["status"] for r in ran.json()["runs"]} == {"a": "failed", "b": "ok"}


def test_warnings_are_remarks_like_any_other(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "short.npy", np.random.default_rng(0).integers(1, 96, (40, 16)))
    ran = run(capfd, "evaluate", runs, *OPTIONS, "--tokens", tmp_path / "short.npy")
    assert ran.code == 0
    assert f"prolu-eval: {tmp_path}/short.npy: has rows of 16 tokens; they are used" in ran.err
    foreign = [line for line in ran.err.splitlines() if "worse than their frequencies" in line]
    assert [line.partition(": ")[0] for line in foreign] == ["prolu-eval"]


def refused(ran: Ran, *words: str) -> None:
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert all(word in ran.err for word in words), ran.err


def test_the_files_of_runs_are_no_text(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "evaluate", runs, *OPTIONS).code == 0  # so that there are results, too
    monkeypatch.setattr("prolu_eval.evaluation.preparation.LanguageModel", None)  # loads nothing
    (runs / "README.md").write_text("# A card\n")
    saelens(tmp_path / "lens" / "x", "standard", matrices())
    sparsify(tmp_path / "lens" / "layers.1", matrices())
    for folder in (runs, runs / "a", tmp_path / "lens"):
        ran = run(capfd, "evaluate", runs, *OPTIONS, "--tokens", folder)
        refused(ran, f"{folder}: holds runs, and no text; name a file or a folder of text")
    files = [runs / "a" / "config.json", tmp_path / "lens" / "x" / "cfg.json",
             *(runs / "a" / "evaluation").glob("*.json")]  # fmt: skip
    assert len(files) == 3
    for file in files:
        ran = run(capfd, "evaluate", runs, *OPTIONS, "--tokens", file)
        refused(ran, f"{file}: belongs to a run, and is no text; name a file or a folder of text")
    ran = run(capfd, "sweep", "--tokens", runs, "--model", "embedded", "--out", tmp_path / "new")
    refused(ran, "holds runs, and no text")


def test_a_sweep_file_is_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.toml").write_text("[shared]\n")
    refused(
        run(capfd, "frontier", tmp_path / "small.toml"),
        f"train its runs with `prolu-eval sweep {tmp_path}/small.toml`, and name their folder",
    )


@pytest.mark.parametrize(
    ("named", "remedy"),
    [
        ("owner/some-saes", "or write hub:owner/some-saes if it is on the Hugging Face hub"),
        ("https://huggingface.co/owner/saes/tree/main/x", "write hub:owner/saes/x, or name"),
        ("answer.md", "write `> answer.md` to have what is printed in a file"),
        ("rnus", "rnus: does not exist; name a folder of runs."),
    ],
)
def test_what_is_not_there_may_be_meant_otherwise(
    tmp_path: Path,
    named: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run(capfd, "frontier", named), "does not exist; ", remedy)


def test_a_report_among_the_runs_is_left_out_by_the_user(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runs / "report.html").write_text("<html>")
    refused(
        run(capfd, "frontier", *sorted(runs.iterdir())),
        f"{runs}/report.html: is no checkpoint: it is no file of weights; leave it out, or name",
    )
    refused(run(capfd, "convert", runs, runs, "--to", "native"), "is what is to be converted")


def test_text_beside_runs_is_taken(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("All is well that ends well. " * 40)
    ran = run(capfd, "evaluate", runs, *OPTIONS, "--tokens", tmp_path, "--json")
    assert ran.code == 0, ran.err
    (first, _) = ran.json()["runs"]
    assert first["provenance"]["setting"]["tokens"] == str(tmp_path)


def test_a_run_that_was_replaced_is_to_be_evaluated_and_not_pruned(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    baseline = ("--baseline", tmp_path / "b.json")
    assert run(capfd, "evaluate", runs, *OPTIONS).code == 0
    assert run(capfd, "baseline", "save", runs, "-o", tmp_path / "b.json").code == 0
    (item,) = [item for item in discover(runs) if item.name == "a"]
    assert isinstance(item, Run)
    sae = Relu(32, 40)
    torch.nn.init.normal_(sae.W_enc)
    config = RunConfig.model_validate_json((runs / "a" / "config.json").read_text())
    save_run(runs / "a", sae, config)
    ran = run(capfd, "compare", runs, *baseline, "--json")
    document = ran.json()
    assert ran.code == 1
    assert (document["missing_runs"], document["unevaluated_runs"]) == (["a"], ["a"])
    assert document["update"] is None
    (row,) = [row for row in document["runs"] if row["run"] == "a"]
    assert "evaluate it with `prolu-eval evaluate`" in row["remedy"]
    shown = run(capfd, "compare", runs, *baseline)
    assert "--prune" not in shown.out + shown.err
    shutil.rmtree(runs / "a")  # one that is gone may be dropped
    gone = run(capfd, "compare", runs, *baseline, "--json").json()
    assert (gone["missing_runs"], gone["unevaluated_runs"]) == (["a"], [])
    assert gone["update"].endswith("--prune")


def test_what_is_not_converged_has_a_remedy(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = runs / "a" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"not_converged": "L0 was falling"}))
    ran = run(capfd, "inspect", runs)
    assert ran.err == (
        "prolu-eval: 1 of 2 not converged: train it longer, by `prolu-eval sweep` with more "
        "--n-tokens and a new --out.\n"
    )
    answered = run(capfd, "frontier", runs, *OPTIONS).out
    assert "1 of 2 runs not converged: longer training (sweep with more --n-tokens" in answered
