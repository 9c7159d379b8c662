"""Cross-entropy and KL divergence of two rows of logits, each logit read once.

With the running maximum m and sum z = sum exp(c - m) of the clean logits c, likewise of the spliced
logits s, and a = sum exp(c - m) (c - s)::

    CE = lse(s) - s[target],    KL = a / z - lse(c) + lse(s).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit
def _losses(
    clean, spliced, target, ce, kl, n_logits, clean_stride, spliced_stride,
    WITH_KL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    clean += row * clean_stride
    spliced += row * spliced_stride
    within = tl.arange(0, BLOCK)
    s_max = tl.full([], float("-inf"), tl.float32)
    c_max = tl.full([], float("-inf"), tl.float32)
    s_sum = tl.full([], 0.0, tl.float32)
    c_sum = tl.full([], 0.0, tl.float32)
    weighted = tl.full([], 0.0, tl.float32)
    for start in range(0, n_logits, BLOCK):
        inside = start + within < n_logits
        s = tl.load(spliced + start + within, mask=inside, other=float("-inf")).to(tl.float32)
        highest = tl.maximum(s_max, tl.max(s, 0))
        # Before the first finite logit both are -inf, whose difference is no number.
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        s_sum = s_sum * tl.exp(s_max - shift) + tl.sum(tl.exp(s - shift), 0)
        s_max = highest
        if WITH_KL:
            c = tl.load(clean + start + within, mask=inside, other=float("-inf")).to(tl.float32)
            highest = tl.maximum(c_max, tl.max(c, 0))
            shift = tl.where(highest == float("-inf"), 0.0, highest)
            shrunk = tl.exp(c_max - shift)
            p = tl.exp(c - shift)
            # A token of probability zero contributes nothing, whatever the spliced pass says.
            terms = tl.where(p == 0.0, 0.0, p * (c - s))
            c_sum = c_sum * shrunk + tl.sum(p, 0)
            weighted = tl.where(shrunk == 0.0, 0.0, weighted * shrunk) + tl.sum(terms, 0)
            c_max = highest
    s_lse = s_max + tl.log(s_sum)
    wanted = tl.load(target + row)
    tl.store(ce + row, s_lse - tl.load(spliced + wanted).to(tl.float32))
    if WITH_KL:
        tl.store(kl + row, weighted / c_sum - (c_max + tl.log(c_sum)) + s_lse)


def cross_entropy_and_kl(
    clean: Tensor | None, spliced: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of spliced logits, and the KL divergence of the clean ones from them, in nats.

    Args:
        clean: logits of the clean pass, None if the divergence is not asked for. [n, vocab]
        spliced: logits of the spliced pass. [n, vocab]
        targets: next tokens. [n] int64

    Returns:
        Both [n] float32; the second is empty where it is not asked for.
    """
    n, n_logits = spliced.shape
    ce = torch.empty(n, dtype=torch.float32, device=spliced.device)
    kl = torch.empty_like(ce if clean is not None else ce[:0])
    other = spliced if clean is None else clean
    if n:
        _losses[(n,)](
            other, spliced, targets, ce, kl, n_logits, other.stride(0), spliced.stride(0),
            WITH_KL=clean is not None, BLOCK=_BLOCK, num_warps=8,
        )  # fmt: skip
    return ce, kl
