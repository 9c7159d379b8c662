"""Slurm jobs, run by submitit's local executor as processes of this machine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prolu_eval.errors import UsageError
from prolu_eval.evaluation import evaluate
from prolu_eval.evaluation.slurm import Jobs, Member
from prolu_eval.results import Result
from tests.helpers.cli import run
from tests.helpers.cluster_runs import assert_same, options_of, statuses, undisturbed, write_runs

pytest.importorskip("submitit", reason="submitit is not installed")
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """Runs of four formats at two hooks of one model."""
    return write_runs(tmp_path_factory.mktemp("work"), [tiny_model("llama")], 6)


@pytest.fixture(scope="module")
def expected(work: Path) -> dict[str, Result]:
    """The results of one process."""
    return undisturbed(work)


def test_jobs_share_the_work(
    work: Path, expected: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    local = f"cluster=local,array=2,time=10,logs={tmp_path / 'logs'}"
    options = options_of(work, tmp_path / "results", on="slurm", slurm=local)
    found = evaluate(work / "runs", options)
    assert statuses(found) == {"ok"}
    assert all(outcome.result is not None for outcome in found)
    assert_same(tmp_path / "results", expected)


def test_a_job_that_is_queued_again_is_the_same() -> None:
    member = Member(["runs"], {"n_tokens": 7}, 1, 4)
    again = member.checkpoint()
    assert again.function == member
    assert not again.args


def test_what_would_be_submitted_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    asked = "partition=gpu,gpus=1,cpus=4,mem=32,time=2:00:00,array=32,account=us"
    found = run(capfd, "evaluate", "runs", "--on", "slurm", "--slurm", asked, "--dry-run")
    assert found.code == 0
    for flag in ("array=0-31%32", "time=120", "partition=gpu", "gpus-per-node=1", "mem=32GB",
                 "cpus-per-task=4", "account=us"):  # fmt: skip
        assert f"#SBATCH --{flag}" in found.out
    assert run(capfd, "evaluate", "runs", "--dry-run").code == 2


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("time=soon", "time=soon is no time"),
        ("array=none", "array=none is no number above zero"),
        ("array", "'array' is no setting"),
        ("gpus=2", "gpus is more than a job uses"),
        ("cluster=moon", "'moon' is no cluster"),
    ],
)
def test_jobs_that_cannot_be_are_told(asked: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Jobs.of(asked)


@pytest.mark.parametrize(
    ("text", "minutes"), [("2:00:00", 120), ("1-00:00:00", 1440), ("90", 90), ("30:30", 31)]
)
def test_times_are_read_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert Jobs.of(f"time={text}").minutes == minutes
