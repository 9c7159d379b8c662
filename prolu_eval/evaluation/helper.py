"""A helper process, which takes part in another process's evaluation on its own device."""

from prolu_eval.devices import working_on
from prolu_eval.evaluation.company import Company
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.runner import take_part
from prolu_eval.processes import Message, Tell, serve


def _work(task: Message, tell: Tell) -> None:
    options = EvaluationOptions(**task["options"])
    company = Company(task["index"], task["count"], tell=tell)
    with working_on(options.device):
        take_part(task["paths"], options, company)


if __name__ == "__main__":
    serve(_work)
