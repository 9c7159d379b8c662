"""Parsing ``--on`` and the options that belong to it, without importing Ray or submitit."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prolu_eval.errors import UsageError
from prolu_eval.spelling import suggesting

RAY, SLURM = "ray", "slurm"
_CLIENT = "ray://"
_PLACE = re.compile(r"ray://[^/\s]+:\d+")


@dataclass(frozen=True)
class Shares:
    """How large the workers of a Ray cluster are.

    Attributes:
        cpus: the number of CPUs, and of threads, of a worker on a node without GPUs.
        gpus: the number of GPUs of a worker on a node with GPUs; with a fraction, workers share a
            GPU.
        workers: the largest number of workers; a cluster with an autoscaler is asked for as many.
            None for as many as fit on the present nodes.
    """

    cpus: int = 4
    gpus: float = 1.0
    workers: int | None = None


def engine_of(on: str) -> str:
    """``ray`` or ``slurm``, whichever ``--on`` names.

    Raises:
        UsageError: if it names neither, or the packages for it are not installed.
    """
    if on not in (RAY, SLURM) and not _PLACE.fullmatch(on):
        remedy = f"write {RAY}, {_CLIENT}HOST:PORT or {SLURM}"
        raise UsageError("--on", f"{on!r} is no cluster", remedy)
    engine, module = (SLURM, "submitit") if on == SLURM else (RAY, "ray")
    if importlib.util.find_spec(module) is None:
        remedy = f"pip install 'prolu-eval[{engine}]'"
        raise UsageError(f"--on {engine}", f"needs {module}, which is not installed", remedy)
    return engine


def check_device(device: str | None) -> None:
    """Check that a device can exist on every node of a cluster.

    Raises:
        UsageError: if it names a device of one machine, such as ``cuda:1``.
    """
    if device not in (None, "cpu", "cuda"):
        reason = f"{device!r} is not a device of every node of a cluster"
        raise UsageError("--device", reason, "give cpu or cuda, or leave it to each node")


def settings_of(option: str, text: str | None) -> dict[str, str]:
    """The values of an option that is written NAME=VALUE,NAME=VALUE.

    Raises:
        UsageError: if the text does not have this form.
    """
    found = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = (half.strip() for half in part.partition("="))
        if not (name and equals and value):
            raise UsageError(option, f"{part!r} is no setting", "write NAME=VALUE, with commas")
        found[name] = value
    return found


def shares_of(text: str | None) -> Shares:
    """The shares that ``--ray`` describes.

    Raises:
        UsageError: if a name is unknown or a value out of range.
    """
    given = settings_of("--ray", text)
    return Shares(
        cpus=_number(given, "cpus", int, Shares.cpus),
        gpus=_number(given, "gpus", float, Shares.gpus),
        workers=_number(given, "workers", int, None),
        **_nothing_else(given),
    )


def _number(given: dict[str, str], name: str, kind: type, default: float | None) -> Any:
    text = given.pop(name, None)
    if text is None:
        return default
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not value > 0:
        raise UsageError("--ray", f"{name}={text} is no number above zero", f"write {name}=1")
    return value


def _nothing_else(given: Mapping[str, str]) -> dict[str, float]:
    if given:
        name = next(iter(given))
        remedy = suggesting(name, ("cpus", "gpus", "workers"), "choose cpus, gpus and workers")
        raise UsageError("--ray", f"{name!r} is no setting of it", remedy)
    return {}
