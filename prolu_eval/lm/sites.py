"""Where hook points lie in a Hugging Face model, by TransformerLens's names and aliases."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Side = Literal["input", "output"]

# Sites that read or write the residual stream, which centred writing weights keep at mean zero.
_ON_THE_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out",
                  "hook_mlp_out", "hook_in", "hook_out", "attn.hook_out", "mlp.hook_out",
                  "attn.o.hook_out", "mlp.out.hook_out")  # fmt: skip
_VALUES_MIXED = ("attn.hook_z", "attn.o.hook_in")


class Port(NamedTuple):
    """A module of the network, by path, and the side of it that is meant."""

    module: str
    side: Side


@dataclass(frozen=True)
class Site:
    """Where a hook point lies, and how it is spliced.

    ``block`` is the first block that a replacement at the site can change; it is the number of
    blocks if only what follows them can change. ``residual`` says that the site is the stream that
    enters that block, so that resuming needs nothing but the replacement. ``added_at`` is set where
    no module's input or output can be replaced in the site's stead: the replacement's difference
    from the clean activation is then added to that module's output.

    ``centred`` and ``offset`` [d] lead from the network's activations to those of a model whose
    weights TransformerLens has processed: its streams have mean zero over d_model (layer norms do
    not see the difference), and its attention heads mix values without their bias.
    """

    port: Port
    block: int
    residual: bool = False
    added_at: Port | None = None
    centred: bool = False
    offset: Tensor | None = None

    def read(self, value: Tensor) -> Tensor:
        """The activation that autoencoders see, of what passes the port. [B, T, d]"""
        if self.offset is not None:
            value = value - self.offset.to(value)
        return value - value.mean(-1, keepdim=True) if self.centred else value

    def written(self, activation: Tensor) -> Tensor:
        """What has to pass the port for the site to have an activation. [B, T, d]"""
        return activation if self.offset is None else activation + self.offset.to(activation)


def bridge_over(place: str, network: nn.Module, tokenizer: Any) -> tuple[Any, dict[int, str]]:
    """TransformerLens's bridge over a second module tree, and the path of each HF module by id.

    A bridge rebuilds the tree that it is given and changes its configuration, so it gets one of its
    own, whose parameters are the network's (shared, not copied); paths are the same in both.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(copy.deepcopy(network.config))
    twin.load_state_dict(network.state_dict(), assign=True)
    modules = {id(module): path for path, module in twin.named_modules()}
    bridge = TransformerBridge.boot_transformers(
        place, hf_model=twin, tokenizer=tokenizer, device=str(next(network.parameters()).device)
    )
    return bridge, modules


def hook_sites(bridge: Any, modules: Mapping[int, str], *, processed: bool) -> dict[str, Site]:
    """Every hook name of the bridge's blocks, aliases too, that can be spliced faithfully.

    ``processed`` asks for the activations of TransformerLens's processed weights.
    """
    ports: dict[int, Port] = {}
    for component in bridge.modules():
        path = modules.get(id(getattr(component, "original_component", None)))
        if path is not None:
            ports[id(component.hook_in)] = Port(path, "input")
            ports[id(component.hook_out)] = Port(path, "output")
    sites = {}
    for hook, point in bridge.hook_dict.items():
        port = ports.get(id(point))
        if port is None or not hook.startswith("blocks."):
            continue
        index, name = hook.removeprefix("blocks.").split(".", 1)
        block, added_at, residual = int(index), None, False
        if name == "hook_resid_mid":
            # TransformerLens's bridge has the name on the MLP norm's input, past the skip.
            added_at = ports[id(bridge.hook_dict[f"blocks.{index}.hook_attn_out"])]
        elif port.module == modules[id(bridge.blocks[block].original_component)]:
            residual = True
        sites[hook] = Site(
            port,
            block + (residual and port.side == "output"),
            residual,
            added_at,
            centred=processed and name in _ON_THE_STREAM and bridge.cfg.normalization_type == "LN",
            offset=_value_bias(bridge, block) if processed and name in _VALUES_MIXED else None,
        )
    return sites


def _value_bias(bridge: Any, block: int) -> Tensor | None:
    """The bias of a block's values, head by head as its output projection takes them. [n_heads d]

    It includes what the norm before adds, which folding makes part of it. Attention weights sum to
    one, so it passes through the mixing of values unchanged.
    """
    attention = bridge.blocks[block].attn
    bias = attention.b_V
    shift = getattr(bridge.blocks[block].ln1.original_component, "bias", None)
    if shift is not None:
        shift = torch.einsum("d,hdk->hk", shift, attention.W_V)
    parts = [part.detach() for part in (bias, shift) if part is not None]
    if not parts:
        return None
    heads: Tensor = torch.stack([part.reshape(-1, bridge.cfg.d_head) for part in parts]).sum(0)
    return heads.repeat_interleave(bridge.cfg.n_heads // len(heads), 0).flatten()
