"""A helper process, which takes part in another process's evaluation on its own device."""

from prolu_eval.devices import working_on
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.runner import take_part
from prolu_eval.evaluation.shared_work import SharedWork
from prolu_eval.processes import Message, Send, serve


def _work(task: Message, send: Send) -> None:
    options = EvaluationOptions(**task["options"])
    shared_work = SharedWork(task["index"], task["count"], send=send)
    with working_on(options.device):
        take_part(task["paths"], options, shared_work)


if __name__ == "__main__":
    serve(_work)
