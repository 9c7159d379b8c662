"""A cluster's worker for a sweep, which trains a portion of the runs on its device.

Training runs in a thread and writes to a folder of this node. The process that started it asks
repeatedly for news and receives runs and checkpoints as they are written.
"""

import queue
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prolu_eval.cluster.parcels import Arrivals
from prolu_eval.cluster.pool import ERROR, Fetch, Message, fault
from prolu_eval.cluster.sight import MODEL, TOKENS, UNSEEN, UnseenError, find_here
from prolu_eval.errors import ProluEvalError
from prolu_eval.runs import CONFIG_FILE
from prolu_eval.training.config import SweepFile
from prolu_eval.training.helper import train_and_report
from prolu_eval.training.portions import Portion

# Seconds for which an answer waits for news.
_PATIENCE = 1.0


@dataclass
class _Work:
    """A portion that is being trained, its news, and the files of it that were sent."""

    portion: Portion
    folder: "tempfile.TemporaryDirectory[str]"
    messages: "queue.SimpleQueue[dict[str, Any]]" = field(default_factory=queue.SimpleQueue)
    error: BaseException | None = None
    sent: dict[str, int] = field(default_factory=dict)
    thread: threading.Thread | None = None

    @property
    def out(self) -> Path:
        """The folder in which runs and the checkpoint are written."""
        return Path(self.folder.name)


class TrainingWorker:
    """Answers the messages of :mod:`prolu_eval.training.distributed`.

    The message ``begin`` starts a portion, from its checkpoint if it has one; ``listen`` asks for
    news.

    Args:
        config: the grid, the device, and the settings of its training.
        fetch: a function that returns an object stored in the cluster.
    """

    def __init__(self, config: Message, fetch: Fetch) -> None:
        self._config, self._fetch = config, fetch
        self._file = SweepFile.model_validate(config["file"])
        self._arrivals = Arrivals()
        self._work: _Work | None = None

    def answer(self, message: Message) -> dict[str, Any]:
        """Execute a message.

        Raises:
            ProluEvalError: if it cannot be executed.
        """
        for parcel in message.get("parcels", ()):
            self._arrivals.unpack(parcel, self._fetch)
        return self._begin(message) if message["do"] == "begin" else self._listen()

    def _begin(self, message: Message) -> dict[str, Any]:
        shared, local_paths = self._file.shared, dict[str, str]()
        wanted = {
            MODEL: (shared.model, message[MODEL]),
            TOKENS: (shared.dataset, message[TOKENS]),
        }
        try:
            find_here(wanted, local_paths, self._arrivals)
        except UnseenError as unseen:
            return {UNSEEN: unseen.what}
        portion = Portion.of(message["portion"], self._file)
        work = _Work(portion, tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        if message["checkpoint"] is not None:
            (work.out / portion.checkpoint).write_bytes(self._fetch(message["checkpoint"]))
        work.thread = threading.Thread(target=self._train, args=(work, local_paths), daemon=True)
        work.thread.start()
        self._work = work
        return {}

    def _train(self, work: _Work, local_paths: dict[str, str]) -> None:
        try:
            train_and_report(
                self._file, [work.portion], work.out, self._config, work.messages.put, local_paths
            )
        except BaseException as error:  # noqa: BLE001 (told when it is asked for)
            work.error = error

    def _listen(self) -> dict[str, Any]:
        """News since the last call, and new files; a run's files are sent once it is complete."""
        work = self._work
        if work is None or work.thread is None:
            return {"told": [], "files": {}, "done": True}
        end = time.monotonic() + _PATIENCE
        while work.thread.is_alive() and time.monotonic() < end:
            work.thread.join(_PATIENCE / 10)
        done = not work.thread.is_alive()
        told = []
        while not work.messages.empty():
            told.append(work.messages.get())
        answer: dict[str, Any] = {"told": told, "files": self._new_files(work), "done": done}
        if not done:
            return answer
        self._work = None
        work.folder.cleanup()
        if isinstance(work.error, ProluEvalError):
            answer[ERROR] = fault(work.error)
        elif work.error is not None:
            raise work.error
        return answer

    @staticmethod
    def _new_files(work: _Work) -> dict[str, bytes]:
        found = [path.parent for path in work.out.glob(f"**/{CONFIG_FILE}")]
        paths = [path for folder in found for path in sorted(folder.iterdir())]
        paths.sort(key=lambda path: path.name == CONFIG_FILE)  # written last: it completes a run
        new = {}
        for path in [*paths, work.out / work.portion.checkpoint]:
            name = path.relative_to(work.out).as_posix()
            try:
                changed = path.stat().st_mtime_ns
                if work.sent.get(name) != changed:
                    new[name] = path.read_bytes()
                    work.sent[name] = changed
            except FileNotFoundError:  # the checkpoint is not written yet, or is removed
                continue
        return new
