"""Every architecture that TransformerLens knows, tried at every hook that prolu-eval offers."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from prolu_eval.errors import ModelError
from prolu_eval.lm import LanguageModel
from prolu_eval.lm.sites import Site

# The shapes of a tiny model, by the names that configurations have for them.
_SIZES = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "model_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("attention_hidden_size", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_heads"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts", "num_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("linear_num_value_heads", "rotary_dim", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_dt_rank",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_k", "expand"), 2),
    **dict.fromkeys(("mamba_expand", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("qk_head_dim", "mamba_d_state", "state_size", "sliding_window"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "chunk_size"), 8),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("n_group", "topk_group", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("first_k_dense_replace", "decoder_sparse_step"), 1),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
}
_LATENT = {"num_key_value_heads": 4}
_BOTH_KINDS = {"layer_types": ["linear_attention", "full_attention"]}
_CONVOLUTIONS = {"layer_types": ["conv", "full_attention"]}
# Further settings of some configurations, so that blocks of each kind occur.
_MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "glm_moe_dsa"), _LATENT),
    "youtu": _LATENT,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_text": {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": {"residual_multiplier": 0.3},
    "granitemoe": {"residual_multiplier": 0.3},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "residual_multiplier": 0.3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
              "expert_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2": _CONVOLUTIONS,
    "lfm2_moe": {**_CONVOLUTIONS, "num_dense_layers": 1},
    "mamba2": {"head_dim": 16},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    **dict.fromkeys(("olmo_hybrid", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _BOTH_KINDS),
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "zamba2": {"layers_block_type": ["hybrid", "hybrid"], "num_mem_blocks": 1},
}  # fmt: skip
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
           "num_attention_heads": 4, "image_size": 28, "patch_size": 14, "depth": 1,
           "num_heads": 4, "out_hidden_size": 32}  # fmt: skip
_IDS = {"image_token_id": 61, "image_token_index": 61}
# Further settings of multimodal models, besides a text model and a vision model.
_MULTIMODAL: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", "siglip_vision_model", {"mm_tokens_per_image": 4, **_IDS}),
    "idefics3": ("llama", "idefics3_vision", _IDS),
    "llava": ("llama", "clip_vision_model", _IDS),
    "llava_next": ("llama", "clip_vision_model", _IDS),
    "llava_onevision": ("qwen2", "siglip_vision_model", _IDS),
    "mistral3": ("mistral", "pixtral", {"spatial_merge_size": 1, **_IDS}),
}
_MOST_PARAMETERS = 3_000_000
USUAL = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post",
         "attn.hook_z", "mlp.hook_post")  # fmt: skip


def known() -> dict[str, str]:
    """Classes of transformers that the installed TransformerLens knows, with their model types."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    found: dict[str, str] = {}
    mappings = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    for mapping in mappings:
        for model_type, names in mapping.items():
            for name in [names] if isinstance(names, str) else names:
                shared = name in found or (name == "LlamaForCausalLM" and model_type != "llama")
                if name in SUPPORTED_ARCHITECTURES and not shared:
                    found[name] = model_type
    return dict(sorted(found.items()))


def tiny_config(architecture: str) -> Any:
    """A configuration of two small blocks of an architecture.

    Raises:
        LookupError: if none is known here, because its other parts would be large.
    """
    model_type = known()[architecture]
    cls = CONFIG_MAPPING[model_type]
    if architecture.endswith("ConditionalGeneration"):
        text_class = getattr(cls, "sub_configs", {}).get("text_config")
        usual: tuple[str, str | None, dict[str, Any]]
        usual = (getattr(text_class, "model_type", ""), None, {})
        text, vision, more = _MULTIMODAL.get(model_type, usual)
        if text not in CONFIG_MAPPING:
            raise LookupError("no tiny configuration: its parts for other inputs are large")
        kind = {} if vision is None else {"model_type": vision}
        parts = {"text_config": {"model_type": text, **_sizes(text)}}
        return cls(**parts, vision_config=kind | _VISION, **more)
    if f"{model_type}_text" in CONFIG_MAPPING:
        model_type = f"{model_type}_text"
    return CONFIG_MAPPING[model_type](**_sizes(model_type))


def _sizes(model_type: str) -> dict[str, Any]:
    cls = CONFIG_MAPPING[model_type]
    fields = {*inspect.signature(cls.__init__).parameters, *cls.__annotations__}
    fields |= set(getattr(cls, "__dataclass_fields__", {}))
    names = fields - set(cls.attribute_map or {})
    return {n: v for n, v in _SIZES.items() if n in names} | _MORE.get(model_type, {})


def save_tiny(architecture: str, folder: Path) -> None:
    """Write a random model of an architecture, without a tokenizer.

    Raises:
        LookupError: as :func:`tiny_config`.
    """
    config = tiny_config(architecture)
    causal = type(config) in AutoModelForCausalLM._model_mapping
    kind = AutoModelForCausalLM if causal else AutoModelForImageTextToText
    with torch.device("meta"):
        n = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    if n > _MOST_PARAMETERS:
        raise LookupError(f"no tiny configuration is known here ({n} parameters)")
    torch.manual_seed(0)
    model = kind.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0 if parameter.ndim > 1 else 1, 0.15)
    model.save_pretrained(folder)


@dataclass(frozen=True)
class Tried:
    """The result for each hook of an architecture: None if it was spliced, else the reason.

    ``adds_up`` says whether hook_resid_post is the sum of hook_resid_pre, hook_attn_out and
    hook_mlp_out in every block that has them all.
    """

    hooks: Mapping[str, str | None]
    whole_passes: frozenset[str] = frozenset()
    adds_up: bool | None = None
    refused: str | None = None

    @property
    def wrong(self) -> dict[str, str]:
        """Hooks whose splice differs from plain hooks."""
        return {h: r for h, r in self.hooks.items() if r is not None and r.startswith("WRONG")}


def try_architecture(architecture: str, folder: Path) -> Tried:
    """Splice every hook of a tiny model, and compare with plain hooks on its modules."""
    try:
        save_tiny(architecture, folder)
    except LookupError as error:
        return Tried({}, refused=str(error.args[0]))
    except Exception as error:  # noqa: BLE001 (configurations of all kinds raise anything)
        return Tried({}, refused=f"no tiny configuration is known here ({type(error).__name__})")
    try:
        model = _load(folder)
    except ModelError as error:
        return Tried({}, refused=error.reason)
    results: dict[str, str | None] = {}
    first_of: dict[tuple[Any, ...], str] = {}
    whole = set()
    for hook in model.hooks:
        planned = model._sites[hook]
        key = planned.port, planned.added_at, planned.scale, planned.residual
        if (same := first_of.setdefault(key, hook)) != hook:
            results[hook] = results[same]
        else:
            results[hook] = _try_hook(model, hook)
        if results[hook] is None and not model.site(hook).resumable:
            whole.add(hook)
    for hook in sorted(model._named - set(model.hooks)):
        if hook.startswith("blocks."):
            with contextlib.suppress(ModelError):
                model.site(hook)
                results[hook] = "WRONG: offered, but no module's input or output"
    return Tried(results, frozenset(whole), _adds_up(model, results))


def _load(folder: Path) -> LanguageModel:
    """The model in float64, or in float32 if it does not run in float64."""
    try:
        return LanguageModel.load(str(folder), device="cpu", dtype=torch.float64)
    except ModelError as error:
        if "cannot be run in float64" not in error.reason:
            raise
    return LanguageModel.load(str(folder), device="cpu", dtype=torch.float32)


def _try_hook(model: LanguageModel, hook: str) -> str | None:
    tokens = torch.randint(1, 60, (2, 11), generator=torch.Generator().manual_seed(1))
    try:
        site = model.site(hook)
    except ModelError as error:
        return error.reason.partition("spliced: it ")[2] or error.reason
    clean = model.clean(tokens, hook)
    with plain(model, site, lambda value: value):
        expected = model._network(input_ids=tokens, use_cache=False).logits
    if _error(model.logits(clean.hidden), expected) > 1e-5:
        return "WRONG: clean logits"
    replacement = clean.activation * torch.linspace(-1, 2, clean.activation.shape[-1])
    zero = torch.zeros_like(clean.activation)
    for what, wanted in (("its own activation", clean.activation), ("another", replacement)):
        found = model.logits(model.resume(tokens, hook, clean, wanted.clone()))
        expected = _reference(model, site, tokens, clean.activation, wanted)
        if _error(found, expected) > 1e-5:
            return f"WRONG: {what} put back is off by {_error(found, expected):.1e}"
    kept = clean.activation.clone()
    model.resume(tokens, hook, clean, zero)
    if not torch.equal(kept, clean.activation) or zero.any():
        return "WRONG: the network calculated in what was captured or given"
    return None


def _reference(
    model: LanguageModel, site: Site, tokens: Tensor, activation: Tensor, wanted: Tensor
) -> Tensor:
    """Logits of the network as it is, with one plain hook on one of its modules."""
    if site.added_at is None:

        def put(value: Tensor) -> Tensor:
            return (wanted / site.scale).reshape(value.shape).clone()

    else:

        def put(value: Tensor) -> Tensor:
            return value + ((wanted - activation) / site.scale).reshape(value.shape)

    with plain(model, site, put):
        logits: Tensor = model._network(input_ids=tokens, use_cache=False).logits
    return logits


@contextlib.contextmanager
def plain(model: LanguageModel, site: Site, put: Any) -> Iterator[None]:
    """A forward hook of torch, on the module and the side that the site says."""
    port = site.port if site.added_at is None else site.added_at
    module = model._network.get_submodule(port.module)

    def on_output(_: Any, arguments: Any, output: Any) -> Any:
        several = isinstance(output, tuple | list)
        return type(output)((put(output[0]), *output[1:])) if several else put(output)

    def on_input(_: Any, arguments: Any, keywords: Any) -> Any:
        if arguments:
            return (put(arguments[0]), *arguments[1:]), keywords
        name = "hidden_states" if "hidden_states" in keywords else next(iter(keywords))
        return arguments, {**keywords, name: put(keywords[name])}

    if port.side == "output":
        handle = module.register_forward_hook(on_output)
    else:
        handle = module.register_forward_pre_hook(on_input, with_kwargs=True)
    try:
        with torch.no_grad():
            yield
    finally:
        handle.remove()


def _adds_up(model: LanguageModel, results: Mapping[str, str | None]) -> bool | None:
    tokens = torch.arange(1, 23).view(2, 11)
    names = ("hook_resid_post", "hook_resid_pre", "hook_attn_out", "hook_mlp_out")
    found = []
    for block in range(model.n_blocks):
        hooks = [f"blocks.{block}.{name}" for name in names]
        if all(hook in results and results[hook] is None for hook in hooks):
            post, *parts = (model.activations(tokens, hook) for hook in hooks)
            same = all(part.shape == post.shape for part in parts)
            found.append(same and _error(sum(parts, torch.zeros_like(post)), post) < 1e-5)
    return all(found) if found else None


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
