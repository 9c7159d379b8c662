"""Crosscoders: every site replaced at once and each alone, against plain hooks and by hand."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prolu_eval.checkpoints import load_sae
from prolu_eval.evaluation import evaluate
from prolu_eval.evaluation.cross_layer import per_layer
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.evaluation.outputs import outputs_of
from prolu_eval.lm import LanguageModel
from prolu_eval.results import load_results
from prolu_eval.saes import Crosscoder, CrossLayerTranscoder
from prolu_eval.saes.crosscoder import CrosscoderOptions
from prolu_eval.tokens import load_tokens
from tests.evaluation.test_transcoders import OPTIONS, block_of, only, text
from tests.helpers import hooked
from tests.helpers.cli import run
from tests.helpers.foreign_files import (
    clt_layers,
    crosscoder,
    crosscoder_state,
    gemma_scope_2_layers,
    model_diff,
    model_diff_state,
)

__all__ = ["text"]  # a fixture

D, N = 32, 20
BLOCKS = (0, 2)
HOOKS = "blocks.0,2.hook_resid_post"


def saved(folder: Path, kind: str) -> Path:
    """A crosscoder of two sites, of either kind."""
    if kind == "shared":
        batch = {"k": torch.tensor(3), "threshold": torch.tensor(0.5)}
        return crosscoder(folder, crosscoder_state(len(BLOCKS), D, N) | batch)
    layers = clt_layers(len(BLOCKS), D, N)
    for layer in layers:
        layer["W_enc"] /= D**0.5
    return gemma_scope_2_layers(folder / "crosscoder" / "mine", layers)


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2"])
@pytest.mark.parametrize("kind", ["shared", "causal"])
def test_agrees_with_a_plain_hooked_reference(
    architecture: str, kind: str, tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    folder = tiny_model(architecture)
    path = saved(tmp_path, kind)
    options = replace(OPTIONS, tokens=text, model=str(folder), hook=HOOKS)
    result = only(evaluate(path, options))
    assert (result.run.hook, result.run.hook_out) == (HOOKS, None)
    tokens = load_tokens(
        text, LanguageModel.load(str(folder), device="cpu"), split="all", n_tokens=512,
        context_length=32,
    )  # fmt: skip
    ids, counted = tokens.ids, tokens.counted
    model, sae = hooked.load(folder), load_sae(path).double()
    assert isinstance(sae, Crosscoder if kind == "shared" else CrossLayerTranscoder)
    blocks = [block_of(model, i) for i in BLOCKS]
    read: list[Tensor] = [torch.zeros(int(counted.sum()), D, dtype=torch.float64)] * len(BLOCKS)

    def run(answer: Callable[[int], Tensor] | None, sites: tuple[int, ...]) -> Tensor:
        """Logits, with sites replaced; each site is read in the same pass before it is replaced."""
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for i in sites:

                def put(x: Tensor, i: int = i) -> Tensor:
                    x = x.clone()
                    read[i] = x[counted]
                    if answer is not None:
                        x[counted] = answer(i)
                    return x

                stack.enter_context(hooked.on_output(blocks[i], put))
            logits: Tensor = model(ids, use_cache=False).logits
            return logits

    every = tuple(range(len(BLOCKS)))
    clean = run(None, every)
    x = torch.stack(read, 1)
    with torch.no_grad():
        codes, x_hat = sae.encode(x), sae(x)

    def now(i: int) -> Tensor:
        """The replacement by a causal crosscoder, computed from the same pass."""
        with torch.no_grad():
            found: Tensor = sae(torch.stack(read, 1))[:, i]
        return found

    def before(i: int) -> Tensor:
        found: Tensor = x_hat[:, i]
        return found

    means = x.mean(0)
    spliced = hooked.losses(run(before if kind == "shared" else now, every), clean, ids, counted)
    zero = run(lambda i: torch.zeros_like(means[i]), every)
    mean = run(lambda i: means[i], every)
    ce = hooked.losses(clean, clean, ids, counted)["ce"]
    error = (x - x_hat).square().sum(-1)
    deviation = (x - means).square().sum(-1)
    expected = {
        **hooked.of_several_sites(codes, x, x_hat),
        "l1_raw": float(codes.sum(1).mean()),
        "ce_clean": ce,
        "ce_spliced": spliced["ce"],
        "ce_zero": hooked.losses(zero, clean, ids, counted)["ce"],
        "ce_mean": hooked.losses(mean, clean, ids, counted)["ce"],
        "kl": spliced["kl"],
    }
    assert 0 < expected["l0"] < 0.9 * codes.shape[1]
    assert expected["kl"] > 1e-3
    for key, value in expected.items():
        assert result.metrics[key].value == pytest.approx(value, rel=1e-4, abs=1e-4), key
    alone = [hooked.losses(run(before, (i,)), clean, ids, counted) for i in every]
    active = (codes != 0).double()
    l0 = active.unflatten(1, (len(BLOCKS), N)).sum(2).mean(0) if kind == "causal" else None
    by_layer = {
        "l0": np.full(len(BLOCKS), expected["l0"]) if l0 is None else l0.numpy(),
        "fvu": (error.sum(0) / deviation.sum(0)).numpy(),
        "ce_degradation": np.array([loss["ce"] - ce for loss in alone]),
        "kl": np.array([loss["kl"] for loss in alone]),
    }
    for name, values in by_layer.items():
        np.testing.assert_allclose(
            result.per_layer()[name], values, rtol=1e-4, atol=1e-4, err_msg=name
        )


def by_hand() -> Crosscoder:
    """Two sites of one number, two features: codes are max(0, 2 x_0 - x_1) and max(0, x_1 - 1)."""
    sae = Crosscoder(1, 2, CrosscoderOptions(n_layers=2), apply_b_dec_to_input=False)
    values = {
        "W_enc_0": [[2.0, 0.0]],
        "W_enc_1": [[-1.0, 1.0]],
        "b_enc": [0.0, -1.0],
        "W_dec_0": [[3.0], [0.0]],
        "W_dec_1": [[4.0], [1.0]],
        "b_dec_0": [0.5],
        "b_dec_1": [-0.5],
    }
    for name, value in values.items():
        sae.get_parameter(name).data = torch.tensor(value)
    return sae.eval()


@pytest.mark.parametrize("n_codes", [1, 1000])
def test_codes_and_outputs_by_hand(n_codes: int) -> None:
    x = torch.tensor([[[1.0], [0.0]], [[1.0], [3.0]], [[0.0], [2.0]]])
    codes = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    x_hat = torch.tensor([[[6.5], [7.5]], [[0.5], [1.5]], [[0.5], [0.5]]])
    sae = by_hand()
    torch.testing.assert_close(sae.encode(x), codes)
    torch.testing.assert_close(sae(x), x_hat)
    outputs = outputs_of(sae, n_codes)
    features = FeatureSums(2, torch.device("cpu"))
    fold = torch.zeros(3, dtype=torch.long)
    first = outputs.read(0, x[:, 0], features, fold)
    assert not first.any()
    second = outputs.read(1, x[:, 1], features, fold)
    torch.testing.assert_close(torch.stack(outputs.sites, 1), x_hat)
    # norms of what is written: 5 and 1
    torch.testing.assert_close(second[0], torch.tensor([1.0, 1.0, 1.0]))  # l0
    torch.testing.assert_close(second[1], torch.tensor([10.0, 2.0, 1.0]))  # l1
    torch.testing.assert_close(second[2], torch.tensor([2.0, 2.0, 1.0]))  # l1_raw
    # Errors at site 0: 5.5, 0.5, 0.5; at site 1: 7.5, 1.5, 1.5; means of x: 2/3 and 5/3.
    sums = {
        "n": np.array([3.0]),
        "n_next": np.array([2.0]),
        "ce_clean": np.array([4.0]),
        "layer/0/l0": np.array([3.0]),
        "layer/1/l0": np.array([3.0]),
        "layer/0/squared_error": np.array([30.25 + 0.25 + 0.25]),
        "layer/1/squared_error": np.array([56.25 + 2.25 + 2.25]),
        "layer/0/squared_deviation": np.array([2 / 3]),
        "layer/1/squared_deviation": np.array([14 / 3]),
        "layer/0/ce_spliced": np.array([5.0]),
        "layer/1/ce_spliced": np.array([7.0]),
        "layer/0/kl": np.array([1.0]),
        "layer/1/kl": np.array([3.0]),
    }
    found = per_layer(sums)
    np.testing.assert_allclose(found["fvu"], [30.75 * 3 / 2, 60.75 * 3 / 14])
    np.testing.assert_allclose(found["ce_degradation"], [0.5, 1.5])
    np.testing.assert_allclose(found["kl"], [0.5, 1.5])
    np.testing.assert_allclose(found["l0"], [1.0, 1.0])


def test_sites_have_to_be_named_and_as_many_as_it_has(
    tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, "shared")
    options = replace(OPTIONS, tokens=text, model=str(tiny_model("gpt2")))
    (outcome,) = evaluate(path, options)
    assert "does not say its hook; pass --hook" in (outcome.error or "")
    for hook in ("blocks.0-2.hook_resid_post", "blocks.1.hook_resid_post"):
        (outcome,) = evaluate(path, replace(options, hook=hook))
        assert f"reads 2 hook points, which {hook} is not" in (outcome.error or "")


def test_each_layers_values_are_in_json_in_tables_and_in_print(
    tiny_model: Callable[[str], Path],
    text: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = saved(tmp_path / "runs", "shared")
    options = (
        "--model", tiny_model("gpt2"), "--tokens", text, "--hook", HOOKS, "--n-tokens", "128",
        "--context-length", "32", "--split-tokens", "all", "--device", "cpu", "--quiet",
    )  # fmt: skip
    (document,) = run(capfd, "evaluate", path, *options, "--json").json()["runs"]
    layers = document["per_layer"]
    assert layers.keys() == {"l0", "fvu", "ce_degradation", "kl"}
    assert {len(values) for values in layers.values()} == {2}
    lines = run(capfd, "evaluate", path, *options).out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == [
        "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"
    ]  # fmt: skip
    assert f"{layers['fvu'][1]:.4g}" in lines[-1]
    table = load_results(path)
    assert table["fvu_by_layer"][0] == layers["fvu"]
    answer = run(capfd, "frontier", path, *options, "--json").json()
    assert answer["runs"][0]["per_layer"] == layers


@pytest.fixture
def tuned(tiny_model: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A model, and the same model with weights that fine-tuning changed."""
    first, second = tiny_model("llama"), tmp_path / "tuned"
    shutil.copytree(first, second)
    model = hooked.load(first).float()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.3 * parameter.std() * noise if parameter.ndim > 1 else 0
    model.save_pretrained(second)
    return first, second


def test_of_two_models_agrees_with_a_plain_hooked_reference(
    tuned: tuple[Path, Path], text: str, tmp_path: Path
) -> None:
    path, hook = saved(tmp_path / "cc", "shared"), "blocks.1,1.hook_resid_post"
    both = "+".join(map(str, tuned))
    result = only(evaluate(path, replace(OPTIONS, tokens=text, model=both, hook=hook)))
    assert (result.run.hook, result.setting.model) == (hook, both)
    tokens = load_tokens(
        text, LanguageModel.load(str(tuned[0]), device="cpu"), split="all", n_tokens=512,
        context_length=32,
    )  # fmt: skip
    ids, counted = tokens.ids, tokens.counted
    models, sae = [hooked.load(folder) for folder in tuned], load_sae(path).double()

    def run(i: int, value: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of a model with its site replaced, and the site's own activations."""
        seen = []

        def put(x: Tensor) -> Tensor:
            seen.append(x[counted])
            x = x.clone()
            if value is not None:
                x[counted] = value
            return x

        with torch.no_grad(), hooked.on_output(block_of(models[i], 1), put):
            return models[i](ids, use_cache=False).logits, seen[0]

    cleans, sites = zip(*(run(i, None) for i in range(2)), strict=True)
    x = torch.stack(sites, 1)
    with torch.no_grad():
        codes, x_hat = sae.encode(x), sae(x)

    def loss(i: int, value: Tensor) -> dict[str, float]:
        return hooked.losses(run(i, value)[0], cleans[i], ids, counted)

    ce = [hooked.losses(clean, clean, ids, counted)["ce"] for clean in cleans]
    assert abs(ce[0] - ce[1]) > 1e-3, "the models differ"
    spliced = [loss(i, x_hat[:, i]) for i in range(2)]
    zero = [loss(i, torch.zeros_like(x[:, i]))["ce"] for i in range(2)]
    mean = [loss(i, x[:, i].mean(0))["ce"] for i in range(2)]
    error = (x - x_hat).square().sum(-1)
    deviation = (x - x.mean(0)).square().sum(-1)
    expected = {
        "l0": float((codes != 0).double().sum(1).mean()),
        "mse": float(error.sum(1).mean()),
        "nmse": float(error.sum() / deviation.sum()),
        "ce_clean": sum(ce) / 2,
        "ce_spliced": sum(one["ce"] for one in spliced) / 2,
        "ce_zero": sum(zero) / 2,
        "ce_mean": sum(mean) / 2,
        "kl": sum(one["kl"] for one in spliced) / 2,
    }
    for key, value in expected.items():
        assert result.metrics[key].value == pytest.approx(value, rel=1e-4, abs=1e-4), key
    by_layer = {
        "fvu": (error.sum(0) / deviation.sum(0)).numpy(),
        "ce_degradation": np.array([one["ce"] - c for one, c in zip(spliced, ce, strict=True)]),
        "kl": np.array([one["kl"] for one in spliced]),
    }
    for name, values in by_layer.items():
        np.testing.assert_allclose(
            result.per_layer()[name], values, rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_the_factors_of_two_models_are_estimated_each_from_its_own(
    tuned: tuple[Path, Path], text: str, tmp_path: Path
) -> None:
    both, hook = "+".join(map(str, tuned)), "blocks.1,1.hook_resid_post"
    options = replace(OPTIONS, tokens=text, model=both, hook=hook)
    tokens = load_tokens(
        text, LanguageModel.load(str(tuned[0]), device="cpu"), split="all", n_tokens=512,
        context_length=32,
    )  # fmt: skip
    scales = []
    for folder in tuned:
        model = hooked.load(folder)
        seen: list[Tensor] = []
        with torch.no_grad(), hooked.on_output(block_of(model, 1), seen.append):
            model(tokens.ids, use_cache=False)
        scales.append(D**0.5 / float(seen[0][tokens.counted].norm(dim=-1).mean()))
    first, second = scales
    assert abs(first / second - 1) > 0.01, "the models differ"
    state = model_diff_state(D, N)
    kept = model_diff(tmp_path / "kept", state, (first, second))
    lost = model_diff(tmp_path / "lost", state)
    expected = only(evaluate(kept, options))
    found = only(evaluate(lost, replace(options, estimate_scale=True)))
    assert found.run.provenance["activation_scale"] == pytest.approx(scales, rel=1e-5)
    for key in ("l0", "mse", "ce_degradation", "kl"):
        value = expected.metrics[key].value
        assert found.metrics[key].value == pytest.approx(value, rel=1e-4, abs=1e-5), key
    (refused,) = evaluate(model_diff(tmp_path / "without", state), options)
    assert "--estimate-scale" in (refused.error or "")


def test_two_models_are_two_and_speak_alike(
    tuned: tuple[Path, Path], tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    hook = "blocks.1,1.hook_resid_post"
    options = replace(OPTIONS, tokens=text, model=str(tuned[0]), hook=hook)
    (outcome,) = evaluate(saved(tmp_path / "a", "shared"), options)
    assert "is not two models; write FIRST+SECOND" in (outcome.error or "")
    both = replace(options, model="+".join(map(str, tuned)))
    (outcome,) = evaluate(saved(tmp_path / "b", "causal"), both)
    assert "reads one site after the other, of one model" in (outcome.error or "")
    tokenizer = json.loads((tuned[1] / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tuned[1] / "tokenizer.json").write_text(json.dumps(tokenizer))
    (outcome,) = evaluate(saved(tmp_path / "a", "shared"), both)
    assert "have tokenizers that differ" in (outcome.error or "")
