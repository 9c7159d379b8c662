"""A real Ray cluster on this machine, whose nodes cannot see each other's files, where possible.

Each node runs in its own mount namespace, in which the tests' folder is empty. All files that a
worker needs must therefore be sent to it, and its results must be sent back.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from prolu_eval.evaluation import evaluate
from prolu_eval.results import Result
from prolu_eval.training import Settings, read_sweep_file, train_sweep
from tests.conftest import ROOT
from tests.helpers.cluster_runs import (
    SHARD_TOKENS,
    assert_same,
    options_of,
    statuses,
    undisturbed,
    write_runs,
)
from tests.training.test_devices import assert_same as assert_same_runs

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.cluster

# Kills of the long test, and bytes of a node's object store.
KILLS = int(os.environ.get("PROLU_EVAL_KILLS", "50"))
STORE = 100 << 20
N_RUNS = 12
# Seconds that a node may take to start, on a busy machine.
PATIENCE = 300.0


class Node:
    """A node of the cluster, started as in the documentation."""

    def __init__(self, arguments: Sequence[str], hidden: Path | None, cache: Path) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments,
               f"--object-store-memory={STORE}", "--disable-usage-stats", "--block"]  # fmt: skip
        quiet = {"RAY_DISABLE_IMPORT_WARNING": "1", "PROLU_EVAL_CACHE": str(cache)}
        command = ["sh", "-c", 'exec "$@"', "sh", *ray]
        if hidden is not None:
            script = f'mount -t tmpfs none {hidden} && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", script, "sh", *ray]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (it lasts as long as the process)
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **quiet},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def workers(self) -> list[psutil.Process]:
        """The processes of its actors."""
        return [p for p in self._all() if "ray::Actor" in " ".join(_command(p))]

    def kill(self) -> None:
        """End it at once, like a machine that is switched off."""
        for process in [*self._all(), psutil.Process(self.process.pid)]:
            with_signal(process, signal.SIGKILL)
        self.process.wait()

    def _all(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def with_signal(process: psutil.Process, which: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(which)


class Cluster:
    """A head without CPUs, and nodes of one CPU each."""

    def __init__(self, hidden: Path | None) -> None:
        self._hidden = hidden
        self._temporary = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._caches = 0
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        self.client = f"ray://127.0.0.1:{(client := _free_port())}"
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
                f"--temp-dir={self._temporary}", f"--ray-client-server-port={client}"]  # fmt: skip
        self.head = Node(head, None, self._cache())
        self.nodes: list[Node] = []
        self._wait_for(1)

    def add(self) -> Node:
        """Start another node, and wait until it has joined."""
        arguments = [f"--address={self.address}", "--num-cpus=1"]
        node = Node(arguments, self._hidden, self._cache())
        self.nodes.append(node)
        self._wait_for(1 + len(self.nodes))  # two that start at once on one machine collide
        return node

    def close(self) -> None:
        """End everything."""
        for node in [*self.nodes, self.head]:
            node.kill()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _cache(self) -> Path:
        self._caches += 1
        return (self._hidden or self._temporary) / f"cache-{self._caches}"

    def _wait_for(self, n: int) -> None:
        import ray._raylet

        end, last = time.monotonic() + PATIENCE, "no node answered"
        while time.monotonic() < end:
            try:
                found = ray._raylet.GcsClient(address=self.address).get_all_node_info()
                if sum(node.state == 0 for node in found.values()) >= n:
                    return
            except Exception as error:  # noqa: BLE001 (it is not there yet)
                last = str(error)
            time.sleep(0.3)
        raise AssertionError(f"the nodes do not start: {last}")


def _free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


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
    tried = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True)
    hidden = tmp_path_factory.getbasetemp() if tried.returncode == 0 else None
    started = Cluster(hidden)
    try:
        started.add()
        started.add()
        yield started
    finally:
        started.close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
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
