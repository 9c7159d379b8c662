"""Checkpoints as other libraries lay them out, written without those libraries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_SAE = 6, 10

Tensors = dict[str, Tensor]


def matrices(seed: int = 0, d_in: int = D_IN, d_sae: int = D_SAE) -> Tensors:
    """W_enc, b_enc, W_dec and b_dec with random values; the decoder's rows are not of unit norm."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "W_enc": normal(d_in, d_sae),
        "b_enc": 0.3 * normal(d_sae),
        "W_dec": normal(d_sae, d_in),
        "b_dec": 0.3 * normal(d_in),
    }


def gates(seed: int = 1) -> Tensors:
    """b_gate, b_mag and r_mag of a gated autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    b_gate, b_mag, r_mag = 0.3 * torch.randn(3, D_SAE, generator=generator)
    return {"b_gate": b_gate, "b_mag": b_mag, "r_mag": r_mag}


def thresholds() -> Tensors:
    """A threshold for each feature."""
    return {"threshold": torch.linspace(0.2, 1.2, D_SAE)}


def inputs(n: int = 64) -> Tensor:
    """Activations with a mean that is not zero and a scale that is not one. [n, d_in]"""
    return 1.7 * torch.randn(n, D_IN, generator=torch.Generator().manual_seed(9)) + 0.4


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def write_pt(path: Path, document: Any) -> None:
    """Write a file of torch.save, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(document, path)


def saelens(folder: Path, architecture: str, tensors: Tensors, **config: Any) -> Path:
    """A SAELens 6 checkpoint; the option ``metadata`` adds entries of its metadata."""
    metadata = {
        "sae_lens_version": "6.54.12",
        "model_name": "tiny",
        "hook_name": "blocks.1.hook_resid_post",
        "context_size": 32,
        "prepend_bos": False,
        **config.pop("metadata", {}),
    }
    document = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
        **config,
    }
    write_json(folder / "cfg.json", document)
    write_tensors(folder / "sae_weights.safetensors", tensors)
    return folder


def saelens_legacy(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """A flat SAELens checkpoint of before 6; an option None leaves the entry out."""
    document = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "model_name": "gpt2-small",
        "hook_name": "blocks.1.hook_resid_pre",
        "hook_layer": 1,
        "activation_fn_str": "relu",
        "normalize_activations": "none",
        "context_size": 128,
        "sae_lens_training_version": "3.2.0",
        **config,
    }
    write_json(folder / "cfg.json", {k: v for k, v in document.items() if v is not None})
    write_tensors(folder / "sae_weights.safetensors", tensors)
    return folder


def linear(tensors: Tensors) -> Tensors:
    """dictionary_learning's names for nn.Linear: matrices transposed, a separate decoder bias."""
    return {
        "encoder.weight": tensors["W_enc"].t().contiguous(),
        "encoder.bias": tensors["b_enc"],
        "decoder.weight": tensors["W_dec"].t().contiguous(),
    }


def linear_gated(tensors: Tensors, gate: Tensors) -> Tensors:
    """The state dict of dictionary_learning's GatedAutoEncoder."""
    own = {"r_mag": gate["r_mag"], "gate_bias": gate["b_gate"], "mag_bias": gate["b_mag"]}
    matrices = {n: t for n, t in linear(tensors).items() if n != "encoder.bias"}
    return matrices | own | {"decoder_bias": tensors["b_dec"]}


def dictionary_config(dict_class: str, trainer: str = "", **entries: Any) -> dict[str, Any]:
    """dictionary_learning's config.json."""
    buffer = entries.pop("buffer", {"d_submodule": D_IN, "io": "out", "ctx_len": 128})
    return {
        "trainer": {
            "trainer_class": trainer or None,
            "dict_class": dict_class,
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "layer": 1,
            "lm_name": "tiny",
            "submodule_name": "resid_post_layer_1",
            "seed": 3,
            "lr": 1e-3,
            **entries,
        },
        "buffer": buffer,
    }


def dictionary(folder: Path, dict_class: str, state: dict[str, Any], **entries: Any) -> Path:
    """A dictionary_learning checkpoint."""
    write_json(folder / "config.json", dictionary_config(dict_class, **entries))
    write_pt(folder / "ae.pt", state)
    return folder


def top_k(tensors: Tensors, k: int = 3, threshold: float = 0.8) -> dict[str, Tensor]:
    """The state dict that dictionary_learning's TopK and BatchTopK share."""
    return {
        **linear(tensors),
        "b_dec": tensors["b_dec"],
        "k": torch.tensor(k, dtype=torch.int32),
        "threshold": torch.tensor(threshold),
    }


def sparsify(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """A sparsify checkpoint; an option None leaves the entry out."""
    document = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": 0,
        "k": 3,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D_IN,
        **config,
    }
    write_json(folder / "cfg.json", {k: v for k, v in document.items() if v is not None})
    named = {name: tensors[name] for name in tensors if name not in ("W_enc", "b_enc")}
    named["encoder.weight"], named["encoder.bias"] = tensors["W_enc"].t(), tensors["b_enc"]
    write_tensors(folder / "sae.safetensors", named)
    return folder


def openai(path: Path, tensors: Tensors, **entries: Any) -> Path:
    """An OpenAI checkpoint: a state dict with entries that are no tensors."""
    state = {
        "pre_bias": tensors["b_dec"],
        "latent_bias": tensors["b_enc"],
        "encoder.weight": tensors["W_enc"].t().contiguous(),
        "decoder.weight": tensors["W_dec"].t().contiguous(),
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.int64),
        "latents_activation_frequency": torch.ones(D_SAE),
        "latents_mean_square": torch.ones(D_SAE),
        **entries,
    }
    write_pt(path, {name: value for name, value in state.items() if value is not None})
    return path


def gemma_scope(folder: Path, tensors: Tensors) -> Path:
    """A Gemma Scope checkpoint: arrays and no configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: t.numpy() for name, t in tensors.items()})  # type: ignore[arg-type]
    return folder


def e2e(folder: Path, positions: dict[str, Tensors], **config: Any) -> Path:
    """An e2e_sae run: several autoencoders in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    state: Tensors = {}
    for position, tensors in positions.items():
        state |= {
            f"{position}.encoder.0.weight": tensors["W_enc"].t().contiguous(),
            f"{position}.encoder.0.bias": tensors["b_enc"],
            f"{position}.decoder.weight": tensors["W_dec"].t().contiguous(),
            f"{position}.decoder.bias": tensors["b_dec"],
        }
    torch.save(state, folder / "samples_400.pt")
    document = {
        "tlens_model_name": "gpt2-small",
        "saes": {"sae_positions": list(positions), "dict_size_to_input_ratio": 60},
        "loss": {"sparsity": {"coeff": 1.5, "p_norm": 1.0}, "logits_kl": {"coeff": 1.0}},
        "train_data": {"dataset_name": "some/text", "n_ctx": 1024},
        "lr": 5e-4,
        "seed": 2,
        **config,
    }
    (folder / "final_config.yaml").write_text(yaml.safe_dump(document))
    return folder


def qwen_scope(path: Path, tensors: Tensors) -> Path:
    """A Qwen Scope checkpoint: both matrices transposed, and no configuration."""
    transposed = {n: t.t().contiguous() if n[0] == "W" else t for n, t in tensors.items()}
    write_pt(path, transposed)
    return path


def llama_scope(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """A Llama Scope checkpoint; an option None leaves the entry out."""
    document = {
        "d_model": D_IN,
        "d_sae": D_SAE,
        "hook_point_in": "blocks.1.hook_resid_post",
        "hook_point_out": "blocks.1.hook_resid_post",
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.35,
        "use_decoder_bias": True,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 3.5, "out": 3.5},
        **config,
    }
    write_json(folder / "hyperparams.json", {k: v for k, v in document.items() if v is not None})
    write_tensors(
        folder / "checkpoints" / "final.safetensors",
        linear(tensors) | {"decoder.bias": tensors["b_dec"]},
    )
    return folder


def llama_scope_r1(folder: Path, tensors: Tensors, *extra: Tensors, **config: Any) -> Path:
    """A checkpoint of Llama Scope's R1-Distill; tensors ``threshold`` become logarithms."""
    document = {
        "d_model": D_IN,
        "expansion_factor": 2,
        "hook_point_in": "blocks.1.hook_resid_post",
        "hook_point_out": "blocks.1.hook_resid_post",
        "act_fn": "jumprelu",
        **config,
    }
    write_json(folder / "config.json", document)
    state = linear(tensors) | {"decoder.bias": tensors["b_dec"]}
    state["log_jumprelu_threshold"] = tensors["threshold"].log()
    for more in extra:
        state |= more
    write_tensors(folder / "sae_weights.safetensors", state)
    return folder


def goodfire(path: Path, tensors: Tensors, suffix: str = "_linear") -> Path:
    """Goodfire's state dict; without the suffix, qresearch's."""
    state = linear(tensors) | {"decoder.bias": tensors["b_dec"]}
    write_pt(path, {name.replace("coder.", f"coder{suffix}."): t for name, t in state.items()})
    return path


def kissane(folder: Path, name: str, tensors: Tensors, **config: Any) -> Path:
    """An attention autoencoder of Kissane's."""
    document = {
        "act_size": D_IN,
        "dict_size": D_SAE,
        "act_name": "blocks.1.attn.hook_z",
        "l1_coeff": 1.8,
        "lr": 0.0012,
        "seed": 49,
        **config,
    }
    write_json(folder / f"{name}_cfg.json", document)
    write_pt(folder / f"{name}.pt", tensors)
    return folder / f"{name}.pt"


def temporal(folder: Path) -> Path:
    """The files by which a temporal autoencoder is recognised."""
    write_tensors(folder / "latest_ckpt.safetensors", {"D": torch.ones(D_SAE, D_IN)})
    (folder / "conf.yaml").write_text(yaml.safe_dump({"sae": {"exp_factor": 2}}))
    return folder


def circuit_tracer(folder: Path, layer: int, tensors: Tensors, **config: Any) -> Path:
    """One layer's transcoder of a circuit-tracer set; W_skip [d_in, d_out] is transposed."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"threshold": "activation_function.threshold"}
    turned = {n: t.t() if n in ("W_enc", "W_skip") else t for n, t in tensors.items()}
    write_tensors(
        folder / f"layer_{layer}.safetensors", {names.get(n, n): t for n, t in turned.items()}
    )
    document = {
        "model_name": "Qwen/Qwen3-4B",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": "qwen3-4b",
        **config,
    }
    (folder / "config.yaml").write_text(json.dumps(document))  # which is YAML
    return folder / f"layer_{layer}.safetensors"


def clt_layers(n_layers: int, d: int = D_IN, n: int = D_SAE, *, jump: bool = True) -> list[Tensors]:
    """Weights of a cross-layer transcoder by circuit-tracer's names without the layer."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        {
            "W_enc": normal(n, d),
            "b_enc": 0.3 * normal(n),
            **({"threshold": 0.1 + normal(n).abs()} if jump else {}),
            "b_dec": 0.3 * normal(d),
            "W_dec": 0.3 * normal(n, n_layers - i, d),
        }
        for i in range(n_layers)
    ]


def circuit_tracer_clt(folder: Path, layers: list[Tensors], **config: Any) -> Path:
    """A cross-layer transcoder of circuit-tracer; without entries there is no config.yaml."""
    for i, tensors in enumerate(layers):
        own = {f"{name}_{i}": tensor for name, tensor in tensors.items() if name != "W_dec"}
        write_tensors(folder / f"W_enc_{i}.safetensors", own)
        write_tensors(folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": tensors["W_dec"]})
    if config:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def gemma_scope_2_layers(
    folder: Path, layers: list[Tensors], earlier: float = 0.0, **config: Any
) -> Path:
    """A cross-layer transcoder or crosscoder of Gemma Scope 2, from :func:`clt_layers`.

    The decoder for earlier layers has the value ``earlier``.
    """
    for i, tensors in enumerate(layers):
        before = torch.full((len(tensors["b_enc"]), i, tensors["W_dec"].shape[2]), earlier)
        own = {
            "w_enc": tensors["W_enc"].T,
            "w_dec": torch.cat([before, tensors["W_dec"]], 1),
            **{name: tensors[name] for name in ("b_enc", "threshold", "b_dec")},
        }
        if "W_skip" in tensors:
            own["affine_skip_connection"] = tensors["W_skip"]
        write_tensors(folder / f"params_layer_{i}.safetensors", own)
    if config:
        write_json(folder / "config.json", config)
    return folder


def crosscoder_state(n_sites: int, d: int = D_IN, n: int = D_SAE) -> Tensors:
    """The tensors of a crosscoder of dictionary_learning's forks."""
    generator = torch.Generator().manual_seed(6)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "encoder.weight": normal(n_sites, d, n) / (n_sites * d) ** 0.5,
        "encoder.bias": 0.3 * normal(n),
        "decoder.weight": 0.5 * normal(n_sites, n, d),
        "decoder.bias": 0.3 * normal(n_sites, d),
    }


def model_diff(
    folder: Path, state: Tensors, scales: tuple[float, float] | None = None, **config: Any
) -> Path:
    """Kissane's crosscoder of two models; ``scales``, which he does not store, go beside it."""
    document = {
        "seed": 49,
        "lr": 5e-5,
        "l1_coeff": 2,
        "d_in": D_IN,
        "dict_size": D_SAE,
        "seq_len": 1024,
        "enc_dtype": "fp32",
        "model_name": "gemma-2-2b",
        "site": "resid_pre",
        "dec_init_norm": 0.08,
        "hook_point": "blocks.14.hook_resid_pre",
        **config,
    }
    write_json(folder / "cfg.json", document)
    if scales is not None:
        write_json(folder / "activation_scaler.json", {"scaling_factor": list(scales)})
    write_pt(folder / "cc_weights.pt", state)
    return folder


def model_diff_state(d: int = D_IN, n: int = D_SAE) -> Tensors:
    """The tensors of Kissane's crosscoder, whose decoders are [d_sae, 2, d_in]."""
    state = crosscoder_state(2, d, n)
    return {
        "W_enc": state["encoder.weight"],
        "b_enc": state["encoder.bias"],
        "W_dec": state["decoder.weight"].transpose(0, 1).contiguous(),
        "b_dec": state["decoder.bias"],
    }


def llama_scope_transcoder(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """A Llama Scope checkpoint of LXTC, from the MLP's input to its output."""
    sites = {"hook_point_in": "blocks.1.ln2.hook_normalized",
             "hook_point_out": "blocks.1.hook_mlp_out"}  # fmt: skip
    norms = {"dataset_average_activation_norm": {"in": 3.5, "out": 0.7}}
    return llama_scope(folder, tensors, **{**sites, **norms, **config})


def crosscoder(folder: Path, state: Tensors, name: str = "ae.pt", **trainer: Any) -> Path:
    """A crosscoder of dictionary_learning's forks, or one in the hub's form of modules."""
    if name.endswith(".safetensors"):
        n_sites, d, n = state["encoder.weight"].shape
        write_tensors(folder / name, state)
        sizes = {"activation_dim": d, "dict_size": n, "num_layers": n_sites}
        write_json(folder / "config.json", sizes)
    else:
        write_pt(folder / name, state)
        write_json(folder / "config.json", {"trainer": {"dict_class": "CrossCoder", **trainer}})
    return folder
