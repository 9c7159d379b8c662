"""Benchmarks with known features: descriptions, dictionaries, samples, files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from prolu_eval.errors import ModelError
from prolu_eval.synthetic import HOOK, PRESETS, Benchmark, SyntheticActivations, named_benchmark
from prolu_eval.synthetic.dictionary import dictionary
from tests.helpers.cli import run


def source(**settings: object) -> SyntheticActivations:
    usual = {"name": "own", "d_in": 8, "n_features": 12, "l0": 2.0}
    return SyntheticActivations("own", Benchmark.model_validate(usual | settings), device="cpu")


@pytest.mark.parametrize("name", PRESETS)
def test_features_fire_as_often_as_they_are_said_to(name: str) -> None:
    model = SyntheticActivations.load(f"synthetic:{name}", device="cpu")
    spec, known = model.benchmark, model.dictionary
    assert known.firing_probability.sum() == pytest.approx(spec.l0)
    np.testing.assert_allclose(np.linalg.norm(known.directions, axis=1), 1, atol=1e-12)
    x, magnitudes = model.samples(model.rows("train", 8192, 128).ids)
    active = magnitudes.numpy() > 0
    p = known.firing_probability
    off = active.mean(0) - p
    spread = np.sqrt(p * (1 - p) / 8192)
    assert np.abs(off / spread).max() < 5
    values = magnitudes.numpy()[active]
    assert values.mean() == pytest.approx(1, abs=0.02)
    if spec.magnitude == "wide":
        assert values.max() / values.min() == pytest.approx(spec.spread, rel=0.02)
    noise = x.numpy() - magnitudes.numpy() @ known.directions - known.bias
    assert noise.std() == pytest.approx(spec.noise, rel=0.01)
    assert np.linalg.norm(known.bias) == pytest.approx(spec.bias)


def test_directions_are_what_the_basis_says() -> None:
    orthogonal = source(basis="orthogonal", n_features=8).dictionary.directions
    np.testing.assert_allclose(orthogonal @ orthogonal.T, np.eye(8), atol=1e-12)
    superposed = source(basis="superposed").dictionary.directions
    np.testing.assert_allclose(superposed.T @ superposed, 1.5 * np.eye(8), atol=1e-3)
    assert source(basis="random").dictionary.directions.shape == (12, 8)


def test_children_fire_only_with_their_parent_and_groups_together() -> None:
    model = source(n_features=12, children=2, child_rate=0.5)
    parent = model.dictionary.parent
    active = model.samples(model.rows("train", 4096, 64).ids).magnitudes.numpy() > 0
    children = parent >= 0
    assert children.sum() == 8
    assert not (active[:, children] & ~active[:, parent[children]]).any()
    grouped = source(groups=2, correlation=0.8)
    active = grouped.samples(grouped.rows("train", 8192, 64).ids).magnitudes.numpy() > 0
    correlation = np.asarray(np.corrcoef(active.T))
    same = np.equal.outer(grouped.dictionary.group, grouped.dictionary.group)
    assert correlation[same].min() > 0.2
    assert np.abs(correlation[~same]).max() < 0.1


def test_frequencies_follow_zipf_with_none_above_a_half() -> None:
    rate = dictionary(PRESETS["superposition"]).rate
    free = rate < 0.5
    np.testing.assert_allclose((rate * np.arange(1, 257))[free], (rate * 256)[-1])
    assert rate.max() <= 0.5
    assert rate.sum() == pytest.approx(4)


def test_a_row_does_not_depend_on_its_company_and_parts_share_no_sample() -> None:
    model = source(noise=0.1)
    train, heldout = model.rows("train", 256, 32), model.rows("heldout", 256, 32)
    together = model.activations(train.ids, HOOK)
    assert torch.equal(together[[5, 2]], model.activations(train.ids[[5, 2]], HOOK))
    assert not set(train.ids.flatten().tolist()) & set(heldout.ids.flatten().tolist())
    assert not torch.equal(together, model.activations(heldout.ids, HOOK))
    other = source(noise=0.1, seed=1)
    assert other.fingerprint != model.fingerprint == source(noise=0.1).fingerprint
    assert not torch.equal(together, other.activations(train.ids, HOOK))


def test_samples_of_version_1_stay_what_they_are() -> None:
    model = SyntheticActivations.load("synthetic:wide-magnitudes", device="cpu")
    x = model.activations(model.rows("heldout", 128, 128).ids, HOOK)[0]
    found = [float(x.double().sum()), float(x[3, 5]), float(x.norm())]
    assert found == pytest.approx(EXPECTED, rel=1e-5)


EXPECTED = [73.45655562222237, 0.4059278070926666, 42.78421401977539]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"basis": "orthogonal"}, "cannot be orthogonal in 8"),
        ({"basis": "superposed", "n_features": 8}, "must be more than the dimensions"),
        ({"children": 4}, "cannot be divided"),
        ({"groups": 13}, "too few for 13 groups"),
        ({"magnitude": "wide", "spread": 0.5}, "must be above 1"),
        ({"l0": 7}, "at most 6"),
        ({"nonsense": 1}, "not permitted"),
        ({"version": 2}, "should be 1"),
    ],
)
def test_impossible_descriptions_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        source(**settings)


def test_names_of_no_benchmark_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a preset"):
        named_benchmark("synthetic:nonsense")
    (tmp_path / "benchmark.json").write_text('{"name": "x"}')
    with pytest.raises(ModelError, match="d_in: Field required"):
        named_benchmark(f"synthetic:{tmp_path}")


def test_the_command_writes_what_the_name_of_the_folder_stands_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run(capfd, "synthetic", "--out", tmp_path, "--preset", "hierarchy", "--seed", "3",
        "--n-samples", "256", "--json",
    )  # fmt: skip
    (told,) = done.json()["benchmarks"]
    assert told["path"] == str(tmp_path / "hierarchy")
    assert named_benchmark(f"synthetic:{told['path']}").seed == 3
    model = SyntheticActivations.load(f"synthetic:{told['path']}", device="cpu")
    samples = load_file(tmp_path / "hierarchy" / "samples.safetensors")
    known = load_file(tmp_path / "hierarchy" / "dictionary.safetensors")
    drawn = model.samples(model.rows("heldout", 256, 128).ids)
    np.testing.assert_array_equal(samples["x"], drawn.x)
    rebuilt = np.zeros((256, 128), "f4")
    rebuilt[samples["sample"], samples["feature"]] = samples["magnitude"]
    np.testing.assert_array_equal(rebuilt, drawn.magnitudes)
    noise = samples["x"] - rebuilt @ known["directions"] - known["bias"]
    assert noise.std() == pytest.approx(0.01, rel=0.05)
    wrong = run(capfd, "synthetic", "--out", tmp_path, "--preset", "nonsense")
    assert wrong.code == 2
    assert "choose superposition" in wrong.err
