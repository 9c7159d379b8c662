"""Cross-entropy and KL divergence of two rows of logits, each logit read once.

With the running maximum m and sum z = sum exp(c - m) of the clean logits c, likewise of the spliced
logits s, and a = sum exp(c - m) (c - s)::

    CE = lse(s) - s[target],    KL = a / z - lse(c) + lse(s).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# This many lanes read a row; each keeps its own maximum and sums until the end of the row.
_LANES = 256
# The bytes of a row that a lane reads at one time.
_BYTES = 16


@triton.jit
def _shift(highest):
    """The number to subtract before the exponential; 0 until a finite logit was read."""
    return tl.where(highest == float("-inf"), 0.0, highest)


@triton.jit
def _follow(s, s_max, s_sum):
    highest = tl.maximum(s_max, tl.max(s, 1))
    shift = _shift(highest)
    s_sum = s_sum * tl.exp(s_max - shift) + tl.sum(tl.exp(s - shift[:, None]), 1)
    return highest, s_sum


@triton.jit
def _compare(c, s, c_max, c_sum, weighted):
    highest = tl.maximum(c_max, tl.max(c, 1))
    shift = _shift(highest)
    shrunk = tl.exp(c_max - shift)
    p = tl.exp(c - shift[:, None])
    # A token of probability zero contributes nothing, whatever its logit in the spliced pass.
    terms = tl.where(p == 0.0, 0.0, p * (c - s))
    c_sum = c_sum * shrunk + tl.sum(p, 1)
    weighted = tl.where(shrunk == 0.0, 0.0, weighted * shrunk) + tl.sum(terms, 1)
    return highest, c_sum, weighted


@triton.jit
def _losses(
    clean, spliced, target, ce, kl, n_logits, clean_stride, spliced_stride,
    WITH_KL: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    clean += row * clean_stride
    spliced += row * spliced_stride
    within = tl.arange(0, LANES)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    s_max = tl.full([LANES], float("-inf"), tl.float32)
    s_sum = tl.zeros([LANES], tl.float32)
    c_max = tl.full([LANES], float("-inf"), tl.float32)
    c_sum = tl.zeros([LANES], tl.float32)
    weighted = tl.zeros([LANES], tl.float32)
    # Without a mask, a lane reads several logits at once; only the last ones need a mask.
    whole = n_logits // (LANES * WIDTH) * (LANES * WIDTH)
    for start in range(0, whole, LANES * WIDTH):
        s = tl.load(spliced + start + within).to(tl.float32)
        s_max, s_sum = _follow(s, s_max, s_sum)
        if WITH_KL:
            c = tl.load(clean + start + within).to(tl.float32)
            c_max, c_sum, weighted = _compare(c, s, c_max, c_sum, weighted)
    if whole < n_logits:
        inside = whole + within < n_logits
        s = tl.load(spliced + whole + within, mask=inside, other=float("-inf")).to(tl.float32)
        s_max, s_sum = _follow(s, s_max, s_sum)
        if WITH_KL:
            c = tl.load(clean + whole + within, mask=inside, other=float("-inf")).to(tl.float32)
            c_max, c_sum, weighted = _compare(c, s, c_max, c_sum, weighted)
    highest = tl.max(s_max, 0)
    s_lse = highest + tl.log(tl.sum(s_sum * tl.exp(s_max - highest), 0))
    wanted = tl.load(target + row)
    tl.store(ce + row, s_lse - tl.load(spliced + wanted).to(tl.float32))
    if WITH_KL:
        highest = tl.max(c_max, 0)
        share = tl.exp(c_max - highest)
        total = tl.sum(c_sum * share, 0)
        gap = tl.sum(tl.where(share == 0.0, 0.0, weighted * share), 0) / total
        tl.store(kl + row, gap - (highest + tl.log(total)) + s_lse)


def cross_entropy_and_kl(
    clean: Tensor | None, spliced: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of spliced logits, and KL divergence of the clean logits from them, in nats.

    Args:
        clean: logits of the clean pass; None if the divergence is not needed. [n, vocab]
        spliced: logits of the spliced pass. [n, vocab]
        targets: the next tokens. [n] int64

    Returns:
        The cross-entropy and the divergence, [n] float32; the divergence is empty without clean
        logits.
    """
    n, n_logits = spliced.shape
    ce = torch.empty(n, dtype=torch.float32, device=spliced.device)
    kl = torch.empty_like(ce if clean is not None else ce[:0])
    other = spliced if clean is None else clean
    if n:
        _losses[(n,)](
            other, spliced, targets, ce, kl, n_logits, other.stride(0), spliced.stride(0),
            WITH_KL=clean is not None, LANES=_LANES, WIDTH=_BYTES // spliced.element_size(),
            num_warps=8,
        )  # fmt: skip
    return ce, kl
