"""Running a page's commands in a shell whose `prolu-eval` and `python` are the test's own process.

A fresh Python with torch takes seconds to begin; a page has a dozen commands. So the shell finds
small programs under these names, which send what they are called with through a socket and print
what comes back. Beside these it finds :data:`PROGRAMS` alone: nothing that installs, starts a
service or asks another machine.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prolu_eval.cli import main
from prolu_eval.errors import WRONG_INPUT

PROGRAMS = (
    *("bash", "basename", "cat", "chmod", "cp", "cut", "diff", "dirname", "find", "grep", "gzip"),
    *("head", "ls", "mkdir", "mv", "rm", "sed", "seq", "sort", "tail", "tee", "touch", "tr"),
    *("truncate", "uniq", "wc"),
)
_CALLER = f"""#!{sys.executable} -SE
import json, os, socket, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
text = sys.stdin.read() if name == "python" and words[:1] == ["-"] else ""
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({{address!r}})
    call = {{{{"name": name, "words": words, "folder": os.getcwd(), "text": text}}}}
    connection.sendall(json.dumps(call).encode())
    connection.shutdown(socket.SHUT_WR)
    answer = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
sys.stderr.write(answer["err"])
sys.stdout.write(answer["out"])
sys.stdout.flush()
sys.exit(answer["code"])
"""


class Shell:
    """Runs the blocks of one page, one after another, in a folder."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capfd = folder, capfd
        self._programs = Path(tempfile.mkdtemp(prefix="shell-"))
        self._server = socket.socket(socket.AF_UNIX)
        address = str(self._programs / "socket")  # the path of a socket has to be short
        self._server.bind(address)
        self._server.listen()
        self._server.settimeout(0.02)
        for name in ("prolu-eval", "python"):
            program = self._programs / name
            program.write_text(_CALLER.format(address=address))
            program.chmod(0o755)
        beside = str(Path(sys.executable).parent)
        for name in (*PROGRAMS, "pytest"):
            found = shutil.which(name, path=os.pathsep.join([beside, os.environ["PATH"]]))
            assert found is not None, name
            (self._programs / name).symlink_to(found)
        self.wrong_input: list[str] = []

    def close(self) -> None:
        """Stop listening."""
        self._server.close()
        shutil.rmtree(self._programs)

    def run(self, text: str) -> tuple[int, str]:
        """Run a block of commands, up to the first that fails; its exit code and what it printed.

        What no command can mean, exit code 2, is kept in ``wrong_input`` too.
        """
        self.wrong_input = []
        with tempfile.TemporaryFile("w+") as output:
            shell = subprocess.Popen(
                [self._programs / "bash", "-euo", "pipefail", "-c", text],
                cwd=self._folder,
                env={**os.environ, "PATH": str(self._programs)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            while shell.poll() is None:
                with contextlib.suppress(TimeoutError):
                    self._answer()
            output.seek(0)
            return shell.returncode, output.read()

    def _answer(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            received = b"".join(iter(lambda: connection.recv(65536), b""))
            call = json.loads(received)
            self._capfd.readouterr()
            with contextlib.chdir(call["folder"]):
                code = self._called(call)
            out, err = self._capfd.readouterr()
            connection.sendall(json.dumps({"code": code, "out": out, "err": err}).encode())

    def _called(self, call: dict[str, Any]) -> int:
        words = call["words"]
        if call["name"] == "python":
            return _python(words, call["text"])
        code = main(words)
        if code == WRONG_INPUT:
            self.wrong_input.append(" ".join(words))
        return code


def _python(words: list[str], text: str) -> int:
    """`python -`, `python -c TEXT` and `python FILE`, with their arguments."""
    first = words[0] if words else ""
    if first == "-c":
        text, words = words[1], ["-c", *words[2:]]
    elif first != "-":
        text = Path(first).read_text(encoding="utf-8")
    with _arguments(words):
        try:
            exec(compile(text, first, "exec"), {"__name__": "__main__", "__file__": first})
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@contextlib.contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before
