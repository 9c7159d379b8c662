"""Where hook points are in a Hugging Face model, by TransformerLens's names and aliases.

A dictionary replaces a module's input or output. It may read, besides those, the result of a norm
before its weights, or the stream that enters the norm before the MLP.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Side = Literal["input", "output"]

# Sites that read or write the residual stream, which centred writing weights keep at mean zero.
_ON_THE_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out",
                  "hook_mlp_out", "hook_in", "hook_out", "attn.hook_out", "mlp.hook_out",
                  "attn.o.hook_out", "mlp.out.hook_out")  # fmt: skip
_VALUES_MIXED = ("attn.hook_z", "attn.o.hook_in")
# Parts of a model that encode inputs other than text; their blocks are not the decoder's.
_NO_ENCODER = r"(?!\S*(?:vision|visual|audio|encoder))"
# The output that a block adds to the stream that enters it, which gives hook_resid_mid: attention,
# or the layer that takes its place in blocks of hybrid models.
_FIRST_WRITERS = ("hook_attn_out", "attn.hook_out", "linear_attn.hook_out", "mamba.hook_out",
                  "mixer.hook_out", "ssm.hook_out", "conv.hook_out")  # fmt: skip
# Outputs that some blocks (Granite's) multiply by a constant before they add them to the stream,
# and the modules that compute these outputs.
_SCALED = {
    "hook_attn_out": ("attn.hook_out", "linear_attn.hook_out", "mamba.hook_out"),
    "hook_mlp_out": ("mlp.hook_out",),
}


# Activations of all heads side by side. One head's is named ``blocks.5.attn.hook_z[3]``.
_OF_HEADS = ("hook_z", "hook_q", "hook_k", "hook_v")


class Unfit(Exception):  # noqa: N818 - a finding; the model's name makes an error of it
    """Why a hook point cannot be spliced: the predicate of a sentence about the hook point."""


class Port(NamedTuple):
    """A module of the network, by path, and one of its sides, input or output."""

    module: str
    side: Side


class Norm(NamedTuple):
    """A norm without its weights: whether it subtracts the mean of x, and its epsilon."""

    centred: bool
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x, in float32 or higher precision. [..., d]"""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            wide = wide - wide.mean(-1, keepdim=True)
        return (wide * (wide.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()).to(x)


@dataclass(frozen=True)
class Site:
    """Where a hook point is in the network, and how it is spliced.

    ``block`` is the index of the first block that a replacement at the site can change, or the
    number of blocks if it can change none of them. ``residual`` says that the site is the stream
    that enters that block; resuming a pass then needs the replacement alone. ``added_at`` is set
    where the activation is the input or output of no module, but the sum of a module's output and
    of the stream that enters the block. To splice there, that output is replaced by the
    replacement and the stream by zero, so that their sum is exactly the replacement. ``scale`` is
    the constant by which a block multiplies such an output.

    ``centred`` and ``offset`` [d] turn the network's activations into those of a model whose
    weights TransformerLens has processed: its streams have mean zero over d_model (which layer
    norms do not notice), and its attention heads mix values without their bias.

    ``resumable`` is false where a pass cannot begin at the block; the whole pass is run instead.

    ``columns`` say where those begin and end that are meant, where it is not all of
    them: one attention head's, the others staying as the pass has them.

    ``norm`` is set where the site is inside a norm, before its weights: it is applied to the norm's
    input. Such a site can be read, but not replaced.
    """

    port: Port
    block: int
    residual: bool = False
    added_at: Port | None = None
    scale: float = 1.0
    centred: bool = False
    offset: Tensor | None = None
    resumable: bool = True
    columns: tuple[int, int] | None = None
    norm: Norm | None = None

    def read(self, value: Any, rows: torch.Size) -> Tensor:
        """The activation that autoencoders read, from the value that passes the port. [B, T, d]

        Args:
            value: the value that passes; some networks flatten its tokens [B * T, d], others keep
                heads in an axis of their own [B, T, n_heads, d_head].
            rows: shape [B, T] of the token ids.

        Raises:
            Unfit: if the value is no tensor of such a shape.
        """
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise Unfit("passes no tensor of activations")
        if value.ndim == 2 and value.shape[0] == rows.numel():
            value = value.unflatten(0, rows)
        if value.ndim < 3 or value.shape[:2] != rows:
            raise Unfit(f"passes a tensor of shape {list(value.shape)} for {list(rows)} tokens")
        activation: Tensor = value.flatten(2)
        if self.added_at is None and self.scale != 1:
            activation = activation * self.scale
        if self.offset is not None:
            activation = activation - self.offset.to(activation)
        if self.columns is not None:
            activation = activation[..., slice(*self.columns)]
        if self.norm is not None:
            activation = self.norm(activation)
        return activation - activation.mean(-1, keepdim=True) if self.centred else activation

    def written(self, activation: Tensor, value: Tensor) -> Tensor:
        """The value that has to pass instead of ``value`` so that the site has an activation.

        It shares no memory with ``activation``, so the network may change it in place.
        """
        offset = self.offset
        if self.columns is not None and offset is not None:
            offset = offset[slice(*self.columns)]
        if offset is not None:
            activation = activation + offset.to(activation)
        if self.columns is not None:
            whole = value.reshape(*activation.shape[:-1], -1).clone()
            whole[..., slice(*self.columns)] = activation.to(whole)
            return whole.reshape(value.shape)
        if self.scale != 1:
            activation = activation / self.scale
        return activation.reshape(value.shape).to(value, copy=True)


def bridge_over(place: str, network: Any) -> tuple[Any, dict[int, str]]:
    """TransformerLens's bridge over a second module tree, and the path of each HF module by id.

    A bridge rebuilds its tree of modules and changes the tree's configuration. It therefore gets a
    second tree, which shares the network's parameters (they are not copied) and has the same paths.
    The bridge is built from that tree alone: if it were built from a name, TransformerLens would
    set a BOS token for tokenizers that have none, and would install packages that the processor of
    a multimodal model needs.

    Raises:
        ValueError: if TransformerLens does not know the architecture.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.transformers import (
        determine_architecture_from_hf_config,
    )
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(network.config)
    config.architectures = [*(config.architectures or ()), type(network).__name__]
    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    twin.load_state_dict(network.state_dict(), assign=True)
    modules = {id(module): path for path, module in twin.named_modules()}
    bridge = build_bridge_from_module(
        twin,
        determine_architecture_from_hf_config(config),
        hf_config=config,
        device=str(next(network.parameters()).device),
        model_name=place,
    )
    return bridge, modules


def hook_sites(bridge: Any, modules: Mapping[int, str], *, processed: bool) -> dict[str, Site]:
    """The sites of all hook names and aliases in the blocks that are a module's input or output.

    ``processed`` asks for the activations of TransformerLens's processed weights.
    """
    ports: dict[int, Port] = {}
    for component in bridge.modules():
        path = modules.get(id(getattr(component, "original_component", None)))
        if path is not None:
            ports[id(component.hook_in)] = Port(path, "input")
            ports[id(component.hook_out)] = Port(path, "output")
    hooks = bridge.hook_dict
    found = {
        hook: ports[id(point)]
        for hook, point in hooks.items()
        if hook.startswith("blocks.") and id(point) in ports
    }
    multiplier = getattr(bridge.cfg, "residual_multiplier", None) or 1.0
    if multiplier != 1:
        found |= _scaled(found, len(bridge.blocks))
    sites = {}
    for hook, port in found.items():
        index, name = hook.removeprefix("blocks.").split(".", 1)
        block, added_at, residual = int(index), None, False
        if name == "hook_resid_mid":
            # TransformerLens's bridge puts this name on the MLP norm's input, where the skip
            # connection has already branched off.
            writers = (f"blocks.{index}.{writer}" for writer in _FIRST_WRITERS)
            added_at = next((found[writer] for writer in writers if writer in found), None)
            if added_at is None:
                continue
        elif port.module == modules[id(bridge.blocks[block].original_component)]:
            residual = True
        sites[hook] = Site(
            port,
            block + (residual and port.side == "output"),
            residual,
            added_at,
            scale=multiplier if name in (*_SCALED, "hook_resid_mid") else 1.0,
            centred=processed and name in _ON_THE_STREAM and bridge.cfg.normalization_type == "LN",
            offset=_value_bias(bridge, block) if processed and name in _VALUES_MIXED else None,
        )
    return sites


def one_head(site: Site, hook: str, head: int, d_head: int, width: int) -> Site:
    """The part of a site that belongs to one attention head.

    Args:
        site: the site of the activations of all heads.
        hook: its name.
        head: the head's number.
        d_head: the width of one head's activation.
        width: the width of all heads' activations together.

    Raises:
        Unfit: if the site does not hold the activations of heads, or has no such head.
    """
    if hook.rpartition(".")[2] not in _OF_HEADS or width % d_head:
        raise Unfit("is not the activation of attention heads, so no head of it can be chosen")
    if head >= width // d_head:
        raise Unfit(f"has {width // d_head} heads, counted from 0")
    return replace(site, columns=(head * d_head, (head + 1) * d_head))


def read_sites(bridge: Any, modules: Mapping[int, str], *, processed: bool) -> dict[str, Site]:
    """The sites of hook names in the bridge's blocks that can be read but not replaced.

    They are ``hook_mlp_in``, the stream as it enters the norm before the MLP (or the MLP itself,
    where no norm comes before it), and the ``hook_normalized`` of every norm: its result before its
    weights are applied, as in TransformerLens 3 and 4, so that it is the same whether the weights
    are folded into the next layer or not.
    """
    hooks = bridge.hook_dict
    norms = {
        id(component.hook_normalized): component
        for component in bridge.modules()
        if hasattr(component, "hook_normalized")
        and id(getattr(component, "original_component", None)) in modules
    }
    centred = processed and bridge.cfg.normalization_type == "LN"
    sites = {}
    for hook, point in hooks.items():
        if not hook.startswith("blocks."):
            continue
        block = int(hook.split(".")[1])
        if hook.endswith(".hook_mlp_in"):
            parts = [getattr(bridge.blocks[block], name, None) for name in ("ln2", "mlp")]
            entered = [id(getattr(part, "original_component", None)) for part in parts]
            paths = [modules[of] for of in entered if of in modules]
            if paths:
                sites[hook] = Site(Port(paths[0], "input"), block, centred=centred)
        elif id(point) in norms:
            component = norms[id(point)]
            module = component.original_component
            epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
            if isinstance(epsilon, float):
                norm = Norm(not component.uses_rms_norm, epsilon)
                sites[hook] = Site(Port(modules[id(module)], "input"), block, norm=norm)
    return sites


def module_site(network: Any, blocks: Sequence[str], name: str) -> Site | None:
    """The site of ``PATH.input`` or ``PATH.output`` in one of the blocks; None if there is none.

    A path may leave out its first parts, as ``layers.3.mlp`` for ``model.layers.3.mlp``. It may
    also be the longer path of the same module in a multimodal model.
    """
    path, _, side = name.rpartition(".")
    if side not in ("input", "output"):
        return None
    for block, stem in enumerate(blocks):
        stack = re.escape(".".join(stem.split(".")[-2:]))
        match = re.fullmatch(rf"(?:{_NO_ENCODER}[\w.]*\.)?{stack}((?:\..+)?)", path)
        if match is None:
            continue
        try:
            network.get_submodule(stem + match[1])
        except AttributeError:
            return None
        residual = not match[1]
        enters = block + (residual and side == "output")
        port = Port(stem + match[1], "output" if side == "output" else "input")
        return Site(port, enters, residual=residual)
    return None


def _scaled(found: Mapping[str, Port], n_blocks: int) -> dict[str, Port]:
    """The modules whose outputs a block scales before adding, by the name of the scaled hook."""
    scaled = {}
    for block in range(n_blocks):
        for name, modules in _SCALED.items():
            hooks = [f"blocks.{block}.{m}" for m in modules if f"blocks.{block}.{m}" in found]
            if hooks:
                scaled[f"blocks.{block}.{name}"] = found[hooks[0]]
    return scaled


def _value_bias(bridge: Any, block: int) -> Tensor | None:
    """The bias of a block's values, one head after another as W_O takes them. [n_heads * d_head]

    It includes the contribution of the preceding norm's bias, which folding adds to it. Attention
    weights sum to one, so the mixing of values leaves the bias unchanged.
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
