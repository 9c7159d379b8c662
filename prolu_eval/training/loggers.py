"""Loggers besides each run's own history: TensorBoard, and Weights & Biases."""

from pathlib import Path
from typing import Any, Protocol

from prolu_eval.errors import UsageError


class Logger(Protocol):
    """Receives logged values during training."""

    def log(self, run: str, step: int, values: dict[str, float]) -> None:
        """Log the values of a run at a step."""

    def close(self) -> None:
        """Write all values that are not written yet, and close the log."""


class TensorBoard:
    """One TensorBoard log per run, under a folder.

    Raises:
        UsageError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self._folder, self._make = folder, SummaryWriter
        self._writers: dict[str, Any] = {}

    def log(self, run: str, step: int, values: dict[str, float]) -> None:
        if run not in self._writers:
            self._writers[run] = self._make(str(self._folder / run))
        for name, value in values.items():
            if name != "step":
                self._writers[run].add_scalar(name, value, step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """Logs each run as a run of a Weights & Biases project; offline with ``WANDB_MODE=offline``.

    Raises:
        UsageError: if wandb is not installed.
    """

    def __init__(self, project: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        self._wandb, self._project, self._folder = wandb, project, folder
        self._runs: dict[str, Any] = {}

    def log(self, run: str, step: int, values: dict[str, float]) -> None:
        if run not in self._runs:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._runs[run] = self._wandb.init(
                project=self._project, name=run, dir=str(self._folder), reinit="create_new"
            )
        self._runs[run].log({k: v for k, v in values.items() if k != "step"}, step=step)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


def _missing(package: str) -> UsageError:
    return UsageError(package, "is not installed", f"pip install {package}, or leave the option")
