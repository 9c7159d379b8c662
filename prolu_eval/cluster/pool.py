"""What a set of workers offers to whoever has work for them, wherever they run."""

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from prolu_eval import errors
from prolu_eval.errors import ProluEvalError

Message = Mapping[str, Any]
Fetch = Callable[[Any], Any]

WARNINGS, ERROR = "warnings", "error"


class Service(Protocol):
    """Does work in a process of its own, message by message.

    A service is made from its configuration, as plain data, and from what gives the content of a
    reference that :meth:`Pool.put` made.
    """

    def answer(self, message: Message) -> dict[str, Any]:
        """Do what a message asks.

        Raises:
            ProluEvalError: if it cannot be done; whoever asked is told.
        """
        ...


@dataclass(frozen=True)
class Worker:
    """A process that answers messages.

    Attributes:
        id: tells it from every other, also from those before it in the same place.
        node: the name of its machine.
        device: what it computes on.
    """

    id: int
    node: str
    device: str


@dataclass(frozen=True)
class Joined:
    """A worker that is ready."""

    worker: Worker


@dataclass(frozen=True)
class Gone:
    """A worker that has ended, and why; what it was asked and did not answer is lost."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Answered:
    """What a worker answered to a call."""

    worker: Worker
    call: int
    answer: dict[str, Any]


Event = Joined | Gone | Answered


class Pool(Protocol):
    """Workers that come and go."""

    @property
    def size(self) -> int:
        """How many workers there are, or will be once they have started."""
        ...

    def submit(self, worker: Worker, message: Message) -> int:
        """Send a worker a message; the number of the call, which its answer names."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """What has happened since the last call; waits so many seconds for something to."""
        ...

    def put(self, value: Any) -> Any:
        """A reference to a value, to be sent in its place; each node gets the value once."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


def service_of(name: str, config: Message, fetch: Fetch) -> Service:
    """The service that ``MODULE:CLASS`` names."""
    module, _, kind = name.partition(":")
    made: Service = getattr(importlib.import_module(module), kind)(config, fetch)
    return made


def answered(service: Service, message: Message) -> dict[str, Any]:
    """What a service answers, with what it warned of; an error of ours is part of the answer."""
    with _warnings() as told:
        try:
            answer = service.answer(message)
        except ProluEvalError as error:
            answer = {ERROR: fault(error)}
    return {**answer, WARNINGS: told} if told else answer


@contextmanager
def _warnings() -> Iterator[list[str]]:
    told: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler = Noting(logging.WARNING)
    logger = logging.getLogger("prolu_eval")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


def fault(error: ProluEvalError) -> dict[str, str]:
    """An error as plain data."""
    return {
        "kind": type(error).__name__,
        "subject": error.subject,
        "reason": error.reason,
        "remedy": error.remedy,
    }


def error_of(told: Mapping[str, str]) -> ProluEvalError:
    """The error that :func:`fault` described."""
    kind = getattr(errors, told["kind"])
    made: ProluEvalError = kind(told["subject"], told["reason"], told["remedy"])
    return made


@dataclass
class LocalPool:
    """Workers within this process, which answer one after another: nothing is sent anywhere.

    Args:
        service: ``MODULE:CLASS`` of what they do.
        config: what each is made from.
        nodes: the names of the machines that they stand for.
    """

    service: str
    config: Message
    nodes: Sequence[str]
    _calls: Iterator[int] = field(default_factory=count)
    _asked: list[tuple[Worker, int, Message]] = field(default_factory=list)
    _services: dict[int, Service] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self.nodes)

    def submit(self, worker: Worker, message: Message) -> int:
        """Note a message, which is answered when events are asked for."""
        call = next(self._calls)
        self._asked.append((worker, call, message))
        return call

    def events(self, timeout: float) -> list[Event]:
        """The workers at first, then the answer to the oldest message."""
        del timeout
        if not self._services:
            found: list[Event] = []
            for i, node in enumerate(self.nodes):
                self._services[i] = service_of(self.service, self.config, lambda value: value)
                found.append(Joined(Worker(i, node, "cpu")))
            return found
        if not self._asked:
            return []
        worker, call, message = self._asked.pop(0)
        return [Answered(worker, call, answered(self._services[worker.id], message))]

    def put(self, value: Any) -> Any:
        """The value itself."""
        return value

    def close(self) -> None:
        """Forget the workers."""
        self._services.clear()
