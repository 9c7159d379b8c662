"""The stream of activations, the disk cache, and trainings that are killed and continued."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prolu_eval.errors import ResultsError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import load_tokens
from prolu_eval.training import Settings, read_sweep_file, train_sweep
from prolu_eval.training.cache import cached
from prolu_eval.training.checkpoint import CHECKPOINT_FILE
from prolu_eval.training.stream import Stream, from_model


def with_more(path: Path, n_tokens: int) -> Path:
    """The sweep file with more steps, resampling, and a sweep whose threshold is averaged."""
    text = path.read_text().replace("n_tokens = 4096", f"n_tokens = {n_tokens}")
    text = text.replace("[within]", "resample_every = 10\ndead_after = 256\n[within]")
    path.write_text(text + '[[sweep]]\nvariant = "batchtopk"\nk = [2]\n')
    return path


def numbered(rows: Tensor) -> Tensor:
    """Ten activations per row, each the number of its place in the text."""
    return (10 * rows[:, None] + torch.arange(10)).flatten().float()[:, None]


def test_the_buffer_shuffles_and_loses_nothing() -> None:
    stream = Stream(numbered, 1000, 8, 64, seed=0)
    seen = torch.cat([next(stream) for _ in range(100)])[:, 0].tolist()
    assert len(set(seen)) == len(seen), "an epoch repeats nothing"
    neighbours = np.abs(np.diff(seen[:200]))
    assert np.mean(neighbours == 1) < 0.1
    short = Stream(numbered, 5, 8, 64, seed=0)
    counts = torch.cat([next(short) for _ in range(100)])[:, 0].int().bincount()
    assert counts.min() > 10, "epochs follow one another"


def test_a_peek_consumes_nothing() -> None:
    first, second = (Stream(numbered, 100, 8, 64, seed=0) for _ in range(2))
    peeked = first.peek(20)
    assert torch.equal(peeked[:8], next(second))
    assert torch.equal(next(first), peeked[:8])


@pytest.mark.parametrize("consumed", [1, 5, 37])
def test_a_stream_goes_on_where_another_was(consumed: int) -> None:
    first = Stream(numbered, 100, 8, 64, seed=0)
    for _ in range(consumed):
        next(first)
    second = Stream(numbered, 100, 8, 64, seed=1)
    second.resume({name: t.clone() for name, t in first.state().items()}, torch.device("cpu"))
    for _ in range(60):
        assert torch.equal(next(first), next(second))


def test_cached_activations_are_those_of_the_model(tmp_path: Path, sweep_file: Path) -> None:
    shared = read_sweep_file(sweep_file).shared
    model = LanguageModel.load(shared.model, device="cpu")
    tokens = load_tokens(shared.dataset, model, split="train", n_tokens=2048, context_length=16)
    rows = torch.tensor([5, 3, 70])
    expected = from_model(model, shared.hook, tokens)(rows)
    for _ in range(2):  # written, then read
        found = cached(model, shared.hook, tokens, tmp_path / "cache")(rows)
        torch.testing.assert_close(found, expected)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        cached(model, shared.hook, tokens, tmp_path / "file")


def test_a_cached_sweep_learns_what_an_uncached_one_does(tmp_path: Path, sweep_file: Path) -> None:
    grid = read_sweep_file(sweep_file)
    folders = []
    for name, cache in (("plain", None), ("cached", tmp_path / "cache")):
        train_sweep(grid, tmp_path / name, Settings("cpu", cache))
        folders.append(tmp_path / name / "prolu-ste_l1_c0.1_lr0.002_s0")
    first, second = (load_file(folder / "sae.safetensors") for folder in folders)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


def sweeping(file: Path, out: Path) -> "subprocess.Popen[bytes]":
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from prolu_eval.training import Settings, read_sweep_file, train_sweep\n"
        f"train_sweep(read_sweep_file(Path({str(file)!r})), Path({str(out)!r}), "
        "Settings('cpu', checkpoint_minutes=0.002))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_a_killed_sweep_goes_on_to_the_same_weights(tmp_path: Path, sweep_file: Path) -> None:
    file = with_more(sweep_file, 40_960)
    train_sweep(read_sweep_file(file), tmp_path / "whole", Settings("cpu"))
    out = tmp_path / "killed"
    kills = 0
    while True:
        before = (out / CHECKPOINT_FILE).stat().st_mtime_ns if kills else 0
        process = sweeping(file, out)
        while process.poll() is None and kills < 2:
            known = (out / CHECKPOINT_FILE).exists()
            if known and (out / CHECKPOINT_FILE).stat().st_mtime_ns > before:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.01)
        else:
            assert process.wait() == 0
            break
    assert kills == 2, "it was killed while it trained, twice"
    assert not (out / CHECKPOINT_FILE).exists()
    for folder in sorted((tmp_path / "whole").iterdir()):
        for name in ("sae.safetensors", "history.safetensors", "config.json"):
            assert (out / folder.name / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_damaged_checkpoint_is_named(tmp_path: Path, sweep_file: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / CHECKPOINT_FILE).write_bytes(b"nonsense")
    with pytest.raises(ResultsError, match="cannot be continued"):
        train_sweep(read_sweep_file(sweep_file), tmp_path / "runs", Settings("cpu"))
