"""The interface of pools of workers and of the services that they run."""

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
    """Works in its own process, and answers one message after another.

    A service is created from its configuration, which is plain data, and from a function that
    returns the value of a reference of :meth:`Pool.put`.
    """

    def answer(self, message: Message) -> dict[str, Any]:
        """Execute a message.

        Raises:
            ProluEvalError: if it cannot be executed; the error is sent to the caller.
        """
        ...


@dataclass(frozen=True)
class Worker:
    """A process that answers messages.

    Attributes:
        id: a unique number, which no earlier worker had.
        node: the name of its machine.
        device: the device on which it computes.
    """

    id: int
    node: str
    device: str


@dataclass(frozen=True)
class Joined:
    """An event: a worker is ready."""

    worker: Worker


@dataclass(frozen=True)
class Gone:
    """An event: a worker has ended, for a reason; its unanswered messages are lost.

    ``out_of_memory`` is true if it is known to have ended because it used too much memory.
    """

    worker: Worker
    reason: str
    out_of_memory: bool = False


@dataclass(frozen=True)
class Answered:
    """An event: a worker has answered a call."""

    worker: Worker
    call: int
    answer: dict[str, Any]


Event = Joined | Gone | Answered


class Pool(Protocol):
    """Workers that come and go."""

    @property
    def size(self) -> int:
        """The number of workers, including those that are starting."""
        ...

    def submit(self, worker: Worker, message: Message) -> int:
        """Send a worker a message, and return the number of the call, which the answer has."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """The events since the last call; waits for one, for at most ``timeout`` seconds."""
        ...

    def put(self, value: Any) -> Any:
        """A reference to a value, to be sent instead of it; each node receives the value once.

        Raises:
            EvaluationError: if there is no room for it.
        """
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
    """A service's answer with its warnings; an error of this package becomes a part of it."""
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


def last_line(error: BaseException) -> str:
    """The last line of an error's text, which says most about an error of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def error_of(told: Mapping[str, str]) -> ProluEvalError:
    """The error that :func:`fault` described."""
    kind = getattr(errors, told["kind"])
    made: ProluEvalError = kind(told["subject"], told["reason"], told["remedy"])
    return made


@dataclass
class LocalPool:
    """Workers within this process, which answer one after another without any network.

    Args:
        service: ``MODULE:CLASS`` of the service that they run.
        config: the configuration of the service.
        nodes: names of machines, one for each worker.
    """

    service: str
    config: Message
    nodes: Sequence[str]
    _calls: Iterator[int] = field(default_factory=count)
    _asked: list[tuple[Worker, int, Message]] = field(default_factory=list)
    _services: dict[int, Service] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self.nodes)

    def submit(self, worker: Worker, message: Message) -> int:
        """Store a message, which is answered at a later call of :meth:`events`."""
        call = next(self._calls)
        self._asked.append((worker, call, message))
        return call

    def events(self, timeout: float) -> list[Event]:
        """The workers at the first call, and then the answer to the oldest message."""
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
        """Remove the workers."""
        self._services.clear()
