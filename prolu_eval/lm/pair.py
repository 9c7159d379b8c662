"""Two language models that a crosscoder compares: both read one text, each at one site."""

import hashlib
from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from prolu_eval.errors import ModelError
from prolu_eval.lm.model import LanguageModel
from prolu_eval.lm.passes import Pass
from prolu_eval.runs import BETWEEN_MODELS, of_two_models


class ModelPair(LanguageModel):
    """Two models with one vocabulary. Build one with :meth:`of`, of names ``FIRST+SECOND``.

    Methods and attributes of a single model are those of the first model. Hook points are the
    exception: both models must have them, with the same width.

    Attributes:
        models: the two models.
    """

    models: tuple[LanguageModel, LanguageModel]

    @classmethod
    def of(cls, name: str, load: Callable[[str], LanguageModel]) -> "ModelPair":
        """Load two models by their names.

        Args:
            name: both names, joined by a plus.
            load: a function that loads a model by name, such as :meth:`LanguageModel.load`.

        Raises:
            ModelError: if the name is not two names, or the tokenizers differ.
        """
        names = name.split(BETWEEN_MODELS)
        if len(names) != 2:
            raise ModelError(name, "is not two models", f"write {of_two_models('FIRST', 'SECOND')}")
        first, second = map(load, names)
        if _vocabulary(first) != _vocabulary(second):
            raise ModelError(name, "have tokenizers that differ", "name a model and its tuned form")
        pair = cls.__new__(cls)
        vars(pair).update(vars(first))
        pair.models, pair.name = (first, second), of_two_models(first.name, second.name)
        both = f"{first.fingerprint} {second.fingerprint}"
        pair.fingerprint = hashlib.sha256(both.encode()).hexdigest()
        return pair

    def width(self, hook: str) -> int:
        """Width of the activations at a hook point, the same in both models.

        Raises:
            ModelError: if the widths differ.
        """
        first, second = (model.width(hook) for model in self.models)
        if first != second:
            reason = f"have activations of width {first} and {second} at {hook}"
            raise ModelError(self.name, reason, "name models of one size")
        return first

    def clean_at(
        self, tokens: Tensor, hooks: Sequence[str], inputs: Collection[str] = ()
    ) -> list[Pass]:
        """A pass of each model at its own hook point; no other activation is read."""
        pairs = zip(self.models, hooks, strict=True)
        return [model.clean(tokens, hook) for model, hook in pairs]


def _vocabulary(model: LanguageModel) -> object:
    """What is equal in two models that share their tokens: the vocabulary, or else its size."""
    return model.vocab_size if model.tokenizer is None else model.tokenizer.get_vocab()
