"""The kernels for a CPU compute the same as torch and eager code, with any number of threads."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prolu_eval import kernels
from prolu_eval.activations import Selection, Thresholding
from prolu_eval.evaluation.autoencoding import Autoencoding, Sizes
from prolu_eval.kernels import on_cpu
from prolu_eval.saes import SparseAutoencoder, TopK
from prolu_eval.training.layouts import Dense
from prolu_eval.training.products import Gathered
from prolu_eval.training.threads import using_threads
from tests.conftest import ROOT
from tests.helpers.autoencodings import (
    CPU,
    assert_same,
    eager,
    found,
    given,
    of_many_features,
    random,
)
from tests.helpers.random_saes import OPTIONS, random_sae

SHAPES = [(5, 1024, 32), (7, 37, 5), (1, 8, 8), (9, 64, 1), (6, 96, 2), (4, 1024, 300), (3, 5, 5)]


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three threads that share even the smallest work."""
    monkeypatch.setattr(on_cpu, "_LEAST", 1)
    with using_threads(3):
        yield


def measured(sae: SparseAutoencoder, lengths: list[int], dtype: torch.dtype) -> list[Tensor]:
    """The reconstructions, all sums, and the strongest examples."""
    activations = given(lengths, dtype)._replace(place=torch.arange(sum(lengths)))
    running = Autoencoding(sae, len(lengths), CPU, dtype, Sizes(codes=150), n_examples=2)
    sums = found(running, activations)
    assert running.examples is not None
    return sums + [torch.as_tensor(array) for array in running.examples.stored().values()]


def assert_as_eager(
    monkeypatch: pytest.MonkeyPatch, sae: SparseAutoencoder, lengths: list[int], dtype: torch.dtype
) -> list[Tensor]:
    assert kernels.suit_cpu(CPU, dtype)
    got = measured(sae, lengths, dtype)
    eager(monkeypatch)
    assert_same(got, measured(sae, lengths, dtype))
    return got


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", [[10, 0, 21], [1], [0]])
@pytest.mark.parametrize(("variant", "options"), OPTIONS)
def test_autoencodings(
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    options: dict[str, Any],
    lengths: list[int],
    dtype: torch.dtype,
) -> None:
    sae = random_sae(
        variant, options, 3, normalisation="layer_norm" if len(lengths) > 1 else "none"
    )
    got = assert_as_eager(monkeypatch, sae, lengths, dtype)
    assert (got[1][0].sum() > 0) == (sum(lengths) > 0), "codes are active"


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize(("variant", "options"), [("relu", {}), ("topk", {"k": 3}), ("nnls", {})])
def test_threads_share_tokens(
    monkeypatch: pytest.MonkeyPatch, variant: str, options: dict[str, Any]
) -> None:
    assert_as_eager(monkeypatch, random_sae(variant, options, 3), [10, 0, 21], torch.float32)


@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_no_code_active_and_all_of_many(monkeypatch: pytest.MonkeyPatch, bias: float) -> None:
    got = assert_as_eager(monkeypatch, of_many_features(bias), [4, 3], torch.float32)
    assert got[1][0].sum() == (0 if bias < 0 else 7 * 77)


def test_codes_that_are_not_numbers_count_as_active() -> None:
    m = torch.tensor([[1.0, torch.nan, -1.0, torch.inf]])
    active = on_cpu.compact(m, Thresholding())
    assert active.feature.tolist() == [0, 1, 3]


@pytest.mark.parametrize("scale", [1, 1e-30, 3e38])
@pytest.mark.parametrize("kind", ["different", "rounded", "equal", "negative"])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_the_largest_are_those_that_torch_finds(
    n: int, d: int, k: int, dtype: torch.dtype, positive: bool, kind: str, scale: float
) -> None:
    z = random(n, d, dtype=torch.float64)
    z = {"different": z, "rounded": (2 * z).round(), "equal": z * 0 + 1,
         "negative": -1 - z.abs()}[kind]  # fmt: skip
    z = (z * scale).clamp(-3.4e38, 3.4e38).to(dtype)
    chosen = on_cpu.select(z, Selection(k, torch.zeros(d, dtype=dtype), positive=positive))
    assert chosen is not None
    value, index = (z.relu() if positive else z).topk(k)
    expected = torch.zeros_like(z).scatter(1, index, value)
    codes = on_cpu.codes_of(chosen, d)
    assert torch.equal(codes.sort(1).values, expected.sort(1).values)  # of equals any may be kept
    assert ((codes == z) | (codes == 0)).all()
    if kind == "different" and len(z.unique()) == z.numel():
        assert torch.equal(codes, expected)


@pytest.mark.parametrize("what", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_left_to_torch(what: float) -> None:
    z = random(3, 64)
    z[1, 5] = what
    assert on_cpu.select(z, Selection(4, torch.zeros(64))) is None
    sae = TopK(4, 64, TopK.Options.model_validate({"k": 3})).requires_grad_(False)
    codes = sae.activate(z)
    assert torch.equal(codes[1, 5].isnan(), torch.tensor(what).isnan())
    assert ((codes != 0).sum(1) == 3).all()


def test_the_codes_of_topk_have_gradients_where_they_are_wanted() -> None:
    sae = TopK(4, 16, TopK.Options.model_validate({"k": 3}))
    m = random(5, 16).requires_grad_()
    wanted = sae.activate(m)
    wanted.sum().backward()
    assert m.grad is not None
    assert torch.equal(m.grad, (wanted > 0).float())
    with torch.no_grad():
        assert torch.equal(sae.activate(m), wanted)
        assert torch.equal(sae.activate(m[0]), wanted[0])


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 7, 37), (3, 5, 16), (2, 1, 1)])
@pytest.mark.parametrize("threads", [1, 3])
def test_products_over_entries(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], share: float, threads: int
) -> None:
    monkeypatch.setattr(on_cpu, "_LEAST", 1)
    n, batch, d_sae = shape
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < share
    whole, few = Dense(lambda: mask), Gathered(lambda: mask)
    values = random(*shape) * mask
    tokens, features = random(n, batch, 6), random(n, d_sae, 6)
    with using_threads(threads):
        chosen = few.gather(values)
        torch.testing.assert_close(chosen, values[mask])
        torch.testing.assert_close(few.over_features(chosen, features), values @ features)
        torch.testing.assert_close(few.over_tokens(chosen, tokens), values.mT @ tokens)
        torch.testing.assert_close(few.dot(tokens, features), (tokens @ features.mT)[mask])
        torch.testing.assert_close(few.per_feature_sum(chosen), values.sum(1))
        torch.testing.assert_close(few.share(), whole.share().float())


def test_kernels_run_where_nothing_can_be_written() -> None:
    """Code that cannot be kept on disk is compiled anew in each process."""
    program = (
        "import numba, torch\n"
        "real = numba.njit\n"
        "def njit(*a, cache=False, **k):\n"
        "    if cache: raise RuntimeError('no locator available')\n"
        "    return real(*a, **k)\n"
        "numba.njit = njit\n"
        "from prolu_eval.activations import Thresholding\n"
        "from prolu_eval.kernels import on_cpu\n"
        "print(on_cpu.compact(torch.ones(1, 3), Thresholding()).feature.tolist())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "[0, 1, 2]\n", ran.stderr


def test_processes_that_compile_at_one_time_keep_the_right_code(tmp_path: Path) -> None:
    program = (
        "import sys, torch\n"
        "from prolu_eval.activations import Thresholding\n"
        "from prolu_eval.kernels import on_cpu\n"
        "m = torch.ones(1, 3, dtype=getattr(torch, sys.argv[1]))\n"
        "print(on_cpu.compact(m, Thresholding()).value.tolist())"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", program, dtype], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, text=True,
        )
        for dtype in ("float32", "float64", "float32")
    ]  # fmt: skip
    assert [process.communicate()[0] for process in begun] == 3 * ["[1.0, 1.0, 1.0]\n"]
