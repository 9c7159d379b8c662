"""``hub:`` names: requests to the hub, and checkpoints from its cache without a network."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from shutil import copy
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants

from prolu_eval.checkpoints import discover, load_sae, skipped
from prolu_eval.checkpoints.native import save_run
from prolu_eval.errors import CheckpointError
from prolu_eval.hub import results_folder
from prolu_eval.results import load_results
from prolu_eval.runs import Broken, Run, RunConfig
from prolu_eval.saes import Relu
from tests.helpers.cli import run
from tests.helpers.foreign_files import (
    dictionary,
    gemma_scope,
    matrices,
    saelens,
    sparsify,
    thresholds,
    top_k,
    write_json,
)

W, T = matrices(), thresholds()
COMMIT, OLDER = "a" * 40, "b" * 40


def into_cache(home: Path, repository: str, files: Path, commit: str, ref: str) -> Path:
    """Lay files out as the hub's client caches them: blobs, and links to them in a snapshot."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    for i, file in enumerate(sorted(p for p in files.rglob("*") if p.is_file())):
        blob = folder / "blobs" / f"{commit[:4]}{i}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        copy(file, blob)
        link = folder / "snapshots" / commit / file.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with repositories of two libraries, and no network."""
    saelens(tmp_path / "lens" / "layer_1" / "small", "standard", W)
    saelens(tmp_path / "lens" / "layer_2" / "small", "jumprelu", matrices(2) | T)
    saelens(tmp_path / "older" / "layer_1" / "small", "standard", matrices(5))
    write_json(tmp_path / "eleuther" / "config.json", {"model": "tiny"})
    sparsify(tmp_path / "eleuther" / "layers.1" / "seed0", W)
    home = tmp_path / "home"
    into_cache(home, "some/lens", tmp_path / "older", OLDER, "v1")
    into_cache(home, "some/lens", tmp_path / "lens", COMMIT, "main")
    into_cache(home, "some/sparse", tmp_path / "eleuther", COMMIT, "main")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return home


def test_a_repository_is_searched_like_a_folder(home: Path) -> None:
    runs = discover("hub:some/lens")
    assert [run.name for run in runs] == ["layer_1/small", "layer_2/small"]
    assert all(isinstance(run, Run) for run in runs), runs
    assert home in runs[0].path.parents
    assert skipped("hub:some/lens") == []


def test_a_folder_of_a_repository(home: Path) -> None:
    assert torch.equal(load_sae("hub:some/lens/layer_1").W_enc, W["W_enc"])
    assert torch.equal(load_sae("hub:some/lens/layer_2/small").b_enc, matrices(2)["b_enc"])


@pytest.mark.parametrize("revision", ["v1", OLDER])
def test_a_revision(home: Path, revision: str) -> None:
    sae = load_sae(f"hub:some/lens/layer_1/small@{revision}")
    assert torch.equal(sae.W_enc, matrices(5)["W_enc"])


def test_the_runs_own_config_lies_above_the_folder(home: Path) -> None:
    (run,) = discover("hub:some/sparse/layers.1/seed0")
    assert isinstance(run, Run)
    assert (run.model, run.hook, run.seed) == ("tiny", "blocks.1.hook_resid_post", 0)


def test_links_out_of_the_cache_are_not_followed(home: Path, tmp_path: Path) -> None:
    outside = saelens(tmp_path / "outside", "standard", W) / "cfg.json"
    cached = home / f"hub/models--some--lens/snapshots/{COMMIT}/layer_1/small/cfg.json"
    cached.unlink()
    cached.symlink_to(outside)
    (broken,) = discover("hub:some/lens/layer_1")
    assert isinstance(broken, Broken)
    assert "is a link out of the folder" in broken.error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hub:some/absent", "cannot be fetched"),
        ("hub:some/lens@absent", "cannot be fetched"),
        ("hub:some/lens/absent", "has no folder 'absent'"),
        ("hub:some/lens/../sparse", "is not a hub name"),
        ("hub:some", "is not a hub name"),
        ("hub:", "is not a hub name"),
        ("hub:/etc/passwd", "is not a hub name"),
        ("hub:some/lens@", "is not a hub name"),
    ],
)
def test_what_cannot_be_had(home: Path, name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as raised:
        discover(name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_from_the_command_line(home: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    ran = subprocess.run(
        [sys.executable, "-m", "prolu_eval", "inspect", "hub:some/lens", "--weights", "--json"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = {document["run"]: document for document in json.loads(ran.stdout)["runs"]}
    assert found.keys() == {"layer_1/small", "layer_2/small"}
    assert found["layer_2/small"]["variant"] == "jumprelu"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub that holds the files of ``remote``; returns the list of requests to it."""
    asked: list[dict[str, Any]] = []

    def snapshot_download(repository: str, *, revision: str | None, allow_patterns: Any) -> str:
        asked.append({"repository": repository, "revision": revision, "patterns": allow_patterns})
        for file in (p for p in (tmp_path / "remote").rglob("*") if p.is_file()):
            name = file.relative_to(tmp_path / "remote").as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
                copy(file, tmp_path / "local" / name)
        (tmp_path / "local").mkdir(exist_ok=True)
        return str(tmp_path / "local")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_pickled_weights_are_not_fetched_where_there_are_safetensors(
    hub: list[dict[str, Any]], tmp_path: Path
) -> None:
    saelens(tmp_path / "remote" / "a", "standard", W)
    dictionary(tmp_path / "remote" / "b", "AutoEncoderTopK", top_k(W))
    (run,) = discover("hub:some/repository@v2")
    assert run.name == "a"
    assert len(hub) == 1
    assert (hub[0]["repository"], hub[0]["revision"]) == ("some/repository", "v2")
    assert not list((tmp_path / "local").rglob("*.pt"))


def test_pickled_weights_are_fetched_where_there_are_no_others(
    hub: list[dict[str, Any]], tmp_path: Path
) -> None:
    dictionary(tmp_path / "remote" / "b", "AutoEncoderTopK", top_k(W))
    dictionary(tmp_path / "remote" / "elsewhere", "AutoEncoderTopK", top_k(W))
    assert torch.equal(load_sae("hub:some/repository/b").b_dec, W["b_dec"])
    assert len(hub) == 2
    assert not (tmp_path / "local" / "elsewhere").exists(), "only what was named is fetched"


def test_arrays_of_numpy_are_fetched(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    gemma_scope(tmp_path / "remote" / "layer_3" / "width_16k", W | T)
    (run,) = discover("hub:google/gemma-scope-2b-pt-res/layer_3")
    assert isinstance(run, Run)
    assert run.format == "gemma_scope"
    assert len(hub) == 1


@pytest.fixture
def trained(
    home: Path, tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run of a tiny model on the hub, as ``hub:some/trained``; returns its snapshot."""
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    ids = tmp_path / "ids.npy"
    np.save(ids, np.random.default_rng(0).integers(1, 96, 640))
    config = RunConfig(variant="", d_in=1, d_sae=1, hook="blocks.1.hook_resid_post",
                       model=str(tiny_model("llama")), dataset=str(ids),
                       context_length=32)  # fmt: skip
    sae = Relu(32, 40)
    torch.nn.init.normal_(sae.W_enc)
    save_run(tmp_path / "remote" / "sweep" / "relu", sae, config)
    into_cache(home, "some/trained", tmp_path / "remote", COMMIT, "main")
    return home / "hub" / "models--some--trained" / "snapshots" / COMMIT


def test_results_lie_in_the_cache_folder_and_every_command_finds_them(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(trained.rglob("*"))
    arguments = ("hub:some/trained/sweep", "--split-tokens", "all", "--quiet", "--device", "cpu")
    ran = run(capfd, "frontier", *arguments, "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["report"] == "report.html"
    (result,) = (tmp_path / "cache" / "results" / "some/trained/sweep/relu").glob("*.json")
    assert sorted(trained.rglob("*")) == before, "the hub's cache is the hub's"
    again = run(capfd, "evaluate", *arguments, "--json").json()["runs"]
    assert [(r["run"], r["status"]) for r in again] == [("relu", "cached")]
    assert [r["provenance"]["fingerprint"] for r in again] == [result.stem]
    assert run(capfd, "report", "hub:some/trained").code == 0
    assert run(capfd, "baseline", "save", "hub:some/trained/", "-o", "base.json").code == 0
    assert run(capfd, "compare", "hub:some/trained", "-b", "base.json").code == 0
    assert list(load_results("hub:some/trained")["name"]) == ["relu"]
    assert run(capfd, "evaluate", *arguments, "--results", "here", "--json").code == 0
    assert [p.stem for p in Path("here").glob("relu/*.json")] == [result.stem]


def test_revisions_have_results_of_their_own() -> None:
    folders = {
        results_folder(f"hub:some/lens{rest}")
        for rest in ("", "@v1", "@v2", "/a", "/a@v1", "/a@v2")
    }
    assert len(folders) == 6
    assert results_folder("hub:some/lens/a/") == results_folder("hub:some/lens/a")
    assert results_folder("runs") == Path("runs")


@pytest.mark.parametrize("command", ["report", "evaluate", "biases"])
@pytest.mark.parametrize("name", ["hub:../x", "hub:some/lens/../x", "hub:some/lens@.."])
def test_a_name_leads_nowhere_else(
    home: Path, command: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = run(capfd, command, name)
    assert ran.code == 2
    assert "is not a hub name" in ran.err


def test_results_that_are_not_there_yet(
    home: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for ran in (
        run(capfd, "report", "hub:some/lens"),
        run(capfd, "baseline", "save", "hub:some/lens", "-o", tmp_path / "base.json"),
    ):
        assert ran.code == 2
        assert "hub:some/lens: holds no results; run `prolu-eval evaluate`" in ran.err
