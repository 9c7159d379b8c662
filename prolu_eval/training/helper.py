"""A helper process, which trains a portion of another process's sweep on its own device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prolu_eval.devices import working_on
from prolu_eval.processes import Message, Send, serve
from prolu_eval.progress import Progress
from prolu_eval.training.config import SweepFile
from prolu_eval.training.loop import Settings
from prolu_eval.training.portions import Portion, Trained
from prolu_eval.training.steps import Steps
from prolu_eval.training.sweep import train_portions


@dataclass(frozen=True)
class SendingLogger:
    """A logger that sends logged values to the process that has the real loggers."""

    send: Send

    def log(self, run: str, step: int, values: dict[str, float]) -> None:
        self.send({"log": [run, step, values]})

    def close(self) -> None:
        pass


def train_and_report(
    file: SweepFile,
    portions: Sequence[Portion],
    out: Path,
    message: Mapping[str, Any],
    send: Send,
    local_paths: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Train portions of a grid with the settings in a message, and report steps and results.

    ``local_paths`` is the argument of :func:`~prolu_eval.training.sweep.train_portions`.
    """
    cache = message["cache"] and Path(message["cache"])
    loggers = [SendingLogger(send)] if message["logs"] else []
    settings = Settings(message["device"], cache, message["minutes"], loggers=loggers)

    def on_trained(trained: Trained) -> None:
        send(trained.message())

    with working_on(settings.device), Progress("training", "step", shown=False) as shown:
        steps = Steps(shown, send=send)
        train_portions(file, portions, out, settings, on_trained, steps, local_paths)


def _work(task: Message, send: Send) -> None:
    file = SweepFile.model_validate(task["file"])
    portions = [Portion.of(message, file) for message in task["portions"]]
    train_and_report(file, portions, Path(task["out"]), task, send)


if __name__ == "__main__":
    serve(_work)
