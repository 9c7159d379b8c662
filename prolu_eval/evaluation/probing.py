"""k-sparse probing: how much of the activations' information do few of the latents contain?

For each labelled prompt, the activation at its last token is used, as in sae-probes; prompts that
are longer than the context lose their beginning. If a probe on the activations themselves does not
reach an AUC of :data:`SOLVED`, the activations do not contain the answer, and the task does not
count. Chance is 0.5, and :data:`SOLVED` is half way from chance to one, so that a loss can be
larger than the error of a task's AUC.

Activations depend only on the model and the hook point. They are kept in the cache folder
(:mod:`prolu_eval.cache`) for each task, with the scores of the probe on them. Processes that run at
the same time divide the tasks among themselves.
"""

import contextlib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.sparse import csc_array

from prolu_eval.cache import cache_folder
from prolu_eval.errors import ResultsError, UsageError
from prolu_eval.evaluation.autoencoding import Sizes
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.parts import Parts
from prolu_eval.evaluation.probe_fits import Scores, dense_probe, sparse_probes
from prolu_eval.evaluation.prompts import last_activations, tokenised
from prolu_eval.progress import Progress
from prolu_eval.results import OF_TASK_ERROR, Array, Setting, TaskSet, write_atomically
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tasks.labelled import LabelledTask

SOLVED = 0.75
_VERSION = 2
# 1: first version (2026-11)
# 2: standard errors over the examples of each task (2026-11)


@dataclass(frozen=True)
class TasksDone:
    """The measurement of a run on tasks: the tasks, and sums by column. [n_tasks] each"""

    tasks: TaskSet
    sums: Mapping[str, Array]


class Probing:
    """Probes autoencoders on labelled prompts.

    Args:
        engine: the engine of the language model.
        setting: the setting of the evaluation.
        tasks: the labelled prompts.
        source: the source of the prompts.
        ks: the numbers of latents.
        shown: whether to show the progress of computing activations.

    Raises:
        UsageError: if the model has no tokenizer.
    """

    def __init__(
        self,
        engine: Engine,
        setting: Setting,
        tasks: Sequence[LabelledTask],
        source: str,
        ks: Sequence[int],
        *,
        shown: bool,
    ) -> None:
        if engine.model.tokenizer is None:
            raise UsageError(
                "--measure", f"{engine.model.name} has no tokenizer for the prompts of probes",
                "leave out probes",
            )  # fmt: skip
        self._engine, self._setting, self._tasks = engine, setting, tasks
        self._source, self._ks, self._shown = source, sorted(set(ks)), shown
        self._folder = cache_folder() / "probes"
        self._unkept: dict[Path, dict[str, Array]] = {}
        self._dense: dict[str, dict[str, Scores]] = {}

    def wanted(self, run: Run) -> TaskSet:
        """The tasks that count for a run, which depend on the activations that it reads."""
        dense = self._dense_of(self._read(run))
        counted = [task for task in self._tasks if dense[task.name].auc >= SOLVED]
        parts = [_VERSION, *(task.digest for task in counted)]
        return TaskSet(
            fingerprint=hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32],
            source=self._source,
            tasks=tuple(task.name for task in counted),
            tried={name: scores.auc for name, scores in dense.items()},
            k=tuple(self._ks),
        )

    def of(self, run: Run, sae: SparseAutoencoder) -> TasksDone:
        """Probe a run's autoencoder, which is moved to the model's device and to float32."""
        wanted, read = self.wanted(run), self._read(run)
        sae = sae.to(self._engine.model.device, torch.float32)
        columns: dict[str, list[float]] = {"n_tasks": []}
        for what in ("dense", *(f"k{k}" for k in self._ks)):
            columns |= {column: [] for column in _columns(what)}
        for task in self._tasks:
            if task.name not in wanted.tasks:
                continue
            columns["n_tasks"].append(1.0)
            _append(columns, "dense", self._dense_of(read)[task.name])
            codes = _codes(sae, self._kept(self._path(read, task))["x"])
            for k, scores in sparse_probes(codes, task.labels, self._ks).items():
                _append(columns, f"k{k}", scores)
        return TasksDone(wanted, {name: np.array(values) for name, values in columns.items()})

    def _read(self, run: Run) -> str:
        return str(run.hook)

    def _dense_of(self, hook: str) -> dict[str, Scores]:
        """The scores of probes on the activations of a hook point, by task."""
        if hook not in self._dense:
            paths = {task.name: self._path(hook, task) for task in self._tasks}
            missing = [task for task in self._tasks if not self._has(paths[task.name])]
            total = sum(len(task.prompts) for task in missing)
            what = f"prompts of probes at {hook}"
            with Progress(what, "prompt", total, shown=self._shown and bool(missing)) as progress:
                # What another process is at is left to it, and waited for in the end.
                others = [t for t in missing if not self._claimed(hook, t, progress, wait=False)]
                for task in others:
                    self._claimed(hook, task, progress, wait=True)
            found = {name: self._kept(path)["dense"] for name, path in paths.items()}
            self._dense[hook] = {name: Scores(*map(float, d)) for name, d in found.items()}
        return self._dense[hook]

    def _claimed(self, hook: str, task: LabelledTask, progress: Progress, *, wait: bool) -> bool:
        """Keep what a task's activations tell, unless another process has or is about to.

        Returns:
            Whether it is kept; if not, another process is measuring it, and was not waited for.
        """
        path = self._path(hook, task)
        parts = Parts(path.with_suffix(".parts"))
        with contextlib.ExitStack() as held:
            try:
                claim = parts.claim("whole")
            except ResultsError:  # nothing can be kept for others either
                self._keep(path, self._measured(hook, task, progress))
                return True
            if claim is not None:
                held.callback(claim.release)
            elif wait:
                held.enter_context(parts.whole())
            else:
                return False
            if self._has(path):
                progress.update(len(task.prompts))
            else:
                self._keep(path, self._measured(hook, task, progress))
        parts.remove()
        return True

    def _measured(self, hook: str, task: LabelledTask, progress: Progress) -> dict[str, Array]:
        engine, setting = self._engine, self._setting
        prompts = tokenised(
            engine.model,
            task.prompts,
            prepend_bos=setting.prepend_bos,
            most=setting.context_length,
        )
        x = engine.within_memory(
            lambda: last_activations(
                engine.model,
                hook,
                prompts,
                engine.batch_size * setting.context_length,
                progress.update,
            )
        ).numpy()
        return {"x": x, "dense": np.array(dense_probe(x.astype(float), task.labels))}

    def _path(self, hook: str, task: LabelledTask) -> Path:
        setting = self._setting
        parts = (
            _VERSION, setting.model_fingerprint, setting.weight_processing, setting.dtype, hook,
            setting.context_length, setting.prepend_bos, task.digest,
        )  # fmt: skip
        name = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
        return self._folder / f"{name}.safetensors"

    def _has(self, path: Path) -> bool:
        try:
            return {"x", "dense"} <= self._kept(path).keys()
        except (OSError, SafetensorError):
            return False

    def _kept(self, path: Path) -> dict[str, Array]:
        found: dict[str, Array] = self._unkept.get(path) or load_file(path)
        return found

    def _keep(self, path: Path, arrays: dict[str, Array]) -> None:
        try:
            write_atomically(path, save(arrays))
        except ResultsError as error:
            if not self._unkept:
                logging.getLogger(__name__).warning("%s Activations stay in memory.", error)
            self._unkept[path] = arrays


def _append(columns: dict[str, list[float]], what: str, scores: Scores) -> None:
    for column, value in zip(_columns(what), scores, strict=True):
        columns[column].append(value)


def _columns(what: str) -> tuple[str, ...]:
    """What the fields of :class:`Scores` of a probe are called among the sums of tasks."""
    names = f"auc_{what}", f"accuracy_{what}"
    return (*names, *(name + OF_TASK_ERROR for name in names))


@torch.inference_mode()
def _codes(sae: SparseAutoencoder, x: NDArray[np.float32]) -> csc_array:
    """The codes of activations [n, d_in] as a sparse matrix. [n, d_sae]"""
    device = sae.W_dec.device
    size = max(1, Sizes.of(device).codes // sae.d_sae)
    parts = []
    for part in torch.from_numpy(x).split(size):
        codes = sae.encode(part.to(device))
        token, feature = codes.nonzero(as_tuple=True)
        found = (token, feature, codes[token, feature].double())
        parts.append([values.cpu().numpy() for values in found])
    starts = np.arange(len(parts)) * size
    rows = np.concatenate([p[0] + start for p, start in zip(parts, starts, strict=True)])
    columns, values = (np.concatenate([p[i] for p in parts]) for i in (1, 2))
    return csc_array((values, (rows, columns)), shape=(len(x), sae.d_sae))
