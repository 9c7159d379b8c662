"""Checkpoints: one file with everything that is needed to continue an interrupted training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prolu_eval.errors import ResultsError
from prolu_eval.json_text import canonical
from prolu_eval.results import replacing
from prolu_eval.training.history import History
from prolu_eval.training.stack import Stack
from prolu_eval.training.stream import Stream

CHECKPOINT_FILE = "training.checkpoint.safetensors"


def checkpoint_file(index: int) -> str:
    """The file name of one of several trainings that use the same folder."""
    return CHECKPOINT_FILE if index == 0 else f"training-{index}.checkpoint.safetensors"


class Checkpoint:
    """The state of a stream, its stacks and their histories, at a step.

    ``plan`` describes the training; a checkpoint of another plan is not continued. A continued run
    has the same weights, bit for bit, as one that was never interrupted, if it trains on the same
    machine with the same number of threads. The number of threads is therefore part of the state.

    ``environment`` describes the versions and the device of this process. ``environments`` are
    those with which the stored steps were trained: several, if a training was continued with
    another.
    """

    def __init__(
        self,
        path: Path,
        plan: dict[str, Any],
        stream: Stream,
        stacks: Sequence[Stack],
        histories: Sequence[History],
        environment: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.environments: list[dict[str, Any]] = []
        self._environment = dict(environment)
        self._plan = canonical(plan)
        self._stream = stream
        self._parts: dict[str, Stack | History] = {
            **{f"stack{i}/": stack for i, stack in enumerate(stacks)},
            **{f"history{i}/": history for i, history in enumerate(histories)},
        }

    @property
    def step(self) -> int:
        """The step at which the file was written; 0 if there is no checkpoint of this plan.

        Raises:
            ResultsError: if the file is damaged.
        """
        return int(self._metadata().get("step", 0))

    @property
    def threads(self) -> int | None:
        """The number of threads with which the stored steps were taken; None if not on a CPU.

        Raises:
            ResultsError: if the file is damaged.
        """
        threads = self._metadata().get("threads")
        return None if threads is None else int(threads)

    def write(self, step: int, threads: int | None = None) -> None:
        """Store the state after ``step`` steps, and the number of threads that took them.

        Only tensors on another device are copied in memory.

        Raises:
            ResultsError: if the file cannot be written.
        """
        tensors = {"stream/" + name: t for name, t in self._stream.state().items()}
        for prefix, part in self._parts.items():
            tensors |= {prefix + name: t for name, t in part.state().items()}
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        if self.environments[-1:] != [self._environment]:
            self.environments.append(self._environment)
        metadata = {"plan": self._plan, "step": str(step)}
        metadata["environments"] = canonical(self.environments)
        if threads is not None:
            metadata["threads"] = str(threads)
        with replacing(self.path) as temporary:
            save_file(tensors, temporary, metadata)

    def read(self, device: torch.device) -> int:
        """Restore the stored state of the same plan, and return its step; 0 if there is none.

        Raises:
            ResultsError: if the file is damaged.
        """
        if not (step := self.step):
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._stream.resume(_under(tensors, "stream/"), device)
            for prefix, part in self._parts.items():
                part.resume(_under(tensors, prefix))
            self.environments = json.loads(self._metadata().get("environments", "[]"))
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from None
        return step

    def _metadata(self) -> dict[str, str]:
        """The file's metadata; empty if the file is missing or belongs to another plan."""
        if not self.path.exists():
            return {}
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata: dict[str, str] = file.metadata()
            return metadata if metadata["plan"] == self._plan else {}
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise _damaged(self.path, error) from None

    def remove(self) -> None:
        """Remove the file, once the runs are finished."""
        self.path.unlink(missing_ok=True)


def stored_runs(folder: Path) -> dict[str, frozenset[str]]:
    """For each checkpoint in a folder, by file name, the names of the runs that it continues.

    Raises:
        ResultsError: if a file is damaged.
    """
    found = {}
    for path in sorted(folder.glob("training*.checkpoint.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found[path.name] = frozenset(json.loads(file.metadata()["plan"])["runs"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from None
    return found


def _damaged(path: Path, error: Exception) -> ResultsError:
    return ResultsError(path, f"cannot be continued ({error})", "remove it to train from the start")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
