"""Chance baselines: trained ones, computed ones, and their comparison with real variants."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval import EvaluationOptions, compare, frontier, save_baseline
from prolu_eval.analysis import answer
from prolu_eval.analysis.questions import Question
from prolu_eval.checkpoints import discover, load_run
from prolu_eval.checkpoints.native import save_run
from prolu_eval.errors import ConfigError
from prolu_eval.evaluation import evaluate
from prolu_eval.render.figures import View, figure_document
from prolu_eval.results import Result
from prolu_eval.runs import Broken, RunConfig
from prolu_eval.saes import Prolu, SparseAutoencoder, TopK
from prolu_eval.saes.topk import TopKOptions
from prolu_eval.synthetic import Benchmark, SyntheticActivations
from prolu_eval.training import Settings, SweepFile, read_sweep_file, train_sweep
from prolu_eval.training.config import Plan
from prolu_eval.training.fitted import cluster_directions, fit, principal_components
from prolu_eval.training.initial import Statistics, initialise, measure_statistics
from prolu_eval.training.stack import Stack, shuffled
from tests.helpers.cli import run

OPTIONS = EvaluationOptions(device="cpu", n_tokens=4096)
CHANCE = {"frozen_decoder", "soft_frozen_decoder", "shuffled", "pca", "kmeans", "untrained"}
SWEEP = """
baselines = true
[shared]
model = "synthetic:{folder}"
n_tokens = 16384
d_sae = 16
batch_size = 128
buffer_size = 4096
context_length = 64
[within]
learning_rates = [1e-2, 3e-3]
seeds = [0, 1]
[[sweep]]
variant = "trec"
options = {{ tied = true }}
coefficients = [0.3]
[[sweep]]
variant = "relu"
coefficients = [0.3, 1]
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    """A sweep on a benchmark of 16 orthogonal features."""
    spec = Benchmark(name="own", d_in=16, n_features=16, basis="orthogonal", l0=2, bias=1,
                     noise=0.05)  # fmt: skip
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "benchmark.json").write_text(spec.model_dump_json())
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.format(folder=tmp_path / "bench"))
    return path


def of_kind(file: SweepFile, kind: str) -> list[Plan]:
    return [plan for plan in file.plans() if plan.sweep.chance == kind]


def test_a_file_asks_for_all_of_them_in_a_word(sweep_file: Path) -> None:
    file = read_sweep_file(sweep_file)
    kinds = [plan.sweep.chance for plan in file.plans()]
    assert set(kinds) == {None, *CHANCE}
    assert kinds.count(None) == 2 * 2 * 3
    # As the first sweep with an encoder of its own, at its first learning rate and seed.
    assert {(p.label, p.value, p.learning_rate, p.seed) for p in of_kind(file, "shuffled")} == {
        ("chance: shuffled activations (relu+l1)", value, 1e-2, 0) for value in (0.3, 1)
    }
    assert {plan.label for plan in of_kind(file, "pca")} == {"chance: PCA"}
    again = SweepFile.model_validate(json.loads(file.model_dump_json()))
    assert [plan.name for plan in again.plans()] == [plan.name for plan in file.plans()]
    text = sweep_file.read_text()
    for sweep, reason in (
        ('chance = "frozen_decoder"\nvariant = "trec"\noptions = { tied = true }\n'
         "coefficients = [1]", "trains an encoder"),
        ('chance = "pca"\nk = [3]', "is computed"),
        ('chance = "luck"\nvariant = "relu"\ncoefficients = [1]', "chance"),
    ):  # fmt: skip
        sweep_file.write_text(f"{text}[[sweep]]\n{sweep}\n")
        with pytest.raises(ConfigError, match=reason):
            read_sweep_file(sweep_file)
    sweep_file.write_text(f'{text}[[sweep]]\nchance = "shuffled"\nvariant = "topk"\nk = [2]\n')
    own = of_kind(read_sweep_file(sweep_file), "shuffled")
    assert {plan.label for plan in own} == {"chance: shuffled activations (topk)"}


def trained(file: SweepFile, kind: str, n_steps: int) -> tuple[Stack, torch.Tensor]:
    """A stack of a baseline's plans after some steps, and its first decoder rows."""
    zero = torch.zeros(16)
    stack = Stack(of_kind(file, kind), file.shared, Statistics(1.0, zero, zero))
    first = stack.parameters["W_dec"].detach().clone()
    generator = torch.Generator().manual_seed(3)
    for _ in range(n_steps):
        stack.step(stack.batch_for_step(torch.randn(128, 16, generator=generator)))
    return stack, first


def test_decoders_stay_where_they_are_held(sweep_file: Path) -> None:
    file = read_sweep_file(sweep_file)
    frozen, first = trained(file, "frozen_decoder", 30)
    assert torch.equal(frozen.parameters["W_dec"], first)
    assert not torch.equal(frozen.parameters["W_enc"], first)
    held, first = trained(file, "soft_frozen_decoder", 120)
    rows = held.parameters["W_dec"].detach()
    cosine = (rows * first).sum(-1)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(2, 16))
    assert cosine.min() == pytest.approx(0.8, abs=1e-5)
    assert (cosine > 0.81).any()
    free, first = trained(file, "shuffled", 120)
    assert (free.parameters["W_dec"].detach() * first).sum(-1).min() < 0.79
    # From a checkpoint it is held near the same rows.
    resumed, _ = trained(file, "soft_frozen_decoder", 0)
    resumed.resume({name: tensor.clone() for name, tensor in held.state().items()})
    x = torch.randn(128, 16, generator=torch.Generator().manual_seed(4))
    held.step(x)
    resumed.step(x)
    assert torch.equal(held.parameters["W_dec"], resumed.parameters["W_dec"])


@pytest.mark.parametrize("n", [64, 5])
def test_shuffled_activations_keep_each_coordinate_and_nothing_else(n: int) -> None:
    x = torch.arange(n)[:, None] + torch.arange(12) * 1000.0
    found = shuffled(x, 7, 1)
    for column, whole in zip(found.T, x.T, strict=True):
        assert torch.equal(column.sort().values, whole)
    tokens = found - torch.arange(12) * 1000.0
    if n >= 12:
        assert all(len(row.unique()) == 12 for row in tokens), "no two of one token"
    assert torch.equal(found, shuffled(x, 7, 1))
    assert not torch.equal(found, shuffled(x, 7, 2))


def test_principal_components_by_hand(sweep_file: Path) -> None:
    rng = np.random.default_rng(0)
    spread = np.array([1, 7, 3, 0.5])
    x = torch.from_numpy(rng.standard_normal((4000, 4)) * spread + 10).float()
    rows = principal_components(x, 3)
    torch.testing.assert_close(rows.abs(), torch.eye(4)[[1, 2, 0]], atol=0.05, rtol=0)
    # The four points of a cross with a longer first arm; each token needs one component.
    cross = torch.tensor([[3.0, 3], [-1, -1], [0, 2], [2, 0]])
    plans = of_kind(read_sweep_file(sweep_file), "pca")[:1]
    shared = read_sweep_file(sweep_file).shared
    (sae,) = fit(plans, cross, shared)
    root = 2**-0.5
    torch.testing.assert_close(sae.W_dec.detach().abs(), torch.full((2, 2), root))
    torch.testing.assert_close(sae.b_dec.detach(), torch.ones(2))
    assert sae.options.model_dump()["k"] == 2
    one = TopKOptions(k=1)
    sae.options = one
    torch.testing.assert_close(sae(cross), cross)
    between = torch.tensor([[1 + 3.0, 1 + 1.0]])  # 4 along the first arm, 2 along the other
    torch.testing.assert_close(sae(between), torch.tensor([[3.0, 3.0]]))


@pytest.mark.parametrize("b_enc_init", [-0.4, "uniform"])
def test_the_untrained_one_is_where_a_sweeps_trainings_start(
    sweep_file: Path, b_enc_init: Any
) -> None:
    file = read_sweep_file(sweep_file)
    shared = file.shared.model_copy(update={"b_enc_init": b_enc_init, "b_dec_init": "mean"})
    x = 3 * torch.randn(64, 16, generator=torch.Generator().manual_seed(1)) + 1
    plan = of_kind(file, "untrained")[1]
    (sae,) = fit([plan], x, shared)
    assert isinstance(sae, TopK)
    statistics = measure_statistics(x, shared)
    start = TopK(16, sae.d_sae, TopKOptions(k=sae.d_sae))
    initialise(start, plan.seed, statistics, b_enc_init)
    assert float(start.b_enc.abs().mean()) > 0.05
    with torch.no_grad():
        pre_activation = start.pre_activation(statistics.scale * x) + start.b_enc
        codes = torch.relu(pre_activation) / statistics.scale
        found = sae.encode(x)
    active = found > 0
    assert 0 < active.float().mean() < 0.5
    torch.testing.assert_close(found[active], codes[active], rtol=1e-4, atol=1e-5)


def test_cluster_centres_by_hand(sweep_file: Path) -> None:
    directions = torch.tensor([[0.6, 0.8, 0], [0, 0, 1], [-1, 0, 0]])
    lengths = torch.tensor([1.0, 2, 5])
    x = torch.cat([directions * length for length in lengths])
    found = cluster_directions(x, 3, seed=1)
    assert (found @ directions.T).max(0).values.min() == pytest.approx(1)
    plan = of_kind(read_sweep_file(sweep_file), "kmeans")[0]
    file = read_sweep_file(sweep_file)
    centred = torch.cat([x, -x.mean(0, keepdim=True) * len(x)])  # so that their mean is zero
    (sae,) = fit([plan], centred, file.shared)
    assert sae.options.model_dump()["max_iterations"] == 1
    codes = sae.encode(x)
    assert ((codes != 0).sum(1) == 1).all()
    best = (x @ sae.W_dec.T).max(1).values
    torch.testing.assert_close(codes.max(1).values, best.detach())
    torch.testing.assert_close(cluster_directions(x, 20, seed=0).norm(dim=1), torch.ones(20))


def made(folder: Path, sae: SparseAutoencoder, model: str, coefficient: float) -> None:
    config = RunConfig(variant=sae.variant, d_in=16, d_sae=16, model=model, dataset=model,
                       hook="activations", context_length=64, penalty="l1", seed=0,
                       coefficient=coefficient, learning_rate=1e-3)  # fmt: skip
    save_run(folder, sae, config)


def contenders(folder: Path, model: str) -> None:
    """Runs of the true dictionary at four thresholds, and of a random one at four k."""
    known = SyntheticActivations.load(model, device="cpu").dictionary
    rows = torch.from_numpy(known.directions).float()
    random = torch.randn(16, 16, generator=torch.Generator().manual_seed(99))
    random /= random.norm(dim=1, keepdim=True)
    levels = zip((0.2, 0.6, 0.8, 1), (1, 2, 4, 8), strict=True)
    for threshold, k in levels:
        saes: tuple[SparseAutoencoder, ...] = (
            Prolu(16, 16), TopK(16, 16, TopKOptions(k=k))
        )  # fmt: skip
        for sae, directions in zip(saes, (rows, random), strict=True):
            sae.W_dec.data, sae.W_enc.data = directions, directions.T.contiguous()
            sae.b_dec.data = torch.from_numpy(known.bias).float()
        saes[0].b_enc.data.fill_(-threshold)
        made(folder / f"true{threshold}", saes[0], model, threshold)
        made(folder / f"random{k}", saes[1], model, k)


def test_the_truth_beats_chance_and_a_random_dictionary_does_not(
    sweep_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = read_sweep_file(sweep_file), tmp_path / "runs"
    done = train_sweep(file, out, Settings(device="cpu"))
    assert {trained.status for trained in done} == {"trained"}
    assert {t.status for t in train_sweep(file, out, Settings(device="cpu"))} == {"present"}
    for name in (plan.name for plan in file.plans() if plan.sweep.chance is None):
        for path in (out / name).iterdir():
            path.unlink()
        (out / name).rmdir()
    contenders(out, file.shared.model)
    found = discover(out)
    assert not any(isinstance(item, Broken) for item in found)
    for item in found:
        assert not isinstance(item, Broken)
        assert load_run(item).d_in == 16
        if item.name.startswith("chance"):
            assert json.loads((item.path / "config.json").read_text())["chance"] == item.chance
    outcomes = evaluate(out, OPTIONS)
    results = [o.result for o in outcomes if o.result is not None]
    assert len(results) == len(found)
    assert {r.run.chance for r in results} == {None, *CHANCE}

    (group,) = frontier(out).groups
    assert [variant.label for variant in group.variants] == ["prolu/ste+l1", "topk+l1"]
    assert all(r.run.chance is None for r in group.group.results)
    standings = {(p.variant, p.baseline): p.standing for p in group.chance}
    of_truth = [s for (variant, _), s in standings.items() if variant == "prolu/ste+l1"]
    assert of_truth == ["beats"] * 6
    assert standings["topk+l1", "chance: untrained"] == "not told apart"
    assert standings["topk+l1", "chance: PCA"] == "is behind"
    assert "topk+l1 does not beat chance: it is behind PCA, k-means" in group.sentence
    assert "prolu/ste+l1 does not" not in group.sentence

    figure = figure_document(group.group, View("l0", "nmse", "frontiers", "", frontier=True))
    grey = [t for t in figure["data"] if str(t.get("name")).startswith("chance: ")]
    assert len(grey) == 6
    assert {trace["marker"]["color"] for trace in grey} == {"#7d7d85"}
    assert all(any(trace["text"]) for trace in grey)
    chance = group.group.chance
    assert chance is not None
    far = replace(chance, table=chance.table.assign(explained_variance=-50.0))
    linear = figure_document(
        replace(group.group, chance=far), View("l0", "explained_variance", "frontiers", "", True)
    )
    low, high = linear["layout"]["yaxis"]["range"]
    assert -2 < low < group.group.table["explained_variance"].min() < high

    asked = ("frontier", out, "--device", "cpu", "--n-tokens", "4096", "--quiet")
    shown = run(capfd, *asked, "--json")
    document = shown.json()
    assert {one["standing"] for one in document["chance"]} >= {"beats", "is behind"}
    assert len(document["runs"]) == len(found)
    assert set(document["variants"]) == {"prolu/ste+l1", "topk+l1"}
    page = (out / "report.html").read_text()
    assert "topk+l1 does not beat chance" in page
    assert 'id="g0-chance"' in page
    markdown = run(capfd, *asked, "--markdown")
    assert "### Chance baselines" in markdown.out
    table = frontier(out).table
    assert table.loc[table["chance"].notna(), "on_frontier"].eq(False).all()

    save_baseline(results, tmp_path / "baseline.json")
    judged = compare(out, tmp_path / "baseline.json", tolerance="l0=+1,nmse=+1%",
                     frontier="l0,nmse")  # fmt: skip
    assert judged.verdict == "pass"
    assert any(row.run.startswith("chance-pca") for row in judged.runs)
    assert not any("chance" in row.run for row in judged.frontiers)
    alone: list[Result] = [r for r in results if r.run.chance is not None]
    (only,) = answer(alone, Question(y="nmse"))
    assert len(only.variants) == 6, "of chance alone: ranked among themselves"
    assert only.chance == ()
