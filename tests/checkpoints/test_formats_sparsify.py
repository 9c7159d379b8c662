"""EleutherAI sparsify's checkpoints: both activations, older versions, layouts, special cases."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prolu_eval.checkpoints import discover
from prolu_eval.runs import Run
from tests.helpers.foreign_files import D_IN, D_SAE, inputs, matrices, sparsify, write_json
from tests.helpers.format_checks import check, kept, refusal, run_at

W, X = matrices(), inputs()
H = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]


def decoded(codes: torch.Tensor) -> torch.Tensor:
    return codes @ W["W_dec"] + W["b_dec"]


def test_topk(tmp_path: Path) -> None:
    """W_dec is stored untransposed; num_latents 0 means d_in times the expansion factor."""
    write_json(tmp_path / "config.json", {"model": "tiny", "dataset": "text", "ctx_len": 64})
    folder = sparsify(tmp_path / "layers.3", W)
    codes = kept(torch.relu(H), H.topk(3, dim=-1).indices)
    check(folder, codes, decoded(codes))
    run = run_at(folder)
    assert (run.format, run.variant, run.d_sae) == ("sparsify", "topk", D_SAE)
    assert (run.model, run.dataset, run.context_length) == ("tiny", "text", 64)
    assert (run.hook, run.seed, run.problems) == ("blocks.3.hook_resid_post", None, ())
    assert run.weight_processing == "none"
    assert run.provenance["config"]["k"] == 3
    assert run.provenance["run_config"]["model"] == "tiny"


@pytest.mark.parametrize("normalised", [True, False])
def test_b_dec_is_subtracted_whatever_normalize_decoder_says(
    tmp_path: Path, normalised: bool
) -> None:
    folder = sparsify(tmp_path, W, normalize_decoder=normalised)
    codes = kept(torch.relu(H), H.topk(3, dim=-1).indices)
    check(folder, codes, decoded(codes))


def test_groupmax(tmp_path: Path) -> None:
    folder = sparsify(tmp_path, W, activation="groupmax", k=5)
    grouped = torch.relu(H).reshape(len(X), 5, 2)
    codes = torch.zeros_like(grouped).scatter(
        -1, grouped.argmax(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    )
    check(folder, codes.reshape(H.shape), decoded(codes.reshape(H.shape)))
    assert run_at(folder).variant == "groupmax"


def test_the_older_dialect(tmp_path: Path) -> None:
    absent = {"activation": None, "transcode": None, "skip_connection": None}
    folder = sparsify(tmp_path / "a", W, signed=False, **absent)
    codes = kept(torch.relu(H), H.topk(3, dim=-1).indices)
    check(folder, codes, decoded(codes))
    folder = sparsify(tmp_path / "b", W, signed=True, **absent)
    codes = kept(H, H.abs().topk(3, dim=-1).indices)
    assert (codes < 0).any()
    check(folder, codes, decoded(codes))
    assert run_at(folder).variant == "abstopk"


def test_half_precision_weights(tmp_path: Path) -> None:
    halved = {name: tensor.half() for name, tensor in W.items()}
    f = {name: tensor.float() for name, tensor in halved.items()}
    h = (X - f["b_dec"]) @ f["W_enc"] + f["b_enc"]
    codes = kept(torch.relu(h), h.topk(3, dim=-1).indices)
    check(sparsify(tmp_path, halved), codes, codes @ f["W_dec"] + f["b_dec"])


def test_a_run_of_several_hook_points_and_seeds(tmp_path: Path) -> None:
    run_folder = tmp_path / "my-run"
    write_json(run_folder / "config.json", {"model": "tiny", "ctx_len": 64})
    sparsify(run_folder / "layers.0" / "seed0", matrices(0))
    sparsify(run_folder / "layers.0" / "seed12", matrices(1))
    sparsify(run_folder / "layers.1.mlp" / "seed0", matrices(2))
    sparsify(run_folder / "best" / "layers.0" / "layers.0", matrices(3))
    write_json(run_folder / "best" / "layers.0" / "config.json", {"model": "tiny"})
    torch.save({"global_step": 9}, run_folder / "state.pt")
    found = [run for run in discover(tmp_path) if isinstance(run, Run)]
    assert [(r.name, r.hook, r.seed, r.model) for r in found] == [
        ("my-run/best/layers.0/layers.0", "blocks.0.hook_resid_post", None, "tiny"),
        ("my-run/layers.0/seed0", "blocks.0.hook_resid_post", 0, "tiny"),
        ("my-run/layers.0/seed12", "blocks.0.hook_resid_post", 12, "tiny"),
        ("my-run/layers.1.mlp/seed0", "blocks.1.hook_mlp_out", 0, "tiny"),
    ]


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("layers.7", "blocks.7.hook_resid_post"),
        ("h.7", "blocks.7.hook_resid_post"),
        ("transformer.h.7", "blocks.7.hook_resid_post"),
        ("layers.7.mlp", "blocks.7.hook_mlp_out"),
        ("layers.7.self_attn", "blocks.7.hook_attn_out"),
        ("layers.7.attention", "blocks.7.hook_attn_out"),
        ("h.7.attn", "blocks.7.hook_attn_out"),
        ("embed_tokens", "hook_embed"),
        ("layers.7.mlp.act", None),
        ("somewhere", None),
    ],
)
def test_hook_points(tmp_path: Path, name: str, hook: str | None) -> None:
    run = run_at(sparsify(tmp_path / name, W))
    assert run.hook == hook
    doubtful = hook is None or hook.endswith(("mlp_out", "attn_out"))
    assert len(run.problems) == doubtful
    if doubtful and hook:
        assert "Gemma 2 and 3" in run.problems[0]


def test_a_k_that_may_not_be_the_final_one_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"k_decay_steps": 100})
    run = run_at(sparsify(tmp_path / "layers.0", W))
    assert "its k, 3, was lowered over the first 100 steps" in run.problems[0]


@pytest.mark.parametrize(
    ("config", "extra", "words"),
    [
        ({"skip_connection": True}, {}, "holds no skip connection, its config says otherwise"),
        ({}, {"W_skip": torch.eye(D_IN)}, "holds a skip connection, its config says otherwise"),
        ({"activation": "batchtopk"}, {}, "unknown activation 'batchtopk'"),
        ({"activation": "groupmax", "k": 3}, {}, "3 groups do not divide 10"),
        ({"d_in": 7}, {}, "says d_in 7, the weights 6"),
        ({"k": 0}, {}, "k: input should be greater than 0"),
        ({"k": None}, {}, "k: field required"),
    ],
)
def test_what_would_be_measured_wrongly_is_refused(
    tmp_path: Path, config: dict[str, Any], extra: dict[str, torch.Tensor], words: str
) -> None:
    assert words in refusal(sparsify(tmp_path, W | extra, **config))


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_read_what_enters_a_module(tmp_path: Path, skip: bool) -> None:
    W_skip = torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(2))
    extra = {"W_skip": W_skip} if skip else {}
    folder = tmp_path / "layers.3.mlp"
    sparsify(folder, W | extra, transcode=True, skip_connection=skip)
    run = run_at(folder)
    assert (run.hook, run.hook_out) == ("blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out")
    assert run.label == ("topk-skip-transcoder" if skip else "topk-transcoder")
    assert run.problems == ()
    h = torch.relu(X @ W["W_enc"] + W["b_enc"])
    codes = kept(h, h.topk(3).indices)
    check(folder, codes, codes @ W["W_dec"] + W["b_dec"] + (X @ W_skip.T if skip else 0))


def test_other_modules_are_named_by_their_ports(tmp_path: Path) -> None:
    run = run_at(sparsify(tmp_path / "h.2.ln_1", W, transcode=True))
    assert (run.hook, run.hook_out) == ("h.2.ln_1.input", "h.2.ln_1.output")
    document = json.loads((run.path / "cfg.json").read_text())
    document.pop("activation")
    write_json(run.path / "cfg.json", document)
    assert "may have subtracted b_dec" in run_at(run.path).problems[0]


def test_an_autoencoder_may_have_a_skip_connection(tmp_path: Path) -> None:
    folder = tmp_path / "layers.0"
    sparsify(folder, W | {"W_skip": torch.eye(D_IN)}, skip_connection=True)
    run = run_at(folder)
    assert run.hook == run.hook_out == "blocks.0.hook_resid_post"
    h = torch.relu((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"])
    codes = kept(h, h.topk(3).indices)
    check(folder, codes, codes @ W["W_dec"] + W["b_dec"] + X)
