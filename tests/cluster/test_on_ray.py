"""A real Ray cluster on this machine, whose nodes cannot see each other's files, where possible.

Each node runs in its own mount namespace, in which the tests' folder is empty. All files that a
worker needs must therefore be sent to it, and its results must be sent back.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prolu_eval.evaluation import evaluate
from prolu_eval.results import Result
from prolu_eval.training import Settings, read_sweep_file, train_sweep
from tests.conftest import ROOT
from tests.evaluation.test_racing import RACE, runs  # noqa: F401 (fixture)
from tests.evaluation.test_tasks import options, probed  # noqa: F401 (fixture)
from tests.helpers.cluster_runs import (
    HOOKS,
    SHARD_TOKENS,
    assert_same,
    options_of,
    statuses,
    undisturbed,
    write_runs,
)
from tests.helpers.ray_cluster import PATIENCE, Cluster, can_hide, with_signal
from tests.training.test_devices import assert_same as assert_same_runs

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.cluster

# Kills of the long test.
KILLS = int(os.environ.get("PROLU_EVAL_KILLS", "50"))
N_RUNS = 12


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """Runs of four formats at three hooks of two models."""
    folder = tmp_path_factory.mktemp("work")
    return write_runs(folder, [tiny_model("llama"), tiny_model("gpt2")], N_RUNS)


@pytest.fixture(scope="module")
def expected(work: Path) -> dict[str, Result]:
    """The results of one process."""
    return undisturbed(work)


@pytest.fixture(scope="module")
def cluster(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes beside the head."""
    started = Cluster(tmp_path_factory.getbasetemp() if can_hide() else None)
    try:
        started.add()
        started.add()
        yield started
    finally:
        started.close()


@pytest.fixture(autouse=True)
def on_this_cluster(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)


def test_nodes_that_share_nothing_give_what_one_process_gives(
    cluster: Cluster, work: Path, expected: dict[str, Result], tmp_path: Path
) -> None:
    options = options_of(work, tmp_path / "results", on="ray", ray="cpus=1")
    assert statuses(evaluate(work / "runs", options)) == {"ok"}
    assert_same(tmp_path / "results", expected)
    assert not list(tmp_path.rglob("arrived")), "nothing arrives where everything is"


def test_a_sweep_is_trained_on_nodes_that_share_nothing(
    cluster: Cluster, sweep_file: Path, tmp_path: Path
) -> None:
    grid = read_sweep_file(sweep_file)
    train_sweep(grid, tmp_path / "alone", Settings("cpu"))
    settings = Settings("cpu", checkpoint_minutes=0, on="ray", ray="cpus=1")
    trained = train_sweep(grid, tmp_path / "far", settings)
    assert {t.status for t in trained} == {"trained"}
    assert_same_runs(tmp_path / "far", tmp_path / "alone")


OWN = """
import torch


class Mine(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder, self.out = torch.nn.Linear(32, 40), torch.nn.Linear(40, 32)

    def encode(self, x):
        return torch.relu(self.encoder(x))

    def decode(self, codes):
        return self.out(codes)


def make():
    return {"a": Mine(0), "b": Mine(1)}
"""


def test_a_plugin_travels_to_nodes_that_share_nothing(
    cluster: Cluster, work: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    given = {
        "plugin": f"{tmp_path}/own.py:make",
        "model": str(tiny_model("llama")),
        "hook": HOOKS[0],
    }
    here = evaluate([], options_of(work, tmp_path / "here", **given))
    far = options_of(work, tmp_path / "far", on="ray", ray="cpus=1", **given)
    assert statuses(evaluate([], far)) == {"ok"}
    assert_same(tmp_path / "far", {o.name: o.result for o in here if o.result is not None})


@pytest.mark.slow
def test_code_that_nodes_do_not_have_is_told(
    cluster: Cluster, work: Path, tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    given = {"plugin": "only_here:make", "model": str(tiny_model("llama")), "hook": HOOKS[0]}
    options = options_of(work, tmp_path / "far", on="ray", ray="cpus=1", **given)
    for outcome in evaluate([], options):
        assert "its code is not on " in str(outcome.error)
        assert "No module named 'only_here'" in str(outcome.error)
        assert "install it on every node" in str(outcome.error)


@pytest.mark.slow
def test_races_and_tasks_are_those_of_one_process(
    cluster: Cluster,
    runs: Path,  # noqa: F811
    probed: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    on_ray: dict[str, Any] = {"on": "ray", "ray": "cpus=1"}
    here = evaluate(runs, replace(RACE, results=tmp_path / "here"))
    far = evaluate(runs, replace(RACE, results=tmp_path / "far", **on_ray))
    assert [(o.name, o.status) for o in far] == [(o.name, o.status) for o in here]
    assert_same(tmp_path / "far", {o.name: o.result for o in here if o.result is not None})
    found, data = probed
    asked = options(data, measure=("probes", "behaviour"), results=tmp_path / "one")
    one = evaluate(found, asked)
    evaluate(found, replace(asked, results=tmp_path / "many", **on_ray))
    assert_same(tmp_path / "many", {o.name: o.result for o in one if o.result is not None})


@pytest.mark.slow
def test_forty_runs_on_three_nodes(
    cluster: Cluster, tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of four formats, at three hooks of two models; results are those of one process."""
    folder = tmp_path_factory.mktemp("forty")
    write_runs(folder, [tiny_model("llama"), tiny_model("gpt2")], 40)
    expected = undisturbed(folder)
    assert len(expected) == 40
    places = Counter((r.run.format, r.setting.model, r.run.hook) for r in expected.values())
    assert len({place[0] for place in places}) == 4
    assert len({place[1] for place in places}) == 2
    assert len({place[2] for place in places}) == 3
    third = cluster.add()
    try:
        options = options_of(folder, folder / "far", on="ray", ray="cpus=1")
        assert statuses(evaluate(folder / "runs", options)) == {"ok"}
        assert_same(folder / "far", expected)
    finally:
        cluster.nodes.remove(third)
        third.kill()


def start(work: Path, results: Path, log: Path, on: str) -> subprocess.Popen[bytes]:
    """An evaluation on the cluster, in its own process that logs stored parts."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.helpers.faults", log, "evaluate", work / "runs",
            "--tokens", work / "ids.npy", "--context-length", "32", "--device", "cpu", "--quiet",
            "--weight-processing", "none", "--shard-tokens", str(SHARD_TOKENS),
            "--results", results, "--on", on, "--ray", "cpus=1",
        ],
        cwd=ROOT,
        env={**os.environ, "PROLU_EVAL_CACHE": f"{results}-cache"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def stored(log: Path) -> int:
    """How many parts have been stored."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def disturb(
    cluster: Cluster, what: str, driver: subprocess.Popen[bytes], chance: random.Random
) -> bool:
    """Kill a worker, a node (another joins) or the driver; return whether there was one."""
    if what == "worker":
        found = [process for node in cluster.nodes for process in node.workers()]
        if found:
            with_signal(chance.choice(found), signal.SIGKILL)
        return bool(found)
    if what == "node":
        node = cluster.nodes.pop(chance.randrange(len(cluster.nodes)))
        node.kill()
        cluster.add()
        return True
    driver.kill()
    driver.communicate()
    return True


def assert_undisturbed(results: Path, log: Path, expected: dict[str, Result]) -> None:
    """Assert that results are those of one process, and that no part was stored twice."""
    assert_same(results, expected)
    lines = [line for line in log.read_text().splitlines() if str(results) in line]
    assert len(lines) == len(set(lines)), "a part was stored twice"


def endure(
    cluster: Cluster,
    work: Path,
    expected: dict[str, Result],
    folder: Path,
    kills: Sequence[str],
    on: str = "ray",
) -> None:
    """Evaluate while workers, nodes and drivers are killed; the results are undisturbed."""
    chance = random.Random(len(kills))
    results, log = folder / "results", folder / "log"
    driver = start(work, results, log, on)
    left, rounds = list(kills), 0
    while left:
        wanted = stored(log) + chance.randrange(1, 6)
        end = time.monotonic() + PATIENCE
        while driver.poll() is None and stored(log) < wanted:
            assert time.monotonic() < end, "nothing is measured any more"
            time.sleep(0.01)
        if driver.poll() is None and disturb(cluster, left[0], driver, chance):
            left.pop(0)
        if driver.poll() is not None:
            if driver.returncode == 0:  # it was done before
                assert_undisturbed(results, log, expected)
                shutil.rmtree(results)
                log.unlink()
                rounds += 1
            driver = start(work, results, log, on)
    _, error = driver.communicate()
    assert driver.returncode == 0, error.decode()
    assert_undisturbed(results, log, expected)
    print(f"{len(kills)} kills, {rounds + 1} evaluations, all as undisturbed")  # noqa: T201


def test_kills_and_a_node_that_joins_lose_nothing(
    cluster: Cluster, work: Path, expected: dict[str, Result], tmp_path: Path
) -> None:
    endure(cluster, work, expected, tmp_path, ["worker", "node", "driver"])


@pytest.mark.slow
def test_many_kills_lose_nothing(
    cluster: Cluster, work: Path, expected: dict[str, Result], tmp_path: Path
) -> None:
    kinds = [["worker", "worker", "node", "driver"][i % 4] for i in range(KILLS)]
    endure(cluster, work, expected, tmp_path, kinds)
