"""Trainings that are interrupted, not converged, refused or concurrent; their memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from prolu_eval.checkpoints import discover
from prolu_eval.cli import main
from prolu_eval.errors import ConfigError, Interrupted, ResultsError
from prolu_eval.evaluation.assembly import summary_of
from prolu_eval.lm import LanguageModel
from prolu_eval.provenance import environment
from prolu_eval.runs import Run
from prolu_eval.training import Settings, loop, read_sweep_file, train_sweep
from prolu_eval.training.checkpoint import CHECKPOINT_FILE
from prolu_eval.training.convergence import not_converged
from prolu_eval.training.cost import memory
from prolu_eval.training.interruption import Interruption
from prolu_eval.training.loop import Training
from prolu_eval.training.stream import Stream
from prolu_eval.training.threads import quickest
from tests.helpers.cli import run


def interrupting(monkeypatch: pytest.MonkeyPatch, at: int, *signals: int) -> None:
    """Send signals to this process while a training takes a step."""
    step = Training._step

    def interrupted(self: Training, number: int) -> None:
        step(self, number)
        if number == at:
            for one in signals:
                os.kill(os.getpid(), one)

    monkeypatch.setattr(Training, "_step", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_says_where_it_goes_on_and_does(
    number: int, sweep_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "runs"
    train_sweep(read_sweep_file(sweep_file), whole, Settings("cpu"))
    with monkeypatch.context() as patch:
        interrupting(patch, 9, number)
        with pytest.raises(Interrupted, match="step 10 of 64 is stored"):
            train_sweep(read_sweep_file(sweep_file), out, Settings("cpu"))
    assert [path.name for path in out.iterdir()] == [CHECKPOINT_FILE]
    assert signal.getsignal(number) is not None
    steps = []
    step = Training._step

    def noted(self: Training, number: int) -> None:
        steps.append(number)
        step(self, number)

    monkeypatch.setattr(Training, "_step", noted)
    train_sweep(read_sweep_file(sweep_file), out, Settings("cpu"))
    assert steps[0] == 10
    for folder in whole.iterdir():
        for name in ("sae.safetensors", "history.safetensors", "config.json"):
            assert (out / folder.name / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_run_says_with_what_it_was_trained(
    sweep_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One environment, or both if a training goes on with another version."""
    out, here = tmp_path / "runs", environment() | {"device": "cpu", "precision": "float32"}
    with monkeypatch.context() as patch:
        interrupting(patch, 9, signal.SIGINT)
        patch.setattr(loop, "environment", lambda: environment() | {"torch": "1.0"})
        with pytest.raises(Interrupted):
            train_sweep(read_sweep_file(sweep_file), out, Settings("cpu"))
    train_sweep(read_sweep_file(sweep_file), out, Settings("cpu"))
    train_sweep(read_sweep_file(sweep_file), tmp_path / "whole", Settings("cpu"))
    for folder, expected in ((out, [here | {"torch": "1.0"}, here]), (tmp_path / "whole", [here])):
        for told in run(capfd, "inspect", folder, "--json").json()["runs"]:
            assert told["environments"] == expected
    items = [item for item in discover(out) if isinstance(item, Run)]
    assert "torch 1.0" in str(summary_of(items[0]).trained_with)
    assert "torch" not in str(summary_of(items[0]).configuration)


def test_a_second_signal_ends_at_once_and_promises_nothing(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupting(monkeypatch, 9, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="no step is stored yet; run the same command"):
        train_sweep(read_sweep_file(sweep_file), tmp_path / "runs", Settings("cpu"))
    assert not (tmp_path / "runs").exists()


def test_the_command_line_says_it(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupting(monkeypatch, 9, signal.SIGINT)
    out = sweep_file.parent / "runs"
    code = main(["sweep", str(sweep_file), "--out", str(out), "--device", "cpu", "--quiet"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 130
    assert said == (
        "prolu-eval: interrupted: step 10 of 64 is stored; run the same command again to go on "
        "from there."
    )


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interruption = Interruption()
    with interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.orderly
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stream_is_where_it_was_if_its_source_is_interrupted() -> None:
    failing = False

    def source(rows: torch.Tensor) -> torch.Tensor:
        if failing:
            raise KeyboardInterrupt
        return rows.float()[:, None]

    first, second = (Stream(source, 100, 8, 32, seed=0) for _ in range(2))
    for _ in range(20):
        failing = True
        try:
            found = next(first)
        except KeyboardInterrupt:
            failing = False
            found = next(first)
        failing = False
        assert torch.equal(found, next(second))


def test_a_second_sweep_into_a_folder_is_refused_before_work(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = sweep_file.parent / "runs"
    grid = read_sweep_file(sweep_file)
    load = LanguageModel.load
    errors = []

    def other_first(name: str, **options: str) -> LanguageModel:
        monkeypatch.setattr(LanguageModel, "load", load)
        with pytest.raises(ResultsError, match="trained into by another sweep") as refused:
            train_sweep(grid, out, Settings("cpu"))
        errors.append(refused)
        return load(name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "load", other_first)
    assert {t.status for t in train_sweep(grid, out, Settings("cpu"))} == {"trained"}
    assert errors
    assert {t.status for t in train_sweep(grid, out, Settings("cpu"))} == {"present"}
    assert {path.name for path in out.iterdir()} == {plan.name for plan in grid.plans()}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[0.1, 1]", "[0.1, -1]", "greater than or equal to 0"),
        ("[0.1, 1]", "[nan]", "finite"),
        ('"relu"\n', '"topk"\nk = [8, 49]\n', "k = 49 is more than the 48 features"),
        ('"relu"\n', '"groupmax"\nk = [7]\n', "7 groups do not divide 48 features"),
        ('"relu"\n', '"topk"\nk = [-2]\n', "greater than 0"),
        ("learning_rates = [", "learning_rates = [0, ", "greater than 0"),
        ('"ste"', '"ste", bandwidth = 0', "bandwidth"),
    ],
)
def test_values_out_of_range_are_refused_when_the_file_is_read(
    sweep_file: Path, old: str, new: str, reason: str
) -> None:
    text = sweep_file.read_text()
    assert old in text
    changed = text.replace(old, new)
    if "k = [" in new:
        changed = changed.replace("coefficients = [0.1, 1]\n", "", 1)
    sweep_file.write_text(changed)
    with pytest.raises(ConfigError, match=reason):
        read_sweep_file(sweep_file)


def test_k_above_what_an_expansion_gives_is_refused_before_training(sweep_file: Path) -> None:
    text = sweep_file.read_text().replace("d_sae = 48", "expansion = 0.5")
    sweep_file.write_text(text + '[[sweep]]\nvariant = "topk"\nk = [17]\n')
    with pytest.raises(ConfigError, match="k = 17 is more than the 16 features"):
        train_sweep(read_sweep_file(sweep_file), sweep_file.parent / "runs", Settings("cpu"))
    assert not (sweep_file.parent / "runs").exists()


def test_the_rule_for_unfinished_trainings() -> None:
    n, fired = 50, torch.zeros(10, dtype=torch.int64)
    still = {"l0": torch.full((n,), 40.0), "loss": torch.full((n,), 3.0)}
    for decay in (0, 0.2, 1):
        assert not_converged(still, fired, 1000, decay) is None
        noise = torch.randn(n, generator=torch.Generator().manual_seed(0))
        noisy = {name: v * (1 + 0.05 * noise) for name, v in still.items()}
        assert not_converged(noisy, fired, 1000, decay) is None
        falling = still | {"l0": torch.linspace(900, 300, n)}
        reason = not_converged(falling, fired, 1000, decay)
        assert reason is not None
        assert reason.startswith("L0 was still falling, from ")
        slower = still | {"loss": torch.linspace(9, 3, n)}
        assert "the loss was still falling" in (not_converged(slower, fired, 1000, decay) or "")
    assert "60 % of the features" in (
        not_converged(still, torch.tensor([500] * 6 + [10] * 4), 1000, 0.2) or ""
    )
    assert not_converged(still, torch.tensor([500] * 5 + [10] * 5), 1000, 0.2) is None
    assert not_converged({"l0": torch.ones(3), "loss": torch.ones(3)}, fired, 1000, 0.2) is None


def test_what_falls_with_the_rate_says_nothing_of_rest() -> None:
    fired = torch.zeros(10, dtype=torch.int64)
    falls = torch.cat([torch.ones(40), torch.linspace(1, 0.5, 10)])
    assert not_converged({"l0": falls, "loss": falls}, fired, 1000, 0.2) is None
    assert not_converged({"l0": falls, "loss": falls}, fired, 1000, 0) is not None


def test_unfinished_runs_are_told_and_noted(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep_file.write_text(sweep_file.read_text().replace("[0.1, 1]", "[1000]"))
    out = sweep_file.parent / "runs"
    told = run(capfd, "sweep", sweep_file, "--out", out, "--device", "cpu", "--json").json()["runs"]
    dead = {r["run"]: r["not_converged"] for r in told if "c1000" in r["run"]}
    assert len(dead) == 2
    for name, reason in dead.items():
        assert "falling" in reason or "did not fire" in reason
        assert json.loads((out / name / "config.json").read_text())["not_converged"] == reason
    (found,) = [item for item in discover(out) if item.name == min(dead)]
    assert found.problems == (f"not converged: {dead[min(dead)]}",)  # type: ignore[union-attr]
    again = run(capfd, "sweep", sweep_file, "--out", out, "--device", "cpu")
    assert f"{min(dead)}: not converged: {dead[min(dead)]}." in again.err


def test_the_quickest_number_of_threads_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock depends on the number of threads; torch's own number is restored."""
    used, now = [1], [0.0]
    pace = {1: 4.0, 2: 2.0, 4: 1.95, 6: 9.0}
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1] if len(used) > 1 else 6)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += pace[used[-1]]

    assert quickest(work) == 2  # four are not a tenth faster


def test_a_checkpoint_goes_on_with_its_threads(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupting(monkeypatch, 3, signal.SIGINT)
    with pytest.raises(Interrupted):
        train_sweep(read_sweep_file(sweep_file), tmp_path / "runs", Settings("cpu"))

    def never(_: object) -> int:
        raise AssertionError("it was measured already")

    monkeypatch.setattr("prolu_eval.training.loop.quickest", never)
    trained = train_sweep(read_sweep_file(sweep_file), tmp_path / "runs", Settings("cpu"))
    assert {t.status for t in trained} == {"trained"}


def test_threads_wait_passively_before_torch_is_loaded() -> None:
    """This holds on the command line and in Python, because both import the package first."""
    code = (
        "import os, sys, prolu_eval, prolu_eval.cli\nassert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['KMP_BLOCKTIME'])"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")}
    for own, expected in (({}, "PASSIVE 0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE 0")):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={**clean, **own},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.splitlines()[-1] == expected


_PEAK = """
import sys, threading, time
from pathlib import Path
import psutil, torch
torch.set_num_threads(1)
from prolu_eval.lm import LanguageModel
from prolu_eval.provenance import environment
from prolu_eval.runs import Run
from prolu_eval.training import Settings, loop, read_sweep_file, train_sweep
from prolu_eval.training.cost import memory
grid = read_sweep_file(Path(sys.argv[1]))
model = LanguageModel.load(grid.shared.model, device="cpu")
plans = list(grid.plans())
print(memory(plans, grid.shared, model.width(grid.shared.hook), model.device).total)
peak, over = 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.002):
        peak = max(peak, psutil.Process().memory_info().rss)
watching = threading.Thread(target=watch)
watching.start()
train_sweep(grid, Path(sys.argv[2]), Settings("cpu"))
over.set()
watching.join()
print(peak)
"""


@pytest.mark.parametrize(("d_sae", "batch"), [(4000, 256), (600, 1024)])
def test_the_estimate_of_memory_is_what_is_held(
    d_sae: int, batch: int, sweep_file: Path, tmp_path: Path
) -> None:
    """It is within a fifth of the peak that is measured in a separate process."""
    text = sweep_file.read_text().replace("d_sae = 48", f"d_sae = {d_sae}")
    text = text.replace("batch_size = 64", f"batch_size = {batch}")
    sweep_file.write_text(text.replace("[0.1, 1]", "[0.1, 0.2, 0.4, 1]"))
    ran = subprocess.run(
        [sys.executable, "-c", _PEAK, str(sweep_file), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        check=True,
    )
    estimated, peak = map(int, ran.stdout.split())
    assert 0.8 < estimated / peak < 1.2


def test_freed_memory_is_given_back_at_each_log() -> None:
    """Logged values between large tensors would keep their memory, so that the process grows."""
    code = """
import psutil, torch
from prolu_eval.training.heap import give_back_freed
held = lambda: psutil.Process().memory_info().rss / 2**20
torch.empty(1 << 22).fill_(1)  # from now on large tensors, once freed, stay in the heap
before = held()
pairs = [(torch.ones(1 << 18), torch.ones(8)) for _ in range(100)]
kept = [small for _, small in pairs]
del pairs
give_back_freed()
print(held() - before)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 20


def test_what_does_not_fit_in_memory_is_refused_before_training(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = sweep_file.read_text()
    out = ("--out", sweep_file.parent / "runs")
    for old, new in (("buffer_size = 512", "buffer_size = 1_000_000_000_000"),
                     ("d_sae = 48", "d_sae = 1_000_000_000_000")):  # fmt: skip
        sweep_file.write_text(text.replace(old, new))
        for how in ("--quiet", "--dry-run"):
            refused = run(capfd, "sweep", sweep_file, *out, how)
            assert refused.code == 2
            assert "GiB of memory, but" in refused.err
    assert not (sweep_file.parent / "runs").exists()


def test_what_the_process_holds_is_part_of_the_estimate(sweep_file: Path) -> None:
    grid = read_sweep_file(sweep_file)
    plans = list(grid.plans())[:3]
    found = memory(plans, grid.shared, 32, torch.device("cpu"))
    assert found.process == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert found.total > found.process + found.stacks
    assert found.stacks == 3 * (4 * 4 * 2 * 32 * 48 + 8 * 48)
