"""The model whose tokenizer the tests of tokens use, and their way to load rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import Split, TokenRows, load_tokens


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> LanguageModel:
    """A tiny model with a token for each character; id 0 is BOS and EOS."""
    return LanguageModel.load(str(tiny_model("llama")), device="cpu")


def load(source: Path | str, model: LanguageModel, split: Split = "all", **more: Any) -> TokenRows:
    """All rows of a source, of 16 tokens each."""
    options = {"n_tokens": None, "context_length": 16} | more
    return load_tokens(str(source), model, split=split, **options)
