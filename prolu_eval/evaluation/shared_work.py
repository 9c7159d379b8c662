"""The processes that share an evaluation: the main process, and helpers on further devices.

All of them go through the same groups of runs. Each begins with its own share of a group's runs,
and then measures those that the others have not reached yet. They share the work through locks and
files in the results' folders (:mod:`prolu_eval.evaluation.parts`), like independent processes. The
main process therefore has every result in the end, even if helpers fail.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from prolu_eval.devices import threads_each
from prolu_eval.evaluation.options import EvaluationOptions, as_document
from prolu_eval.processes import Helpers, Send
from prolu_eval.progress import Progress

_T = TypeVar("_T")


class SharedWork:
    """One of several processes that share an evaluation, and the news that it has of the others.

    Args:
        index: the index of this process; 0 is the main process.
        count: the number of processes.
        send: in a helper, the function that reports its work to the main process.
        helpers: in the main process, its helpers.
        waits: whether to wait for results that other processes are measuring.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        *,
        send: Send | None = None,
        helpers: Helpers | None = None,
        waits: bool = True,
    ) -> None:
        self.send, self.waits = send, waits
        self._index, self._count, self._helpers = index, count, helpers
        self._rows: Counter[int] = Counter()
        self._measured: set[str] = set()

    def shares(self, items: Sequence[_T]) -> Iterator[Sequence[_T]]:
        """The items in shares, one for each process, starting with this process's share."""
        for i in range(self._count):
            if share := items[(self._index + i) % self._count :: self._count]:
                yield share

    def has_measured(self, run: str) -> bool:
        """Whether a helper has reported a stored result of a run."""
        self._listen()
        return run in self._measured

    def rows(self, group: int) -> int:
        """How many rows of a group the helpers have done."""
        self._listen()
        return self._rows[group]

    def _listen(self) -> None:
        for message in self._helpers.messages() if self._helpers is not None else ():
            if "measured" in message:
                self._measured.add(message["measured"])
            else:
                self._rows[message["group"]] += message["rows"]


class Rows:
    """Shows how many rows of a group are done, by this process and by others.

    Args:
        shown: the progress display.
        shared_work: the processes that share the work.
        group: the number of the group.
    """

    def __init__(self, shown: Progress, shared_work: SharedWork, group: int) -> None:
        self._shown, self._work, self._group = shown, shared_work, group
        self._skipped = self._of_others = 0

    def update(self, n: int) -> None:
        """Count rows that this process has done."""
        if self._work.send is not None:
            self._work.send({"group": self._group, "rows": n})
        self._shown.update(n + self._new_of_others())

    def skipped(self, n: int) -> None:
        """Count rows that another process has measured, unless a helper reported them before."""
        self._skipped += n
        if new := self._new_of_others():
            self._shown.update(new)

    def _new_of_others(self) -> int:
        new = max(self._skipped, self._work.rows(self._group)) - self._of_others
        self._of_others += new
        return new


@contextmanager
def shared_work_on(
    devices: Sequence[str | None], paths: Sequence[str], options: EvaluationOptions
) -> Iterator[SharedWork]:
    """This process and helpers on the devices after the first, until the block ends.

    If a helper ends early, a warning says so; the other processes do its work.
    """
    tasks = []
    for index, device in enumerate(devices[1:], 1):
        # The main process measures the tasks.
        own = replace(options, device=device, measure=())
        document = as_document(own)
        place = {"index": index, "count": len(devices)}
        tasks.append((str(device), {"paths": list(paths), "options": document, **place}))
    with Helpers("prolu_eval.evaluation.helper", tasks, threads_each(devices)) as helpers:
        yield SharedWork(0, len(devices), helpers=helpers)
        for helper in helpers.running:
            if reason := helper.failure():
                logging.getLogger(__name__).warning(
                    "The process on %s ended early (%s); its work was done by the others.",
                    helper.device,
                    reason,
                )
