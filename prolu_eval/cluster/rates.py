"""The speed of each node, for the note beside a progress bar."""

import time
from collections import deque

# The seconds over which a rate is measured, and the number of nodes that a note names.
_OVER = 30.0
_NAMED = 3


class Rates:
    """Counts the rows that nodes have done recently."""

    def __init__(self) -> None:
        self._counted: deque[tuple[float, str, int]] = deque()
        self._began = time.monotonic()

    def counted(self, node: str, n: int) -> str:
        """Count rows that a node has done, and return a note of all rates, fastest first."""
        now = time.monotonic()
        self._counted.append((now, node, n))
        while self._counted[0][0] < now - _OVER:
            self._counted.popleft()
        seconds = max(min(now - self._began, _OVER), 1e-3)
        done: dict[str, int] = {}
        for _, name, rows in self._counted:
            done[name] = done.get(name, 0) + rows
        ordered = sorted(done.items(), key=lambda item: -item[1])
        told = [f"{name} {rows / seconds:,.0f}/s" for name, rows in ordered[:_NAMED]]
        more = sum(rows for _, rows in ordered[_NAMED:])
        if more:
            told.append(f"{len(ordered) - _NAMED} more nodes {more / seconds:,.0f}/s")
        return ", ".join(told)
