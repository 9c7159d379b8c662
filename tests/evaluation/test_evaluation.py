"""The engine agrees with a plain reference for all batch sizes, and in cases that are known."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval.checkpoints import discover_all
from prolu_eval.checkpoints.native import save_run
from prolu_eval.embedded import MODEL_PATH
from prolu_eval.errors import UsageError
from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate
from prolu_eval.evaluation.autoencoding import Sizes
from prolu_eval.evaluation.scale_consistency import draw_pairs
from prolu_eval.lm import LanguageModel
from prolu_eval.metrics import GEOMETRY, METRICS
from prolu_eval.results import Result, load_results, read_result
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Prolu, Relu, SparseAutoencoder
from prolu_eval.tokens import TokenRows, load_tokens
from tests.helpers import reference

HOOK = "blocks.1.hook_resid_post"
OPTIONS = EvaluationOptions(n_tokens=2048, context_length=64, device="cpu", split="heldout")


def random_sae(cls: type[SparseAutoencoder], x: torch.Tensor, bias: float) -> SparseAutoencoder:
    """Random unit decoder rows of uneven scale, tied encoder, biases around ``bias``."""
    generator = torch.Generator().manual_seed(7)
    d_in, d_sae = x.shape[1], 4 * x.shape[1]
    sae = cls(d_in, d_sae)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    sae.W_enc.data = rows.T.contiguous() * 0.6
    sae.W_dec.data = rows * torch.linspace(0.3, 1.5, d_sae)[:, None]
    sae.b_enc.data = x.std() * (bias + 0.5 * torch.randn(d_sae, generator=generator))
    sae.b_dec.data = x.mean(0)
    return sae


def made_run(folder: Path, sae: SparseAutoencoder, model: str, dataset: str) -> Path:
    config = RunConfig(
        variant="", d_in=1, d_sae=1, model=model, dataset=dataset, hook=HOOK, context_length=64
    )
    save_run(folder, sae, config)
    return folder


def only(outcomes: list[Outcome]) -> Result:
    assert [outcome.status for outcome in outcomes] == ["ok"], outcomes[0].error
    assert outcomes[0].result is not None
    return outcomes[0].result


Corpus = tuple[str, str, LanguageModel, TokenRows, torch.Tensor]


@pytest.fixture(scope="module", params=["embedded", "stories260k"])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    """A model, a dataset, and the tokens and activations that follow from OPTIONS."""
    model, dataset = "embedded", "embedded"
    if request.param == "stories260k":
        model = str(request.getfixturevalue("stories"))
        dataset = str(request.getfixturevalue("stories_text"))
    loaded = LanguageModel.load(model, device="cpu")
    rows = load_tokens(dataset, loaded, split="heldout", n_tokens=2048, context_length=64)
    return model, dataset, loaded, rows, loaded.activations(rows.ids, HOOK)[rows.counted]


@pytest.mark.parametrize(("cls", "bias"), [(Relu, -1.0), (Prolu, -0.5)])
def test_agrees_with_the_plain_reference(
    corpus: Corpus, cls: type[SparseAutoencoder], bias: float, tmp_path: Path
) -> None:
    model, dataset, _, rows, x = corpus
    run = made_run(tmp_path / "run", random_sae(cls, x, bias), model, dataset)
    result = only(evaluate(run, OPTIONS))
    folder = MODEL_PATH if model == "embedded" else Path(model)
    row, position = draw_pairs(rows)
    pairs = row.numpy(), position.numpy()
    expected = reference.evaluate(folder, 1, run, rows.ids.numpy(), rows.counted.numpy(), pairs)
    elsewhere = {key for key, metric in METRICS.items() if metric.needs_truth}
    elsewhere |= {key for key, metric in METRICS.items() if metric.over != "sequences"}
    elsewhere |= {"skip_explained_variance"}  # of transcoders
    geometry = {metric.key for metric in GEOMETRY}  # by hand in tests/dictionaries
    elsewhere |= geometry
    assert expected.keys() == METRICS.keys() - elsewhere == result.metrics.keys() - geometry
    measured = {key: result.metrics[key].value for key in expected}
    assert measured == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert 1 < expected["l0"] < 0.5 * 4 * x.shape[1], "the example must be sparse, and not dead"


def test_does_not_depend_on_batch_size_or_company(corpus: Corpus, tmp_path: Path) -> None:
    model, dataset, _, _, x = corpus
    for name, cls in (("a", Relu), ("b", Prolu)):
        made_run(tmp_path / "runs" / name, random_sae(cls, x, -0.7), model, dataset)
    together = evaluate(tmp_path / "runs", replace(OPTIONS, results=tmp_path / "together"))
    for batch_size in (1, 7):
        alone = evaluate(
            tmp_path / "runs" / "a",
            replace(OPTIONS, batch_size=batch_size, results=tmp_path / str(batch_size)),
        )
        first, second = together[0].result, only(alone)
        assert first is not None
        for key, scalar in first.metrics.items():
            assert second.metrics[key].value == pytest.approx(scalar.value, rel=1e-5, abs=1e-9), key
            assert second.metrics[key].standard_error == pytest.approx(
                scalar.standard_error, rel=1e-3, abs=1e-6
            ), key
        for name, values in first.arrays.items():
            np.testing.assert_allclose(
                second.arrays[name], values, rtol=1e-4, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 5},
        {"shard_tokens": 64},
        {"shard_tokens": 256, "batch_size": 3},
        {"sizes": Sizes(codes=1 << 10, active=100)},
        {"sizes": Sizes(dense_above=0.0)},
        {"sizes": Sizes(dense_above=1.0)},
        {"full": True},
    ],
    ids=str,
)
def test_no_option_changes_the_metrics(
    change: dict[str, Any],
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither batches, shards and chunks, nor sparse or dense decoding, nor resumed passes."""
    model = LanguageModel.load(str(tiny_model("gemma2")), device="cpu")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 96, (24, 64)))
    rows = load_tokens(
        str(tmp_path / "ids.npy"), model, split="all", n_tokens=None, context_length=64
    )
    sae = random_sae(Prolu, model.activations(rows.ids, HOOK)[rows.counted], -0.5)
    run = made_run(tmp_path / "run", sae, model.name, str(tmp_path / "ids.npy"))
    options = replace(OPTIONS, split="all", n_tokens=1 << 20)
    usual = only(evaluate(run, replace(options, results=tmp_path / "usual")))
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    change = dict(change)
    if sizes := change.pop("sizes", None):
        monkeypatch.setattr(Sizes, "of", lambda _: sizes)
    if change.pop("full", False):

        def whole(
            model: LanguageModel, ids: torch.Tensor, hook: str, _: object, replacement: torch.Tensor
        ) -> torch.Tensor:
            return model.splice(ids, hook, replacement)

        monkeypatch.setattr(LanguageModel, "resume", whole)
    other = only(evaluate(run, replace(options, results=tmp_path / "other", **change)))
    for key, scalar in usual.metrics.items():
        found = other.metrics[key]
        assert found.value == pytest.approx(scalar.value, rel=1e-5, abs=1e-9), key
        assert found.standard_error == pytest.approx(scalar.standard_error, rel=1e-4, abs=1e-9), key


def test_rows_of_special_tokens_alone_count_for_nothing(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    ids = np.random.default_rng(0).integers(1, 96, (6, 32))
    sae = random_sae(Relu, model.activations(torch.tensor(ids), HOOK).flatten(0, 1), -0.5)
    options = replace(OPTIONS, context_length=32, split="all", batch_size=1, shard_tokens=32)
    found = []
    for name, rows in (("without", ids), ("with", np.insert(ids, [0, 3], 0, axis=0))):
        np.save(tmp_path / f"{name}.npy", rows)
        run = made_run(tmp_path / name, sae, model.name, str(tmp_path / f"{name}.npy"))
        found.append(only(evaluate(run, options)))
    without, with_special = found
    assert with_special.setting.n_sequences == 6
    for key in ("l0", "mse", "ce_degradation", "kl", "ce_mean", "dead_fraction"):
        metric, expected = with_special.metrics[key], without.metrics[key]
        assert metric.value == pytest.approx(expected.value), key
        assert metric.standard_error == pytest.approx(expected.standard_error), key


def test_tokens_are_added_until_the_standard_error_is_reached(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    ids = np.random.default_rng(0).integers(1, 96, (128, 32))
    np.save(tmp_path / "ids.npy", ids)
    x = model.activations(torch.tensor(ids[:32]), HOOK).flatten(0, 1)
    for name, bias in (("a", -0.5), ("b", -1.0)):
        made_run(tmp_path / "runs" / name, random_sae(Relu, x, bias), model.name,
                 str(tmp_path / "ids.npy"))  # fmt: skip
    options = replace(OPTIONS, context_length=32, split="all", n_tokens=4096, shard_tokens=128)
    some = evaluate(tmp_path / "runs", replace(options, n_tokens=512, results=tmp_path / "some"))
    first = max(o.result.metrics["l0"].standard_error or 0 for o in some if o.result is not None)
    aimed = replace(options, target_se={"l0": first / 1.7})
    outcomes = evaluate(tmp_path / "runs", aimed)
    counts = set()
    for outcome in outcomes:
        assert outcome.result is not None
        reached = outcome.result.metrics["l0"].standard_error
        assert reached is not None
        assert reached <= first / 1.7
        counts.add(outcome.result.setting.n_sequences)
    (count,) = counts
    assert 32 < count < 128, "about three times 16 rows, and all runs on the same"
    assert [o.status for o in evaluate(tmp_path / "runs", aimed)] == ["cached", "cached"]
    # The result is the same as with so many tokens from the start.
    again = evaluate(tmp_path / "runs", replace(options, n_tokens=32 * count))
    assert [o.status for o in again] == ["cached", "cached"]
    tighter = evaluate(tmp_path / "runs", replace(aimed, target_se={"l0": first / 2.3}))
    assert [o.status for o in tighter] == ["ok", "ok"]
    assert all(o.result.setting.n_sequences > count for o in tighter if o.result is not None)
    hopeless = replace(options, target_se={"l0": 1e-9}, n_tokens=512, results=tmp_path / "some")
    assert [o.status for o in evaluate(tmp_path / "runs", hopeless)] == ["cached", "cached"]
    undefined = replace(hopeless, target_se={"skip_explained_variance": 0.1})  # of autoencoders
    assert [o.status for o in evaluate(tmp_path / "runs", undefined)] == ["cached", "cached"]
    for wrong in ({"dead_fraction": 0.1}, {"l0": 0.0}, {"scale_consistency_additivity": 0.1}):
        with pytest.raises(UsageError, match="--target-se"):
            evaluate(tmp_path / "runs", replace(options, target_se=wrong))


def test_identity_reconstructs_everything(corpus: Corpus, tmp_path: Path) -> None:
    model, dataset, _, _, x = corpus
    d_in = x.shape[1]
    sae = Relu(d_in, 2 * d_in)
    sae.W_enc.data = torch.cat([torch.eye(d_in), -torch.eye(d_in)], 1)
    sae.W_dec.data = sae.W_enc.data.T.contiguous()
    metrics = only(evaluate(made_run(tmp_path / "id", sae, model, dataset), OPTIONS)).metrics
    assert metrics["mse"].value == 0
    assert metrics["explained_variance"].value == 1
    assert metrics["ce_degradation"].value == pytest.approx(0, abs=1e-6)
    assert metrics["kl"].value == pytest.approx(0, abs=1e-6)
    assert metrics["l0"].value == pytest.approx(d_in, rel=1e-3)
    for key in ("cosine_similarity", "l2_ratio", "relative_reconstruction_bias"):
        assert metrics[key].value == pytest.approx(1, rel=1e-6)


def test_decoder_bias_alone_is_the_mean_ablation(corpus: Corpus, tmp_path: Path) -> None:
    model, dataset, _, _, x = corpus
    sae = Relu(x.shape[1], 8)
    sae.b_dec.data = x.double().mean(0).float()
    metrics = only(evaluate(made_run(tmp_path / "mean", sae, model, dataset), OPTIONS)).metrics
    assert metrics["l0"].value == 0
    assert metrics["dead_fraction"].value == 1
    assert metrics["ce_spliced"].value == pytest.approx(metrics["ce_mean"].value, rel=1e-6)
    assert metrics["ce_recovered_mean"].value == pytest.approx(0, abs=1e-6)
    assert metrics["explained_variance"].value == pytest.approx(0, abs=1e-6)


def test_rescaling_decoder_rows_changes_only_raw_norms(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = str(tiny_model("llama"))
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 96, 4096))
    loaded = LanguageModel.load(model, device="cpu")
    rows = load_tokens(
        str(tmp_path / "ids.npy"), loaded, split="all", n_tokens=2048, context_length=64
    )
    sae = random_sae(Relu, loaded.activations(rows.ids, HOOK)[rows.counted], -0.5)
    options = replace(OPTIONS, tokens=str(tmp_path / "ids.npy"), split=None)
    before = only(evaluate(made_run(tmp_path / "a", sae, model, ""), options)).metrics
    scale = torch.linspace(0.5, 3, sae.d_sae)
    sae.W_enc.data *= scale
    sae.b_enc.data *= scale
    sae.W_dec.data /= scale[:, None]
    after = only(evaluate(made_run(tmp_path / "b", sae, model, ""), options)).metrics
    for key in before:
        same = after[key].value == pytest.approx(before[key].value, rel=1e-4)
        assert same == (key not in ("l1_raw", "sqrt_l1_raw")), key


def test_a_second_call_is_free_and_a_changed_checkpoint_is_measured_again(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset, _, _, x = corpus
    sae = random_sae(Relu, x, -1.0)
    run = made_run(tmp_path / "runs" / "a", sae, model, dataset)
    first = only(evaluate(tmp_path / "runs", OPTIONS))
    stored = run / "evaluation" / f"{first.fingerprint}.json"
    assert read_result(stored).metrics == first.metrics
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "clean", None)
        (again,) = evaluate(tmp_path / "runs", OPTIONS)
    assert again.status == "cached"
    assert again.result is not None
    assert again.result.metrics == first.metrics
    sae.b_enc.data -= 0.1
    made_run(run, sae, model, dataset)
    changed = only(evaluate(tmp_path / "runs", OPTIONS))
    assert changed.fingerprint != first.fingerprint
    assert load_results(tmp_path)["fingerprint"].tolist() == [changed.fingerprint]
    stored.write_text("{")
    made_run(run, random_sae(Relu, x, -1.0), model, dataset)
    assert only(evaluate(tmp_path / "runs", OPTIONS)).metrics == first.metrics


def test_a_run_that_was_copied_or_renamed_is_not_measured_again_and_bears_its_new_name(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset, _, _, x = corpus
    run = made_run(tmp_path / "a", random_sae(Relu, x, -1.0), model, dataset)
    first = only(evaluate(tmp_path, OPTIONS))
    shutil.copytree(run, tmp_path / "copy")
    run.rename(tmp_path / "renamed")
    monkeypatch.setattr(LanguageModel, "clean", None)
    outcomes = evaluate(tmp_path, OPTIONS)
    assert [(o.name, o.status) for o in outcomes] == [("copy", "cached"), ("renamed", "cached")]
    for outcome in outcomes:
        assert outcome.result is not None
        assert (outcome.result.run.name, outcome.result.metrics) == (outcome.name, first.metrics)
    stored = load_results(tmp_path)
    assert sorted(stored["name"]) == ["copy", "renamed"]
    assert sorted(stored["path"]) == [str(tmp_path / "copy"), str(tmp_path / "renamed")]


def test_runs_of_several_arguments_have_names_of_their_own(tmp_path: Path) -> None:
    x = torch.randn(256, 96, generator=torch.Generator().manual_seed(0))
    a, b = (
        made_run(tmp_path / folder / "run", random_sae(Relu, x, bias), "embedded", "embedded")
        for folder, bias in (("A", -1.0), ("B", -1.5))
    )
    options = replace(OPTIONS, n_tokens=256)
    for paths in ([a, b], [tmp_path / "A", tmp_path / "B"], [a / "sae.safetensors", b]):
        outcomes = evaluate(paths, options)
        assert [outcome.name for outcome in outcomes] == ["A/run", "B/run"]
        assert [o.result and o.result.run.name for o in outcomes] == ["A/run", "B/run"]
        assert [item.name for item in discover_all(paths)] == ["A/run", "B/run"]
    assert [outcome.name for outcome in evaluate(a, options)] == ["run"]
    assert load_results([a, b])["name"].tolist() == ["A/run", "B/run"]
    outcomes = evaluate([a, b], replace(options, results=tmp_path / "elsewhere"))
    assert load_results(tmp_path / "elsewhere")["name"].tolist() == ["A/run", "B/run"]
    assert [item.name for item in discover_all([a, f"{a}/../run"])] == ["run"]


def test_the_reference_sums_are_measured_once(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset, _, rows, x = corpus
    made_run(tmp_path / "a", random_sae(Relu, x, -1.0), model, dataset)
    evaluate(tmp_path, OPTIONS)
    made_run(tmp_path / "b", random_sae(Relu, x, -1.5), model, dataset)
    passes = {"clean": 0, "resume": 0}
    for name in passes:
        original = getattr(LanguageModel, name)

        def counting(*arguments: object, name: str = name, original: object = original) -> object:
            passes[name] += 1
            return original(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(LanguageModel, name, counting)
    statuses = [o.status for o in evaluate(tmp_path, replace(OPTIONS, batch_size=8))]
    assert statuses == ["cached", "ok"]
    assert passes == {"clean": len(rows) // 8, "resume": len(rows) // 8}
