"""Runs a browser that is already installed, without a window, and controls it over a pipe."""

import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from prolu_eval.errors import UsageError
from prolu_eval.json_text import dumps_compact

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
# How long to wait for one answer.
_SECONDS = 300
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip


def find_browser() -> str:
    """The path of an installed Chromium, Chrome or Edge.

    Raises:
        UsageError: if none of them is on the PATH.
    """
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise UsageError(
        "--static", f"needs a browser, but none of {', '.join(NAMES)} is on the PATH",
        "install chromium, or open the report and use each figure's camera button",
    )  # fmt: skip


class Browser:
    """A browser with one page, used as a context manager that ends the browser at the end.

    It is controlled by the Chrome DevTools Protocol: JSON documents, each followed by a zero byte.
    The browser reads commands from its file descriptor 3 and writes answers to 4.

    Raises:
        UsageError: if the browser exits, does not answer for minutes, or reports an error.
    """

    def __init__(self, path: str, width: int) -> None:
        self._path, self._width = path, width
        self._last, self._rest, self._session = 0, b"", ""

    def __enter__(self) -> "Browser":
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._said = Path(self._folder.name) / "stderr"
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        profile = f"--user-data-dir={self._folder.name}/profile"
        self._process = os.posix_spawn(
            self._path, [self._path, *_OPTIONS, profile, "about:blank"], os.environ, setpgroup=0,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, self._said, os.O_WRONLY | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, theirs, 3),
                (os.POSIX_SPAWN_DUP2, back, 4),
            ],
        )  # fmt: skip
        os.close(theirs)
        os.close(back)
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        """Open one page of the requested width, in the light colour scheme."""
        made = self._ask("Target.createTarget", url="about:blank")
        attached = self._ask("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = attached["sessionId"]
        size = {"width": self._width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        light = {"name": "prefers-color-scheme", "value": "light"}
        self._ask("Emulation.setEmulatedMedia", features=[light])
        self._ask("Page.enable")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._to)
        os.close(self._from)
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        self._folder.cleanup()

    def open(self, page: Path) -> None:
        """Load a file, and wait until the page has loaded completely."""
        self._ask("Page.navigate", url=page.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value_of(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self._ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            thrown = found["exceptionDetails"].get("exception", {})
            self._fail(str(thrown.get("description", "an error in the page")).splitlines()[0])
        return found["result"].get("value")

    def printed(self, content: str) -> str:
        """An HTML document as a PDF in base64, with the page size that its style sets."""
        self.value_of(
            f"document.open(); document.write({dumps_compact(content)}); document.close();"
        )
        found = self._ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return str(found["data"])

    def _ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its answer; events that arrive before it are ignored."""
        self._last += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._last, "method": method, "params": parameters, **session}
        content = dumps_compact(message).encode() + b"\0"
        try:
            while content:
                content = content[os.write(self._to, content) :]
        except BrokenPipeError:
            self._fail()
        while (answer := self._next()).get("id") != self._last:
            pass
        if "error" in answer:
            self._fail(answer["error"].get("message", ""))
        return answer["result"]

    def _next(self) -> Any:
        """The next JSON document that the browser writes."""
        until = time.monotonic() + _SECONDS
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            if not select.select([self._from], [], [], max(0, until - time.monotonic()))[0]:
                self._fail("no answer")
            part = os.read(self._from, 1 << 20)
            if not part:
                self._fail()
            parts.append(part)
        document, _, self._rest = b"".join(parts).partition(b"\0")
        return json.loads(document)

    def _fail(self, reason: str = "") -> None:
        """Raise the error, with the last line of the browser's stderr if no reason is known."""
        if not reason:
            lines = self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = lines[-1] if lines else "it ended"
        raise UsageError(self._path, f"cannot draw figures ({reason})", "try another browser")
