"""dictionary_learning's checkpoints: each dictionary class by its formula, and special cases."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prolu_eval.checkpoints import discover, load_sae
from prolu_eval.runs import Run
from tests.helpers.foreign_files import (
    D_IN,
    dictionary,
    dictionary_config,
    gates,
    inputs,
    linear,
    linear_gated,
    matrices,
    thresholds,
    top_k,
    write_json,
    write_pt,
)
from tests.helpers.format_checks import check, kept, refusal, run_at

W, G, T, X = matrices(), gates(), thresholds(), inputs()
H = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]
UNSUBTRACTED = X @ W["W_enc"] + W["b_enc"]


def decoded(codes: torch.Tensor) -> torch.Tensor:
    return codes @ W["W_dec"] + W["b_dec"]


@pytest.mark.parametrize(
    ("trainer", "label"),
    [
        ("StandardTrainer", "relu"),
        ("PAnnealTrainer", "relu+p_anneal"),
        ("StandardTrainerAprilUpdate", "relu+april_update"),
    ],
)
def test_autoencoder(tmp_path: Path, trainer: str, label: str) -> None:
    """The features are those of the file; ``load_dictionary`` rescales them by decoder norms."""
    state = linear(W) | {"bias": W["b_dec"]}
    folder = dictionary(tmp_path, "AutoEncoder", state, trainer=trainer, l1_penalty=0.1)
    codes = torch.relu(H)
    check(folder, codes, decoded(codes))
    run = run_at(folder)
    assert (run.format, run.variant, run.label) == ("dictionary_learning", "relu", label)
    assert (run.model, run.hook, run.seed) == ("tiny", "blocks.1.hook_resid_post", 3)
    assert (run.coefficient, run.learning_rate, run.context_length) == (0.1, 1e-3, 128)
    assert run.weight_processing == "none"
    assert run.provenance["config"]["trainer"]["trainer_class"] == trainer


def test_tensors_are_believed_before_the_class_name(tmp_path: Path) -> None:
    """AutoEncoderNew's config says AutoEncoder, and it does not subtract its decoder's bias."""
    state = linear(W) | {"decoder.bias": W["b_dec"]}
    folder = dictionary(tmp_path, "AutoEncoder", state)
    codes = torch.relu(UNSUBTRACTED)
    check(folder, codes, decoded(codes))


@pytest.mark.parametrize(
    ("trainer", "label"),
    [("GatedSAETrainer", "gated"), ("GatedAnnealTrainer", "gated+p_anneal")],
)
def test_gated(tmp_path: Path, trainer: str, label: str) -> None:
    e = (X - W["b_dec"]) @ W["W_enc"]
    codes = (e + G["b_gate"] > 0) * torch.relu(G["r_mag"].exp() * e + G["b_mag"])
    folder = dictionary(tmp_path, "GatedAutoEncoder", linear_gated(W, G), trainer=trainer)
    check(folder, codes, decoded(codes))
    assert run_at(folder).label == label


def test_topk_ignores_its_threshold(tmp_path: Path) -> None:
    folder = dictionary(tmp_path, "AutoEncoderTopK", top_k(W, 3, threshold=1.5))
    codes = torch.relu(kept(H, H.topk(3, dim=-1).indices))
    check(folder, codes, decoded(codes))
    assert run_at(folder).variant == "topk"


def test_batchtopk_has_the_same_tensors_and_uses_it(tmp_path: Path) -> None:
    folder = dictionary(tmp_path, "BatchTopKSAE", top_k(W, 3, threshold=1.5))
    codes = torch.relu(H) * (H > 1.5)
    check(folder, codes, decoded(codes))
    run = run_at(folder)
    assert (run.variant, run.problems) == ("batchtopk", ())


def test_topk_or_batchtopk_is_not_guessed(tmp_path: Path) -> None:
    assert "could be a TopK or a BatchTopK" in refusal(dictionary(tmp_path, "", top_k(W)))
    config = dictionary_config("", trainer="BatchTopKTrainer")
    del config["trainer"]["dict_class"]
    write_json(tmp_path / "config.json", config)
    assert run_at(tmp_path).variant == "batchtopk"


def test_matryoshka_lies_untransposed(tmp_path: Path) -> None:
    state = W | {
        "k": torch.tensor(3, dtype=torch.int32),
        "threshold": torch.tensor(0.8),
        "group_sizes": torch.tensor([4, 6]),
    }
    folder = dictionary(tmp_path, "MatryoshkaBatchTopKSAE", state)
    codes = torch.relu(H) * (H > 0.8)
    check(folder, codes, decoded(codes))
    assert run_at(folder).variant == "matryoshka"
    assert load_sae(folder).options.model_dump()["group_sizes"] == (4, 6)


def test_jumprelu_does_not_subtract_the_decoder_bias(tmp_path: Path) -> None:
    folder = dictionary(tmp_path, "JumpReluAutoEncoder", W | T)
    codes = torch.relu(UNSUBTRACTED) * (T["threshold"] < UNSUBTRACTED)
    check(folder, codes, decoded(codes))
    assert run_at(folder).variant == "jumprelu"


@pytest.mark.parametrize("dict_class", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_was_never_set_is_told(tmp_path: Path, dict_class: str) -> None:
    state = top_k(W, 3, threshold=-1.0)
    if dict_class != "BatchTopKSAE":
        names = ("k", "threshold")
        state = W | {n: state[n] for n in names} | {"group_sizes": torch.tensor([4, 6])}
    folder = dictionary(tmp_path, dict_class, state)
    codes = torch.relu(H)
    check(folder, codes, decoded(codes))
    (problem,) = run_at(folder).problems
    assert "threshold was never set" in problem


def test_files_of_a_run_on_its_way(tmp_path: Path) -> None:
    """``checkpoints/ae_{step}.pt`` has its config one level up, and may have another k."""
    folder = dictionary(tmp_path / "trainer_0", "AutoEncoderTopK", top_k(W, 3), k=3)
    write_pt(folder / "checkpoints" / "ae_200.pt", top_k(W, 5))
    runs = {run.name: run for run in discover(tmp_path) if isinstance(run, Run)}
    assert runs.keys() == {"trainer_0", "trainer_0/checkpoints/ae_200.pt"}
    middle = runs["trainer_0/checkpoints/ae_200.pt"]
    assert middle.files == (folder / "config.json", folder / "checkpoints" / "ae_200.pt")
    assert (middle.model, middle.hook) == ("tiny", "blocks.1.hook_resid_post")
    codes = torch.relu(kept(H, H.topk(5, dim=-1).indices))
    check(folder / "checkpoints" / "ae_200.pt", codes, decoded(codes))


@pytest.mark.parametrize("factor", [2.5, torch.tensor(2.5), None])
def test_an_interrupted_runs_backup_is_scaled_as_the_library_would(
    tmp_path: Path, factor: Any
) -> None:
    """The same file name holds {step, ae, optimizer, config, norm_factor}, biases unscaled."""
    scale = 1.0 if factor is None else 2.5
    backup = {
        "step": 7,
        "ae": top_k(W, 3, threshold=0.4),
        "optimizer": {"state": {}, "param_groups": []},
        "config": {"k": 3},
        "norm_factor": factor,
    }
    folder = dictionary(tmp_path, "BatchTopKSAE", backup)
    h = (X - scale * W["b_dec"]) @ W["W_enc"] + scale * W["b_enc"]
    codes = torch.relu(h) * (h > scale * 0.4)
    check(folder, codes, codes @ W["W_dec"] + scale * W["b_dec"])
    assert "interrupted" in run_at(folder).problems[0]


def test_an_interrupted_gated_run_keeps_its_magnitudes_exponent(tmp_path: Path) -> None:
    folder = dictionary(
        tmp_path, "GatedAutoEncoder", {"ae": linear_gated(W, G), "norm_factor": 2.0}
    )
    e = (X - 2 * W["b_dec"]) @ W["W_enc"]
    codes = (e + 2 * G["b_gate"] > 0) * torch.relu(G["r_mag"].exp() * e + 2 * G["b_mag"])
    check(folder, codes, codes @ W["W_dec"] + 2 * W["b_dec"])


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), "two"])
def test_a_senseless_norm_factor(tmp_path: Path, factor: Any) -> None:
    folder = dictionary(tmp_path, "BatchTopKSAE", {"ae": top_k(W), "norm_factor": factor})
    assert "norm_factor is" in refusal(folder)


@pytest.mark.parametrize(
    ("submodule", "layer", "hook"),
    [
        ("resid_post_layer_2", 2, "blocks.2.hook_resid_post"),
        ("mlp_layer_2", 2, "blocks.2.hook_mlp_out"),
        ("attn_layer_2", 2, "blocks.2.hook_attn_out"),
        (None, 4, "blocks.4.hook_resid_post"),
        ("resid_pre_layer_2", 2, "blocks.2.hook_resid_pre"),
        ("resid_mid_2", 2, "blocks.2.hook_resid_mid"),
        ("layer2_resid_pre", 2, "blocks.2.hook_resid_pre"),
        ("blocks.2.hook_resid_pre", 2, "blocks.2.hook_resid_pre"),
        ("blocks.2.attn.hook_z", 2, "blocks.2.attn.hook_z"),
        ("model.layers.2", 2, "blocks.2.hook_resid_post"),
        ("gpt_neox.layers.2.mlp", 2, "blocks.2.hook_mlp_out"),
        ("resid_post_layer_3", 2, None),
        ("embed", 2, None),
        ("model.layers.2.self_attn.q_proj", 2, None),
        ("model.layers.2.mlp.act_fn", 2, None),
        ("vision_tower.encoder.layers.2", 2, None),
        ("resid_post_layer_2", None, "blocks.2.hook_resid_post"),
    ],
)
def test_hooks(tmp_path: Path, submodule: str | None, layer: int | None, hook: str | None) -> None:
    state = linear(W) | {"bias": W["b_dec"]}
    entries = {"submodule_name": submodule, "layer": layer}
    run = run_at(dictionary(tmp_path, "AutoEncoder", state, **entries))
    assert run.hook == hook
    assert bool(run.problems) == (hook is None or submodule is None)


def test_without_the_buffers_settings(tmp_path: Path) -> None:
    state = linear(W) | {"bias": W["b_dec"]}
    run = run_at(dictionary(tmp_path, "AutoEncoder", state, buffer=None))
    assert (run.hook, run.context_length) == ("blocks.1.hook_resid_post", None)


def test_the_input_of_a_submodule_is_no_hook_point_that_can_be_named(tmp_path: Path) -> None:
    state = linear(W) | {"bias": W["b_dec"]}
    run = run_at(dictionary(tmp_path, "AutoEncoder", state, buffer={"io": "in"}))
    assert run.hook is None
    assert "input of a submodule" in run.problems[0]


@pytest.mark.parametrize(
    ("dict_class", "state", "entries", "words"),
    [
        ("AutoEncoder", linear(W), {}, "lacks tensor b_dec"),
        ("BatchTopKSAE", {n: t for n, t in top_k(W).items() if n != "threshold"}, {}, "threshold"),
        ("BatchTopKSAE", top_k(W, 0), {}, "k is no positive number"),
        ("BatchTopKSAE", top_k(W) | {"k": torch.ones(2)}, {}, "k is no positive number"),
        ("MatryoshkaBatchTopKSAE", W | T | {"k": torch.tensor(3)}, {}, "threshold has shape [10]"),
        ("AutoEncoder", {}, {}, "lacks tensor W_dec"),
    ],
)
def test_what_would_be_measured_wrongly_is_refused(
    tmp_path: Path, dict_class: str, state: Any, entries: dict[str, Any], words: str
) -> None:
    assert words in refusal(dictionary(tmp_path, dict_class, state, **entries))


@pytest.mark.parametrize(
    ("submodule", "hooks"),
    [
        ("mlp_layer_2", ("blocks.2.mlp.hook_in", "blocks.2.mlp.hook_out")),
        ("model.layers.2.mlp", ("blocks.2.mlp.hook_in", "blocks.2.mlp.hook_out")),
        ("resid_post_layer_2", ("blocks.2.hook_resid_pre", "blocks.2.hook_resid_post")),
        ("my_module", (None, None)),
    ],
)
def test_transcoders_read_what_enters_their_submodule(
    tmp_path: Path, submodule: str, hooks: tuple[str | None, str | None]
) -> None:
    state = linear(W) | {"bias": W["b_dec"]}
    trainer = {"layer": 2, "submodule_name": submodule}
    folder = dictionary(tmp_path, "AutoEncoder", state, buffer={"io": "in_and_out"}, **trainer)
    run = run_at(folder)
    assert (run.hook, run.hook_out) == hooks
    assert (run.d_out, run.label) == (D_IN, "relu-transcoder")
    assert len(run.problems) == (hooks[0] is None)
    codes = torch.relu((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"])
    check(folder, codes, codes @ W["W_dec"] + W["b_dec"])
