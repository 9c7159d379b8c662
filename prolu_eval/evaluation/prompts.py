"""Passes over prompts of different lengths, of which the last token's activation is used.

Rows of prompts are padded at their ends, so that in a causal model no token attends to padding.
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
    """The token ids of texts, without special tokens except BOS, if the tokenizer has one.

    Args:
        model: a model that has a tokenizer, which is used.
        texts: the texts.
        prepend_bos: whether BOS comes first.
        most: keep only so many tokens of each text, the last ones and BOS; None for all.
    """
    encoded = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    bos = model.tokenizer.bos_token_id if prepend_bos else None
    first = [] if bos is None else [bos]
    kept = None if most is None else most - len(first)
    return [first + list(ids if kept is None else ids[-kept:]) for ids in encoded]


class PromptRows:
    """Prompts in batches, in which prompts of similar length are together.

    Args:
        model: the language model.
        prompts: the token ids of each prompt, at least one.
        include_special: whether positions of special tokens count too.
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Ids], *, include_special: bool = False
    ) -> None:
        self._model, self._prompts = model, prompts
        self._special = torch.tensor([] if include_special else sorted(model.special_ids))
        self._order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))

    def batches(self, n_tokens: int) -> Iterator[tuple[list[int], Batch, Tensor]]:
        """Batches of at most ``n_tokens`` tokens including padding, or of one longer prompt.

        Yields:
            The indices of the prompts, the batch, and the index of each prompt's last token.
            [B] int64
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
    """The activations at a hook point at each prompt's last token, on the CPU. [n, d] float32

    Args:
        model: the language model.
        hook: the hook point.
        prompts: the token ids of each prompt.
        n_tokens: the number of tokens in one pass of the model.
        progress: a function that is called with the number of prompts done since its last call.
    """
    found = torch.empty(len(prompts), model.width(hook))
    for chosen, batch, last in PromptRows(model, prompts).batches(n_tokens):
        x = model.activations(batch.ids, hook)
        found[chosen] = x[torch.arange(len(last), device=x.device), last].float().cpu()
        progress(len(chosen))
    return found
