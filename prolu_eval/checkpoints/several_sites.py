"""The content that is common to formats of cross-layer transcoders and crosscoders."""

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
    """The content of a dictionary of several sites that does not normalise its inputs.

    Args:
        variant: which of the two variants it is.
        n_sites: the number of sites that it reads.
        d_in: the width of the activations at each site.
        d_sae: the number of features of all sites together.
        tensors: as in :class:`Content`.
        jumps: whether features have thresholds; if not, their activation is ReLU.
        about: as in :class:`Content`.
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
