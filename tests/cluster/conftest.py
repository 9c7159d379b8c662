"""Evaluations over a pool of the tests' choice, and clusters that ask for no token."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prolu_eval.cluster.pool import LocalPool
from prolu_eval.evaluation import EvaluationOptions, runner

# Ray's local clusters create a token for the user, and Ray asks for a token as soon as the user has
# one. Nodes and drivers that were started before and after that could not talk to each other.
os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that makes evaluations use a pool, which it creates from the options."""

    def on(make: Callable[[EvaluationOptions], LocalPool]) -> None:
        @contextmanager
        def workers(options: EvaluationOptions) -> Iterator[LocalPool]:
            yield make(options)

        monkeypatch.setattr(runner, "workers_on", workers)
        monkeypatch.setattr(runner, "engine_of", lambda on: on)

    return on


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of each test's own."""
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
