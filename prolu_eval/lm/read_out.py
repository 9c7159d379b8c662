"""Computing logits from final hidden states, including all that a network does in between."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prolu_eval.lm.hooks import forwarding

# CUDA runs matrix products on slow kernels if their number of rows is no multiple of this.
_ROWS = 128


@torch.inference_mode()
def find_read_out(
    network: Any, trunk: nn.Module, vocab_size: int
) -> Callable[[Tensor], Tensor] | None:
    """A function that computes the network's logits from the trunk's hidden states.

    It is the output embedding alone, if that gives the logits of a whole pass; else the network's
    own forward with a trunk that returns the hidden states, which applies soft caps and scales;
    None if neither gives the logits of a whole pass.
    """
    if trunk is network:
        return None
    device = next(network.parameters()).device
    tokens = torch.arange(min(4, vocab_size), device=device)[None]
    expected: Tensor = network(input_ids=tokens, use_cache=False).logits
    output = trunk(input_ids=tokens, use_cache=False, return_dict=True)
    hidden, head = output.last_hidden_state, network.get_output_embeddings()

    def after_trunk(hidden: Tensor) -> Tensor:
        trunk_output = type(output)(last_hidden_state=hidden.reshape(1, -1, hidden.shape[-1]))
        with forwarding(trunk, lambda *_, **__: trunk_output):
            logits: Tensor = network(input_ids=tokens[:, :0], use_cache=False).logits
        return logits.reshape(*hidden.shape[:-1], -1)

    for read_out in (head, after_trunk):
        if read_out is not None and _same(read_out(hidden), expected):
            return _suited(read_out)
    return None


def _suited(read_out: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function; on CUDA, a linear head is padded so that fast kernels can run it."""
    if not isinstance(read_out, nn.Linear) or read_out.weight.device.type != "cuda":
        return read_out
    return padded_head(read_out)


def padded_head(head: nn.Linear) -> Callable[[Tensor], Tensor]:
    """A head's logits, by a product whose number of rows is a multiple of :data:`_ROWS`.

    Rows of zeros are added to the head's weights, and the columns of logits that they give are cut
    off again.
    """
    missing = -head.out_features % _ROWS
    if not missing:
        return head
    n = head.out_features
    weight = nn.functional.pad(head.weight.detach(), (0, 0, 0, missing))
    bias = None if head.bias is None else nn.functional.pad(head.bias.detach(), (0, missing))
    return lambda hidden: nn.functional.linear(hidden, weight, bias)[..., :n]


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(
        found.float(), expected.float(), rtol=1e-4, atol=1e-5, equal_nan=True
    )
