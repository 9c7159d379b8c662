"""Helper processes, which take over parts of this process's work, each on its own device.

A helper is a module of this package that is run as a program. It reads its task as one JSON
document, and prints its messages as JSON documents, one per line. Its input stays open as long as
the process that started it wants it to work. The input closes when that process ends, in whatever
way, and the helper then stops as after Ctrl-C.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Self, cast

import prolu_eval
from prolu_eval.errors import ProluEvalError
from prolu_eval.json_text import dumps_compact

Message = dict[str, Any]
Send = Callable[[Message], None]

# Seconds that a helper has to store its results once it is asked to stop.
_PATIENCE = 120.0
_STOPPED = 130


class Helper:
    """A process that works on a task.

    Args:
        module: the module that is run.
        device: the device on which it works, for messages.
        task: its task, as plain data.
        threads: on a CPU, how many threads it may use; None for no limit.
        messages: the queue for its messages.
    """

    def __init__(
        self,
        module: str,
        device: str,
        task: Message,
        threads: int | None,
        messages: "queue.SimpleQueue[Message]",
    ) -> None:
        self.device, self._messages = device, messages
        package = str(Path(prolu_eval.__file__).parent.parent)
        path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lasts as long as the process)
        self._process = subprocess.Popen(  # noqa: S603 (a module of ours)
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops it
        )
        self._input = cast(IO[bytes], self._process.stdin)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError):
            self._input.write(dumps_compact(task).encode() + b"\n")
            self._input.flush()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_done(self) -> bool:
        """Whether it has ended, and all its messages are in the queue."""
        return self._process.poll() is not None and not self._reader.is_alive()

    def failure(self) -> str | None:
        """Why it ended before its work was done; None if it did not."""
        code = self._process.poll()
        if code in (None, 0):
            return None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return said or f"exit code {code}"

    def let_go(self) -> None:
        """Ask it to stop, by closing its input."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def wait(self) -> None:
        """Wait until it has stopped; kill it if that takes too long, or on Ctrl-C."""
        try:
            self._process.wait(_PATIENCE)
        except BaseException:
            self._process.kill()
            raise
        finally:
            self._process.wait()
            self._reader.join()
            self._errors.close()

    def _read(self) -> None:
        with cast(IO[bytes], self._process.stdout) as lines:
            for line in lines:
                self._messages.put(json.loads(line))


class Helpers:
    """Several helpers, which work until their block ends or until they are done.

    Args:
        module: the module that each helper runs.
        tasks: the device and the task of each helper.
        threads: on a CPU, how many threads each may use; None for no limit.
    """

    def __init__(
        self, module: str, tasks: Sequence[tuple[str, Message]], threads: int | None = None
    ) -> None:
        self._module, self._tasks, self._threads = module, tasks, threads
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.running: list[Helper] = []

    def __enter__(self) -> Self:
        for device, task in self._tasks:
            self.running.append(Helper(self._module, device, task, self._threads, self._messages))
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self.running:
            helper.let_go()
        for helper in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait()

    def messages(self) -> list[Message]:
        """The messages since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._messages.get_nowait())
        return found


def serve(work: Callable[[Message, Send], None]) -> None:
    """Run as a helper: read a task, do its work, and exit.

    Args:
        work: a function of the task and of a function that sends a message to the main process.
    """
    # Output that libraries print must not mix with the messages.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(dumps_compact(message) + "\n")
            out.flush()

    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_stop_with_input, daemon=True).start()
    try:
        work(task, send)
    except KeyboardInterrupt:
        sys.exit(_STOPPED)
    except ProluEvalError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def _stop_with_input() -> None:
    while os.read(0, 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGINT)
