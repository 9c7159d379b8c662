"""Helper processes that share the work of this one, each on a device of its own.

A helper is a module of this package that runs as a program. It reads its task as one JSON document,
and prints its messages as JSON documents, one on each line. Its input stays open for as long as the
process that started it needs it, and closes when that process ends, however that happens; the
helper then stops as if after Ctrl-C.
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
Tell = Callable[[Message], None]

# Seconds that a helper has to store its work after it is told to stop.
_PATIENCE = 120.0
_STOPPED = 130


class Helper:
    """A process that works on a task.

    Args:
        module: the module to run.
        device: the device that it works on, for messages.
        task: the task, as plain data.
        threads: for a CPU, how many threads it may use; None for no limit.
        told: the queue that its messages are put into.
    """

    def __init__(
        self,
        module: str,
        device: str,
        task: Message,
        threads: int | None,
        told: "queue.SimpleQueue[Message]",
    ) -> None:
        self.device, self._told = device, told
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
            start_new_session=True,  # Ctrl-C goes to this process only, which then stops the helper
        )
        self._input = cast(IO[bytes], self._process.stdin)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError):
            self._input.write(dumps_compact(task).encode() + b"\n")
            self._input.flush()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def is_done(self) -> bool:
        """Whether the process has ended and all of its messages have been read."""
        return self._process.poll() is not None and not self._reader.is_alive()

    def failure(self) -> str | None:
        """Why the process failed; None if it is running, or ended with its work done."""
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
        """Tell the helper to stop."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def wait(self) -> None:
        """Wait until the helper has stopped; kill it if that takes too long, or on Ctrl-C."""
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
                self._told.put(json.loads(line))


class Helpers:
    """Several helpers, as a context manager that stops them at the end of its block.

    Args:
        module: the module that each helper runs.
        tasks: the device and the task of each helper.
        threads: for a CPU, how many threads each may use; None for no limit.
    """

    def __init__(
        self, module: str, tasks: Sequence[tuple[str, Message]], threads: int | None = None
    ) -> None:
        self._module, self._tasks, self._threads = module, tasks, threads
        self._told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.running: list[Helper] = []

    def __enter__(self) -> Self:
        for device, task in self._tasks:
            self.running.append(Helper(self._module, device, task, self._threads, self._told))
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self.running:
            helper.let_go()
        for helper in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait()

    def messages(self) -> list[Message]:
        """The messages of all helpers since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._told.get_nowait())
        return found


def serve(work: Callable[[Message, Tell], None]) -> None:
    """Run as a helper: read the task, do the work, and exit.

    Args:
        work: gets the task, and a function that sends a message to the process that started this
            one.
    """
    # What libraries print must not mix with the messages, so it goes to stderr.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lock = threading.Lock()

    def tell(message: Message) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(dumps_compact(message) + "\n")
            out.flush()

    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_stop_with_input, daemon=True).start()
    try:
        work(task, tell)
    except KeyboardInterrupt:
        sys.exit(_STOPPED)
    except ProluEvalError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def _stop_with_input() -> None:
    while os.read(0, 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGINT)
