"""Evaluations that are killed, run twice at once, or run out of room end with the same results."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval.checkpoints.native import save_run
from prolu_eval.errors import EvaluationError, ResultsError
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.parts import Parts
from prolu_eval.lm import LanguageModel
from prolu_eval.results import Result, read_result
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu
from tests.conftest import ROOT
from tests.evaluation.test_evaluation import random_sae

pytestmark = pytest.mark.deep

HOOK = "blocks.1.hook_resid_post"
N_RUNS, N_SHARDS, SHARD_TOKENS = 3, 8, 256
# Kills per test; the `slow` session of nox asks for more.
KILLS = int(os.environ.get("PROLU_EVAL_KILLS", "2"))
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] if KILLS > 2 else [signal.SIGKILL]


def write_runs(folder: Path, model_folder: Path, n_runs: int, n_rows: int) -> Path:
    """Write runs of a tiny model into ``runs/``, and token ids beside it; return the folder."""
    ids = np.random.default_rng(0).integers(1, 96, (n_rows, 32))
    np.save(folder / "ids.npy", ids)
    model = LanguageModel.load(str(model_folder), device="cpu")
    x = model.activations(torch.tensor(ids), HOOK).flatten(0, 1)
    for i in range(n_runs):
        config = RunConfig(
            variant="", d_in=1, d_sae=1, hook=HOOK, model=model.name,
            dataset=str(folder / "ids.npy"), context_length=32,
        )  # fmt: skip
        save_run(folder / "runs" / str(i), random_sae(Relu, x, -0.5 - 0.2 * i), config)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """A folder with runs of a tiny model, and token ids for them."""
    folder = tmp_path_factory.mktemp("faults")
    return write_runs(folder, tiny_model("llama"), N_RUNS, N_SHARDS * SHARD_TOKENS // 32)


@pytest.fixture(scope="module")
def undisturbed(work: Path) -> dict[str, Result]:
    """The results of an undisturbed evaluation."""
    options = options_of(work, work / "undisturbed")
    outcomes = evaluate(work / "runs", replace(options, shard_tokens=1 << 20))
    return {o.name: o.result for o in outcomes if o.result is not None}


def options_of(work: Path, results: Path) -> EvaluationOptions:
    return EvaluationOptions(
        tokens=str(work / "ids.npy"), context_length=32, device="cpu", results=results,
        shard_tokens=SHARD_TOKENS,
    )  # fmt: skip


def start(work: Path, results: Path, log: Path) -> subprocess.Popen[bytes]:
    """An evaluation in its own process, with its own cache beside the results."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.helpers.faults", log, "evaluate", work / "runs",
            "--tokens", work / "ids.npy", "--context-length", "32", "--device", "cpu", "--quiet",
            "--json",
            "--shard-tokens", str(SHARD_TOKENS), "--results", results,
        ],
        cwd=ROOT,
        env={**os.environ, "PROLU_EVAL_CACHE": f"{results}-cache"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def assert_same(results: Path, undisturbed: dict[str, Result]) -> None:
    """Assert that the folder holds the results of an undisturbed evaluation, and nothing else."""
    files = sorted(path for path in results.rglob("*") if path.is_file())
    assert len(files) == 2 * N_RUNS, files
    for name, expected in undisturbed.items():
        (path,) = (results / name).glob("*.json")
        found = read_result(path)
        assert found.fingerprint == expected.fingerprint
        for key, scalar in expected.metrics.items():
            assert found.metrics[key].value == pytest.approx(scalar.value, rel=1e-6, abs=1e-9), key
        for key, array in expected.arrays.items():
            np.testing.assert_allclose(found.arrays[key], array, rtol=1e-5, atol=1e-6, err_msg=key)


def assert_nothing_twice(log: Path, *, killed: bool = False) -> None:
    """Assert that no part was measured twice, and that each was logged unless a kill came first."""
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)), "a part was measured twice"
    for kind in (" mean-", " ablations-"):
        noted = sum(kind in line for line in lines)
        assert 0 < noted <= N_SHARDS if killed else noted == N_SHARDS


@pytest.mark.parametrize("how", SIGNALS)
def test_a_killed_evaluation_continues_where_it_was(
    how: signal.Signals, work: Path, undisturbed: dict[str, Result], tmp_path: Path
) -> None:
    """It is killed at random moments, mostly while it measures, and continues after each kill."""
    chance = random.Random(int(how))
    results, log = tmp_path / "results", tmp_path / "log"
    done = kills = starts = 0
    while kills < -(-KILLS // len(SIGNALS)):
        starts += 1
        assert starts <= 20 + 4 * KILLS, "it ends by itself, whatever it is sent"
        process = start(work, results, log)
        wanted = done + chance.randrange(1, 6)
        while process.poll() is None and lines(log) < wanted:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(how)
        process.communicate()
        if process.returncode == 0:  # it was done before
            assert_same(results, undisturbed)
            shutil.rmtree(results)
            shutil.rmtree(f"{results}-cache")
            log.unlink()
            done = 0
            continue
        kills += 1
        assert lines(log) >= done
        done = lines(log)
    process = start(work, results, log)
    out, err = process.communicate()
    assert process.returncode == 0, err
    statuses = [run["status"] for run in json.loads(out)["runs"]]
    assert len(statuses) == N_RUNS
    assert set(statuses) <= {"ok", "cached"}, "cached where the last kill came between two results"
    assert_same(results, undisturbed)
    assert_nothing_twice(log, killed=True)


@pytest.mark.parametrize("where", ["results", "cache"])
def test_a_kill_between_the_whole_and_the_removal_of_its_parts_leaves_none(
    where: str,
    work: Path,
    undisturbed: dict[str, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove = Parts.remove

    def killed(self: Parts) -> None:
        if tmp_path / where in self._folder.parents:
            raise KeyboardInterrupt
        remove(self)

    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    options = options_of(work, tmp_path / "results")
    with monkeypatch.context() as patched:
        patched.setattr(Parts, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(work / "runs", options)
    assert any((tmp_path / where).rglob("*.parts"))
    evaluate(work / "runs", options)
    assert_same(tmp_path / "results", undisturbed)
    assert not any(tmp_path.rglob("*.parts"))


def lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_two_processes_share_the_work(
    work: Path, undisturbed: dict[str, Result], tmp_path: Path
) -> None:
    results, log = tmp_path / "results", tmp_path / "log"
    processes = [start(work, results, log) for _ in range(2)]
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert {run["status"] for run in json.loads(out)["runs"]} <= {"ok", "cached"}
    assert_same(results, undisturbed)
    assert_nothing_twice(log)
    assert lines(log) == (2 + N_RUNS) * N_SHARDS


def test_what_a_killed_process_held_is_free(
    work: Path, undisturbed: dict[str, Result], tmp_path: Path
) -> None:
    """One of two processes is killed while both measure; the other finishes alone."""
    results, log = tmp_path / "results", tmp_path / "log"
    first, second = start(work, results, log), start(work, results, log)
    while lines(log) < 2 * N_SHARDS + 2 and first.poll() is None:
        time.sleep(0.002)
    first.kill()
    first.communicate()
    _, err = second.communicate()
    assert second.returncode == 0, err
    assert_same(results, undisturbed)
    assert_nothing_twice(log, killed=True)


def test_shares_add_up(work: Path, undisturbed: dict[str, Result], tmp_path: Path) -> None:
    options = options_of(work, tmp_path)
    for index in (2, 0):
        outcomes = evaluate(work / "runs", replace(options, shard=(index, 3)))
        assert {outcome.status for outcome in outcomes} == {"partial"}
        assert all(outcome.result is None for outcome in outcomes)
    outcomes = evaluate(work / "runs", replace(options, shard=(1, 3)))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert_same(tmp_path, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_loses_nothing(
    small_disk: Path, work: Path, undisturbed: dict[str, Result]
) -> None:
    options = options_of(work, small_disk / "results")
    (small_disk / "ballast").write_bytes(bytes(700 << 10))
    with pytest.raises(ResultsError, match="No space left on device"):
        evaluate(work / "runs", options)
    kept = list((small_disk / "results").rglob("*.safetensors"))
    assert kept, "what fitted is there"
    (small_disk / "ballast").unlink()
    evaluate(work / "runs", options)
    assert_same(small_disk / "results", undisturbed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told(work: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResultsError, match=r"cannot be written.*Permission denied"):
        evaluate(work / "runs", options_of(work, tmp_path / "results"))


def test_a_cache_that_cannot_be_written_only_costs_time(
    work: Path,
    undisturbed: dict[str, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "file"))
    evaluate(work / "runs", options_of(work, tmp_path / "results"))
    assert "not remembered" in caplog.text
    assert_same(tmp_path / "results", undisturbed)


def test_running_out_of_memory_halves_the_batch_and_keeps_what_is_done(
    work: Path, undisturbed: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = LanguageModel.resume
    sizes: list[int] = []
    failed: list[int] = []
    written: list[tuple[Path, str]] = []
    write = Parts.write

    def limited(self: LanguageModel, tokens: torch.Tensor, *others: Any) -> object:
        sizes.append(len(tokens))
        if len(tokens) > 3 and len(written) > 20:
            failed.append(len(sizes))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return resume(self, tokens, *others)

    def noting(self: Parts, name: str, arrays: dict[str, object]) -> None:
        write(self, name, arrays)  # type: ignore[arg-type]
        written.append((self._folder, name))

    monkeypatch.setattr(LanguageModel, "resume", limited)
    monkeypatch.setattr(Parts, "write", noting)
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    evaluate(work / "runs", replace(options_of(work, tmp_path / "results"), batch_size=8))
    assert_same(tmp_path / "results", undisturbed)
    assert len(written) == len(set(written))
    assert [sizes[i - 1] for i in failed] == [8, 4]
    assert max(sizes[failed[-1] :]) <= 3
    assert sizes[-1] == 2, "8, 4 and then 2 rows at a time"


def test_too_little_memory_for_one_row_is_told(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(LanguageModel, "clean", never)
    outcomes = evaluate(work / "runs", options_of(work, tmp_path / "results"))
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert "does not fit in the memory of cpu" in str(outcomes[0].error)


def test_infinite_activations_are_told(
    work: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    for block in model._blocks[:2]:
        for parameter in model._network.get_submodule(block).mlp.down_proj.parameters():
            parameter.data.fill_(torch.inf)
    from prolu_eval.tokens import load_tokens

    rows = load_tokens(str(work / "ids.npy"), model, split="all", n_tokens=256, context_length=32)
    with pytest.raises(EvaluationError, match="NaN or infinite activations"):
        Engine(model, HOOK, rows).sum_of_activations()
