"""The source of a sweep's activations: a language model on text, or a benchmark's samples."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from prolu_eval.lm import LanguageModel
from prolu_eval.synthetic import SyntheticActivations, is_synthetic
from prolu_eval.tokens import TokenRows, check_source, check_vocabulary, load_tokens
from prolu_eval.training.config import Shared

Source = LanguageModel | SyntheticActivations


def load_source(
    shared: Shared, device: str | None, local_paths: Mapping[str, str] = MappingProxyType({})
) -> Source:
    """Load the source of a sweep's activations.

    Args:
        shared: settings that name the model and the text.
        device: the device on which the source returns activations.
        local_paths: by name, the paths of a model or text that is stored elsewhere on this
            machine.

    Raises:
        ModelError: if the model cannot be loaded.
        TokensError: if the text to train on cannot be read.
    """
    if is_synthetic(shared.model):
        return SyntheticActivations.load(shared.model, device=device)
    text = local_paths.get(shared.dataset, shared.dataset)
    check_source(text, shared.text_column, "name text with --tokens")
    model = LanguageModel.load(local_paths.get(shared.model, shared.model), device=device)
    if shared.model in local_paths:
        model.name = shared.model
    return model


def training_rows(
    shared: Shared, source: Source, local_paths: Mapping[str, str] = MappingProxyType({})
) -> TokenRows:
    """The rows that a sweep is trained on; the arguments are those of :func:`load_source`.

    Raises:
        ModelError: if the model lacks the hook point.
        TokensError: if the text cannot be read, does not suit the model, or leaves nothing to
            evaluate on later.
    """
    if isinstance(source, SyntheticActivations):
        return source.rows("train", shared.n_tokens, shared.context_length)
    read = partial(
        load_tokens,
        local_paths.get(shared.dataset, shared.dataset),
        source,
        context_length=shared.context_length,
        text_column=shared.text_column,
    )
    read(split="heldout", n_tokens=shared.context_length)  # fails if none is left to evaluate on
    tokens = read(split="train", n_tokens=shared.n_tokens)
    check_vocabulary(source, shared.hook, tokens)
    return tokens
