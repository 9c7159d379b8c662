"""The strongest activating examples of features, read from a stored result without a tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prolu_eval.results.arrays import Array
from prolu_eval.results.documents import Result


@dataclass(frozen=True)
class Example:
    """A token on which a feature is active, with the text around it.

    ``row`` and ``position`` say which of the evaluated tokens it is. The texts are those of single
    tokens and come unchanged from the evaluated text, so output formats must escape them.
    """

    activation: float
    row: int
    position: int
    before: tuple[str, ...]
    token: str
    after: tuple[str, ...]


class Examples:
    """The examples that ``evaluate --examples`` stored for each feature, strongest first.

    They are kept in these arrays of a result, whose names begin with ``example/``:

    - ``activation`` [d_sae, n] float32, the activation of each example, NaN where a feature has
      fewer than n;
    - ``index`` [d_sae, n] int32, the context that an example is in, -1 where there is no example;
    - ``row``, ``position`` [n_contexts] int32, where the active token of a context is;
    - ``context`` [n_contexts, width] int32, the pieces of text around the active token, -1 beyond
      the ends of its row; the active token itself is at the index ``before`` (int32);
    - ``piece_bytes`` [n_bytes] uint8, the UTF-8 text of all pieces one after another, and
      ``piece_ends`` [n_pieces] int64, the end of each piece.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        content, ends = arrays["piece_bytes"].tobytes(), arrays["piece_ends"].tolist()
        starts = [0, *ends[:-1]]
        self._pieces = [
            content[start:end].decode(errors="replace")
            for start, end in zip(starts, ends, strict=True)
        ]

    @classmethod
    def of(cls, result: Result) -> "Examples | None":
        """The examples of a result; None if it was evaluated without examples."""
        arrays = result.examples()
        return cls(arrays) if arrays else None

    @property
    def most(self) -> int:
        """The largest number of examples that a feature can have."""
        return int(self._arrays["activation"].shape[1])

    @property
    def width(self) -> int:
        """The number of tokens in an example and its context."""
        return int(self._arrays["context"].shape[1])

    def strongest(self, feature: int) -> list[Example]:
        """The examples of a feature, strongest first; empty if the feature is dead."""
        index = self._arrays["index"][feature]
        values = self._arrays["activation"][feature]
        there = np.flatnonzero(index >= 0)
        return [self._example(int(index[i]), float(values[i])) for i in there]

    def _example(self, index: int, activation: float) -> Example:
        context, before = self._arrays["context"][index], int(self._arrays["before"])
        return Example(
            activation=activation,
            row=int(self._arrays["row"][index]),
            position=int(self._arrays["position"][index]),
            before=self._texts(context[:before]),
            token=self._pieces[context[before]],
            after=self._texts(context[before + 1 :]),
        )

    def _texts(self, pieces: Array) -> tuple[str, ...]:
        return tuple(self._pieces[piece] for piece in pieces if piece >= 0)
