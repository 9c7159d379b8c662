"""Prompts as rows of tokens, of different lengths: what a model makes of their last token.

Rows are padded at their ends, where in a causal model no token before attends to it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prolu_eval.evaluation.batches import Batch
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import TokenRows

Ids = Sequence[int]


def tokenised(
    model: LanguageModel, texts: Sequence[str], *, prepend_bos: bool, most: int | None = None
) -> list[list[int]]:
    """The token ids of texts, without special tokens but for BOS, if the tokenizer has one.

    Args:
        model: whose tokenizer counts, which it must have.
        texts: the texts.
        prepend_bos: whether BOS comes first.
        most: how many tokens remain of each, BOS among them: the last ones. None for all.
    """
    encoded = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    bos = model.tokenizer.bos_token_id if prepend_bos else None
    first = [] if bos is None else [bos]
    kept = None if most is None else most - len(first)
    return [first + list(ids if kept is None else ids[-kept:]) for ids in encoded]


class PromptRows:
    """Prompts in batches, those of similar length together.

    Args:
        model: the language model.
        prompts: token ids of each, one at least.
        include_special: whether special tokens count as positions too.
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Ids], *, include_special: bool = False
    ) -> None:
        self._model, self._prompts = model, prompts
        self._special = torch.tensor([] if include_special else sorted(model.special_ids))
        self._order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))

    def batches(self, n_tokens: int) -> Iterator[tuple[list[int], Batch, Tensor]]:
        """Batches of up to so many tokens, padding included: one prompt at least.

        Yields:
            Which prompts they are, the batch, and the place of each one's last token. [B] int64
        """
        start = 0
        while start < len(self._order):
            stop = start + 1
            while stop < len(self._order) and self._fits(start, stop + 1, n_tokens):
                stop += 1
            chosen = self._order[start:stop]
            last = torch.tensor([len(self._prompts[i]) - 1 for i in chosen])
            batch = Batch.of(self._rows(chosen), range(len(chosen)), 0, self._model.device)
            yield chosen, replace(batch, rows=range(start, stop)), last.to(self._model.device)
            start = stop

    def _fits(self, start: int, stop: int, n_tokens: int) -> bool:
        return (stop - start) * len(self._prompts[self._order[stop - 1]]) <= n_tokens

    def _rows(self, chosen: Sequence[int]) -> TokenRows:
        width = max(len(self._prompts[i]) for i in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.int64)
        real = torch.zeros(len(chosen), width, dtype=torch.bool)
        for row, i in enumerate(chosen):
            n = len(self._prompts[i])
            ids[row, :n], real[row, :n] = torch.tensor(self._prompts[i]), True
        return TokenRows(ids, real & ~torch.isin(ids, self._special), "prompts")


@torch.inference_mode()
def last_activations(
    model: LanguageModel,
    hook: str,
    prompts: Sequence[Ids],
    n_tokens: int,
    progress: Callable[[int], Any] = lambda _: None,
) -> Tensor:
    """Activations at a hook point at the last token of each prompt, on the CPU. [n, d] float32

    Args:
        model: the language model.
        hook: the hook point.
        prompts: token ids of each.
        n_tokens: how many go through the model at once.
        progress: called with the number of prompts done since the last call.
    """
    found = torch.empty(len(prompts), model.width(hook))
    for chosen, batch, last in PromptRows(model, prompts).batches(n_tokens):
        x = model.activations(batch.ids, hook)
        found[chosen] = x[torch.arange(len(last), device=x.device), last].float().cpu()
        progress(len(chosen))
    return found
