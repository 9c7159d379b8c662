"""The strongest activating examples of features, read from a stored result. No tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prolu_eval.results.documents import Array, Result


@dataclass(frozen=True)
class Example:
    """A token that a feature is active on, within its text.

    ``row`` and ``position`` say which of the evaluated tokens it is. The texts are those of single
    tokens, as they come from the evaluated text: whoever shows them escapes them.
    """

    activation: float
    row: int
    position: int
    before: tuple[str, ...]
    token: str
    after: tuple[str, ...]


class Examples:
    """The examples that ``evaluate --examples`` stored of each feature, strongest first.

    They are kept in these arrays of a result, whose names begin with ``example/``:

    - ``activation`` [d_sae, n] float32, NaN where a feature was active less often;
    - ``index`` [d_sae, n] int32, which context an example is in, -1 where there is none;
    - ``row``, ``position`` [n_contexts] int32, where the active token of a context is;
    - ``context`` [n_contexts, width] int32, which pieces are around it, -1 outside its row; the
      active token is at the index ``before`` (int32);
    - ``piece_bytes`` [n_bytes] uint8, all pieces' UTF-8 text one after another, and ``piece_ends``
      [n_pieces] int64, where each ends.
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
        """The examples of a result that has its arrays; None if it was evaluated without."""
        arrays = result.examples()
        return cls(arrays) if arrays else None

    @property
    def most(self) -> int:
        """How many examples a feature has at most."""
        return int(self._arrays["activation"].shape[1])

    @property
    def width(self) -> int:
        """How many tokens an example has with its context."""
        return int(self._arrays["context"].shape[1])

    def strongest(self, feature: int) -> list[Example]:
        """The examples of a feature, strongest first; none if it is dead."""
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
