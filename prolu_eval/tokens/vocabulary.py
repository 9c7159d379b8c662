"""Detecting token ids of another tokenizer, which may be in range but are predicted badly."""

import logging

import numpy as np
import torch

from prolu_eval.lm import LanguageModel
from prolu_eval.plain_text import printable
from prolu_eval.tokens.rows import TokenRows

# With fewer targets, the distribution over a vocabulary is too uncertain.
_LEAST_TARGETS = 256
_TOKENS_TRIED = 4096


def warn_of_foreign_ids(tokens: TokenRows, model_name: str, ce_clean: float) -> None:
    """Warn if a model predicts the targets of rows worse than a unigram model does.

    ``ce_clean`` is the model's mean cross-entropy in nats over the targets. The cross-entropy of
    the unigram model is the entropy of the targets' own frequencies, with Miller and Madow's
    correction for their number (Note on the bias of information estimates, 1955).
    """
    of_next = tokens.counted[:, :-1] & tokens.counted[:, 1:]
    _, counts = np.unique(tokens.ids[:, 1:][of_next].numpy(), return_counts=True)
    n = int(counts.sum())
    if n < _LEAST_TARGETS:
        return
    frequencies = counts / n
    unigram = float(-(frequencies * np.log(frequencies)).sum() + (len(counts) - 1) / (2 * n))
    if ce_clean > unigram:
        logging.getLogger(__name__).warning(
            "%s: %s predicts its tokens with a cross-entropy of %.2f nats, worse than their "
            "frequencies alone (%.2f); are they of another tokenizer or model?",
            printable(tokens.source), printable(model_name), ce_clean, unigram,
        )  # fmt: skip


def check_vocabulary(model: LanguageModel, hook: str, tokens: TokenRows) -> None:
    """As :func:`warn_of_foreign_ids`, with a cross-entropy measured on the first few rows."""
    rows = tokens.first(min(len(tokens), max(1, _TOKENS_TRIED // tokens.ids.shape[1])))
    total, n = 0.0, 0
    for ids, counted in zip(rows.ids, rows.counted, strict=True):
        of_next = (counted[:-1] & counted[1:]).to(model.device)
        hidden = model.clean(ids[None], hook).hidden[0, :-1][of_next]
        targets = ids[1:].to(model.device)[of_next]
        loss = torch.nn.functional.cross_entropy(
            model.logits(hidden).float(), targets, reduction="sum"
        )
        total, n = total + loss.item(), n + len(targets)
    if n:
        warn_of_foreign_ids(rows, model.name, total / n)
