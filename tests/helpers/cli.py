"""Running a command line in the test's own process."""

import json
from typing import Any, NamedTuple

import pytest

from prolu_eval.cli import main


class Ran(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run `prolu-eval` with arguments; a traceback would be raised here."""
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    return Ran(code, *capfd.readouterr())
