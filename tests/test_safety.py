"""Hostile checkpoints: each a clear error, no code run, memory bounded."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prolu_eval.checkpoints import discover, load_sae, skipped
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import Broken, Run
from tests import hostile_files
from tests.conftest import ROOT
from tests.foreign_files import matrices, saelens, sparsify

# What a hostile file may add to the peak of memory: its own bytes, and what reading takes.
ALLOWED_MIB = 96


def loaded(root: Path) -> dict[str, list[str]]:
    """Load every folder in one process of its own; errors by folder, peaks of memory checked."""
    saelens(root / "benign", "standard", matrices())
    ran = subprocess.run(
        [sys.executable, "-m", "tests.loading_peaks", str(root)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    outcomes = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {outcome["name"] for outcome in outcomes} == {path.name for path in root.iterdir()}
    too_large = {o["name"]: o["grew"] for o in outcomes if o["grew"] > ALLOWED_MIB}
    assert not too_large
    errors = {outcome["name"]: outcome["errors"] for outcome in outcomes}
    assert errors.pop("benign") == []
    return errors


def assert_clear(name: str, errors: list[str]) -> None:
    assert len(errors) == 1, f"{name}: {errors}"
    (error,) = errors
    assert name in error, "the file is named"
    assert "; " in error, "a remedy follows the reason"
    assert len(error) < 1000
    assert "\n" not in error


@pytest.mark.parametrize(
    "make",
    [hostile_files.bombs, hostile_files.headers, hostile_files.configs],
    ids=lambda m: m.__name__,
)
def test_memory_is_bounded(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    for name, errors in loaded(tmp_path).items():
        assert_clear(name, errors)


def test_no_pickle_runs(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "runs").mkdir()
    hostile_files.pickles(tmp_path / "runs", touched)
    errors = loaded(tmp_path / "runs")
    assert not touched.exists()
    assert len(errors) > 10
    for name, reasons in errors.items():
        assert_clear(name, reasons)
    # The proof that the bait is one.
    hostile_files.Touch(touched).__reduce__()[0](touched)
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
    # On its own, the folder that holds the link does not hold what it leads to.
    with pytest.raises(CheckpointError, match="link out of the folder"):
        load_sae(linked)


def test_links_to_folders_are_skipped_and_told(tmp_path: Path) -> None:
    saelens(tmp_path / "elsewhere", "standard", matrices())
    sparsify(tmp_path / "runs" / "layers.0", matrices())
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs", target_is_directory=True)
    assert [item.name for item in discover(tmp_path / "runs")] == ["layers.0"]
    assert skipped(tmp_path / "runs") == [
        (tmp_path / "runs" / "circle", "links to folders are not followed"),
        (tmp_path / "runs" / "linked", "links to folders are not followed"),
    ]
