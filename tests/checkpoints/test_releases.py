"""Names of SAELens's table: resolved offline, with its overrides, and beside own runs."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants

from prolu_eval import releases
from prolu_eval.checkpoints import discover, load_run, load_sae
from prolu_eval.checkpoints.native import save_run
from prolu_eval.errors import CheckpointError, UsageError
from prolu_eval.hub import results_folders
from prolu_eval.interface import frontier
from prolu_eval.runs import Run, RunConfig
from prolu_eval.saes import Relu
from tests.checkpoints.test_hub import COMMIT, into_cache
from tests.helpers.cli import Ran, run
from tests.helpers.foreign_files import (
    circuit_tracer,
    circuit_tracer_clt,
    clt_layers,
    kissane,
    matrices,
    qwen_scope,
    saelens,
    saelens_legacy,
)

HOOK = "blocks.1.hook_resid_post"
CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}


def release(repository: str, saes: list[dict[str, Any]], **entries: Any) -> dict[str, Any]:
    return {"repo_id": repository, "model": "tiny", "conversion_func": None, "saes": saes} | entries


TABLE = {
    "tiny-res": release("some/res", [
        {"id": HOOK, "path": HOOK, "l0": 47.0, "neuronpedia": "tiny/1-res"},
        {"id": "layer_1/wide", "path": "deep/wide"},
    ], config_overrides=CENTRED),
    "tiny-plain": release("some/res", [{"id": HOOK, "path": HOOK}, {"id": "number", "path": 7}]),
    "tiny-norm": release(
        "some/norm", [{"id": "a", "path": "a"}],
        config_overrides={"normalize_activations": "constant_norm_rescale"},
    ),
    "tiny-scale": release(
        "some/scale", [{"id": "a", "path": "a", "norm_scaling_factor": 0.35}]
    ),
    "tiny-qwen": release("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_3", [
        {"id": f"layer{i}", "path": f"layer{i}.sae.pt"} for i in (0, 1)
    ], conversion_func="qwen_scope"),
    "tiny-single": release(
        "some/single", [{"id": "layer_0", "path": "layer_0.safetensors"}],
        conversion_func="mwhanna_transcoder",
    ),
    "tiny-whole": release(
        "some/whole",
        [{"id": f"layer_{i}", "path": i, "neuronpedia": f"tiny/{i}-clt"} for i in (0, 1)],
        conversion_func="mntss_clt_layer_transcoder",
    ),
    "tiny-kissane": release(
        "some/attn", [{"id": "z", "path": "gpt2_L1.pt"}], conversion_func="connor_rob_hook_z"
    ),
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package ``sae_lens`` that must not be imported, with a table."""
    package = tmp_path / "packages" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it was imported')")
    (package / "pretrained_saes.yaml").write_text(yaml.safe_dump(TABLE))
    monkeypatch.syspath_prepend(str(package.parent))


@pytest.fixture
def home(
    table: None,
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The repositories of the table in the hub's cache, and no network."""
    W = matrices(d_in=32, d_sae=20)
    own = {"d_in": 32, "d_sae": 20, "metadata": {"model_name": str(tiny_model("gpt2")),
           "dataset_path": str(ids(tmp_path)), "hook_name": HOOK}}  # fmt: skip
    res, home = tmp_path / "res", tmp_path / "home"
    saelens(res / HOOK, "standard", W, **own)
    saelens(res / "deep" / "wide", "standard", matrices(3, 32, 20), **own)
    saelens(res / "deep" / "other", "standard", W, **own)
    saelens(tmp_path / "norm" / "a", "standard", W, **own)
    saelens_legacy(tmp_path / "scale" / "a", W, d_in=32, d_sae=20, normalize_activations=True)
    for layer in (0, 1):
        qwen_scope(tmp_path / "qwen" / f"layer{layer}.sae.pt", matrices())
    kissane(tmp_path / "attn", "gpt2_L1", matrices())
    circuit_tracer(tmp_path / "single", 0, matrices())
    circuit_tracer_clt(tmp_path / "whole", clt_layers(2))
    for folder in ("res", "norm", "scale", "attn", "single", "whole"):
        into_cache(home, f"some/{folder}", tmp_path / folder, COMMIT, "main")
    into_cache(home, TABLE["tiny-qwen"]["repo_id"], tmp_path / "qwen", COMMIT, "main")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return home


def ids(folder: Path) -> Path:
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(1, 96, 640))
    return folder / "ids.npy"


def found(name: str) -> list[Run]:
    items = discover(name)
    assert all(isinstance(item, Run) for item in items), items
    return [item for item in items if isinstance(item, Run)]


def test_a_name_is_one_autoencoder_with_what_the_table_says(home: Path) -> None:
    (run,) = found(f"saelens:tiny-res/{HOOK}")
    assert (run.name, run.weight_processing) == (f"tiny-res/{HOOK}", "processed")
    assert run.provenance["overrides"] == CENTRED
    (plain,) = found(f"saelens:tiny-plain/{HOOK}")
    assert (plain.path, plain.weight_processing) == (run.path, "none")
    assert torch.equal(load_sae("neuronpedia:tiny/1-res").W_enc, load_sae(run.path).W_enc)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("saelens:tiny-res", [HOOK, "layer_1/wide"]),
        ("saelens:tiny-res/*", [HOOK, "layer_1/wide"]),
        ("saelens:tiny-res/layer_1/*", ["layer_1/wide"]),
        ("saelens:tiny-res/blocks.?.hook_resid_post", [HOOK]),
    ],
)
def test_a_pattern_is_all_that_fit(home: Path, pattern: str, names: list[str]) -> None:
    assert [run.name for run in found(pattern)] == [f"tiny-res/{name}" for name in names]


def test_files_of_a_repository_are_named_one_by_one(home: Path) -> None:
    runs = found("saelens:tiny-qwen/*")
    assert [run.name for run in runs] == ["tiny-qwen/layer0", "tiny-qwen/layer1"]
    assert len({run.results for run in runs}) == 2
    (attention,) = found("saelens:tiny-kissane/z")
    assert attention.format == "kissane"


def test_a_transcoder_keeps_the_hook_points_and_the_model_of_its_set(home: Path) -> None:
    (transcoder,) = found("saelens:tiny-single/layer_0")
    assert (transcoder.name, transcoder.d_out) == ("tiny-single/layer_0", 6)
    assert transcoder.model == "Qwen/Qwen3-4B"
    hooks = (transcoder.hook, transcoder.hook_out)
    assert hooks == ("blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")


def test_a_cross_layer_transcoder_is_its_whole_release(home: Path) -> None:
    (run,) = found("saelens:tiny-whole")
    assert (run.name, run.format, run.hook) == (
        "tiny-whole", "circuit_tracer_clt", "blocks.0-1.hook_resid_mid"
    )  # fmt: skip
    assert run.model == "tiny"
    assert run.results is not None
    assert run.results.parts[-2:] == ("saelens", "tiny-whole")
    assert results_folders("saelens:tiny-whole/*") == [run.results]
    assert load_run(run).n_sites == 2
    assert found("saelens:tiny-whole/layer_*")[0].path == run.path
    for name in ("saelens:tiny-whole/layer_0", "neuronpedia:tiny/1-clt"):
        with pytest.raises(CheckpointError, match="name the whole transcoder, saelens:tiny-whole"):
            discover(name)


def test_normalisation_and_factor_of_the_table_are_used(home: Path) -> None:
    x = torch.randn(5, 32)
    (run,) = found("saelens:tiny-norm/a")
    assert load_run(run).normalisation == "constant_norm"
    (scaled,) = found("saelens:tiny-scale/a")
    assert not any("--estimate-scale" in problem for problem in scaled.problems)
    W = matrices(d_in=32, d_sae=20)
    expected = torch.relu((x * 0.35 - W["b_dec"]) @ W["W_enc"] + W["b_enc"])
    torch.testing.assert_close(load_run(scaled).encode(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("saelens:tiny-rez/a", "no release 'tiny-rez'; did you mean tiny-res"),
        ("saelens:tiny-res/blocks.9", "tiny-res has no 'blocks.9'"),
        ("neuronpedia:tiny/9", "is not in SAELens's table"),
    ],
)
def test_names_that_are_not_in_the_table(home: Path, name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words.replace(".", r"\.")) as raised:
        discover(name)
    assert "\n" not in str(raised.value)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "_table_file", lambda: None)
    with pytest.raises(UsageError, match=r"pip install prolu-eval\[saelens\]"):
        discover("saelens:tiny-res")
    assert releases.entries_in("some/res") == []


def test_a_table_of_another_layout(
    table: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("tiny-res:\n  saes: 3\n")
    monkeypatch.setattr(releases, "_table_file", lambda: path)
    with pytest.raises(UsageError, match="has an unknown layout at tiny-res"):
        discover("saelens:tiny-res")


def test_hub_names_warn_of_overrides_that_files_lack(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (run,) = found(f"hub:some/res/{HOOK}")
    doubt = f"center_writing_weights=True for it, unlike its files: name it saelens:tiny-res/{HOOK}"
    assert any(doubt in problem for problem in run.problems)
    assert doubt in caplog.text
    (other,) = found("hub:some/res/deep/other")
    assert other.problems == ()
    (scaled,) = found("hub:some/scale")
    assert any("norm_scaling_factor=0.35" in problem for problem in scaled.problems)
    (normed,) = found("hub:some/norm")
    assert any("constant_norm_rescale" in problem for problem in normed.problems)


def evaluated(capfd: pytest.CaptureFixture[str], *arguments: Any) -> Ran:
    ran = run(capfd, *arguments, "--split-tokens", "all", "--device", "cpu", "--quiet", "--json")
    assert ran.code == 0, ran.err
    return ran


def test_centred_activations_are_measured_where_the_table_asks_for_them(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    by_name = {
        name: evaluated(capfd, "evaluate", name).json()["runs"][0]["metrics"]
        for name in (f"saelens:tiny-res/{HOOK}", f"saelens:tiny-plain/{HOOK}")
    }
    asked = evaluated(
        capfd, "evaluate", f"saelens:tiny-plain/{HOOK}", "--weight-processing", "processed"
    )
    centred, plain = by_name.values()
    right = asked.json()["runs"][0]["metrics"]
    assert centred["mse"]["value"] == right["mse"]["value"]
    assert abs(centred["mse"]["value"] - plain["mse"]["value"]) > 1e-3


def test_own_runs_and_a_release_stand_on_one_frontier(
    home: Path, tmp_path: Path, tiny_model: Callable[[str], Path],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = RunConfig(
        variant="", d_in=1, d_sae=1, hook=HOOK, model=str(tiny_model("gpt2")),
        dataset=str(tmp_path / "ids.npy"), context_length=32, prepend_bos=False,
    )  # fmt: skip
    for seed in (1, 2):
        sae = Relu(32, 24)
        torch.manual_seed(seed)
        torch.nn.init.normal_(sae.W_enc, std=0.1)
        torch.nn.init.normal_(sae.W_dec, std=0.1)
        save_run(tmp_path / "runs" / str(seed), sae, config)
    names = ("runs", f"saelens:tiny-plain/{HOOK}")
    document = evaluated(capfd, "frontier", *names, "--report", "out.html").json()
    assert {r["run"] for r in document["runs"]} == {
        "runs/1", "runs/2", f"tiny-plain/{HOOK}",
    }  # fmt: skip
    assert set(document["variants"]) == {"relu", "tiny-plain: relu"}
    answer = frontier(names)
    assert len(answer.groups) == 1
    assert {r.run.label for r in answer.groups[0].group.results} == {"relu", "tiny-plain: relu"}
    assert run(capfd, "report", *names, "-o", "again.html").code == 0


def test_list(table: None, capfd: pytest.CaptureFixture[str]) -> None:
    ran = run(capfd, "list", "saelens", "--json")
    assert [sae["name"] for sae in ran.json()["saes"]][:2] == [
        "saelens:tiny-kissane/z", "saelens:tiny-norm/a",
    ]  # fmt: skip
    assert len(ran.json()["saes"]) == 12
    chosen = run(capfd, "list", "saelens", "--model", "TINY", "--variant", "qwen")
    assert [line.split()[0] for line in chosen.out.splitlines()] == [
        "name", "saelens:tiny-qwen/layer0", "saelens:tiny-qwen/layer1",
    ]  # fmt: skip
    of_hook = run(capfd, "list", "saelens:tiny-res", "--hook", "blocks.1", "--json").json()["saes"]
    assert of_hook[0]["overrides"] == CENTRED
    assert run(capfd, "list", "saelens", "--model", "other").code == 2
    assert run(capfd, "list", "elsewhere").code == 2
    assert json.dumps(of_hook)
