"""Where a sweep's activations come from: a language model on text, or a benchmark's samples."""

from functools import partial

from prolu_eval.lm import LanguageModel
from prolu_eval.synthetic import SyntheticActivations, is_synthetic
from prolu_eval.tokens import TokenRows, check_source, check_vocabulary, load_tokens
from prolu_eval.training.config import Shared

Source = LanguageModel | SyntheticActivations


def load_source(shared: Shared, device: str | None) -> Source:
    """What gives a sweep's activations.

    Raises:
        ModelError: if it cannot be loaded.
        TokensError: if the text to train on cannot be read.
    """
    if is_synthetic(shared.model):
        return SyntheticActivations.load(shared.model, device=device)
    check_source(shared.dataset, shared.text_column, "name text with --tokens")
    return LanguageModel.load(shared.model, device=device)


def training_rows(shared: Shared, source: Source) -> TokenRows:
    """The rows that a sweep is trained on.

    Raises:
        ModelError: if the model lacks the hook point.
        TokensError: if the text cannot be read, does not suit the model, or leaves nothing to
            evaluate on later.
    """
    if isinstance(source, SyntheticActivations):
        return source.rows("train", shared.n_tokens, shared.context_length)
    read = partial(
        load_tokens,
        shared.dataset,
        source,
        context_length=shared.context_length,
        text_column=shared.text_column,
    )
    read(split="heldout", n_tokens=shared.context_length)  # or nothing could be evaluated later
    tokens = read(split="train", n_tokens=shared.n_tokens)
    check_vocabulary(source, shared.hook, tokens)
    return tokens
