"""Metrics of known features, for autoencoders whose values are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval import EvaluationOptions, frontier
from prolu_eval.analysis import Question, answer
from prolu_eval.checkpoints.native import save_run
from prolu_eval.evaluation import evaluate
from prolu_eval.evaluation.features import FOLDS, jackknife
from prolu_eval.evaluation.truth import Match, Truth
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS, measured_by
from prolu_eval.render.figures import View, figure_document
from prolu_eval.results import Result
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Prolu, Relu, SparseAutoencoder
from prolu_eval.synthetic import Benchmark, SyntheticActivations
from tests.helpers.cli import run

OPTIONS = EvaluationOptions(device="cpu", n_tokens=8192)


def benchmark(tmp_path: Path, **settings: object) -> str:
    """A benchmark of eight orthogonal features without noise, in a folder."""
    usual = {"name": "own", "d_in": 8, "n_features": 8, "basis": "orthogonal", "l0": 2.0,
             "magnitude": "wide", "spread": 100, "bias": 1}  # fmt: skip
    spec = Benchmark.model_validate(usual | settings)
    (tmp_path / "bench").mkdir(exist_ok=True)
    (tmp_path / "bench" / "benchmark.json").write_text(spec.model_dump_json())
    return f"synthetic:{tmp_path / 'bench'}"


def made(
    cls: type[SparseAutoencoder], model: str | SyntheticActivations, rows: Any, bias: float
) -> SparseAutoencoder:
    """An autoencoder whose decoder has unit rows, and whose encoder is the decoder's transpose."""
    if isinstance(model, str):
        model = SyntheticActivations.load(model, device="cpu")
    known = model.dictionary
    sae = cls(known.directions.shape[1], len(rows))
    sae.W_dec.data = torch.as_tensor(rows).float()
    sae.W_enc.data = sae.W_dec.data.T.clone()
    sae.b_enc.data.fill_(bias)
    sae.b_dec.data = torch.as_tensor(known.bias).float()
    return sae


def measured(sae: SparseAutoencoder, name: str, folder: Path) -> Result:
    config = RunConfig(variant=sae.variant, d_in=sae.d_in, d_sae=sae.d_sae, model=name,
                       dataset=name, hook="activations", context_length=64)  # fmt: skip
    save_run(folder, sae, config)
    (outcome,) = evaluate(folder, OPTIONS)
    assert outcome.result is not None, outcome.error
    return outcome.result


def values(result: Result) -> dict[str, float | None]:
    return {key: found.value for key, found in result.metrics.items()}


def test_the_true_dictionary_is_found_whole(tmp_path: Path) -> None:
    name = benchmark(tmp_path)
    known = SyntheticActivations.load(name, device="cpu").dictionary
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    sae = made(Prolu, name, known.directions[order], -0.01)
    scale = torch.linspace(0.5, 3, 8)
    sae.W_dec.data *= scale[:, None]
    sae.W_enc.data /= scale
    sae.b_enc.data /= scale
    result = measured(sae, name, tmp_path / "run")
    found = values(result)
    one = ("mcc", "recovered_fraction", "feature_precision", "feature_recall", "feature_f1",
           "feature_f1_macro", "magnitude_slope", "magnitude_r2", "explained_variance")  # fmt: skip
    assert {key: found[key] for key in one} == pytest.approx(dict.fromkeys(one, 1), abs=1e-4)
    none = ("magnitude_intercept", "splitting", "spurious_fraction", "mse", "dead_fraction")
    assert {key: found[key] for key in none} == pytest.approx(dict.fromkeys(none, 0), abs=1e-4)
    assert found["ideal_l0"] == pytest.approx(2, abs=0.1) == found["l0"]
    assert found["absorption"] is None is found["ce_degradation"]
    assert 0.3 < (found["mcc_chance"] or 0) < 0.8
    truth = result.truth()
    np.testing.assert_array_equal(truth["latent"], np.argsort(order))
    np.testing.assert_allclose(truth["oracle_mse"][0], 0, atol=1e-6)
    assert truth["oracle_l0"][0] == pytest.approx(2, abs=0.1)
    assert (np.diff(truth["oracle_l0"]) <= 0).all()
    assert (np.diff(truth["oracle_mse"]) >= -1e-9).all()
    assert truth["oracle_nmse"][-1] == pytest.approx(1)


def test_a_bias_suppresses_and_a_scale_shrinks(tmp_path: Path) -> None:
    name = benchmark(tmp_path)
    known = SyntheticActivations.load(name, device="cpu").dictionary
    suppressed = measured(made(Relu, name, known.directions, -0.2), name, tmp_path / "relu")
    assert suppressed.metrics["magnitude_slope"].value == pytest.approx(1, abs=1e-3)
    # Magnitudes have mean 1, so that the intercept is the bias.
    assert suppressed.metrics["magnitude_intercept"].value == pytest.approx(-0.2, abs=0.01)
    half = made(Prolu, name, known.directions, -0.2)
    half.W_dec.data /= 2
    shrunk = measured(half, name, tmp_path / "half")
    assert shrunk.metrics["magnitude_slope"].value == pytest.approx(0.5, abs=1e-3)
    assert shrunk.metrics["magnitude_intercept"].value == pytest.approx(0, abs=1e-3)
    whole = measured(made(Prolu, name, known.directions, -0.2), name, tmp_path / "prolu")
    r2 = [r.metrics["magnitude_r2"].value or 0 for r in (whole, suppressed, shrunk)]
    assert r2[0] > r2[1] > r2[2]
    # A latent is silent where its feature is below the threshold; computed from the samples.
    model = SyntheticActivations.load(name, device="cpu")
    true = model.samples(model.rows("heldout", 8192, 64).ids).magnitudes.numpy()
    expected = (true > 0.2).sum() / (true > 0).sum()
    assert whole.metrics["feature_recall"].value == pytest.approx(expected, abs=1e-3)
    assert whole.metrics["feature_precision"].value == 1


def test_a_random_dictionary_is_at_chance_whatever_its_order_sign_and_scale(
    tmp_path: Path,
) -> None:
    name = benchmark(tmp_path, basis="random", n_features=32, d_in=16)
    known = SyntheticActivations.load(name, device="cpu").dictionary.directions
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((32, 16))
    result = measured(made(Relu, name, rows, -0.5), name, tmp_path / "run")
    mcc, chance = result.metrics["mcc"].value, result.metrics["mcc_chance"].value
    assert mcc == pytest.approx(chance, abs=0.03)
    changed = rows[rng.permutation(32)] * rng.choice([-2, 0.5, 3], (32, 1))
    assert Match.of(known, changed).mcc == pytest.approx(mcc, abs=1e-6)
    assert Match.of(known, known).mcc == pytest.approx(1)
    fewer, more = Match.of(known, rows[:9]), Match.of(known, np.concatenate([rows, rows]))
    assert (fewer.latent >= 0).sum() == 9
    assert (more.latent >= 0).all()


def test_absorption_splitting_and_spurious_latents_are_counted(tmp_path: Path) -> None:
    name = benchmark(
        tmp_path, l0=1.5, children=3, child_rate=0.3, magnitude="log_normal", spread=0.1
    )
    known = SyntheticActivations.load(name, device="cpu").dictionary
    d, parent = known.directions, known.parent
    honest = measured(made(Prolu, name, d, -0.05), name, tmp_path / "honest")
    assert honest.metrics["absorption"].value == 0
    # Children's latents have their parent's direction too; its own is silent where they fire.
    children = parent >= 0
    sae = made(Prolu, name, d, -0.05)
    sae.W_dec.data[children] += torch.as_tensor(0.7 * d[parent[children]]).float()
    for child in np.flatnonzero(children):
        sae.W_enc.data[:, parent[child]] -= torch.as_tensor(5 * d[child]).float()
    absorbing = measured(sae, name, tmp_path / "absorbing")
    assert absorbing.metrics["absorption"].value == pytest.approx(1, abs=0.01)
    assert (honest.metrics["feature_recall"].value or 0) > 0.99
    assert (absorbing.metrics["feature_recall"].value or 0) < 0.9
    # Two latents of feature 2, and one of nothing that fires.
    rows = np.concatenate([d, d[2:3] + 0.3 * d[3:4], d[4:5] + d[5:6] + d[6:7]])
    split = measured(made(Prolu, name, rows, -0.01), name, tmp_path / "split")
    assert split.metrics["splitting"].value == pytest.approx(1 / 8)
    assert split.metrics["spurious_fraction"].value == pytest.approx(1 / 10)


def test_intervals_over_blocks_hold_what_many_samples_say(tmp_path: Path) -> None:
    name = benchmark(tmp_path, basis="random", n_features=12, noise=0.05)
    model = SyntheticActivations.load(name, device="cpu")
    sae = made(Relu, name, model.dictionary.directions, -0.3)
    rows = model.rows("train", 80 * 20 * 32, 32)
    keys = ("feature_precision", "feature_recall", "feature_f1", "magnitude_slope",
            "magnitude_r2", "feature_f1_macro")  # fmt: skip

    def of(some: range) -> dict[str, Any]:
        part = replace(rows, ids=rows.ids[some.start : some.stop],
                       counted=rows.counted[some.start : some.stop])  # fmt: skip
        truth = Truth(model, part)
        fired = FeatureCounts(sae, model, part)
        found = truth.of(sae, fired.sums)
        ratios = {k: estimate(m, found.by_row) for k, m in METRICS.items()
                  if measured_by(m, found.by_row)}  # fmt: skip
        return ratios | found.scalars

    whole = of(range(len(rows)))
    hits = dict.fromkeys(keys, 0)
    for start in range(0, len(rows), 20):
        part = of(range(start, start + 20))
        for key in keys:
            low, high = part[key].ci95
            hits[key] += low <= whole[key].value <= high
    rates = {key: hits[key] / 80 for key in keys}
    assert min(rates.values()) > 0.88, rates


class FeatureCounts:
    """Firing of latents, counted as the measurement itself does."""

    def __init__(self, sae: SparseAutoencoder, model: SyntheticActivations, rows: Any) -> None:
        from prolu_eval.evaluation.known import KnownFeatures

        measurement = KnownFeatures(model, rows).measure_saes({"sae": sae})["sae"]
        assert not isinstance(measurement, Exception)
        self.sums = measurement.features


SWEEP = """
[shared]
model = "synthetic:hierarchy"
n_tokens = 8192
d_sae = 32
batch_size = 256
[within]
learning_rates = [3e-3]
[[sweep]]
variant = "relu"
coefficients = [0.3, 1]
[[sweep]]
variant = "prolu"
coefficients = [0.1, 0.3]
"""


def test_a_sweep_trains_on_a_benchmark_and_its_frontier_is_of_mse(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    out = tmp_path / "runs"
    done = run(capfd, "sweep", tmp_path / "sweep.toml", "--out", out, "--device", "cpu", "--quiet")
    assert done.code == 0, done.err
    shown = run(capfd, "frontier", out, "--device", "cpu", "--n-tokens", "4096", "--quiet")
    assert shown.code == 0, shown.err
    assert "CE degradation is undefined without a language model" in shown.out
    asked = run(capfd, "frontier", out, "--device", "cpu", "--n-tokens", "4096", "--quiet",
                "-y", "nmse", "--json")  # fmt: skip
    assert not any("undefined" in note for note in asked.json()["notes"])
    found = frontier(out)
    (group,) = found.groups
    assert group.question.keys == ("l0", "nmse")
    assert group.title == "activations of synthetic:hierarchy"
    assert frontier(out, y="mcc").groups[0].question.keys == ("l0", "mcc")
    assert frontier(out, y="feature_f1").groups[0].n_replicates > 0
    assert found.table["mcc"].notna().all()
    for y, drawn in (("nmse", True), ("explained_variance", True), ("l1", False)):
        figure = figure_document(group.group, View("l0", y, "frontiers", "", frontier=True))
        assert drawn == any(trace.get("name") == "oracle" for trace in figure["data"]), y
    kept = answer(group.group.results, Question(y="mse"))
    assert kept[0].question.y == "mse"
    refused = run(capfd, "evaluate", out, "--tokens", "embedded", "--device", "cpu")
    assert refused.code == 2
    assert "samples of its own" in refused.err


@pytest.mark.parametrize("n_rows", [20, 80])
def test_intervals_of_f1_hold_the_truth(n_rows: int) -> None:
    """The intervals are those of pooled and mean F1, over many draws of rows from a large pool."""
    spec = Benchmark(name="own", d_in=8, n_features=12, basis="random", l0=2, magnitude="wide",
                     spread=100, bias=1, noise=0.05)  # fmt: skip
    model = SyntheticActivations("own", spec, "cpu")
    sae = made(Relu, model, model.dictionary.directions, -0.3)
    x, true = model.samples(model.rows("train", 4000 * 16, 16).ids)
    fires, active = ((part > 0).view(4000, 16, 12) for part in (sae.encode(x), true))
    pool = np.stack([(fires & active).sum(1), fires.sum(1), active.sum(1)], 1).astype(float)
    columns = dict(zip(("true_positives", "matched_firing", "true_active"),
                       pool.sum(2).T, strict=True))  # fmt: skip

    def macro(sums: Any) -> float:
        return float(np.mean(2 * sums[0] / (sums[1] + sums[2])))

    metric = METRICS["feature_f1"]
    whole, mean = estimate(metric, columns).value or 0.0, macro(pool.sum(0))
    rng = np.random.default_rng(0)
    hits, n = np.zeros(2), 1500
    for _ in range(n):
        rows = rng.choice(len(pool), n_rows, replace=False)
        folds = np.stack([pool[rows[fold::FOLDS]].sum(0) for fold in range(FOLDS)])
        pooled = estimate(metric, {name: values[rows] for name, values in columns.items()})
        for i, (found, truth) in enumerate(((pooled, whole), (jackknife(folds, macro), mean))):
            low, high = found.ci95
            hits[i] += low is not None and high is not None and low <= truth <= high
    assert (hits / n >= 0.93).all(), hits / n
    assert (hits / n <= 0.97).all(), hits / n
