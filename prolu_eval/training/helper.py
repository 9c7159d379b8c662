"""A helper process, which trains a portion of another process's sweep on its own device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prolu_eval.devices import working_on
from prolu_eval.processes import Message, Tell, serve
from prolu_eval.progress import Progress
from prolu_eval.training.config import SweepFile
from prolu_eval.training.loop import Settings
from prolu_eval.training.portions import Portion, Trained
from prolu_eval.training.steps import Steps
from prolu_eval.training.sweep import train_portions


@dataclass(frozen=True)
class Telling:
    """A logger that sends logged values to the process that has the real loggers."""

    tell: Tell

    def log(self, run: str, step: int, values: dict[str, float]) -> None:
        self.tell({"log": [run, step, values]})

    def close(self) -> None:
        pass


def train_and_tell(
    file: SweepFile,
    portions: Sequence[Portion],
    out: Path,
    told: Mapping[str, Any],
    tell: Tell,
    places: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Train portions of a grid with the settings in a message, and report steps and results.

    ``places`` is the argument of :func:`~prolu_eval.training.sweep.train_portions`.
    """
    cache = told["cache"] and Path(told["cache"])
    loggers = [Telling(tell)] if told["logs"] else []
    settings = Settings(told["device"], cache, told["minutes"], loggers=loggers)

    def settle(trained: Trained) -> None:
        tell(trained.message())

    with working_on(settings.device), Progress("training", "step", shown=False) as shown:
        steps = Steps(shown, tell=tell)
        train_portions(file, portions, out, settings, settle, steps, places)


def _work(task: Message, tell: Tell) -> None:
    file = SweepFile.model_validate(task["file"])
    portions = [Portion.of(message, file) for message in task["portions"]]
    train_and_tell(file, portions, Path(task["out"]), task, tell)


if __name__ == "__main__":
    serve(_work)
