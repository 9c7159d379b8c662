"""Damaged checkpoints of every format: nothing but the project's own errors comes out.

A few hundred inputs for each loader by default; ``nox -s slow`` tries 10,000 each.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prolu_eval.checkpoints import FORMATS, discover, load_run, skipped
from prolu_eval.errors import ProluEvalError
from prolu_eval.runs import Run
from prolu_eval.saes import Crosscoder, CrossLayerTranscoder
from tests.helpers.damaged_files import (
    SEEDS,
    change,
    changes,
    copied,
    damage,
    in_numpy,
    parsed,
    write,
)

pytestmark = pytest.mark.deep

N_EXAMPLES = int(os.environ.get("PROLU_EVAL_FUZZ_EXAMPLES", "200"))
MEMORY = Path("/dev/shm")  # if it exists, files are kept in memory


def exercise(root: Path) -> list[str]:
    """Do all that the commands do with a folder: find, describe, load and run checkpoints.

    Returns the reported errors.
    """
    told = []
    skipped(root)
    try:
        found = discover(root)
    except ProluEvalError as error:  # no checkpoint is recognised any more
        return [str(error)]
    for item in found:
        if not isinstance(item, Run):
            told.append(item.error)
            continue
        try:
            sae = load_run(item)
        except ProluEvalError as error:
            told.append(str(error))
            continue
        layers = (sae.n_sites,) if isinstance(sae, CrossLayerTranscoder | Crosscoder) else ()
        x = torch.zeros(2, *layers, sae.d_in, dtype=next(sae.parameters()).dtype)
        assert sae(x + 0.5).shape == (2, *layers, sae.d_out)
    return told


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def test_every_format_is_fuzzed() -> None:
    assert SEEDS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_load_unless_they_are_refused(name: str, tmp_path: Path) -> None:
    for seed in SEEDS[name](tmp_path):
        refused = seed.name == "temporal"
        assert isinstance(discover(seed)[0], Run) != refused
        copy = tmp_path / "copy" / seed.name
        for file, document in parsed(seed).items():
            write(copy / file, document)
        assert refused or not exercise(copy)


@pytest.mark.parametrize("name", SEEDS)
def test_only_our_own_errors_come_out(name: str, memory: Path, tmp_path: Path) -> None:
    seeds = [parsed(seed) for seed in SEEDS[name](tmp_path)]
    told: list[str] = []

    @settings(max_examples=N_EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(seeds) - 1), changes())
    def fuzz(seed: int, wanted: list[tuple[int, ...]]) -> None:
        documents: Mapping[str, Any] = copied(seeds[seed])
        names = list(documents)
        for which, raw, *numbers in wanted:
            if raw % 4:
                change(documents[names[which % len(names)]], *numbers)
        for file, document in documents.items():
            write(memory / name / file, document)
        for which, raw, *numbers in wanted:
            path = memory / name / names[which % len(names)]
            if raw % 4 == 0:
                path.write_bytes(damage(path.read_bytes(), *numbers))
        try:
            told.extend(exercise(memory / name))
        finally:
            for file in documents:
                (memory / name / file).unlink()

    fuzz()
    assert told, "some are damaged beyond repair"
    assert not [error for error in told if "\n" in error]


ENCODERS = ("top-k=2", "matching-pursuit", "nnls")


def test_only_our_own_errors_come_out_of_atoms(memory: Path) -> None:
    """Plain dictionaries, whose files are recognised by their endings."""
    tensors = {"atoms": torch.randn(5, 4), "mean": torch.ones(4), "other": torch.ones(2)}
    told: list[str] = []

    @settings(max_examples=N_EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(st.booleans(), st.sampled_from(ENCODERS), changes())
    def fuzz(plain: bool, encoder: str, wanted: list[tuple[int, ...]]) -> None:
        path = memory / ("atoms.npy" if plain else "atoms.safetensors")
        document = dict(tensors)
        for _, raw, *numbers in wanted:
            if raw % 2:
                change(document, *numbers)
        if plain:
            array = next((t for t in document.values() if in_numpy(t)), torch.ones(2, 2))
            np.save(path, array.numpy())
        else:
            write(path, document)
        for _, raw, *numbers in wanted:
            if raw % 2 == 0:
                path.write_bytes(damage(path.read_bytes(), *numbers))
        try:
            (found,) = discover(path, encoder)
            if isinstance(found, Run):
                sae = load_run(found)
                x = torch.ones(2, sae.d_in, dtype=next(sae.parameters()).dtype)
                assert sae(x).shape == x.shape
            else:
                told.append(found.error)
        except ProluEvalError as error:
            told.append(str(error))
        finally:
            path.unlink()

    fuzz()
    assert told, "some are damaged beyond repair"
    assert not [error for error in told if "\n" in error]
