"""Hostile checkpoints: each a clear error, no code run, memory bounded."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from prolu_eval.checkpoints import discover, load_sae, skipped
from prolu_eval.checkpoints.reading import read_safetensors
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import Broken, Run
from tests.conftest import ROOT
from tests.helpers import hostile_files
from tests.helpers.damaged_files import SEEDS
from tests.helpers.foreign_files import matrices, saelens, sparsify

# By how much a hostile file may raise the peak of memory: by its own bytes and those of reading it.
ALLOWED_MIB = 96


# Formats of which no checkpoint is loaded.
REFUSED = {"temporal"}


def outcomes(root: Path) -> dict[str, Any]:
    """The result for each folder; all of them are loaded in one separate process."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.helpers.loading_peaks", str(root)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {outcome["name"]: outcome for outcome in map(json.loads, ran.stdout.splitlines())}


def assert_clear(name: str, errors: list[str]) -> None:
    assert len(errors) == 1, f"{name}: {errors}"
    (error,) = errors
    assert name in error, "the file is named"
    assert "; " in error, "a remedy follows the reason"
    assert len(error) < 1000
    assert "\n" not in error


def test_each_is_a_clear_error_no_code_runs_and_memory_is_bounded(tmp_path: Path) -> None:
    root, touched = tmp_path / "runs", tmp_path / "touched"
    hostile_files.bombs(root)
    hostile_files.headers(root)
    hostile_files.configs(root)
    hostile_files.pickles(root, touched)
    saelens(root / "benign", "standard", matrices())
    found = outcomes(root)
    assert found.keys() == {path.name for path in root.iterdir()}
    assert found.pop("benign")["errors"] == []
    assert len(found) > 50
    for name, outcome in found.items():
        assert_clear(name, outcome["errors"])
    assert not {n: o["grew"] for n, o in found.items() if o["grew"] > ALLOWED_MIB}
    assert not touched.exists()
    # Proves that the hostile pickle works.
    call, arguments = hostile_files.Touch(touched).__reduce__()
    call(*arguments)
    assert touched.exists()


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    hostile_files.outside(tmp_path / "runs", tmp_path / "elsewhere")
    found = discover(tmp_path / "runs")
    assert len(found) == 7
    for item in found:
        assert isinstance(item, Broken), item
        assert "is a link out of the folder" in item.error
        assert "secret" not in item.error
        with pytest.raises(CheckpointError, match="link out of the folder"):
            load_sae(item.path)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    original = saelens(tmp_path / "a", "standard", matrices())
    linked = saelens(tmp_path / "b", "standard", matrices(3))
    (linked / "sae_weights.safetensors").unlink()
    (linked / "sae_weights.safetensors").symlink_to("../a/sae_weights.safetensors")
    (linked / "notes").symlink_to("/", target_is_directory=True)
    assert all(isinstance(item, Run) for item in discover(tmp_path))
    runs = {item.name: item for item in discover(tmp_path)}
    assert runs.keys() == {"a", "b"}
    assert original.name == "a"
    # The folder that holds the link does not contain the link's target.
    with pytest.raises(CheckpointError, match="link out of the folder"):
        load_sae(linked)


def test_a_file_of_another_user_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saelens(tmp_path, "standard", matrices())
    weights = tmp_path / "sae_weights.safetensors"
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (weights, os.R_OK))
    with pytest.raises(CheckpointError) as refused:
        load_sae(tmp_path)
    remedy = "have its owner run chmod a+r on it"
    assert str(refused.value) == f"{weights}: is not yours to read; {remedy}."


LINKED = "links to folders are not followed; name the link itself to read it"


def test_links_to_folders_are_skipped_and_told(tmp_path: Path) -> None:
    saelens(tmp_path / "elsewhere", "standard", matrices())
    sparsify(tmp_path / "runs" / "layers.0", matrices())
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs", target_is_directory=True)
    assert [item.name for item in discover(tmp_path / "runs")] == ["layers.0"]
    assert skipped(tmp_path / "runs") == [
        (tmp_path / "runs" / "circle", LINKED),
        (tmp_path / "runs" / "linked", LINKED),
    ]
    assert [type(item) for item in discover(tmp_path / "runs" / "linked")] == [Run]


@pytest.mark.parametrize("kind", sorted(SEEDS.keys() - REFUSED))
def test_a_truncated_file_is_told_without_loading_weights(kind: str, tmp_path: Path) -> None:
    list(SEEDS[kind](tmp_path))
    whole = [item for item in discover(tmp_path) if isinstance(item, Run)]
    assert whole
    for file in {run.files[-1] for run in whole}:
        content = file.read_bytes()
        for kept in (len(content) - 1, len(content) // 2, 7, 0):
            file.write_bytes(content[:kept])
            (broken,) = discover(file)
            assert isinstance(broken, Broken), f"{file} of {kept} bytes"
            assert str(file) in broken.error
        file.write_bytes(content + b"\0")
        if file.suffix == ".safetensors":
            assert isinstance(discover(file)[0], Broken)
        file.write_bytes(content)


def test_complex_numbers_are_refused_by_name(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"W_dec": torch.ones(2, 3), "norm": torch.ones(1, dtype=torch.complex64)}, weights)
    with pytest.raises(CheckpointError, match="norm holds complex numbers"):
        read_safetensors(weights)
