"""Hook points by the names that other libraries and Hugging Face models use for them.

A name that is unknown here has no hook point; none is guessed from a part of the name. The input or
output of any module can be named by the module's path, as in
``model.layers.3.pre_feedforward_layernorm.output``; :meth:`prolu_eval.lm.LanguageModel.site` looks
such a name up in the model.
"""

import re

ASKED_FOR = "give it with --hook"
# The decoder's blocks, wherever the model has them, without blocks that encode other inputs.
_STACK = r"(?:(?!\S*(?:vision|visual|audio|encoder))[\w.]*\.)?(?:layers|h|blocks|block)"
_MODULES = {
    rf"{_STACK}\.(\d+)": "blocks.{}.hook_resid_post",
    rf"{_STACK}\.(\d+)\.(?:mlp|block_sparse_moe|feed_forward)": "blocks.{}.hook_mlp_out",
    rf"{_STACK}\.(\d+)\.(?:attn|self_attn|attention|self_attention)": "blocks.{}.hook_attn_out",
    r"(?:[\w.]*\.)?(?:embed_tokens|wte|embed_in)": "hook_embed",
}
# The hook points of a module's input and output, if they mean the same in every architecture.
_PORTS = {
    rf"{_STACK}\.(\d+)": ("blocks.{}.hook_resid_pre", "blocks.{}.hook_resid_post"),
    rf"{_STACK}\.(\d+)\.(?:mlp|block_sparse_moe|feed_forward)": (
        "blocks.{}.mlp.hook_in", "blocks.{}.mlp.hook_out",
    ),
    rf"{_STACK}\.(\d+)\.(?:attn|self_attn|attention|self_attention)": (
        "blocks.{}.attn.hook_in", "blocks.{}.attn.hook_out",
    ),
}  # fmt: skip
_LENS = r"blocks\.\d+\.(?:[\w.]+\.)?hook_\w+|hook_embed|hook_pos_embed|ln_final\.hook_\w+"
_SITES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "resid": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "mlp_out": "hook_mlp_out",
    "attn": "hook_attn_out",
    "attn_out": "hook_attn_out",
    "attention": "hook_attn_out",
    "attention_out": "hook_attn_out",
}
_SITE = r"(?P<site>[a-z_]+?)"
_SITE_AND_LAYER = (rf"{_SITE}(?:_?layer)?_?(?P<layer>\d+)?", rf"(?:layer_?)?(?P<layer>\d+)_{_SITE}")

DOUBTFUL = (
    "on models with norms after a block's parts (Gemma 2 and 3) the library reads before that "
    "norm, the hook point after it"
)


def of_module(name: str) -> str | None:
    """The hook point of a Hugging Face module's output, by the module's path.

    It is None if the output is no hook point, or if the path is unknown.
    """
    for pattern, hook in _MODULES.items():
        if match := re.fullmatch(pattern, name):
            return hook.format(*match.groups())
    return None


def of_ports(path: str) -> tuple[str, str]:
    """The names of the input and the output of a Hugging Face module.

    They are hook points if these mean the same in every architecture, else paths.
    """
    for pattern, hooks in _PORTS.items():
        if match := re.fullmatch(pattern, path):
            return hooks[0].format(match[1]), hooks[1].format(match[1])
    return f"{path}.input", f"{path}.output"


def of_port(name: str) -> str:
    """The usual name of a site that may be named ``PATH.input`` or ``PATH.output``."""
    path, _, side = name.rpartition(".")
    if path and side in ("input", "output"):
        return of_ports(path)[side == "output"]
    return name


def is_hook(name: str) -> bool:
    """Whether a name is one of TransformerLens's and not the path of a module."""
    return re.fullmatch(_LENS, name) is not None


def hook_of(name: str | None) -> str | None:
    """The hook point of a name, which may be a hook point's name or a module's path."""
    return None if name is None else of_module(name) or name


def of_free_name(name: str, layer: int | None) -> str | None:
    """The hook point that a free name refers to; the configuration may give its layer.

    TransformerLens's names, module paths, and names such as ``resid_post_layer_2`` are understood.
    The result is None if the name is not understood, or if it contradicts ``layer``.
    """
    if re.fullmatch(_LENS, name):
        hook: str | None = name
    else:
        hook = of_module(name) or _of_site(name.lower(), layer)
    number = re.match(r"blocks\.(\d+)\.", hook or "")
    return None if number and layer not in (None, int(number[1])) else hook


def _of_site(name: str, layer: int | None) -> str | None:
    for pattern in _SITE_AND_LAYER:
        match = re.fullmatch(pattern, name)
        if match and match["site"] in _SITES:
            number = layer if match["layer"] is None else int(match["layer"])
            return None if number is None else f"blocks.{number}.{_SITES[match['site']]}"
    return None
