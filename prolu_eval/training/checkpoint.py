"""Where an interrupted training run stands: everything that a continued one needs, in one file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prolu_eval.errors import ResultsError
from prolu_eval.results import write_atomically
from prolu_eval.training.history import History
from prolu_eval.training.stack import Stack
from prolu_eval.training.stream import Stream

CHECKPOINT_FILE = "training.checkpoint.safetensors"


class Checkpoint:
    """The state of a stream, its stacks and their histories, at a step.

    ``plan`` says what is being trained; a checkpoint of anything else is not continued. With the
    same plan on the same machine, a continued run has bit for bit the weights of one that was
    never interrupted.
    """

    def __init__(
        self,
        folder: Path,
        plan: dict[str, Any],
        stream: Stream,
        stacks: Sequence[Stack],
        histories: Sequence[History],
    ) -> None:
        self.path = folder / CHECKPOINT_FILE
        self._plan = json.dumps(plan, sort_keys=True)
        self._stream = stream
        self._parts: dict[str, Stack | History] = {
            **{f"stack{i}/": stack for i, stack in enumerate(stacks)},
            **{f"history{i}/": history for i, history in enumerate(histories)},
        }

    def write(self, step: int) -> None:
        """Store the state after a number of steps.

        Raises:
            ResultsError: if the file cannot be written.
        """
        tensors = {"stream/" + name: t for name, t in self._stream.state().items()}
        for prefix, part in self._parts.items():
            tensors |= {prefix + name: t for name, t in part.state().items()}
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        write_atomically(self.path, save(tensors, {"plan": self._plan, "step": str(step)}))

    def read(self, device: torch.device) -> int:
        """Put a stored state of the same plan in place; the number of steps done, 0 if none.

        Raises:
            ResultsError: if the file is damaged.
        """
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                if metadata["plan"] != self._plan:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._stream.resume(_under(tensors, "stream/"), device)
            for prefix, part in self._parts.items():
                part.resume(_under(tensors, prefix))
            return int(metadata["step"])
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from None

    def remove(self) -> None:
        """Forget the state: the runs are finished."""
        self.path.unlink(missing_ok=True)


def stored_runs(folder: Path) -> frozenset[str]:
    """Names of the runs whose training a checkpoint in a folder continues.

    Raises:
        ResultsError: if the file is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return frozenset()
    try:
        with safe_open(path, framework="pt") as file:
            return frozenset(json.loads(file.metadata()["plan"])["runs"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ResultsError:
    return ResultsError(path, f"cannot be continued ({error})", "remove it to train from the start")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
