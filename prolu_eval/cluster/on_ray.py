"""Workers on the nodes of a Ray cluster: one actor for each GPU, or share of a node's CPUs.

Actors come and go with the nodes. If an actor ends and its node still exists, a new one is started
there. The caller has to send unanswered messages again; nothing in the old actor is needed for
that.
"""

import contextlib
import os
import platform
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from prolu_eval import __version__
from prolu_eval.cluster.address import Shares
from prolu_eval.cluster.pool import (
    ERROR,
    Answered,
    Event,
    Gone,
    Joined,
    Message,
    Worker,
    answered,
    fault,
    service_of,
)
from prolu_eval.errors import EvaluationError, UsageError

# Seconds between two checks of the cluster's nodes.
_LOOK = 1.0
# After so many failed starts in a row, no further worker is started on a node.
_ATTEMPTS = 3
# What errors say of an actor that used too much memory. (Of any that was killed, Ray says that high
# memory usage might have been the reason.)
_LACKED_MEMORY = re.compile("low on memory|MemoryError|out of memory|can't allocate", re.IGNORECASE)
# What they say of an object store that is full, and cannot be moved to the disk.
_NO_ROOM = re.compile("disk is full|out of disk|object ?store.{0,40} full", re.IGNORECASE)
# Seconds to wait for a first worker while there is no node for one.
_PATIENCE = 600.0


class Actor:
    """Answers messages with a service, in a process of Ray."""

    def __init__(self, service: str, config: Message, threads: int) -> None:
        import torch

        device = "cuda" if torch.cuda.is_available() and config.get("device") != "cpu" else "cpu"
        torch.set_num_threads(threads)
        self._device = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        given = {**config, "device": config.get("device") or device}
        self._service = service_of(service, given, _fetched)

    def begin(self) -> dict[str, str]:
        """A description of the worker."""
        return {"device": self._device, "version": __version__, "pid": str(os.getpid())}

    def answer(self, message: Message) -> dict[str, Any]:
        """The service's answer to a message."""
        return answered(self._service, message)


@dataclass
class _Node:
    """A machine of the cluster, its workers, and how often they failed to start."""

    name: str
    shares: int
    cpus: float
    gpus: float
    failed: int = 0


@dataclass
class _Place:
    """An actor, and the calls that it has not answered, by reference."""

    worker: Worker
    node: str
    actor: Any
    began: Any
    ready: bool = False
    calls: dict[Any, int] = field(default_factory=dict)


class RayPool:
    """The workers of a Ray cluster, as nodes come and go.

    Args:
        address: ``ray`` for the cluster that ``RAY_ADDRESS`` names, or else this machine's, which
            is started if it is not running; or ``ray://HOST:PORT``.
        service: ``MODULE:CLASS`` of the service that workers run.
        config: the configuration of the service.
        shares: the size of the workers.

    Raises:
        UsageError: if the cluster cannot be reached.
    """

    def __init__(self, address: str, service: str, config: Message, shares: Shares) -> None:
        import ray

        self._ray = ray
        self._service, self._config, self._shares = service, config, shares
        self._own = not ray.is_initialized()
        if self._own:
            _connect(address)
        self._actor = ray.remote(Actor)
        self._nodes: dict[str, _Node] = {}
        self._places: dict[int, _Place] = {}
        self._ids, self._calls = count(), count()
        self._looked = 0.0
        self._waiting_since = time.monotonic()
        self._reasons: Counter[str] = Counter()
        if shares.workers is not None:
            self._ask_for(shares.workers)

    @property
    def size(self) -> int:
        """The number of workers, including those that are starting."""
        return len(self._places)

    def submit(self, worker: Worker, message: Message) -> int:
        """Send a worker a message, and return the number of the call."""
        place, call = self._places[worker.id], next(self._calls)
        place.calls[place.actor.answer.remote(message)] = call
        return call

    def put(self, value: Any) -> Any:
        """A reference to a value in the object store.

        Raises:
            EvaluationError: if the store is full, and its content cannot be moved to the disk.
        """
        from ray.exceptions import ObjectStoreFullError, OutOfDiskError

        try:
            return self._ray.put(value)
        except (ObjectStoreFullError, OutOfDiskError) as error:
            raise _no_room("the Ray cluster", error) from None

    def events(self, timeout: float) -> list[Event]:
        """The events since the last call.

        Raises:
            EvaluationError: if no worker can be started.
        """
        gone = self._look() if time.monotonic() - self._looked >= _LOOK else []
        waited = {
            reference: place
            for place in self._places.values()
            for reference in ([place.began] if not place.ready else place.calls)
        }
        if not waited:
            time.sleep(min(timeout, _LOOK))
            self._check_patience()
            return gone
        until = 0.0 if gone else timeout
        done, _ = self._ray.wait([*waited], num_returns=1, timeout=until, fetch_local=True)
        if done:
            done, _ = self._ray.wait(
                [*waited], num_returns=len(waited), timeout=0, fetch_local=True
            )
        else:
            self._check_patience()
        events = list(gone)
        for reference in done:
            place = waited[reference]
            if place.worker.id in self._places:
                events += self._taken(place, reference)
        return events

    def close(self) -> None:
        """End all actors and disconnect from the cluster."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            for place in self._places.values():
                self._ray.kill(place.actor)
            if self._shares.workers is not None:
                self._ask_for(0)
        self._places.clear()
        if self._own:
            self._ray.shutdown()

    def _taken(self, place: _Place, reference: Any) -> list[Event]:
        """The events that follow from a reference that is done."""
        from ray.exceptions import GetTimeoutError, RayError

        try:
            found = self._ray.get(reference, timeout=_PATIENCE)
        except GetTimeoutError:
            return [self._lose(place, "its answer cannot be fetched")]
        except RayError as error:
            if place.ready and _NO_ROOM.search(str(error)):
                full = fault(_no_room(place.worker.node, error))
                return [Answered(place.worker, place.calls.pop(reference), {ERROR: full})]
            lacked = _LACKED_MEMORY.search(str(error)) is not None
            return [self._lose(place, _reason(error), out_of_memory=lacked)]
        if place.ready:
            return [Answered(place.worker, place.calls.pop(reference), found)]
        if found["version"] != __version__:
            self._lose(place, f"it has prolu-eval {found['version']}, not {__version__}")
            self._nodes[place.node].failed = _ATTEMPTS
            return []
        place.ready = True
        place.worker = Worker(place.worker.id, place.worker.node, found["device"])
        self._nodes[place.node].failed = 0
        return [Joined(place.worker)]

    def _lose(self, place: _Place, reason: str, *, out_of_memory: bool = False) -> Gone:
        """Count a worker as gone, and end its actor if it is still running."""
        with contextlib.suppress(Exception):
            self._ray.kill(place.actor)
        del self._places[place.worker.id]
        if not place.ready:
            self._reasons[reason] += 1
            if place.node in self._nodes:
                self._nodes[place.node].failed += 1
        return Gone(place.worker, reason, out_of_memory)

    def _look(self) -> list[Event]:
        """Look up the cluster's nodes, and start the workers that are wanted on them."""
        self._looked = time.monotonic()
        try:
            found = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        except Exception as error:  # noqa: BLE001 (whatever Ray raises when its head is gone)
            raise EvaluationError(
                "the Ray cluster",
                f"has lost its head ({_reason(error)})",
                "start it, and run the same command again to continue from the stored parts",
            ) from None
        orphans = [place for place in self._places.values() if place.node not in found]
        gone: list[Event] = [self._lose(place, "its node is gone") for place in orphans]
        self._nodes = {
            key: self._nodes.get(key) or self._described(node) for key, node in found.items()
        }
        here = Counter(place.node for place in self._places.values())
        for key, node in self._nodes.items():
            for _ in range(node.shares - here[key]):
                full = (
                    self._shares.workers is not None and len(self._places) >= self._shares.workers
                )
                if not full and node.failed < _ATTEMPTS:
                    self._start(key, node)
        return gone

    def _described(self, node: Mapping[str, Any]) -> _Node:
        has, shares = node["Resources"], self._shares
        name = node.get("NodeName") or node["NodeManagerAddress"]
        cpus = has.get("CPU", 0.0)
        if has.get("GPU", 0.0) and self._config.get("device") != "cpu":
            n = int(has["GPU"] / shares.gpus)
            return _Node(name, n, min(1.0, cpus / max(n, 1)), shares.gpus)
        if self._config.get("device") == "cuda":
            return _Node(name, 0, 0, 0)
        each = min(shares.cpus, int(cpus)) or 1
        return _Node(name, int(cpus // each), each, 0)

    def _start(self, key: str, node: _Node) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._actor.options(
            num_cpus=node.cpus,
            num_gpus=node.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=key, soft=False),
        ).remote(self._service, dict(self._config), max(1, int(node.cpus)))
        worker = Worker(next(self._ids), node.name, "")
        self._places[worker.id] = _Place(worker, key, actor, actor.begin.remote())

    def _check_patience(self) -> None:
        """Give up if there has been no worker for long, or none can be started on any node.

        Raises:
            EvaluationError: in either case.
        """
        if any(place.ready for place in self._places.values()):
            self._waiting_since = time.monotonic()
            return
        useless = self._nodes and all(
            node.failed >= _ATTEMPTS or not node.shares for node in self._nodes.values()
        )
        lost = self._reasons and useless and not self._places
        if lost or time.monotonic() - self._waiting_since > _PATIENCE:
            why = next(iter(self._reasons), "there is no node for one")
            raise EvaluationError(
                "the Ray cluster", f"has no worker that starts ({why})",
                "check that its nodes have prolu-eval and free CPUs or GPUs",
            )  # fmt: skip

    def _ask_for(self, n: int) -> None:
        """Tell a cluster with an autoscaler how many workers are wanted."""
        from ray.autoscaler.sdk import request_resources

        on_gpu = self._config.get("device") != "cpu" and any(
            node["Resources"].get("GPU") for node in self._ray.nodes()
        )
        bundle = {"GPU": self._shares.gpus} if on_gpu else {"CPU": self._shares.cpus}
        with contextlib.suppress(Exception):  # not every cluster has an autoscaler
            request_resources(bundles=[bundle] * n)


def _no_room(where: str, error: BaseException) -> EvaluationError:
    return EvaluationError(
        where,
        f"has no room in its object store, nor on the disk behind it ({_reason(error)})",
        "free space where Ray keeps its files (`ray start --temp-dir`), or give it more memory "
        "(--object-store-memory), and run the same command again",
    )


def _fetched(reference: Any) -> Any:
    """The value of a reference, on a node.

    Raises:
        EvaluationError: if it cannot be brought to this node.
    """
    import ray
    from ray.exceptions import RayError, RaySystemError

    try:
        return ray.get(reference)
    except RaySystemError:  # the value is here, but cannot be read
        raise
    except RayError as error:
        if _NO_ROOM.search(str(error)):
            raise _no_room(platform.node(), error) from None
        raise EvaluationError(
            platform.node(),
            f"cannot receive what is sent to it ({_reason(error)})",
            "check its network and the space where Ray keeps its files (`ray start --temp-dir`)",
        ) from None


def _connect(address: str) -> None:
    import logging

    import ray

    named = _of_this_machine() if address == "ray" else address
    try:
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if named == "local":  # a cluster for this evaluation alone, which nobody looks at
            quiet["include_dashboard"] = False
        ray.init(address=named, **quiet)
    except Exception as error:  # noqa: BLE001 (many kinds, of which each says no more than that)
        reason = _reason(error)
        remedy = "check that it runs and can be reached from here (`ray status`)"
        raise UsageError(f"--on {address}", f"cannot be reached ({reason})", remedy) from None


def _of_this_machine() -> str | None:
    """What Ray is told to connect to: ``local`` for a new cluster, None to let it look itself.

    Ray keeps the address of this machine's last cluster in a file. If that cluster was killed, Ray
    would try for minutes to reach it.
    """
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        host, _, port = (
            Path(folder, "ray", "ray_current_cluster").read_text().strip().rpartition(":")
        )
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return None
    except (OSError, ValueError):
        return None if os.environ.get("RAY_ADDRESS") else "local"


def _reason(error: BaseException) -> str:
    """The one informative line of an error of Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    cause = getattr(error, "cause", None)
    if cause is not None and not isinstance(cause, type):
        return f"{type(cause).__name__}: {cause}".splitlines()[0]
    if "Traceback" in str(error):
        return lines[-1]
    return lines[0].rstrip(".")
