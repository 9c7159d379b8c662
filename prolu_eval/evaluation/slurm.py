"""An evaluation as an array of Slurm jobs, which share it through files in the results' folders.

Each job is one of the processes that share an evaluation
(:mod:`prolu_eval.evaluation.shared_work`). It begins with its own share of the runs, then measures
runs that no other job has begun, and ends when none is left. Runs, text and results must be in
folders that all nodes can access. A job that is preempted is queued again, and continues from the
stored parts.
"""

import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from prolu_eval.cluster.address import settings_of
from prolu_eval.devices import working_on
from prolu_eval.errors import Interrupted, UsageError
from prolu_eval.evaluation.options import EvaluationOptions, as_document, option_name
from prolu_eval.evaluation.outcomes import Outcome
from prolu_eval.evaluation.shared_work import SharedWork
from prolu_eval.progress import Progress
from prolu_eval.results import read_result

_POLL = 1.0
_BEST_LAST = ("failed", "partial", "cached", "ok")
_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(?:(\d+):)?(\d+)")
_JOBS = 8


@dataclass(frozen=True)
class Jobs:
    """The jobs that ``--slurm`` describes.

    Attributes:
        array: how many jobs share the work.
        minutes: how many minutes a job may take.
        partition: the partition on which they run.
        gpus: the GPUs of each job; a job cannot use more than one.
        cpus: the CPUs of each job.
        memory: the memory of each job, in GB.
        logs: the folder for submitit's files, which all nodes must be able to access.
        cluster: ``slurm``, or ``local`` to run the jobs as processes of this machine.
        more: further flags of sbatch.
    """

    array: int = _JOBS
    minutes: int = 60
    partition: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory: float | None = None
    logs: Path = Path("slurm-logs")
    cluster: str = "slurm"
    more: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str | None) -> "Jobs":
        """The jobs that NAME=VALUE,NAME=VALUE describes.

        Raises:
            UsageError: if a value is not allowed for its name.
        """
        given = settings_of("--slurm", text)
        made = cls(
            array=_whole(given, "array", cls.array) or 1,
            minutes=_minutes(given.pop("time", "1:00:00")),
            partition=given.pop("partition", None),
            gpus=_whole(given, "gpus", None),
            cpus=_whole(given, "cpus", None),
            memory=_whole(given, "mem", None),
            logs=Path(given.pop("logs", cls.logs)),
            cluster=given.pop("cluster", cls.cluster),
            more=given,
        )
        if made.cluster not in ("slurm", "local"):
            reason = f"{made.cluster!r} is no cluster"
            raise UsageError("--slurm", reason, "write cluster=local to try it on this machine")
        if (made.gpus or 0) > 1:
            raise UsageError("--slurm", "gpus is more than a job uses", "give a larger array")
        return made

    def parameters(self) -> dict[str, Any]:
        """The parameters for submitit's executor."""
        shared = {
            "name": "prolu-eval",
            "timeout_min": self.minutes,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "mem_gb": self.memory,
        }
        own = {
            "slurm_partition": self.partition,
            "slurm_array_parallelism": self.array,
            "slurm_additional_parameters": self.more or None,
        }
        return {k: v for k, v in (shared | own).items() if v is not None}

    def script(self) -> str:
        """The script for sbatch, as far as it is known before the jobs are submitted."""
        from submitit.slurm import slurm

        given = {
            "partition": self.partition,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "mem": None if self.memory is None else f"{self.memory:g}GB",
            "additional_parameters": self.more or None,
        }
        text: str = slurm._make_sbatch_string(
            command=f"python -u -m submitit.core._submit {self.logs}",
            folder=str(self.logs),
            job_name="prolu-eval",
            time=self.minutes,
            map_count=self.array,
            array_parallelism=self.array,
            **{name: value for name, value in given.items() if value is not None},
        )
        return text


def _whole(given: dict[str, str], name: str, default: int | None) -> int | None:
    text = given.pop(name, None)
    if text is None:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise UsageError("--slurm", f"{name}={text} is no number above zero", f"write {name}=1")
    return int(text)


def _minutes(text: str) -> int:
    """The minutes of a time in Slurm's form D-HH:MM:SS, HH:MM:SS, MM:SS or MM."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError("--slurm", f"time={text} is no time", "write it as 2:00:00")
    days, first, second, last = (int(part or 0) for part in match.groups())
    if match[3] is not None:
        seconds = 3600 * first + 60 * second + last
    elif match[2] is not None:
        seconds = 60 * first + last
    else:
        seconds = 60 * last
    return max(1, math.ceil((86400 * days + seconds) / 60))


@dataclass
class Member:
    """The work of one job, which may be restarted at any time."""

    paths: Sequence[str]
    options: dict[str, Any]
    index: int
    count: int

    def __call__(self) -> list[dict[str, Any]]:
        """Take part in the evaluation, and return the outcome of each run as plain data."""
        from prolu_eval.evaluation.runner import outcomes_of

        options = EvaluationOptions(**self.options)
        shared_work = SharedWork(self.index, self.count, waits=False)
        with working_on(options.device):
            found = outcomes_of(self.paths, options, shared_work)
            return [_document(outcome) for outcome in found]

    def checkpoint(self) -> Any:
        """The job that is queued when this one is preempted or out of time: the same work."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _document(outcome: Outcome) -> dict[str, Any]:
    told = asdict(replace(outcome, result=None))
    told["path"] = str(outcome.path)
    told["result"] = None if outcome.result is None else str(outcome.result.file)
    return told


def _outcome(told: dict[str, Any]) -> Outcome:
    result = told["result"] and read_result(Path(told["result"]), arrays="stored")
    return Outcome(**{**told, "path": Path(told["path"]), "result": result})


def outcomes_of_jobs(
    roots: Sequence[str], options: EvaluationOptions, progress: bool
) -> Iterator[Outcome]:
    """Submit jobs, wait for them, and yield the outcome of each run.

    Raises:
        Interrupted: on Ctrl-C; the jobs continue.
        UsageError: if the jobs cannot be submitted.
    """
    import submitit

    jobs = Jobs.of(options.slurm)
    for name in ("target_se", "race", "measure"):
        if getattr(options, name):
            reason = "needs one process that knows all of the work"
            raise UsageError(option_name(name), reason, "leave out --on slurm")
    document = as_document(replace(options, on=None, ray=None, slurm=None))
    members = [Member(roots, document, index, jobs.array) for index in range(jobs.array)]
    try:
        executor = submitit.AutoExecutor(folder=jobs.logs, cluster=jobs.cluster)
        executor.update_parameters(**jobs.parameters())
        with executor.batch():
            submitted = [executor.submit(member) for member in members]
    except (RuntimeError, OSError, NameError, AssertionError) as error:
        reason = f"takes no jobs ({str(error).splitlines()[0]})"
        raise UsageError("--on slurm", reason, "submit where sbatch is") from None
    try:
        yield from _collected(submitted, progress)
    except KeyboardInterrupt:
        first = submitted[0].job_id.partition("_")[0]
        raise Interrupted(
            f"the jobs continue (`scancel {first}` ends them); run the same command again for what "
            "is stored"
        ) from None


def _collected(submitted: Sequence[Any], progress: bool) -> Iterator[Outcome]:
    """The best outcome that any job reports of each run, once all jobs have ended."""
    best: dict[str, dict[str, Any]] = {}
    left, ended = list(submitted), []
    with Progress("evaluation", "job", len(left), shown=progress) as shown:
        while left:
            done = [job for job in left if job.done()]
            left = [job for job in left if job not in done]
            for job in done:
                shown.update(1)
                if (error := job.exception()) is not None:
                    ended.append(str(error).strip().splitlines()[-1])
                    continue
                for told in job.result():
                    known = best.get(told["name"])
                    if known is None or _rank(known) < _rank(told):
                        best[told["name"]] = told
            if left:
                time.sleep(_POLL)
    if ended:
        logging.getLogger(__name__).warning(
            "%d of %d jobs ended early (the last: %s); run the same command again if runs are "
            "partial.",
            len(ended), len(submitted), ended[-1],
        )  # fmt: skip
    yield from map(_outcome, best.values())


def _rank(told: dict[str, Any]) -> int:
    return _BEST_LAST.index(told["status"])
