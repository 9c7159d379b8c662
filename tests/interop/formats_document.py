"""The table of formats, ``docs/formats.md``, from SAELens's own registries and table of releases.

``python -m tests.interop.formats_document`` writes it, where SAELens is installed.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata

from prolu_eval.checkpoints import discover, load_run
from prolu_eval.releases import all_entries
from prolu_eval.runs import Broken
from tests.conftest import ROOT
from tests.helpers import foreign_files as files

DOCUMENT = ROOT / "docs" / "formats.md"
W, T = files.matrices(), files.thresholds()
_HEAD = """# Formats

What SAELens 6.54 can load, and what prolu-eval makes of it: a tiny dictionary of each kind is
written, by SAELens itself or as its loader reads it, then found and loaded here. `nox -s interop`
checks that this page is what comes of it, and compares codes and reconstructions with SAELens's and
circuit-tracer's own code (`tests/interop`). `python -m tests.interop.formats_document` writes the
page anew.
"""
_OWN: dict[str, dict[str, Any]] = {
    "temporal": {"n_heads": 4, "bottleneck_factor": 1},
    "matching_pursuit": {"residual_threshold": 0.5, "max_iterations": 3},
    **{name: {"k": 3} for name in ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk")},
}
_OWN["matryoshka_batchtopk"] = {"k": 3, "matryoshka_widths": [4, 16]}
Q = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"


# A checkpoint of each of SAELens's loaders.
LOADERS: dict[str, Callable[[Path], object]] = {
    "sae_lens": lambda root: files.saelens(root, "standard", W),
    "connor_rob_hook_z": lambda root: files.kissane(root, "L1", W),
    "gemma_2": lambda root: files.gemma_scope(
        root / "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_7", W | T
    ),
    "gemma_3": lambda root: files.write_tensors(
        root / "resid_post" / "layer_1_width_16k" / "params.safetensors",
        {n.replace("W_", "w_"): t for n, t in (W | T).items()},
    ),
    "llama_scope": lambda root: files.llama_scope(root, W),
    "llama_scope_r1_distill": lambda root: files.llama_scope_r1(
        root, W | T, dataset_average_activation_norm={"in": 3.5}
    ),
    "dictionary_learning_1": lambda root: files.dictionary(root, "AutoEncoderTopK", files.top_k(W)),
    "deepseek_r1": lambda root: files.goodfire(
        root / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", W, ""
    ),
    "qwen_scope": lambda root: files.qwen_scope(root / Q / "layer1.sae.pt", W),
    "sparsify": lambda root: files.sparsify(root / "layers.1", W),
    "gemma_2_transcoder": lambda root: files.gemma_scope(
        root / "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_7", W | T
    ),
    "mwhanna_transcoder": lambda root: files.circuit_tracer(root, 1, W),
    "mntss_clt_layer_transcoder": lambda root: files.circuit_tracer_clt(root, files.clt_layers(2)),
    "temporal": files.temporal,
    "goodfire": lambda root: files.goodfire(root / "Llama-3.1-8B-Instruct-SAE-l19.pth", W),
}


_OF_LAYERS = [
    ("b_enc", "[n]", "b_enc_i"), ("threshold", "[n]", "threshold_i"), ("b_dec", "[d]", "b_dec_i"),
]  # fmt: skip
_GEMMA = [
    ("w_enc", "[d, n]", "W_enc_i"),
    ("w_dec[:, i:]", "[n, layers - i, d]", "W_dec_i"),
    *_OF_LAYERS,
    ("affine_skip_connection", "[d, d]", "W_skip_i"),
]
_CROSSCODER = [
    ("encoder.weight[i]", "[d, m]", "W_enc_i"),
    ("encoder.bias", "[m]", "b_enc"),
    ("decoder.weight[i]", "[m, d]", "W_dec_i"),
    ("decoder.bias[i]", "[d]", "b_dec_i"),
    ("threshold", "one, over norms", "threshold"),
]
# Layouts of dictionaries of several sites: how to write one, and its tensors with their names here.
SEVERAL: dict[str, tuple[Callable[[Path], object], list[tuple[str, str, str]]]] = {
    "circuit-tracer: `W_enc_i.safetensors`, `W_dec_i.safetensors`, `config.yaml`": (
        lambda root: files.circuit_tracer_clt(root, files.clt_layers(2)),
        [
            ("W_enc_i", "[n, d], turned", "W_enc_i"),
            ("W_dec_i", "[n, layers - i, d]", "W_dec_i"),
            *((f"{name}_i", shape, own) for name, shape, own in _OF_LAYERS),
        ],
    ),
    "Gemma Scope 2: `clt/NAME/params_layer_i.safetensors`": (
        lambda root: files.gemma_scope_2_layers(root / "clt" / "mine", files.clt_layers(2)),
        _GEMMA,
    ),
    "Gemma Scope 2: `crosscoder/layer_7_13_NAME/params_layer_i.safetensors`": (
        lambda root: files.gemma_scope_2_layers(
            root / "crosscoder" / "layer_7_13_width_16k", files.clt_layers(2)
        ),
        _GEMMA[:-1],
    ),
    "dictionary_learning's forks: `ae.pt`, `config.json` of a training": (
        lambda root: files.crosscoder(root, files.crosscoder_state(2)),
        _CROSSCODER,
    ),
    "the same: `model_final.pt`, or `model.safetensors` and `config.json` as on the hub": (
        lambda root: files.crosscoder(root, files.crosscoder_state(2), "model.safetensors"),
        _CROSSCODER,
    ),
    "Kissane's of two models: `cfg.json`, `cc_weights.pt`, `activation_scaler.json`": (
        lambda root: files.model_diff(root, files.model_diff_state(), (0.3, 0.2)),
        [
            ("W_enc[i]", "[d, m]", "W_enc_i"),
            ("b_enc", "[m]", "b_enc"),
            ("W_dec[:, i]", "[m, d]", "W_dec_i"),
            ("b_dec[i]", "[d]", "b_dec_i"),
        ],
    ),
}


def outcome(root: Path) -> str:
    """The result for the only checkpoint in a folder, as the cells after its name."""
    (item,) = discover(root)
    if isinstance(item, Broken):
        return f"refused | {item.cause.reason}"
    load_run(item)
    kind = "" if item.d_out is None else ", a transcoder"
    return f"loaded | as {item.variant}{kind} ({item.format})"


def architectures() -> Iterator[str]:
    """A row for each architecture that SAELens can load, for inference and from training."""
    for kind, registry in (
        ("inference", SAE_CLASS_REGISTRY), ("training", SAE_TRAINING_CLASS_REGISTRY),
    ):  # fmt: skip
        for name, (cls, config) in registry.items():
            own = _OWN.get(name, {})
            if "transcoder" in name:
                own = {"d_out": 8, "apply_b_dec_to_input": False}
            metadata = SAEMetadata(hook_name="blocks.1.hook_resid_post", model_name="tiny")
            sae: Any = cls(config(d_in=8, d_sae=16, metadata=metadata, **own))
            if hasattr(sae, "topk_threshold"):
                sae.topk_threshold.fill_(0.5)
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                sae.save_model(folder)
                yield f"| {name} | {kind} | {outcome(Path(folder))} |"


def releases() -> Iterator[str]:
    """A row for each of SAELens's loaders, with the number of its entries in the table."""
    counts = Counter(entry.loader or "sae_lens" for entry in all_entries())
    for name in NAMED_PRETRAINED_SAE_LOADERS:
        with tempfile.TemporaryDirectory() as folder:
            LOADERS[name](Path(folder))
            yield f"| {name} | {counts[name]:,} | {outcome(Path(folder))} |"


def several() -> Iterator[str]:
    """A row for each layout of dictionaries of several sites, with what tensors are called here."""
    for layout, (write, keys) in SEVERAL.items():
        theirs = "<br>".join(f"`{name}` {shape}" for name, shape, _ in keys)
        ours = "<br>".join(f"`{name}`" for *_, name in keys)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            yield f"| {layout} | {theirs} | {ours} | {outcome(Path(folder))} |"


def document() -> str:
    """The page."""
    return "\n".join([
        _HEAD,
        "## Architectures",
        "",
        "| SAELens's architecture | saved for | | how, or why not |",
        "|---|---|---|---|",
        *architectures(),
        "",
        "Before version 6, `standard` with `activation_fn_str: tanh-relu` is loaded as tanh_relu",
        "(SAELens 6 loads it as a plain ReLU), with `topk` as topk. Autoencoders of one attention",
        "head read and replace that head alone: their hook point is called `hook_z[3]`.",
        "",
        "## Public releases",
        "",
        "By the loaders of SAELens's table of releases, whose names every command takes:",
        "`saelens:RELEASE/SAE_ID`, `neuronpedia:MODEL/SOURCE`.",
        "",
        "| loader | entries | | how, or why not |",
        "|---|---|---|---|",
        *releases(),
        "",
        "Of gemma_3, transcoders are loaded too, with their affine skip connection; so are Llama",
        "Scope's (LXTC), which SAELens's table does not have, with a norm of each site.",
        "The entries of mntss_clt_layer_transcoder name single layers of cross-layer transcoders,",
        "none of which is measured without the others: `saelens:RELEASE` is the whole.",
        "",
        "## Of several sites",
        "",
        "Layouts that SAELens does not load, or only in parts. `i` is a layer or a site.",
        "",
        "| layout | tensors | here | | how |",
        "|---|---|---|---|---|",
        *several(),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
