"""Task accuracy of a language model whose activations an autoencoder's reconstruction replaces.

Tasks come from templates (:mod:`prolu_eval.tasks.templates`). They are written in tokens of the
model's tokenizer, with examples drawn from fixed seeds. A task counts only if the clean model's
accuracy reaches at least half the way from chance to one. Below that, most of its right answers are
luck, which no reconstruction can lose.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prolu_eval.evaluation.autoencoding import Sizes
from prolu_eval.evaluation.batches import Batch
from prolu_eval.evaluation.clean_passes import CleanPasses
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.probe_fits import share_error
from prolu_eval.evaluation.probing import TasksDone
from prolu_eval.evaluation.prompts import PromptRows, tokenised
from prolu_eval.json_text import canonical
from prolu_eval.lm import LanguageModel
from prolu_eval.results import OF_TASK_ERROR, Setting, TaskSet
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tasks.templates import (
    INDUCTION_LENGTHS,
    TEMPLATES,
    VERSION,
    Example,
    Inexpressible,
    Words,
)

# Number of examples drawn for a task, and the smallest number that a tokenizer must be able to
# express.
N_EXAMPLES, _LEAST = 128, 64
# The fraction of the way from chance to one that the clean model's accuracy must reach.
DONE = 0.5
_CHANCE = 0.5
# Tokenizers treat the beginning of a text differently from text that follows a word.
_BEFORE = "The"
_SEED = 0


@dataclass(frozen=True)
class Prompt:
    """Token ids, and the ids of the right and the wrong tokens that could follow them.

    If ``wrong`` is empty, all tokens but the right one are wrong.
    """

    ids: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]


@dataclass(frozen=True)
class _Task:
    name: str
    prompts: Sequence[Prompt]

    @property
    def chance(self) -> float:
        return 0.0 if not self.prompts[0].wrong else _CHANCE


class Behaviour:
    """Measures task accuracy while autoencoders' reconstructions replace activations.

    Args:
        engine: the engine of the language model.
        setting: the setting of the evaluation.
    """

    def __init__(self, engine: Engine, setting: Setting) -> None:
        self._engine, self._setting = engine, setting
        tasks, skipped = expressed(
            engine.model, setting.context_length, prepend_bos=setting.prepend_bos
        )
        answers = self._answered_all(tasks, None)
        tried = {task.name: float(right.mean()) for task, right in zip(tasks, answers, strict=True)}
        self._tasks = [
            task for task in tasks
            if (tried[task.name] - task.chance) / (1 - task.chance) >= DONE
        ]  # fmt: skip
        content = canonical(
            [VERSION, [[t.name, [[p.ids, p.right, p.wrong] for p in t.prompts]]
                       for t in self._tasks]]
        )  # fmt: skip
        self._clean = [tried[task.name] for task in self._tasks]
        self._n = [len(task.prompts) for task in self._tasks]
        self._wanted = TaskSet(
            fingerprint=hashlib.sha256(content.encode()).hexdigest()[:32],
            source=f"templates {VERSION}",
            tasks=tuple(task.name for task in self._tasks),
            tried=tried,
            skipped=skipped,
        )
        self._passes = CleanPasses(engine.model, engine.hook, set(engine.inputs.values()))

    def wanted(self, _: Run) -> TaskSet:
        """The tasks that count, which are the same for every run."""
        return self._wanted

    def of(self, run: Run, sae: SparseAutoencoder) -> TasksDone:
        """Task accuracy with a run's autoencoder, which stays on the model's device."""
        model = self._engine.model
        sae = sae.to(model.device, torch.promote_types(model.dtype, torch.float32))
        read = self._engine.inputs.get(run.name)

        def spliced(batch: Batch) -> Tensor:
            clean = self._passes.of(batch)
            x = batch.activations(clean, read).x.to(sae.W_dec.dtype)
            size = max(1, Sizes.of(model.device).codes // sae.d_sae)
            x_hat = torch.cat([sae(part) for part in x.split(size)])
            replaced = batch.put(clean.activation, x_hat)
            return model.resume(batch.ids, self._engine.hook, clean, replaced)

        answers = self._answered_all(self._tasks, spliced)
        columns = {
            "right_clean": self._clean,
            "right_spliced": [float(right.mean()) for right in answers],
        }
        sums = {"n_tasks": np.ones(len(self._tasks))}
        for name, values in columns.items():
            errors = [share_error(right, n) for right, n in zip(values, self._n, strict=True)]
            sums |= {name: np.array(values), name + OF_TASK_ERROR: np.array(errors)}
        return TasksDone(self._wanted, sums)

    def _answered_all(
        self, tasks: Sequence[_Task], hidden: Callable[[Batch], Tensor] | None
    ) -> list[Tensor]:
        """Which examples of each task are answered right; without ``hidden``, by clean passes."""
        engine = self._engine
        prompts = [prompt for task in tasks for prompt in task.prompts]
        rows = PromptRows(
            engine.model,
            [prompt.ids for prompt in prompts],
            include_special=self._setting.special_tokens == "include",
        )
        made = hidden or (lambda batch: engine.model.clean(batch.ids, engine.hook).hidden)
        n_tokens = engine.batch_size * self._setting.context_length
        right = engine.within_memory(lambda: self._answered(prompts, rows, made, n_tokens))
        return list(right.split([len(task.prompts) for task in tasks]))

    @torch.inference_mode()
    def _answered(
        self,
        prompts: Sequence[Prompt],
        rows: PromptRows,
        hidden: Callable[[Batch], Tensor],
        n_tokens: int,
    ) -> Tensor:
        right = torch.empty(len(prompts), dtype=torch.float64)
        for chosen, batch, last in rows.batches(n_tokens):
            final = hidden(batch)
            at = final[torch.arange(len(last), device=final.device), last]
            logits = self._engine.model.logits(at).float().cpu()
            for i, of_one in zip(chosen, logits, strict=True):
                right[i] = answered_right(of_one, prompts[i])
        return right


def answered_right(logits: Tensor, prompt: Prompt) -> bool:
    """Whether the right tokens together are more likely than the wrong ones together. [vocab]

    If one token is right and all others are wrong: whether no other token is as likely.
    """
    right = logits[list(prompt.right)].logsumexp(0)
    if prompt.wrong:
        return bool(right > logits[list(prompt.wrong)].logsumexp(0))
    others = logits.clone()
    others[list(prompt.right)] = -torch.inf
    return bool(right > others.max())


def expressed(
    model: LanguageModel, context_length: int, *, prepend_bos: bool
) -> tuple[list[_Task], dict[str, str]]:
    """The tasks that a model's tokens can express, and the reasons against others, by name."""
    tasks, skipped = [], {}
    found: dict[str, Callable[[], list[Prompt]]] = {
        f"induction-{n}": _induction(model, n, prepend_bos=prepend_bos) for n in INDUCTION_LENGTHS
    }
    found |= {name: _templated(model, name, prepend_bos=prepend_bos) for name in TEMPLATES}
    for name, make in found.items():
        try:
            prompts = make()
        except Inexpressible as reason:
            skipped[name] = str(reason)
            continue
        longest = max(len(prompt.ids) for prompt in prompts)
        if longest > context_length:
            skipped[name] = (
                f"its prompts of {longest} tokens exceed the context of {context_length}"
            )
        else:
            tasks.append(_Task(name, prompts))
    return tasks, skipped


def _induction(
    model: LanguageModel, length: int, *, prepend_bos: bool
) -> Callable[[], list[Prompt]]:
    """Random tokens that are repeated up to one of them; right is the token that followed it."""

    def make() -> list[Prompt]:
        usual = np.setdiff1d(np.arange(model.vocab_size), sorted(model.special_ids))
        if len(usual) < 2 * length:
            raise Inexpressible(f"the vocabulary has fewer than {2 * length} tokens")
        bos = None if model.tokenizer is None or not prepend_bos else model.tokenizer.bos_token_id
        first = [] if bos is None else [bos]
        rng = np.random.default_rng([_SEED, length])
        prompts = []
        for _ in range(N_EXAMPLES):
            ids = rng.choice(usual, length, replace=False).tolist()
            at = int(rng.integers(length // 2, length))
            prompts.append(Prompt((*first, *ids, *ids[:at]), (ids[at],), ()))
        return prompts

    return make


def _templated(model: LanguageModel, name: str, *, prepend_bos: bool) -> Callable[[], list[Prompt]]:
    def make() -> list[Prompt]:
        if model.tokenizer is None:
            raise Inexpressible("the model has no tokenizer")
        rng = np.random.default_rng([_SEED, list(TEMPLATES).index(name)])
        example = TEMPLATES[name](Words(rng, lambda word: _is_one(model, word)))
        drawn = (_prompt(model, example(), prepend_bos=prepend_bos) for _ in range(N_EXAMPLES))
        prompts = [prompt for prompt in drawn if prompt is not None]
        if len(prompts) < _LEAST:
            raise Inexpressible("right and wrong answers begin with the same tokens")
        return prompts

    return make


def _prompt(model: LanguageModel, example: Example, *, prepend_bos: bool) -> Prompt | None:
    """An example in a model's tokens; None if the next token does not separate right from wrong.

    Continuations are left out whose first token merges with the text before, or with which both a
    right and a wrong continuation begin.
    """
    texts = [example.prompt + more for more in ("", *example.right, *example.wrong)]
    ids, *whole = tokenised(model, texts, prepend_bos=False)
    after = [w[len(ids)] if len(w) > len(ids) and w[: len(ids)] == ids else None for w in whole]
    right, wrong = after[: len(example.right)], after[len(example.right) :]
    told = set(right) ^ set(wrong)
    right_ids = tuple(sorted({i for i in right if i is not None and i in told}))
    wrong_ids = tuple(sorted({i for i in wrong if i is not None and i in told}))
    if not right_ids or not wrong_ids:
        return None
    (with_bos,) = tokenised(model, [example.prompt], prepend_bos=prepend_bos)
    return Prompt(tuple(with_bos), right_ids, wrong_ids)


def _is_one(model: LanguageModel, word: str) -> bool:
    """Whether a word, with the space before it, is one token after another word."""
    before, whole = tokenised(model, [_BEFORE, _BEFORE + word], prepend_bos=False)
    return len(whole) == len(before) + 1 and whole[: len(before)] == before
