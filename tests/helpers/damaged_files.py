"""Checkpoints of every format as documents, and how to damage them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from prolu_eval.checkpoints.native import save_run
from prolu_eval.runs import RunConfig
from tests.helpers import foreign_files as files
from tests.helpers.random_saes import OPTIONS, random_sae

W, G, T = files.matrices(), files.gates(), files.thresholds()
SCALARS: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 10, 2**31, 2**70, -0.5, 0.5, 2.5, 1e308, float("nan"),
    float("inf"), "", "topk", "none", "layer_norm", "x\n\ud800", "../..", "blocks.1.hook_z",
    [], [1], [1, None], ["a"], {}, {"k": 2}, {"k": "x"}, [[[[]]]],
]  # fmt: skip
KEYS = [
    "architecture", "variant", "options", "d_in", "d_sae", "k", "metadata", "normalize_activations",
    "normalisation", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "activation_fn_str",
    "activation_fn_kwargs", "hook_name", "hook_head_index", "hook_name_out", "seqpos_slice",
    "trainer", "buffer", "dict_class", "trainer_class", "layer", "io", "activation", "signed",
    "transcode", "skip_connection", "loss", "sparsity", "train_data", "model_name", "group_sizes",
    "matryoshka_widths", "scaling_factor", "has_whitening", "hf_hook_point_in", "max_iterations",
    "residual_threshold", "schema_version", "training_architecture", "jump_relu_threshold",
    "dataset_average_activation_norm", "hook_point_in", "hook_point_out", "act_fn", "act_size",
    "dict_size", "act_name", "in", "out", "hook_point", "l1_coeff",
]  # fmt: skip
NAMES = [
    "W_enc", "W_dec", "b_enc", "b_dec", "threshold", "topk_threshold", "log_threshold", "k",
    "b_gate", "b_mag", "r_mag", "W_skip", "bias", "encoder.weight", "encoder.bias", "ae", "mean",
    "decoder.weight", "decoder.bias", "group_sizes", "norm_factor", "pre_bias", "latent_bias",
    "activation", "activation_state_dict", "scaling_factor", "w_enc", "x.encoder.0.weight",
    "log_jumprelu_threshold", "encoder_linear.weight", "decoder_linear.bias", "w_dec",
    "activation_mean", "activation_global_scale", "code_normalization_id",
]  # fmt: skip
DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64,
    torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64,
]  # fmt: skip


def parsed(folder: Path) -> dict[str, Any]:
    """A checkpoint's files as documents that can be changed, by path."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            found[name] = json.loads(path.read_text())
        elif path.suffix == ".yaml":
            found[name] = yaml.safe_load(path.read_text())
        elif path.suffix == ".safetensors":
            found[name] = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {n: torch.from_numpy(arrays[n]) for n in arrays}
        else:
            found[name] = torch.load(path, weights_only=True)
    return found


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(document))
    elif path.suffix == ".yaml":
        path.write_text(json.dumps(document))  # which is YAML, and quick to write
    elif path.suffix == ".safetensors":
        tensors = {n: t.contiguous() for n, t in document.items() if isinstance(t, Tensor)}
        save_file(tensors, path)
    elif path.suffix == ".npz":
        arrays = {n: t.numpy() for n, t in document.items() if in_numpy(t)}
        np.savez(path, **arrays)
    else:
        torch.save(document, path)


def in_numpy(value: Any) -> bool:
    absent = (torch.bfloat16, torch.float8_e4m3fn)
    return isinstance(value, Tensor) and value.dtype not in absent


def native_seeds(root: Path) -> Iterator[Path]:
    for i, (variant, options) in enumerate(OPTIONS):
        config = RunConfig(variant="", d_in=1, d_sae=1, hook="blocks.0.hook_resid_pre")
        save_run(root / f"native-{i}", random_sae(variant, options, seed=i), config)
        yield root / f"native-{i}"


def saelens_seeds(root: Path) -> Iterator[Path]:
    unbiased = {n: t for n, t in W.items() if n != "b_enc"}
    cases: list[tuple[str, dict[str, Tensor], dict[str, Any]]] = [
        ("standard", W, {}),
        ("gated", unbiased | G, {}),
        ("jumprelu", W | T, {}),
        ("topk", W, {"k": 3, "rescale_acts_by_decoder_norm": True}),
        ("abstopk", W, {"k": 3}),
        ("matryoshka_batchtopk", W | {"topk_threshold": torch.tensor(0.5)}, {"k": 2.5}),
        ("matching_pursuit", {n: W[n] for n in ("W_dec", "b_dec")}, {"max_iterations": 3}),
        ("temporal", W, {}),
        ("jumprelu_skip_transcoder", W | T | {"W_skip": W["W_dec"][:6].clone()}, {"d_out": 6}),
    ]
    logarithm = {"log_threshold": T["threshold"].log()}
    for architecture, tensors, config in cases:
        yield files.saelens(root / architecture, architecture, tensors, **config)
    yield files.saelens(root / "logarithm", "jumprelu", W | logarithm)
    yield files.saelens_legacy(root / "legacy", W, activation_fn_kwargs={"k": 3})
    for kind in ("expected_average_only_in", "covariance_whitening"):
        folder = files.saelens(root / kind, "standard", W, normalize_activations=kind)
        scaler = {"scaling_factor": 0.5, "has_whitening": True}
        files.write_json(folder / "activation_scaler.json", scaler)
        eye = torch.eye(files.D_IN)
        whitening = {"mean": W["b_dec"], "matrix": eye, "inverse_matrix": eye.clone()}
        files.write_tensors(folder / "activation_whitening.safetensors", whitening)
        yield folder


def dictionary_seeds(root: Path) -> Iterator[Path]:
    plain = files.linear(W) | {"bias": W["b_dec"]}
    k, threshold = torch.tensor(3), torch.tensor(0.5)
    groups = {"k": k, "threshold": threshold, "group_sizes": torch.tensor([4, 6])}
    backup = {"step": 3, "ae": files.top_k(W), "norm_factor": 2.0}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("AutoEncoder", plain),
        ("GatedAutoEncoder", files.linear_gated(W, G)),
        ("AutoEncoderTopK", files.top_k(W)),
        ("BatchTopKSAE", backup),
        ("MatryoshkaBatchTopKSAE", W | groups),
        ("JumpReluAutoEncoder", W | T),
    ]
    for name, state in cases:
        yield files.dictionary(root / name, name, state)


def sparsify_seeds(root: Path) -> Iterator[Path]:
    cases: dict[str, dict[str, Any]] = {
        "topk": {},
        "groupmax": {"activation": "groupmax", "k": 5},
        "transcoder": {"transcode": True, "skip_connection": True},
    }
    for name, config in cases.items():
        files.write_json(root / name / "config.json", {"model": "tiny", "k_decay_steps": 3})
        tensors = W | ({"W_skip": W["W_dec"][:6].clone()} if "transcode" in config else {})
        files.sparsify(root / name / "layers.1" / "seed0", tensors, **config)
        yield root / name


def openai_seeds(root: Path) -> Iterator[Path]:
    topk = {"activation": "TopK", "activation_state_dict": {"k": 3, "postact_fn": "ReLU"}}
    tied = {"decoder.weight": None, "decoder.linear.weight": W["W_dec"]}
    cases: tuple[dict[str, Any], ...] = ({}, topk, tied)
    for i, entries in enumerate(cases):
        files.openai(root / f"{i}" / "autoencoders" / "0.pt", W, **entries)
        yield root / f"{i}"


def gemma_scope_seeds(root: Path) -> Iterator[Path]:
    yield files.gemma_scope(root / "plain", W | T)
    yield files.gemma_scope(root / "embedding", W | T)


def gemma_scope_2_seeds(root: Path) -> Iterator[Path]:
    lower = {n.replace("W_", "w_"): t for n, t in (W | T).items()}
    for name in ("configured", "resid_post"):
        files.write_tensors(root / name / "layer_1_x" / "params.safetensors", lower)
        yield root / name
    affine = lower | {"affine_skip_connection": torch.eye(files.D_IN)}
    folder = root / "affine" / "transcoder_all" / "layer_1_x"
    files.write_tensors(folder / "params.safetensors", affine)
    yield root / "affine"
    config = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.1.output"}
    files.write_json(root / "configured" / "layer_1_x" / "config.json", config)


def e2e_seeds(root: Path) -> Iterator[Path]:
    folder = files.e2e(root / "two", {"blocks-1-hook_resid_pre": W, "x": files.matrices(3)})
    config = {"tlens_model_name": "gpt2", "loss": {"sparsity": {"coeff": 1.5}}, "lr": 1e-3}
    (folder / "final_config.yaml").write_text(json.dumps(config))
    yield folder


def scope_seeds(root: Path) -> Iterator[Path]:
    yield files.llama_scope(root / "scope", W)
    yield files.llama_scope_transcoder(root / "transcoder", W)


def sequel_seeds(root: Path) -> Iterator[Path]:
    norm = {"dataset_average_activation_norm.blocks.1.hook_resid_post": torch.tensor(3.5)}
    yield files.llama_scope_r1(root / "beside", W | T, norm)
    yield files.llama_scope_r1(
        root / "configured", W | T, dataset_average_activation_norm={"in": 3.5, "out": 3.5}
    )
    yield files.llama_scope_r1(
        root / "transcoder", W | T, hook_point_out="blocks.1.hook_mlp_out",
        dataset_average_activation_norm={"in": 3.5, "out": 0.7},
    )  # fmt: skip


def qwen_seeds(root: Path) -> Iterator[Path]:
    for layer in (0, 12):
        folder = root / f"{layer}"
        files.qwen_scope(folder / "SAE-Res-Qwen3-8B-Base-W64K-L0_3" / f"layer{layer}.sae.pt", W)
        yield folder


def goodfire_seeds(root: Path) -> Iterator[Path]:
    for i, name in enumerate(("Llama-3.1-8B-Instruct-SAE-l19.pth", "Mine-SAE-l1.pt")):
        files.goodfire(root / f"{i}" / name, W)
        yield root / f"{i}"


def qresearch_seeds(root: Path) -> Iterator[Path]:
    files.goodfire(root / "one" / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", W, "")
    yield root / "one"


def kissane_seeds(root: Path) -> Iterator[Path]:
    files.kissane(root / "one", "gpt2-small_L1", W)
    yield root / "one"


def temporal_seeds(root: Path) -> Iterator[Path]:
    yield files.temporal(root / "temporal")


def circuit_seeds(root: Path) -> Iterator[Path]:
    skip = {"W_skip": torch.eye(files.D_IN)}
    for name, tensors in (("relu", W), ("jump", W | T), ("skipping", W | skip)):
        files.circuit_tracer(root / name, 3, tensors)
        yield root / name


def layered_seeds(root: Path) -> Iterator[Path]:
    skipping = [w | {"W_skip": torch.eye(files.D_IN)} for w in files.clt_layers(2)]
    yield files.gemma_scope_2_layers(root / "clt", skipping, model_name="gemma-v3-1b-pt")
    place = root / "crosscoder" / "layer_1_3_width_16"
    files.gemma_scope_2_layers(place, files.clt_layers(2))
    yield root / "crosscoder"


def crosscoder_seeds(root: Path) -> Iterator[Path]:
    state = files.crosscoder_state(2)
    means = {
        "activation_mean": torch.ones(2, files.D_IN),
        "activation_std": torch.ones(2, files.D_IN),
        "activation_global_scale": torch.tensor(0.5),
    }
    batch = {"k": torch.tensor(3), "threshold": torch.tensor(0.5)}
    kinds = {f"kind-{i}": {"code_normalization_id": torch.tensor(i)} for i in (1, 2, 4)}
    cases = {"plain": {}, "means": means, **{n: batch | kind for n, kind in kinds.items()}}
    for name, more in cases.items():
        for file in ("model_final.pt", "model.safetensors"):
            yield files.crosscoder(root / f"{name}-{file[-2:]}", state | more, file)


def model_diff_seeds(root: Path) -> Iterator[Path]:
    scales = (0.28, 0.24)
    yield files.model_diff(root / "scaled", files.model_diff_state(), scales)
    half = {name: tensor.bfloat16() for name, tensor in files.model_diff_state().items()}
    yield files.model_diff(root / "half", half, scales, enc_dtype="bf16")


def clt_seeds(root: Path) -> Iterator[Path]:
    for name, jump in (("relu", False), ("jump", True)):
        layers = files.clt_layers(2, jump=jump)
        yield files.circuit_tracer_clt(root / name, layers, model_name="tiny")


SEEDS: dict[str, Callable[[Path], Iterator[Path]]] = {
    "native": native_seeds,
    "saelens": saelens_seeds,
    "dictionary_learning": dictionary_seeds,
    "sparsify": sparsify_seeds,
    "openai": openai_seeds,
    "gemma_scope": gemma_scope_seeds,
    "gemma_scope_2": gemma_scope_2_seeds,
    "e2e_sae": e2e_seeds,
    "llama_scope": scope_seeds,
    "llama_scope_r1_distill": sequel_seeds,
    "qwen_scope": qwen_seeds,
    "goodfire": goodfire_seeds,
    "qresearch": qresearch_seeds,
    "kissane": kissane_seeds,
    "temporal": temporal_seeds,
    "circuit_tracer": circuit_seeds,
    "circuit_tracer_clt": clt_seeds,
    "gemma_scope_2_layers": layered_seeds,
    "dictionary_learning_crosscoder": crosscoder_seeds,
    "crosscoder_model_diff": model_diff_seeds,
}

_NUMBERS = st.integers(0, 2**20)


@st.composite
def changes(draw: Any) -> list[tuple[int, ...]]:
    """A few changes, each a tuple of numbers for :func:`change` or :func:`damage`."""
    return [draw(st.tuples(*[_NUMBERS] * 5)) for _ in range(draw(st.integers(1, 4)))]


def change(document: Any, key_choice: int, kind: int, value: int) -> None:
    """Change a document somewhere: an entry is replaced, deleted, renamed or added."""
    while isinstance(document, dict):
        keys = list(document)
        tensors = any(isinstance(v, Tensor) for v in document.values())
        key = keys[key_choice % len(keys)] if keys else "x"
        deeper = document.get(key)
        if isinstance(deeper, dict) and kind % 3:
            document, key_choice = deeper, key_choice // max(1, len(keys))
            continue
        choice = kind % 8
        if choice == 0:
            document.pop(key, None)
        elif choice == 1:
            known = NAMES if tensors else KEYS
            document[known[value % len(known)]] = document.pop(key, None)
        elif choice == 2:
            known = NAMES if tensors else KEYS
            document[known[key_choice % len(known)]] = copied(SCALARS[value % len(SCALARS)])
        elif isinstance(deeper, Tensor):
            document[key] = changed_tensor(deeper, kind // 8, value)
        else:
            document[key] = copied(SCALARS[value % len(SCALARS)])
        return


def changed_tensor(tensor: Tensor, kind: int, value: int) -> Tensor:
    """A tensor of another shape, dtype or content."""
    match kind % 9:
        case 0:
            return tensor.to(DTYPES[value % len(DTYPES)])
        case 1:
            return tensor.t().contiguous() if tensor.ndim == 2 else tensor[None]
        case 2:
            return tensor.flatten()[: value % (tensor.numel() + 1)]
        case 3:
            return tensor[None]
        case 4:
            return tensor.flatten()[0] if tensor.numel() else tensor
        case 5:
            return tensor[: value % (len(tensor) + 1)] if tensor.ndim else tensor
        case 6:
            return torch.full(tensor.shape, [float("nan"), float("inf"), 0.0, -1.0][value % 4])
        case 7:
            return torch.zeros(()).expand(tensor.shape) if value % 2 else torch.zeros(0, 0)
        case _:
            return torch.zeros([0, 1, 2, 3][: value % 5])


def damage(content: bytes, position: int, kind: int, value: int) -> bytes:
    """The content with bytes flipped, truncated, removed or inserted."""
    at = position % (len(content) + 1)
    match kind % 4:
        case 0:
            return content[:at] + bytes([value % 256]) + content[at + 1 :]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + content[at + value % 64 :]
        case _:
            return content[:at] + value.to_bytes(4, "little") * (value % 9) + content[at:]


def copied(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: copied(value) for key, value in document.items()}
    return document
