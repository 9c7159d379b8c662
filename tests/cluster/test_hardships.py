"""Real Ray clusters on which files cannot be read, the object store is full, or memory is short."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from prolu_eval.checkpoints.native import save_run
from prolu_eval.errors import EvaluationError
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.results import Result
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu
from tests.helpers.cluster_runs import (
    D_IN,
    HOOKS,
    assert_same,
    options_of,
    statuses,
    undisturbed,
    write_runs,
)
from tests.helpers.ray_cluster import Cluster, can_hide

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not can_hide(), reason="nodes cannot have mounts of their own"),
]

# The least object store that Ray accepts.
LEAST = 76 << 20
# A run's weights take 25 MB, and a batch little more than that.
D_SAE, N_LARGE = 100_000, 8
# Bytes besides those that a single run needs, for little more than one other run.
ROOM = 40 << 20


@contextmanager
def started(
    hidden: Path | None, monkeypatch: pytest.MonkeyPatch, **more: object
) -> Iterator[Cluster]:
    """A cluster's head; nodes are to be added."""
    cluster = Cluster(hidden, **more)  # type: ignore[arg-type]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    return write_runs(tmp_path_factory.mktemp("work"), [tiny_model("llama")], 8)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """Runs with many features, which exceed a small object store together."""
    folder = write_runs(tmp_path_factory.mktemp("large"), [tiny_model("llama")], 0)
    for i in range(N_LARGE):
        torch.manual_seed(i)
        sae = Relu(D_IN, D_SAE)
        torch.nn.init.normal_(sae.W_enc, std=0.1)
        torch.nn.init.normal_(sae.W_dec, std=0.1)
        torch.nn.init.constant_(sae.b_enc, -1.0)
        config = RunConfig(
            variant="", d_in=1, d_sae=1, hook=HOOKS[1], model=str(tiny_model("llama")),
            context_length=32,
        )  # fmt: skip
        save_run(folder / "runs" / f"{i}", sae, config)
    return folder


def of_large(folder: Path, results: Path, **more: object) -> EvaluationOptions:
    """Options with which these runs need little memory besides their weights."""
    few = {"batch_size": 1, "n_tokens": 128, "shard_tokens": 32}
    return options_of(folder, results, **few, **more)


@pytest.fixture(scope="module")
def expected(large: Path) -> dict[str, Result]:
    outcomes = evaluate(large / "runs", of_large(large, large / "undisturbed"))
    assert statuses(outcomes) == {"ok"}
    return {o.name: o.result for o in outcomes if o.result is not None}


def test_checkpoints_that_one_node_cannot_read(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node sees all files; on the other, one is damaged, one is empty and one is missing."""
    runs = work / "runs"
    damaged = tmp_path / "damaged"
    content = bytearray((runs / "00-native" / "sae.safetensors").read_bytes())
    content[-8:] = bytes(8)
    damaged.write_bytes(content)
    (tmp_path / "empty").touch()
    mounts = " && ".join(
        [
            f"mount --bind {damaged} {runs}/00-native/sae.safetensors",
            f"mount --bind {tmp_path}/empty {runs}/01-saelens/sae_weights.safetensors",
            f"mount -t tmpfs none {runs}/02-dictionary",
        ]
    )
    before = undisturbed(work)
    with started(None, monkeypatch) as cluster:
        bad = cluster.add(mounts)
        assert bad.its(runs / "00-native" / "sae.safetensors").read_bytes() == bytes(content)
        options = options_of(work, tmp_path / "alone", on="ray", ray="cpus=1")
        assert statuses(evaluate(runs, options)) == {"ok"}
        assert_same(tmp_path / "alone", before)
        arrived = [str(path) for path in cluster.caches[1].rglob("*.safetensors")]
        assert any(path.endswith("00-native/sae.safetensors") for path in arrived)
        # A copy that is damaged on its node is sent once more.
        for path in cluster.caches[1].rglob("arrived/**/*.safetensors"):
            path.write_bytes(b"damaged")
        cluster.add("")
        options = options_of(work, tmp_path / "both", on="ray", ray="cpus=1")
        assert statuses(evaluate(runs, options)) == {"ok"}
        assert_same(tmp_path / "both", before)


def test_more_checkpoints_than_the_object_store_holds(
    large: Path, expected: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray moves some to the disk. If this is full too, the command ends, and can be repeated."""
    hidden = large.parent
    results = tmp_path / "results"
    options = of_large(large, results, on="ray", ray="cpus=1")
    full = {"RAY_local_fs_capacity_threshold": "0.01"}
    with started(hidden, monkeypatch, store=LEAST, environment=full) as cluster:
        cluster.add()
        told = reasons(large / "runs", options)
        assert told
        assert all("has no room in its object store" in reason for reason in told), told
        assert all("--object-store-memory" in reason for reason in told)
        assert "\n" not in "".join(told)
    with started(hidden, monkeypatch, store=LEAST) as cluster:
        cluster.add()
        assert statuses(evaluate(large / "runs", options)) <= {"ok", "cached"}
        assert_same(results, expected)


def reasons(runs: Path, options: EvaluationOptions) -> list[str]:
    """The reasons of what fails: of runs, or of the whole evaluation."""
    try:
        outcomes = evaluate(runs, options)
    except EvaluationError as error:
        return [str(error)]
    return [str(outcome.error) for outcome in outcomes if outcome.status == "failed"]


class Killer(threading.Thread):
    """Kills actors that use more memory than there is, as an operating system does.

    Args:
        cluster: the cluster.
        allowed: the bytes that an actor may use.
    """

    def __init__(self, cluster: Cluster, allowed: float) -> None:
        super().__init__(daemon=True)
        self.kills = self.most = 0
        self._cluster, self._allowed, self._over = cluster, allowed, threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            for process in [p for node in self._cluster.nodes for p in node.workers()]:
                try:
                    used = process.memory_full_info().uss
                    self.most = max(self.most, used)
                    if used > self._allowed:
                        process.kill()
                        self.kills += 1
                except psutil.Error:
                    pass
            time.sleep(0.01)

    def __enter__(self) -> "Killer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def test_an_actor_that_is_killed_for_its_memory(
    large: Path, expected: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(None, monkeypatch) as cluster:
        cluster.add()
        options = of_large(large, tmp_path / "one", on="ray", ray="cpus=1")
        with Killer(cluster, math.inf) as watched:
            evaluate(large / "runs" / "0", options)
        options = of_large(large, tmp_path / "results", on="ray", ray="cpus=1")
        with Killer(cluster, watched.most + ROOM) as killer:
            outcomes = evaluate(large / "runs", options)
        assert killer.kills > 0
        assert statuses(outcomes) == {"ok"}
        assert_same(tmp_path / "results", expected)
