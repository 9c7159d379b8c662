"""Stability of features over seeds, on dictionaries whose stability is known."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from prolu_eval import EvaluationOptions
from prolu_eval.checkpoints.native import save_run
from prolu_eval.dictionaries import matching
from prolu_eval.dictionaries.matching import match
from prolu_eval.errors import ResultsError
from prolu_eval.evaluation.stability import _over_seeds, chance, match_all, stability
from prolu_eval.runs import RunConfig
from prolu_eval.saes import CrossLayerTranscoder, Prolu
from prolu_eval.saes.cross_layer import CrossLayerOptions
from prolu_eval.synthetic import SyntheticActivations
from tests.helpers.cli import run

NAME = "synthetic:hierarchy"


def directions(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_order_and_scale_do_not_matter_and_signs_only_if_told() -> None:
    first = directions(40, 16, 0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    second = first[order] * torch.linspace(0.1, 5, 40)[:, None]
    found = match(first, second)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
    np.testing.assert_array_equal(order[torch.from_numpy(found.column)], np.arange(40))
    turned = second * torch.where(torch.arange(40) % 2 == 0, 1, -1)[:, None]
    assert match(first, turned).cosine.mean() < 0.9
    np.testing.assert_allclose(match(first, turned, absolute=True).cosine, 1, atol=1e-6)
    fewer = match(first, second[:30])
    assert (fewer.column >= 0).sum() == 30
    assert np.isnan(fewer.cosine).sum() == 10


def test_greedy_matching_is_one_to_one_and_close_to_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, noise = directions(300, 24, 0), directions(300, 24, 1)
    second = torch.cat([first[:150] + 0.3 * noise[:150], noise[150:]])
    best = match(first, second)
    monkeypatch.setattr(matching, "EXACT", 10)
    monkeypatch.setattr(matching, "_ROWS", 64)
    found = match(first, second)
    assert best.exact
    assert not found.exact
    assert sorted(found.column) == list(range(300))
    assert (found.column[:150] == np.arange(150)).all()
    assert 0.97 * best.cosine.sum() < found.cosine.sum() <= best.cosine.sum() + 1e-4
    np.testing.assert_allclose(found.nearest, best.nearest, atol=1e-6)
    taken = match(first, second[:100])
    assert (taken.column >= 0).sum() == 100


def test_chance_is_what_random_dictionaries_give() -> None:
    expected = chance(64, 16)
    _, features = match_all({str(seed): directions(64, 16, seed) for seed in range(5, 8)})
    assert np.mean([f.mean() for f in features.values()]) == pytest.approx(
        expected.cosine, abs=0.02
    )
    assert expected.found < 0.2
    assert chance(5000, 16).cosine > chance(4000, 16).cosine - 0.05


def saved(folder: Path, seed: int, kept: int, coefficient: float = 0.1) -> None:
    """A run that has the true directions of some features, and random ones for the rest."""
    known = SyntheticActivations.load(NAME, device="cpu").dictionary
    rows = torch.from_numpy(known.directions).float()
    rows[kept:] = torch.nn.functional.normalize(directions(len(rows) - kept, 128, seed), dim=1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    sae = Prolu(128, len(rows))
    sae.W_dec.data, sae.W_enc.data = rows[order], rows[order].T.contiguous()
    sae.b_enc.data.fill_(-0.4)
    sae.b_dec.data = torch.from_numpy(known.bias).float()
    config = RunConfig(variant="prolu", d_in=128, d_sae=128, model=NAME, dataset=NAME,
                       hook="activations", context_length=64, penalty="l1",
                       coefficient=coefficient, learning_rate=1e-3, seed=seed)  # fmt: skip
    save_run(folder / f"c{coefficient}_s{seed}", sae, config)


def test_seeds_are_compared_and_stable_features_reconstruct(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        saved(tmp_path, seed, kept=64)
    saved(tmp_path, 0, kept=64, coefficient=0.5)  # no other run to compare it with
    options = EvaluationOptions(device="cpu", n_tokens=2048)
    (found,), failed = stability([tmp_path], options, errors=True)
    assert not failed
    assert found.runs == tuple(f"c0.1_s{seed}" for seed in range(3))
    assert found.found.value == pytest.approx(0.5)
    assert found.cosine.value == pytest.approx(0.5 + 0.5 * 0.22, abs=0.05)
    assert found.cosine.low is not None
    assert found.exact
    assert found.chance.found == 0
    for name in found.runs:
        assert (found.features[name] > 0.7).sum() == 64
        kept = found.kept[name]
        errors = [part.value or 0 for part in (kept.whole, kept.stable, kept.random)]
        assert errors[1] < errors[2]
        assert kept.stable.low is not None
    shown = run(capfd, "stability", tmp_path, "--device", "cpu", "-o", tmp_path / "f.safetensors")
    assert shown.code == 0, shown.err
    assert "50 %" in shown.out
    assert load_file(tmp_path / "f.safetensors")["c0.1_s1"].shape == (128,)
    document = run(capfd, "stability", tmp_path, "--device", "cpu", "--json").json()
    assert document["configurations"][0]["found"]["value"] == pytest.approx(0.5)
    assert document["configurations"][0]["kept"] == {}


def test_seeds_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for seed in range(2):
        saved(tmp_path, seed, kept=64)
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"c0.1_s{seed}").rename(tmp_path / f"seed{seed}" / "run")
    (found,), _ = stability([tmp_path / "seed0", tmp_path / "seed1"])
    assert found.runs == ("seed0/run", "seed1/run")


def test_runs_of_one_seed_are_told(tmp_path: Path) -> None:
    saved(tmp_path, 0, kept=64)
    with pytest.raises(ResultsError, match="differ only in the seed"):
        stability([tmp_path])


def test_runs_that_cannot_be_compared_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(4):
        saved(tmp_path, seed, kept=64)
    (tmp_path / "c0.1_s1" / "config.json").write_text("{")
    weights = tmp_path / "c0.1_s3" / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    sae = CrossLayerTranscoder(
        8, 16, CrossLayerOptions(n_layers=2), d_out=8, apply_b_dec_to_input=False
    )
    config = RunConfig(variant="cross_layer", d_in=8, d_sae=16, hook="blocks.0-1.hook_mlp_in",
                       hook_out="blocks.0-1.hook_mlp_out", coefficient=1, seed=0)  # fmt: skip
    save_run(tmp_path / "clt", sae, config)
    (found,), failed = stability([tmp_path], EvaluationOptions(device="cpu"))
    assert found.runs == ("c0.1_s0", "c0.1_s2")
    assert {broken.name for broken in failed} == {"c0.1_s1", "c0.1_s3", "clt"}
    shown = run(capfd, "stability", tmp_path, "--device", "cpu")
    assert shown.code == 1
    assert "clt: is a cross-layer transcoder" in shown.err
    assert "c0.1_s1 skipped" in shown.err
    assert "50 %" in shown.out
    document = run(capfd, "stability", tmp_path, "--device", "cpu", "--json").json()
    assert {one["run"] for one in document["failed"]} == {"c0.1_s1", "c0.1_s3", "clt"}
    alone = run(capfd, "stability", tmp_path / "clt", "--device", "cpu", "--json")
    assert alone.code == 2
    assert alone.json()["configurations"] == []


@pytest.mark.parametrize("n_seeds", [3, 4, 6])
def test_intervals_over_seeds_hold_the_truth(n_seeds: int) -> None:
    """Pairs share seeds; a pair's similarity is the product of two seeds' qualities, plus noise."""
    rng = np.random.default_rng(0)
    hits, n = 0, 2000
    names = [str(seed) for seed in range(n_seeds)]
    for _ in range(n):
        quality = dict(zip(names, 0.8 + 0.05 * rng.standard_normal(n_seeds), strict=True))
        values = {(a, b): quality[a] * quality[b] + 0.01 * rng.standard_normal()
                  for a, b in combinations(names, 2)}  # fmt: skip
        found = _over_seeds(names, values)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.64 <= found.high
    assert 0.93 <= hits / n <= 0.97
    assert _over_seeds(["a", "b"], {("a", "b"): 0.5}).low is None
