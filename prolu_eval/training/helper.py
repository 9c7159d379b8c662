"""A process that trains a portion of another's sweep, on a device of its own."""

from dataclasses import asdict, dataclass
from pathlib import Path

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
    """Passes what is logged on to the process that has the loggers."""

    tell: Tell

    def log(self, run: str, step: int, values: dict[str, float]) -> None:
        self.tell({"log": [run, step, values]})

    def close(self) -> None:
        pass


def _work(task: Message, tell: Tell) -> None:
    file = SweepFile.model_validate(task["file"])
    cache = task["cache"] and Path(task["cache"])
    loggers = [Telling(tell)] if task["logs"] else []
    settings = Settings(task["device"], cache, task["minutes"], loggers=loggers)

    def settle(trained: Trained) -> None:
        told = asdict(trained)
        del told["plan"], told["folder"]
        tell({"trained": trained.plan.name, **told})

    portions = [Portion.of(message, file) for message in task["portions"]]
    out = Path(task["out"])
    with working_on(settings.device), Progress("training", "step", shown=False) as shown:
        train_portions(file, portions, out, settings, settle, Steps(shown, tell=tell))


if __name__ == "__main__":
    serve(_work)
