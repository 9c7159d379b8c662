"""The strongest activating examples of each feature, found in the same pass as all metrics.

Only the strongest activations so far are kept, so that memory does not grow with the text. An
activation that is not among its feature's strongest takes one comparison.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.results import Array
from prolu_eval.tokens import TokenRows

# Tokens of an example's context before and after the token on which the feature is active.
BEFORE, AFTER = 20, 10


class _Found(NamedTuple):
    """Activations by feature, value and place. [n] each"""

    feature: Tensor
    value: Tensor
    place: Tensor


class StrongestExamples:
    """The largest activations of each feature, and their places in the text.

    A place is the index of a position among those of all rows, one row after another. Of equal
    activations, the one at the earlier place comes first. Instances over consecutive parts of a
    text can be added.

    Attributes:
        value: the activations in decreasing order; -inf if a feature was active less than n times.
            [d_sae, n] float32
        place: their places; -1 where there is no activation. [d_sae, n] int64
    """

    def __init__(self, d_sae: int, n: int, device: torch.device) -> None:
        self.value = torch.full((d_sae, n), -torch.inf, device=device)
        self.place = torch.full((d_sae, n), -1, dtype=torch.int64, device=device)
        self._least = self.value[:, -1].contiguous()
        self._seen = 0

    def add(self, feature: Tensor, value: Tensor, token: Tensor, places: Tensor) -> None:
        """Add active codes, given by feature, value and token, in order of token. [n_active] each

        ``places`` [n_tokens] are the places of the tokens, in order and after all earlier places.
        """
        value, start = value.float(), 0
        while start < len(feature):
            # Codes are added in portions that grow, so that few codes of a new portion are among
            # the strongest so far and have to be sorted.
            size = max(self._seen, 2 * self.value.numel())
            portion = slice(start, start + size)
            self._add_portion(feature[portion], value[portion], token[portion], places)
            self._seen, start = self._seen + size, start + size

    def _add_portion(self, feature: Tensor, value: Tensor, token: Tensor, places: Tensor) -> None:
        stronger = _true(value > self._least.index_select(0, feature))
        kept = (part.index_select(0, stronger) for part in (feature, value, token))
        feature, value, token = kept
        self._merge(_Found(feature, value, places.index_select(0, token)))

    def __add__(self, other: "StrongestExamples") -> "StrongestExamples":
        d_sae, n = self.value.shape
        both = StrongestExamples(d_sae, n, self.value.device)
        both.value, both.place = self.value.clone(), self.place.clone()
        both._least = both.value[:, -1].contiguous()
        there = other.place >= 0
        feature = torch.arange(d_sae, device=self.value.device)[:, None].expand_as(there)[there]
        both._merge(_Found(feature, other.value[there], other.place[there]))
        return both

    def _merge(self, found: _Found) -> None:
        """Merge activations, in which equal ones must be in the order of their places."""
        n = self.value.shape[1]
        if not len(found.feature):
            return
        touched = found.feature.unique()
        of_each = touched.repeat_interleave(n)
        held = _Found(of_each, self.value[touched].flatten(), self.place[touched].flatten())
        feature, value, place = (torch.cat(pair) for pair in zip(held, found, strict=True))
        order = ((feature << 32) - _ordered(value)).argsort(stable=True)
        feature = feature.index_select(0, order)
        _, count = feature.unique_consecutive(return_counts=True)
        first = (count.cumsum(0) - count).repeat_interleave(count)
        rank = torch.arange(len(feature), device=feature.device) - first
        kept = _true(rank < n)
        slot = feature.index_select(0, kept) * n + rank.index_select(0, kept)
        strongest = order.index_select(0, kept)
        self.value.view(-1).index_copy_(0, slot, value.index_select(0, strongest))
        self.place.view(-1).index_copy_(0, slot, place.index_select(0, strongest))
        self._least = self.value[:, -1].contiguous()

    def stored(self) -> dict[str, Array]:
        """The examples as arrays for a file."""
        return {"value": self.value.cpu().numpy(), "place": self.place.cpu().numpy()}

    @classmethod
    def restored(cls, value: Array, place: Array) -> "StrongestExamples":
        """The examples from the arrays of :meth:`stored`, on the CPU."""
        d_sae, n = value.shape
        examples = cls(d_sae, n, torch.device("cpu"))
        examples.value, examples.place = torch.from_numpy(value), torch.from_numpy(place)
        examples._least = examples.value[:, -1].contiguous()
        return examples


def _true(mask: Tensor) -> Tensor:
    """The indices where a mask [n] is true. On a CPU, NumPy is many times as fast as torch."""
    if mask.is_cuda:
        return mask.nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _ordered(value: Tensor) -> Tensor:
    """Integers in the same order as float32 values: their bits, inverted for negative values."""
    bits = value.view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()


def in_context(found: StrongestExamples, tokens: TokenRows, tokenizer: Any) -> dict[str, Array]:
    """Examples with their text, as arrays that can be read without a tokenizer.

    Returns:
        The arrays that :class:`prolu_eval.results.Examples` reads.
    """
    value, place = found.value.cpu().numpy(), found.place.cpu().numpy()
    places, of = np.unique(place, return_inverse=True)
    of = of.reshape(place.shape) - int((places < 0).sum())
    places = places[places >= 0]
    length = tokens.ids.shape[1]
    row, position = places // length, places % length
    around = position[:, None] + np.arange(-BEFORE, AFTER + 1)
    inside = (around >= 0) & (around < length)
    ids = tokens.ids.numpy()[row[:, None], around.clip(0, length - 1)]
    used, piece = np.unique(ids[inside], return_inverse=True)
    context = np.full(ids.shape, -1, dtype=np.int32)
    context[inside] = piece.ravel()
    texts = [text.encode() for text in _pieces(used, tokenizer)]
    return {
        "activation": np.where(of >= 0, value, np.nan).astype(np.float32),
        "index": np.maximum(of, -1).astype(np.int32),
        "row": row.astype(np.int32),
        "position": position.astype(np.int32),
        "context": context,
        "before": np.array(BEFORE, dtype=np.int32),
        "piece_bytes": np.frombuffer(b"".join(texts), dtype=np.uint8).copy(),
        "piece_ends": np.cumsum([len(text) for text in texts], dtype=np.int64),
    }


def _pieces(ids: NDArray[np.int64], tokenizer: Any) -> list[str]:
    """The text of each token as within a sentence; its id if there is no tokenizer."""
    if tokenizer is None:
        return [f"[{i}]" for i in ids]
    # Decoders treat the first token of a text specially, so each token is decoded after another.
    first = tokenizer.encode("a", add_special_tokens=False)
    ahead = tokenizer.decode(first, clean_up_tokenization_spaces=False)
    texts = (tokenizer.decode([*first, int(i)], clean_up_tokenization_spaces=False) for i in ids)
    return [text.removeprefix(ahead) for text in texts]
