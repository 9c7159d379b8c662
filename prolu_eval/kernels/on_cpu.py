"""Kernels for a CPU, compiled by Numba: active codes are found, decoded and summed in one pass.

The active codes of consecutive tokens are stored one after another, without gaps (compressed sparse
rows). Kernels release Python's lock, so that threads share the tokens of a chunk (:func:`spread`).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.activations import Selection, Thresholding

T = TypeVar("T")

# A thread reads at least so many numbers: with fewer, starting it costs more than it saves.
_LEAST = 1 << 17
# The mask of a row is read in words of so many codes.
_WORD = 8


class Active(NamedTuple):
    """The active codes of n tokens, in order of token and feature.

    ``feature`` int32 and ``value`` are [n_active]. Those of token t are at ``starts[t]`` to
    ``starts[t + 1]``; ``starts`` [n + 1] int64.
    """

    starts: NDArray[np.int64]
    feature: NDArray[np.int32]
    value: NDArray[np.floating]

    @property
    def token(self) -> NDArray[np.int64]:
        """The token of each active code. [n_active]"""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


_KERNELS: list[tuple[Any, str]] = []
"""All kernels, with the types of their arguments. ``T`` stands for the type of the numbers."""


def _kernel(types: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a kernel; ``types`` are those of its arguments, as Numba writes them."""

    def made(function: Callable[..., Any]) -> Any:
        settings = {"nogil": True, "error_model": "numpy", **options}
        try:
            kernel = numba.njit(cache=True, **settings)(function)
        except RuntimeError:  # there is no folder in which compiled code can be kept
            kernel = numba.njit(**settings)(function)
        _KERNELS.append((kernel, types))
        return kernel

    return made


# Sums may be computed in another order, as vector instructions need it.
_REORDERED = {"contract", "reassoc", "nsz"}


@lru_cache
def _compile(dtype: np.dtype[Any]) -> None:
    """Compile all kernels for a type of numbers, or load them from disk.

    Numba may mix up the code of processes that store kernels at the same time, hence the lock.
    """
    folder = _KERNELS[0][0].stats.cache_path
    with FileLock(Path(folder, "kernels.lock")) if folder else nullcontext():
        for kernel, types in _KERNELS:
            kernel.compile(f"({types.replace('T', dtype.name)},)")


@_kernel("uint8[::1],uint64[::1],int32[::1],int64")
def _listed(on, words, feature, found):
    """Append the features that a row's mask marks, and return the number of all that are listed.

    One place more than needed may be written to.
    """
    for word in range(len(words)):
        if words[word]:
            for place in range(word * _WORD, (word + 1) * _WORD):
                feature[found] = place
                found += on[place]
    return found


@_kernel("T[:,::1],T[::1],T[::1],T[::1],T[::1],boolean,int64[::1],int32[::1],T[::1]")
def _compact(m, scale, shift, bound, gate, both_signs, starts, feature, value):
    n, d = m.shape
    on = np.zeros((d + _WORD - 1) // _WORD * _WORD, np.uint8)
    words = on.view(np.uint64)
    found = 0
    for token in range(n):
        row = m[token]
        starts[token] = found
        for f in range(d):
            v = row[f] * scale[f] + shift[f]
            size = abs(v) if both_signs else v
            on[f] = not ((size <= bound[f]) | (row[f] <= gate[f]))  # NaN counts as active
        found = _listed(on, words, feature, found)
        for place in range(starts[token], found):
            f = feature[place]
            value[place] = row[f] * scale[f] + shift[f]
    starts[n] = found
    return found


@_kernel("T[::1],T[::1],boolean,T[::1]", fastmath=_REORDERED)
def _keys(row, shift, both_signs, key):
    """Fill in the numbers by which codes are selected, and return whether all are finite."""
    most = np.finfo(key.dtype).max
    n_finite = key.dtype.type(0)
    for f in range(len(key)):
        v = row[f] + shift[f]
        if both_signs:
            v = abs(v)
        key[f] = v
        n_finite += key.dtype.type(abs(v) <= most)
    return n_finite == len(key)


@_kernel("T[::1],T", fastmath=_REORDERED)
def _above(key, bound):
    """How many numbers are above a bound: a sum of floats, which vector instructions compute.

    Float32 counts exactly up to 2^24, which is more than any dictionary has features.
    """
    n = key.dtype.type(0)
    for f in range(len(key)):
        n += key.dtype.type(key[f] > bound)
    return n


@_kernel("T[::1],int64,T,T")
def _bound(key, k, low, guess):
    """A bound that k numbers are above.

    If equal numbers leave no such bound, it is the largest that more than k numbers are above.
    They are above ``low`` too. The search starts at ``guess``.
    """
    half, twice = key.dtype.type(0.5), key.dtype.type(2)
    high = np.finfo(key.dtype).max
    bound = guess if guess > low else key.dtype.type(0)
    step = abs(bound) * key.dtype.type(0.05) if bound else key.dtype.type(1)
    while True:
        n = _above(key, bound)
        if n == k:
            return bound
        if n > k:
            low = bound
            bound += step
        else:
            high = bound
            bound -= step
        step *= twice
        if not low < bound < high:
            bound = low * half + high * half
            if not low < bound < high:
                return low


@_kernel("T[::1],T")
def _least_above(key, bound):
    """The least of the numbers that are above a bound."""
    least = np.finfo(key.dtype).max
    for f in range(len(key)):
        if bound < key[f] < least:
            least = key[f]
    return least


@_kernel("T[:,::1],T[::1],int64,boolean,boolean,int64[::1],int32[::1],T[::1]")
def _select(m, shift, k, positive, both_signs, starts, feature, value):
    n, d = m.shape
    key = np.empty(d, m.dtype)
    on = np.zeros((d + _WORD - 1) // _WORD * _WORD, np.uint8)
    words = on.view(np.uint64)
    lowest = m.dtype.type(0) if positive else -np.finfo(m.dtype).max
    guess = m.dtype.type(0)
    found = 0
    for token in range(n):
        row = m[token]
        starts[token] = found
        if not _keys(row, shift, both_signs, key):
            return -1
        bound = lowest
        if _above(key, lowest) > k:
            bound = guess = _bound(key, k, lowest, guess)
        for f in range(d):
            on[f] = (key[f] > bound) & (key[f] != 0)  # a zero that is selected is no code
        end = _listed(on, words, feature, found)
        if end - found > k:  # the least of them are equal, and the first of these are chosen
            least = _least_above(key, bound)
            n_equal = k - _above(key, least)
            for f in range(d):
                on[f] = (key[f] > least) | ((key[f] == least) & (n_equal > 0))
                n_equal -= key[f] == least
            end = _listed(on, words, feature, found)
        for place in range(found, end):
            value[place] = row[feature[place]] + shift[feature[place]]
        found = end
    starts[n] = found
    return found


@_kernel("int64[::1],int32[::1],T[::1],T[:,::1],T[::1],T[:,::1]", fastmath=_REORDERED)
def _decode(starts, feature, value, W_dec, b_dec, x_hat):
    n, d = x_hat.shape
    for token in range(n):
        total = x_hat[token]
        for c in range(d):
            total[c] = b_dec[c]
        for place in range(starts[token], starts[token + 1]):
            v = value[place]
            row = W_dec[feature[place]]
            for c in range(d):
                total[c] += v * row[c]


@_kernel("int64[::1],int32[::1],T[::1],float32[::1],T[::1],float64[:,::1]")
def _sums(starts, feature, value, norms, scale, columns):
    for token in range(len(starts) - 1):
        l1 = l1_raw = root = root_raw = 0.0
        for place in range(starts[token], starts[token + 1]):
            size = abs(np.float64(value[place]))
            weighted = size * norms[feature[place]] * scale[token]
            l1 += weighted
            l1_raw += size
            root += np.sqrt(weighted)
            root_raw += np.sqrt(size)
        columns[0, token] = starts[token + 1] - starts[token]
        columns[1, token] = l1
        columns[2, token] = l1_raw
        columns[3, token] = root
        columns[4, token] = root_raw


@_kernel("int64[::1],int32[::1],T[::1],int64[::1],int64[:,::1],float64[::1],float32[::1]")
def _add_features(starts, feature, value, fold, fired, total, largest):
    for token in range(len(starts) - 1):
        of_fold = fired[fold[token]]
        for place in range(starts[token], starts[token + 1]):
            f = feature[place]
            v = value[place]
            of_fold[f] += 1
            total[f] += v
            if not v <= largest[f]:
                largest[f] = v


@_kernel("uint8[:,::1],int64[::1],int64,int64")
def _count(mask, counts, first, last):
    """Count the entries of some rows of a mask."""
    for row in range(first, last):
        n = 0
        for f in range(mask.shape[1]):
            n += mask[row, f]
        counts[row] = n


@_kernel("uint8[:,::1],int64,int64[::1],int64[::1],int32[::1],int64,int64")
def _fill(mask, batch, starts, flat, feature, first, last):
    """Fill in the entries of some rows of a mask, of which ``starts`` says where they begin."""
    d = mask.shape[1]
    words = np.zeros((d + _WORD - 1) // _WORD, np.uint64)
    on = words.view(np.uint8)
    listed = np.empty(d + _WORD, np.int32)
    for row in range(first, last):
        on[:d] = mask[row]
        begin, first_feature = starts[row], row // batch * d
        for place in range(_listed(on, words, listed, 0)):
            flat[begin + place] = row * d + listed[place]
            feature[begin + place] = first_feature + listed[place]


@_kernel(
    "int64[::1],int32[::1],T[::1],T[:,::1],T[:,::1],int64,int64,int64,int64", fastmath=_REORDERED
)
def _over_tokens(starts, feature, value, rows, summed, first_token, last_token, first, last):
    """Add the rows of some tokens, times their entries' values, to the features in a range."""
    d = rows.shape[1]
    for token in range(first_token, last_token):
        row = rows[token]
        for place in range(starts[token], starts[token + 1]):
            f = feature[place]
            if first <= f < last:
                total, v = summed[f], value[place]
                for c in range(d):
                    total[c] += v * row[c]


@_kernel("int64[::1],int32[::1],T[:,::1],T[:,::1],T[::1],int64,int64", fastmath=_REORDERED)
def _dot(starts, feature, tokens, features, products, first, last):
    d = tokens.shape[1]
    for token in range(first, last):
        row = tokens[token]
        for place in range(starts[token], starts[token + 1]):
            other = features[feature[place]]
            total = tokens.dtype.type(0)
            for c in range(d):
                total += row[c] * other[c]
            products[place] = total


def spread(n: int, size: int, work: Callable[[int, int], T]) -> list[T]:
    """Results of ``work(first, last)`` for consecutive ranges that cover n items, in order.

    The ranges are shared by as many threads as torch uses, if there is enough work for that.

    Args:
        n: the number of items.
        size: how many numbers are read for all items.
        work: a function of a range, which spends most of its time in kernels or in torch.
    """
    threads = max(1, min(torch.get_num_threads(), size // _LEAST, n))
    if threads == 1:
        return [work(0, n)]
    edges = [n * i // threads for i in range(threads + 1)]
    others = [_threads(threads - 1).submit(work, *edges[i : i + 2]) for i in range(1, threads)]
    return [work(0, edges[1]), *(other.result() for other in others)]


@lru_cache(maxsize=1)
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "prolu-eval-kernels")


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_threads.cache_clear)


def compact(m: Tensor, by: Thresholding) -> Active:
    """The active codes of pre-activations, which are read once. [n, d_sae]"""
    read = _array(m)
    active = _room(read)
    neutral = ((by.scale, 1), (by.shift, 0), (by.bound, 0), (by.gate, np.nan))
    parts = [
        np.full(m.shape[1], number, read.dtype) if part is None else _array(part)
        for part, number in neutral
    ]
    return _cut(active, _compact(read, *parts, by.both_signs, *active))


def nonzero(codes: Tensor) -> Active:
    """The codes that are not zero. [n, d_sae]"""
    return compact(codes, Thresholding(both_signs=True))


def select(m: Tensor, by: Selection) -> Active | None:
    """The selected codes of pre-activations [n, d_sae]; None if some are not finite."""
    read = _array(m)
    active = _room(read)
    n = _select(read, _array(by.shift), by.k, by.positive, by.both_signs, *active)
    return None if n < 0 else _cut(active, n)


def codes_of(active: Active, d_sae: int) -> Tensor:
    """All codes, from the active ones. [n, d_sae]"""
    n = len(active.starts) - 1
    codes = np.zeros((n, d_sae), active.value.dtype)
    codes[active.token, active.feature] = active.value
    return torch.from_numpy(codes)


def decode(active: Active, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """For each token, the sum of decoder rows times its codes, plus b_dec. [n, d_out]

    ``W_dec`` is [d_sae, d_out], and ``b_dec`` [d_out].
    """
    x_hat = np.empty((len(active.starts) - 1, W_dec.shape[1]), active.value.dtype)
    _decode(*active, _array(W_dec), _array(b_dec), x_hat)
    return torch.from_numpy(x_hat)


def sums(active: Active, norms: Tensor, scale: Tensor | None) -> Tensor:
    """Sums of each token's active codes.

    Args:
        active: the active codes.
        norms: the norms of the decoder's rows. [d_sae]
        scale: the factor from the codes' units to the model's; None means one. [n]

    Returns:
        For each token: the number of active codes, the sum of their magnitudes in the model's units
        and in their own, and the sums of the square roots of both. [5, n] float64
    """
    n = len(active.starts) - 1
    factor = np.ones(n, active.value.dtype) if scale is None else _array(scale)
    columns = np.empty((5, n))
    _sums(*active, _array(norms), factor, columns)
    return torch.from_numpy(columns)


class Entries(NamedTuple):
    """The chosen entries of n stacked autoencoders, in order of token row and feature.

    Token row t is token t % batch of autoencoder t // batch; its entries are at ``starts[t]`` to
    ``starts[t + 1]``, with ``starts`` [n batch + 1] int64. ``feature`` int32 is the row of each
    entry's feature among those of all autoencoders, and ``flat`` int64 the entry's place among all
    [n, batch, d_sae]. [n_active] each
    """

    starts: NDArray[np.int64]
    feature: NDArray[np.int32]
    flat: NDArray[np.int64]


def entries(mask: Tensor) -> Entries:
    """The entries that a mask chooses. [n, batch, d_sae] bool"""
    _compile(np.dtype(np.float32))
    n, batch, d_sae = mask.shape
    on = mask.contiguous().view(torch.uint8).view(-1, d_sae).numpy()
    starts = np.zeros(n * batch + 1, np.int64)
    spread(len(on), on.size, lambda first, last: _count(on, starts[1:], first, last))
    np.cumsum(starts, out=starts)
    flat, feature = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.int32)
    fill = partial(_fill, on, batch, starts, flat, feature)
    spread(len(on), on.size, fill)
    return Entries(starts, feature, flat)


def over_features(chosen: Entries, values: Tensor, features: Tensor) -> Tensor:
    """For each token row, the sum of its entries' feature rows times their values.

    [n_active], [n d_sae, d] -> [n batch, d]
    """
    starts, n, d = chosen.starts, len(chosen.starts) - 1, features.shape[1]
    value, rows = _array(values), _array(features)
    summed, nothing = np.empty((n, d), value.dtype), np.zeros(d, value.dtype)

    def work(first: int, last: int) -> None:
        of_tokens = starts[first : last + 1]
        _decode(of_tokens, chosen.feature, value, rows, nothing, summed[first:last])

    spread(n, len(value) * d, work)
    return torch.from_numpy(summed)


def over_tokens(chosen: Entries, values: Tensor, tokens: Tensor, n: int, d_sae: int) -> Tensor:
    """For each feature row, the sum of its entries' token rows times their values.

    [n_active], [n batch, d] -> [n d_sae, d]
    """
    batch, d = len(tokens) // n, tokens.shape[1]
    value, rows = _array(values), _array(tokens)
    summed = np.zeros((n * d_sae, d), value.dtype)

    def work(first: int, last: int) -> None:
        """Sum the tokens of all autoencoders of which some features are in the range."""
        of_tokens = first // d_sae * batch, ((last - 1) // d_sae + 1) * batch
        _over_tokens(chosen.starts, chosen.feature, value, rows, summed, *of_tokens, first, last)

    spread(n * d_sae, len(value) * d, work)
    return torch.from_numpy(summed)


def dot(chosen: Entries, tokens: Tensor, features: Tensor) -> Tensor:
    """The inner product of each entry's token row and feature row.

    [n batch, d], [n d_sae, d] -> [n_active]
    """
    one, other = _array(tokens), _array(features)
    products = np.empty(len(chosen.feature), one.dtype)
    work = partial(_dot, chosen.starts, chosen.feature, one, other, products)
    spread(len(one), products.size * one.shape[1], work)
    return torch.from_numpy(products)


def add_features(
    active: Active, fold: Tensor, fired: Tensor, total: Tensor, largest: Tensor
) -> None:
    """Add active codes to the sums of their features.

    Args:
        active: the active codes.
        fold: the fold of each token's sequence. [n] int64
        fired: how often each feature was active, by fold. [n_folds, d_sae] int64
        total: the sum of each feature's codes. [d_sae] float64
        largest: the largest code of each feature. [d_sae] float32
    """
    _add_features(*active, *map(_array, (fold, fired, total, largest)))


def _array(tensor: Tensor) -> NDArray[Any]:
    """The memory of a tensor as a contiguous array; kernels for its type are ready afterwards."""
    array = tensor.detach().contiguous().numpy()
    if tensor.is_floating_point():
        _compile(array.dtype)
    return array


def _room(m: NDArray[Any]) -> Active:
    """Room for as many active codes as there can be."""
    # The kernels write a word's places before they know how many of them are active.
    feature = np.empty(m.size + _WORD, np.int32)
    return Active(np.empty(len(m) + 1, np.int64), feature, np.empty(m.size, m.dtype))


def _cut(active: Active, n: int) -> Active:
    return active._replace(feature=active.feature[:n], value=active.value[:n])
