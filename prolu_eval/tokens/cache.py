"""The cache of token rows, which later invocations reuse for the same source and options."""

import hashlib
import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from prolu_eval.cache import cache_folder
from prolu_eval.errors import ResultsError
from prolu_eval.lm import LanguageModel
from prolu_eval.results import write_atomically
from prolu_eval.tokens.sources import identity

_VERSION = 3


def remembered(
    source: str,
    model: LanguageModel,
    how: tuple[object, ...],
    make: Callable[[], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Rows from the cache; if they are not there, they are made and stored. [n_rows, T] int64

    ``how`` holds all options that decide the rows, besides the source's content and the tokenizer.
    Rows are not stored if the source's content cannot be identified, as of a dataset on the hub.
    """
    content = identity(source)
    tokenizer = _tokenizer(model)
    if content is None or tokenizer is None:
        return make()
    parts = (_VERSION, content, tokenizer, *how)
    name = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
    path = cache_folder() / "tokens" / f"{name}.safetensors"
    try:
        return np.asarray(load_file(path)["rows"], dtype=np.int64)
    except (OSError, KeyError, SafetensorError):
        rows = make()
    try:
        write_atomically(path, save({"rows": rows.astype(np.int32)}))
    except ResultsError as error:
        logging.getLogger(__name__).warning("%s The tokens are not remembered.", error)
    return rows


def _tokenizer(model: LanguageModel) -> str | None:
    """A hash that identifies a tokenizer; None if it has no backend that can be serialised."""
    if model.tokenizer is None:
        return "none"
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    described = f"{backend.to_str()} {model.tokenizer.bos_token_id}"
    return hashlib.sha256(described.encode()).hexdigest()
