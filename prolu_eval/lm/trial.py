"""Trying a site on a few tokens before anything is measured at it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prolu_eval.lm.passes import Pass, Passes
from prolu_eval.lm.sites import Site, Unfit

# Few tokens, so that a trial costs next to nothing. Models have neither 2 * 13 nor 13 heads or
# experts, so that an axis of heads or experts is not mistaken for an axis of tokens.
_ROWS = torch.Size((2, 13))
# Exceptions that networks raise when they are run in a way, or in a precision, that they do not
# support.
FAILURES = (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError,
            NotImplementedError)  # fmt: skip


def tried(passes: Passes, site: Site, vocab_size: int) -> Site:
    """The site, after a trial has shown that it can be spliced and whether passes can resume there.

    A hook point's name says what it is in most architectures. It does not ensure that a block of
    this network calls the module once, with all tokens in order, and adds the module's output where
    the name says. The trial splices an activation and checks the result.

    Raises:
        Unfit: if splicing is not faithful there.
    """
    tokens = _tokens(vocab_size)
    site.read(_passed_once(passes, tokens, site, "nothing can take its place"), _ROWS)
    clean = passes.clean(tokens, site)
    if not bool(clean.hidden.isfinite().all()):
        return site  # the evaluation reports that its results are not finite
    if not site.centred and not _close(passes.splice(tokens, site, clean.activation), clean.hidden):
        raise Unfit("gives other hidden states even if its own activation is put back")
    other = _other(clean.activation)
    spliced = passes.splice(tokens, site, other)
    if torch.equal(spliced, clean.hidden):
        raise Unfit("is read by nothing that follows, so replacing it has no effect")
    if site.added_at is not None:
        _check_sum(passes, tokens, site, other)
    resumes = _resumes(passes, tokens, site, clean, other, spliced)
    return site if resumes else replace(site, resumable=False)


def read_in_trial(passes: Passes, site: Site, vocab_size: int) -> Site:
    """The site, after a trial has shown that its activations can be read.

    Raises:
        Unfit: if they cannot be read.
    """
    tokens = _tokens(vocab_size)
    value = _passed_once(passes, tokens, site, "it has no single activation to read")
    found = site.read(value, _ROWS)
    if site.norm is not None:
        _check_norm(passes, tokens, site, found)
    return site


def check_reaches(passes: Passes, source: Site, site: Site, vocab_size: int) -> None:
    """Check that the activation read at one site does not depend on the replacement at another.

    Raises:
        Unfit: if it does: the replacement, which is computed from that activation, could not be
            computed first.
    """
    tokens = _tokens(vocab_size)
    clean = passes.clean(tokens, site, {"source": source})
    if not bool(clean.hidden.isfinite().all()):
        return
    other = _other(clean.activation)
    (value,) = passes.spliced_passing(tokens, site, other, source.port)
    if not _close(source.read(value, _ROWS), clean.inputs["source"]):
        raise Unfit("comes after the site that is replaced, and so depends on the replacement")


def check_causal(passes: Passes, vocab_size: int) -> None:
    """Check that no position depends on a later one.

    Raises:
        Unfit: if one does, because the network then sees the next token that it should predict.
    """
    tokens = torch.arange(_ROWS[1]).remainder(vocab_size).repeat(2, 1)
    tokens[1, -1] = (tokens[1, -1] + 1) % vocab_size
    first, second = passes.run(tokens)[:, :-1]
    if bool(first.isfinite().all()) and not _close(first, second):
        raise Unfit("lets positions see later ones, so it predicts no next token")


def _tokens(vocab_size: int) -> Tensor:
    return torch.arange(_ROWS.numel()).remainder(vocab_size).view(_ROWS)


def _passed_once(passes: Passes, tokens: Tensor, site: Site, otherwise: str) -> Any:
    seen = passes.passing(tokens, site.port)
    if len(seen) != 1:
        often = "is never passed" if not seen else f"is passed {len(seen)} times in one pass"
        raise Unfit(f"{often}, so {otherwise}")
    return seen[0]


def _check_norm(passes: Passes, tokens: Tensor, site: Site, normalised: Tensor) -> None:
    """Check that the norm's output is its computed result before its weights, scaled and shifted.

    If it is, each dimension of the output is, over all tokens, a constant multiple of the same
    dimension of that result, plus a constant.
    """
    (value,) = passes.passing(tokens, site.port._replace(side="output"))
    passed = replace(site, norm=None).read(value, _ROWS).flatten(0, 1)
    result = passed.double()
    x = normalised.flatten(0, 1).double()
    x, result = x - x.mean(0), result - result.mean(0)
    gain = (x * result).sum(0) / x.square().sum(0).clamp(min=1e-30)
    if bool(result.isfinite().all()) and not _close(x * gain, result.to(passed)):
        raise Unfit("is no norm followed by weights in this architecture")


def _other(activation: Tensor) -> Tensor:
    """Another activation of about the same size, which no norm maps to the same result."""
    size = activation.float().square().mean().sqrt().clamp(min=1e-3)
    ramp = torch.linspace(-1, 1, activation.shape[-1], device=activation.device) * size
    return 0.5 * activation.flip(-1) + ramp.to(activation)


def _check_sum(passes: Passes, tokens: Tensor, site: Site, replacement: Tensor) -> None:
    (value,) = passes.spliced_passing(tokens, site, replacement, site.port)
    found = site.read(value, tokens.shape)
    wanted = replacement - replacement.mean(-1, keepdim=True) if site.centred else replacement
    if not _close(found, wanted):
        raise Unfit("is not the sum of the stream and the attention's output in this architecture")


def _resumes(
    passes: Passes, tokens: Tensor, site: Site, clean: Pass, replacement: Tensor, spliced: Tensor
) -> bool:
    try:
        resumed = passes.resume(tokens, site, clean, replacement)
    except FAILURES:
        return False  # the network needs more from its blocks than a residual stream
    return _close(resumed, spliced)


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal up to rounding: the norm of their difference is small."""
    if found.shape != expected.shape:
        return False
    difference = (found.double() - expected.double()).norm()
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    return bool(difference <= tolerance * expected.double().norm())
