"""Computing reconstructions and sums from pre-activations, with the active codes alone.

The active codes of a token are stored in slots, in the order of their features. If a token has more
active codes than there are slots, every kernel computes them again from the pre-activations. That
is slower but gives the same result, and the host need not wait for the device to count codes.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from prolu_eval.activations import Thresholding

_TOKENS, _WORDS, _BLOCK = 4, 32, 1024
_SLOTS, _WIDTH, _FEATURES = 8, 1024, 8


class Slots(NamedTuple):
    """The active codes of tokens, in ``capacity`` slots per token.

    ``feature`` int32 and ``value`` float32 are [n, capacity]. A token uses its first ``n_active``
    [n] slots, of which those with value 0 are empty. If ``n_active`` exceeds the capacity, the
    token's slots are ignored, and its codes are computed by ``thresholding`` from the
    pre-activations ``m`` [n, d_sae].
    """

    feature: Tensor
    value: Tensor
    n_active: Tensor
    m: Tensor
    thresholding: Thresholding


@triton.jit
def _code(
    m, feature, inside, scale, shift, bound, gate,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_BOUND: tl.constexpr,
    HAS_GATE: tl.constexpr, BOTH_SIGNS: tl.constexpr,
):  # fmt: skip
    """The code at each position, and whether it is active; NaN counts as active."""
    v = m
    if HAS_SCALE:
        v = v * tl.load(scale + feature, mask=inside, other=0.0).to(tl.float32)
    if HAS_SHIFT:
        v = v + tl.load(shift + feature, mask=inside, other=0.0).to(tl.float32)
    size = tl.abs(v) if BOTH_SIGNS else v
    if HAS_BOUND:
        off = size <= tl.load(bound + feature, mask=inside, other=0.0).to(tl.float32)
    else:
        off = size <= 0.0
    if HAS_GATE:
        off = off | (m <= tl.load(gate + feature, mask=inside, other=0.0).to(tl.float32))
    on = inside & (off == 0)
    return tl.where(on, v, 0.0), on


@triton.jit
def _sieve(
    m, scale, shift, bound, gate, words, n, d_sae, n_words, m_stride,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_BOUND: tl.constexpr,
    HAS_GATE: tl.constexpr, BOTH_SIGNS: tl.constexpr, TOKENS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """Which codes are active, as one bit each, 32 in a word."""
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    bit = tl.arange(0, 32)
    feature = (word[:, None] * 32 + bit[None, :])[None, :, :]
    there = (token < n)[:, None, None]
    inside = there & (feature < d_sae)
    place = m + token[:, None, None] * m_stride + feature
    pre = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    _, on = _code(
        pre, feature, feature < d_sae, scale, shift, bound, gate,
        HAS_SCALE, HAS_SHIFT, HAS_BOUND, HAS_GATE, BOTH_SIGNS,
    )  # fmt: skip
    set_bits = tl.where(on & inside, 1 << bit[None, None, :], 0)
    tl.store(
        words + token[:, None] * n_words + word[None, :],
        tl.sum(set_bits, 2),
        mask=(token < n)[:, None] & (word < n_words)[None, :],
    )


@triton.jit
def _bits(word):
    """The number of bits that are set in each word. uint32 -> int32"""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _fill(
    m, scale, shift, bound, gate, words, slot_feature, slot_value, count,
    n_words, capacity, m_stride,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_BOUND: tl.constexpr,
    HAS_GATE: tl.constexpr, BOTH_SIGNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the active codes, which the bits of words mark, in slots, in order."""
    token = tl.program_id(0).to(tl.int64)
    found = 0
    for start in range(0, n_words, BLOCK):
        place = start + tl.arange(0, BLOCK)
        word = tl.load(words + token * n_words + place, mask=place < n_words, other=0)
        word = word.to(tl.uint32, bitcast=True)
        n_set = _bits(word)
        slot = found + tl.cumsum(n_set, 0) - n_set
        found += tl.sum(n_set, 0)
        for _ in range(tl.max(n_set, 0)):
            left = word != 0
            feature = place * 32 + _bits((word & (0 - word)) - 1)
            pre = tl.load(m + token * m_stride + feature, mask=left, other=0.0).to(tl.float32)
            value, _on = _code(
                pre, feature, left, scale, shift, bound, gate,
                HAS_SCALE, HAS_SHIFT, HAS_BOUND, HAS_GATE, BOTH_SIGNS,
            )  # fmt: skip
            kept = left & (slot < capacity)
            tl.store(slot_feature + token * capacity + slot, feature, mask=kept)
            tl.store(slot_value + token * capacity + slot, value, mask=kept)
            word = word & (word - 1)
            slot += 1
    tl.store(count + token, found)


@triton.jit
def _decode(
    m, scale, shift, bound, gate, slot_feature, slot_value, count, W_dec, b_dec, x_hat,
    d_sae, d_in, capacity, m_stride, W_stride,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_BOUND: tl.constexpr,
    HAS_GATE: tl.constexpr, BOTH_SIGNS: tl.constexpr,
    SLOTS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < d_in
    n_active = tl.load(count + token)
    total = tl.load(b_dec + column, mask=inside, other=0.0).to(tl.float32)
    if n_active <= capacity:
        for start in range(0, n_active, SLOTS):
            slot = start + tl.arange(0, SLOTS)
            place = token * capacity + slot
            value = tl.load(slot_value + place, mask=slot < n_active, other=0.0)
            feature = tl.load(slot_feature + place, mask=slot < n_active, other=0).to(tl.int64)
            # An empty slot adds nothing, even if the decoder row is infinite.
            rows = tl.load(
                W_dec + feature[:, None] * W_stride + column[None, :],
                mask=(value != 0.0)[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            total += tl.sum(value[:, None] * rows, 0)
    else:
        for start in range(0, d_sae, FEATURES):
            feature = start + tl.arange(0, FEATURES)
            there = feature < d_sae
            pre = tl.load(m + token * m_stride + feature, mask=there, other=0.0).to(tl.float32)
            value, on = _code(
                pre, feature, there, scale, shift, bound, gate,
                HAS_SCALE, HAS_SHIFT, HAS_BOUND, HAS_GATE, BOTH_SIGNS,
            )  # fmt: skip
            if tl.sum(on.to(tl.int32), 0) > 0:
                rows = tl.load(
                    W_dec + feature.to(tl.int64)[:, None] * W_stride + column[None, :],
                    mask=on[:, None] & inside[None, :],
                    other=0.0,
                ).to(tl.float32)
                total += tl.sum(value[:, None] * rows, 0)
    tl.store(x_hat + token * d_in + column, total.to(x_hat.dtype.element_ty), mask=inside)


@triton.jit
def _count(feature, value, on, factor, norms, fold, fired, total, largest, d_sae):
    """Add active codes to their features' sums, and return their terms of the token's sums."""
    size = tl.where(on, tl.abs(value), 0.0)
    weighted = size * tl.load(norms + feature, mask=on, other=0.0) * factor
    tl.atomic_add(fired + fold * d_sae + feature, tl.full(feature.shape, 1, tl.int64), mask=on)
    tl.atomic_add(total + feature, value.to(tl.float64), mask=on)
    tl.atomic_max(largest + feature, value, mask=on)
    return (
        tl.sum(on.to(tl.float32), 0),
        tl.sum(weighted, 0),
        tl.sum(size, 0),
        tl.sum(tl.sqrt(weighted), 0),
        tl.sum(tl.sqrt(size), 0),
    )


@triton.jit
def _sums(
    m, scale, shift, bound, gate, slot_feature, slot_value, count, norms, factors, folds,
    columns, fired, total, largest, n, d_sae, capacity, m_stride,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_BOUND: tl.constexpr,
    HAS_GATE: tl.constexpr, BOTH_SIGNS: tl.constexpr, HAS_FACTOR: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    n_active = tl.load(count + token)
    fold = tl.load(folds + token)
    factor = 1.0
    if HAS_FACTOR:
        factor = tl.load(factors + token).to(tl.float32)
    l0, l1, l1_raw, root, root_raw = 0.0, 0.0, 0.0, 0.0, 0.0
    if n_active <= capacity:
        for start in range(0, n_active, SLOTS):
            slot = start + tl.arange(0, SLOTS)
            there = slot < n_active
            value = tl.load(slot_value + token * capacity + slot, mask=there, other=0.0)
            feature = tl.load(slot_feature + token * capacity + slot, mask=there, other=0)
            a, b, c, d, e = _count(
                feature, value, value != 0.0, factor, norms, fold, fired, total, largest, d_sae
            )
            l0, l1, l1_raw, root, root_raw = l0 + a, l1 + b, l1_raw + c, root + d, root_raw + e
    else:
        for start in range(0, d_sae, BLOCK):
            feature = start + tl.arange(0, BLOCK)
            there = feature < d_sae
            pre = tl.load(m + token * m_stride + feature, mask=there, other=0.0).to(tl.float32)
            value, on = _code(
                pre, feature, there, scale, shift, bound, gate,
                HAS_SCALE, HAS_SHIFT, HAS_BOUND, HAS_GATE, BOTH_SIGNS,
            )  # fmt: skip
            a, b, c, d, e = _count(
                feature, value, on, factor, norms, fold, fired, total, largest, d_sae
            )
            l0, l1, l1_raw, root, root_raw = l0 + a, l1 + b, l1_raw + c, root + d, root_raw + e
    tl.store(columns + token, l0)
    tl.store(columns + n + token, l1)
    tl.store(columns + 2 * n + token, l1_raw)
    tl.store(columns + 3 * n + token, root)
    tl.store(columns + 4 * n + token, root_raw)


def compact(m: Tensor, thresholding: Thresholding, capacity: int) -> Slots:
    """The active codes of pre-activations [n, d_sae], which are read once.

    With a capacity of 0, pre-activations are not read here but in every kernel that needs codes.
    """
    n, d_sae = m.shape
    feature = torch.empty(n, capacity, dtype=torch.int32, device=m.device)
    value = torch.empty(n, capacity, dtype=torch.float32, device=m.device)
    if not capacity:
        count = torch.ones(n, dtype=torch.int32, device=m.device)
        return Slots(feature, value, count, m, thresholding)
    count = torch.empty(n, dtype=torch.int32, device=m.device)
    if n:
        n_words = triton.cdiv(d_sae, 32)
        words = torch.empty(n, n_words, dtype=torch.int32, device=m.device)
        parts, flags = _pointers(m, thresholding), _flags(thresholding)
        _sieve[(triton.cdiv(n, _TOKENS), triton.cdiv(n_words, _WORDS))](
            m, *parts, words, n, d_sae, n_words, m.stride(0), **flags,
            TOKENS=_TOKENS, WORDS=_WORDS, num_warps=4,
        )  # fmt: skip
        _fill[(n,)](
            m, *parts, words, feature, value, count, n_words, capacity, m.stride(0), **flags,
            BLOCK=min(_BLOCK, triton.next_power_of_2(n_words)), num_warps=4,
        )  # fmt: skip
    return Slots(feature, value, count, m, thresholding)


def dense(codes: Tensor) -> Slots:
    """Codes [n, d_sae] without slots, which kernels read directly."""
    return compact(codes, Thresholding(both_signs=True), 0)


def selected(m: Tensor, value: Tensor, feature: Tensor) -> Slots:
    """Slots of codes that are known already, k for each token; 0 means no code. [n, k] each"""
    count = torch.full((len(m),), value.shape[1], dtype=torch.int32, device=m.device)
    slots = feature.int().contiguous(), value.float().contiguous()
    return Slots(*slots, count, m, Thresholding())


def listed(slots: Slots) -> tuple[Tensor, Tensor, Tensor] | None:
    """Tokens, features and values of the active codes, one token after another. [n_active] each

    The result is None if a token has more active codes than slots. To know that, the host waits for
    the device.
    """
    n, capacity = slots.value.shape
    if n and int(slots.n_active.max()) > capacity:
        return None
    slot = torch.arange(capacity, device=slots.value.device)
    on = (slot < slots.n_active[:, None]) & (slots.value != 0)
    token, place = on.nonzero(as_tuple=True)
    return token, slots.feature[token, place].long(), slots.value[token, place]


def decode(slots: Slots, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """Reconstructions of normalised activations, in the dtype of the weights. [n, d_in]"""
    n, d_in = len(slots.n_active), W_dec.shape[1]
    W_dec = W_dec if W_dec.stride(1) == 1 else W_dec.contiguous()
    x_hat = torch.empty(n, d_in, dtype=W_dec.dtype, device=W_dec.device)
    width = min(_WIDTH, triton.next_power_of_2(d_in))
    if n:
        _decode[(n, triton.cdiv(d_in, width))](
            slots.m, *_pointers(slots.m, slots.thresholding), slots.feature, slots.value,
            slots.n_active, W_dec, b_dec, x_hat, slots.m.shape[1], d_in, slots.feature.shape[1],
            slots.m.stride(0), W_dec.stride(0), **_flags(slots.thresholding),
            SLOTS=_SLOTS, FEATURES=_FEATURES, WIDTH=width, num_warps=4,
        )  # fmt: skip
    return x_hat


def add_codes(
    slots: Slots,
    norms: Tensor,
    scale: Tensor | None,
    fold: Tensor,
    fired: Tensor,
    total: Tensor,
    largest: Tensor,
) -> Tensor:
    """Add the active codes of tokens to the sums of their features.

    Args:
        slots: the active codes.
        norms: the norms of the decoder's rows. [d_sae] float32
        scale: the factor from the codes' units to the model's; None means one. [n]
        fold: the fold of each token's sequence. [n] int64
        fired: how often each feature was active, by fold. [n_folds, d_sae] int64
        total: the sum of each feature's codes. [d_sae] float64
        largest: the largest code of each feature. [d_sae] float32

    Returns:
        For each token: the number of active codes, the sum of their magnitudes in the model's units
        and in their own, and the sums of the square roots of both. [5, n] float32
    """
    n, d_sae = slots.m.shape
    columns = torch.empty(5, n, dtype=torch.float32, device=norms.device)
    if n:
        _sums[(n,)](
            slots.m, *_pointers(slots.m, slots.thresholding), slots.feature, slots.value,
            slots.n_active, norms, norms if scale is None else scale.contiguous(), fold, columns,
            fired, total, largest, n, d_sae, slots.feature.shape[1], slots.m.stride(0),
            **_flags(slots.thresholding), HAS_FACTOR=scale is not None,
            SLOTS=64, BLOCK=_BLOCK, num_warps=2,
        )  # fmt: skip
    return columns


def _pointers(m: Tensor, by: Thresholding) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of a thresholding; a part that is None is replaced by a tensor that is not read."""
    parts = (by.scale, by.shift, by.bound, by.gate)
    first, second, third, fourth = (m if part is None else part for part in parts)
    return first, second, third, fourth


def _flags(by: Thresholding) -> dict[str, bool]:
    return {
        "HAS_SCALE": by.scale is not None,
        "HAS_SHIFT": by.shift is not None,
        "HAS_BOUND": by.bound is not None,
        "HAS_GATE": by.gate is not None,
        "BOTH_SIGNS": by.both_signs,
    }
