"""What the formats of cross-layer transcoders and crosscoders describe alike."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from prolu_eval.checkpoints.base import Content


def of_several_sites(
    variant: Literal["cross_layer", "crosscoder"],
    n_sites: int,
    d_in: int,
    d_sae: int,
    tensors: Callable[[], Mapping[str, Tensor]],
    *,
    jumps: bool,
    about: Mapping[str, Any],
    **more: Any,
) -> Content:
    """A dictionary of several sites, which takes its inputs as they come.

    Args:
        variant: which of the two it is.
        n_sites: how many it reads.
        d_in: width of the activations at each.
        d_sae: number of its features in all.
        tensors: as of :class:`Content`.
        jumps: whether features have thresholds; if not, they are rectified.
        about: as of :class:`Content`.
        more: other fields of :class:`Content`.
    """
    return Content(
        variant,
        d_in,
        d_sae,
        tensors,
        options={"n_layers": n_sites, "activation": "jumprelu" if jumps else "relu"},
        apply_b_dec_to_input=False,
        about={"weight_processing": "none", **about},
        **more,
    )
