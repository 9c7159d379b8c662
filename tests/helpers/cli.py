"""Running a command line in the test's own process."""

import json
from typing import Any, NamedTuple

import pytest

from prolu_eval.cli import main


class Ran(NamedTuple):
    """An exit code and the printed text."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run `prolu-eval` with arguments; an unexpected exception is raised in the test."""
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    return Ran(code, *capfd.readouterr())
