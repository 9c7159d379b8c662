"""Ray clusters on this machine, whose nodes cannot see each other's files, where possible.

Each node can run in its own mount namespace, in which some folders are empty or other files are in
the place of some files. What a worker needs then has to be sent to it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.conftest import ROOT

# Bytes of a node's object store, of which Ray accepts no less than 75 MiB.
STORE = 100 << 20
# Seconds that a node may take to start, on a busy machine.
PATIENCE = 300.0


def can_hide() -> bool:
    """Whether processes of this user can have mounts of their own."""
    tried = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True)
    return tried.returncode == 0


class Node:
    """A node of a cluster, started as in the documentation.

    Args:
        arguments: further arguments of ``ray start``.
        mounts: a shell command that is run first, in the node's own mount namespace; empty for a
            node that sees what this process sees.
        environment: environment variables.
        store: bytes of its object store.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        mounts: str,
        environment: Mapping[str, str],
        store: int = STORE,
    ) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments,
               f"--object-store-memory={store}", "--disable-usage-stats", "--block"]  # fmt: skip
        command = ["sh", "-c", 'exec "$@"', "sh", *ray]
        if mounts:
            command = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *ray]
        quiet = {"RAY_DISABLE_IMPORT_WARNING": "1", "OMP_NUM_THREADS": "1"}
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (it lasts as long as the process)
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **quiet, **environment},
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

    def its(self, path: Path) -> Path:
        """The place of a file that this node sees, for this process."""
        return Path(f"/proc/{self.process.pid}/root{path}")

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
    """A head without CPUs, and nodes of one CPU each.

    Args:
        hidden: a folder that is empty on each node but the head; None if nothing is hidden.
        store: bytes of each node's object store.
        environment: environment variables of all nodes.
    """

    def __init__(
        self,
        hidden: Path | None,
        store: int = STORE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._hidden, self._store, self._environment = hidden, store, environment or {}
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self.caches: list[Path] = []
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        self.client = f"ray://127.0.0.1:{(client := _free_port())}"
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
                f"--temp-dir={self.folder}", f"--ray-client-server-port={client}"]  # fmt: skip
        self.head = self._started(head, "")
        self.nodes: list[Node] = []
        self._wait_for(1)

    def add(self, mounts: str | None = None) -> Node:
        """Start another node, and wait until it has joined."""
        if mounts is None:
            mounts = "" if self._hidden is None else f"mount -t tmpfs none {self._hidden}"
        name = f"node-{len(self.caches)}"
        arguments = [f"--address={self.address}", "--num-cpus=1", f"--node-name={name}"]
        node = self._started(arguments, mounts)
        self.nodes.append(node)
        self._wait_for(1 + len(self.nodes))  # two that start at once on one machine collide
        return node

    def close(self) -> None:
        """End everything."""
        for node in [*self.nodes, self.head]:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _started(self, arguments: Sequence[str], mounts: str) -> Node:
        self.caches.append((self._hidden or self.folder) / f"cache-{len(self.caches)}")
        environment = {**self._environment, "PROLU_EVAL_CACHE": str(self.caches[-1])}
        return Node(arguments, mounts, environment, self._store)

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
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
