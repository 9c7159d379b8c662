"""What several processes of one test run need, and one of them makes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A path that all processes of the test run share: the first that asks for it makes it.

    Others wait for it meanwhile.

    Args:
        factory: the fixture ``tmp_path_factory``.
        name: a name that nothing else of the test run has.
        make: makes the file or folder at the path that it is given, where there is none yet.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the folder of all workers
    path, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            make(path)
            done.touch()
    return path
