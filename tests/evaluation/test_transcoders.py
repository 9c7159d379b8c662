"""Transcoders are measured at their output site, from their input in the same pass."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from prolu_eval.checkpoints.native import save_run
from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate
from prolu_eval.interface import frontier
from prolu_eval.lm import LanguageModel
from prolu_eval.results import Result
from prolu_eval.runs import RunConfig
from prolu_eval.saes import VARIANTS, SparseAutoencoder
from prolu_eval.tokens import load_tokens
from tests.conftest import CONFIGS, tiny_tokenizer
from tests.helpers import hooked

D, D_SAE = 32, 48
OPTIONS = EvaluationOptions(n_tokens=512, context_length=32, device="cpu", split="all")


def normalised(norm: Any) -> Callable[[Tensor], Tensor]:
    """The result of a norm before its weights, with the norm's own epsilon."""
    centred = isinstance(norm, torch.nn.LayerNorm)
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps

    def before_weights(x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if centred else x
        result: Tensor = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
        return result

    return before_weights


def block_of(model: Any, index: int) -> Any:
    return (
        model.transformer.h[index] if hasattr(model, "transformer") else model.model.layers[index]
    )


GEMMA = {"norm": "pre_feedforward_layernorm", "out": "post_feedforward_layernorm"}
LLAMA = {"norm": "post_attention_layernorm", "out": "mlp"}
MODULES = {"gemma2": GEMMA, "gemma3": GEMMA, "llama": LLAMA, "qwen3": LLAMA,
           "gpt2": {"norm": "ln_2", "out": "mlp"}}  # fmt: skip
STACK = {"gpt2": "transformer.h.{}"}
# The input site by the names that files use for it, and how the model computes it.
INPUTS: dict[str, tuple[str, str]] = {
    "blocks.{}.ln2.hook_normalized": ("norm", "normalised"),
    "blocks.{}.hook_mlp_in": ("norm", "input"),
    "blocks.{}.hook_resid_mid": ("norm", "input"),
    "blocks.{}.mlp.hook_in": ("norm", "output"),
    "blocks.{}.ln2.hook_out": ("norm", "output"),
    "{stack}.{norm}.output": ("norm", "output"),
}
OUTPUTS: dict[str, str] = {
    "blocks.{}.hook_mlp_out": "out",
    "blocks.{}.mlp.hook_out": "mlp",
    "{stack}.{out}.output": "out",
}
PAIRS = [
    (read, write)
    for i, read in enumerate(INPUTS)
    for j, write in enumerate(OUTPUTS)
    if (i + j) % 3 == 0 or (i, j) == (0, 1)
]


def named(name: str, architecture: str, block: int) -> str:
    stack = STACK.get(architecture, "model.layers.{}").format(block)
    return name.format(block, stack=stack, **MODULES[architecture])


def transcoder(
    x: Tensor, y: Tensor, *, variant: str = "relu", skip: bool = True, seed: int = 0
) -> SparseAutoencoder:
    """A transcoder whose codes fire, and whose outputs have the scale of y."""
    x, y = x.float(), y.float()
    cls = VARIANTS[variant]
    options = cls.Options.model_validate({"k": 6} if variant == "topk" else {})
    d_in, d_out = x.shape[1], y.shape[1]
    sae = cls(d_in, D_SAE, options, d_out=d_out, skip=skip, apply_b_dec_to_input=False).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / d_in**0.5
        if name == "threshold":
            parameter.data = parameter.data.abs()
    sae.W_enc.data /= x.std()
    sae.W_dec.data *= y.std()
    sae.b_dec.data = y.mean(0)
    if skip:
        sae.W_skip.data = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution
        sae.b_dec.data -= x.mean(0) @ sae.W_skip
    return sae


def made_run(folder: Path, sae: SparseAutoencoder, model: Path, **sites: Any) -> Path:
    config = RunConfig(
        variant="", d_in=1, d_sae=1, model=str(model), dataset="embedded", context_length=32,
        **sites,
    )  # fmt: skip
    save_run(folder, sae, config)
    return folder


def only(outcomes: list[Outcome]) -> Result:
    (outcome,) = outcomes
    assert outcome.result is not None, outcome.error
    return outcome.result


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(97, 123, (16, 40), generator=generator)
    file.write_text("\n".join("".join(map(chr, row)) for row in ids))
    return str(file)


Found = dict[str, float]


@torch.no_grad()
def expected_of(
    model: Any, at: Any, sites: tuple[Any, str, Any], ids: Tensor, counted: Tensor,
    made: Callable[[Tensor, Tensor], SparseAutoencoder],
) -> tuple[SparseAutoencoder, Found]:  # fmt: skip
    """A transcoder for the sites of a block, and its metrics."""
    norm, side, out = sites
    seen: dict[str, Tensor] = {}

    def keep(value: Tensor) -> None:
        seen["x"] = normalised(norm)(value) if side == "normalised" else value

    def reading() -> Any:
        return hooked.on_output(norm, keep) if side == "output" else hooked.on_input(norm, keep)

    def keep_output(value: Tensor) -> None:
        seen["y"] = value

    with reading(), hooked.on_output(out, keep_output):
        clean = model(ids, use_cache=False).logits
    x, y = seen["x"][counted], seen["y"][counted]
    sae = made(x, y)
    exact = deepcopy(sae).double()
    codes = exact.encode(x)

    def replaced(value: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The losses with y replaced by a function of the input in the same pass."""

        def put(passing: Tensor) -> Tensor:
            put_in = passing.clone()
            put_in[counted] = value(seen["x"][counted])
            return put_in

        with reading(), hooked.on_output(out, put):
            return hooked.losses(model(ids, use_cache=False).logits, clean, ids, counted)

    spliced, zero = replaced(exact), replaced(lambda _: torch.zeros_like(y))
    mean = replaced(lambda _: y.mean(0).expand_as(y))
    ce = hooked.losses(clean, clean, ids, counted)["ce"]
    expected = {
        **hooked.fit(y, exact(x)),
        "l0": float((codes != 0).sum(1).double().mean()),
        "l1": float((codes.abs() * exact.W_dec.norm(dim=1)).sum(1).mean()),
        "ce_clean": ce,
        "ce_spliced": spliced["ce"],
        "ce_zero": zero["ce"],
        "ce_mean": mean["ce"],
        "ce_degradation": spliced["ce"] - ce,
        "ce_recovered_zero": (zero["ce"] - spliced["ce"]) / (zero["ce"] - ce),
        "kl": spliced["kl"],
        "dead_fraction": float((codes == 0).all(0).double().mean()),
    }
    if sae.skip:
        skipped = hooked.fit(y, exact.skipped(x))
        expected["skip_explained_variance"] = skipped["explained_variance"]
    return sae, expected


@pytest.mark.parametrize("architecture", MODULES)
def test_agrees_with_a_plain_hooked_reference(
    architecture: str, tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    folder, block = tiny_model(architecture), 1
    options = replace(OPTIONS, tokens=text)
    loaded = LanguageModel.load(str(folder), device="cpu")
    tokens = load_tokens(text, loaded, split="all", n_tokens=512, context_length=32)
    model = hooked.load(folder)
    at = block_of(model, block)
    expected: dict[str, Found] = {}
    for i, (read, write) in enumerate(PAIRS):
        part, side = INPUTS[read]
        norm, out = (
            getattr(at, MODULES[architecture].get(name, name)) for name in (part, OUTPUTS[write])
        )
        made = partial(transcoder, variant=("relu", "topk", "jumprelu")[i % 3], skip=i % 2 == 0)
        sites = norm, side, out
        sae, expected[str(i)] = expected_of(model, at, sites, tokens.ids, tokens.counted, made)
        names = {"hook": read, "hook_out": write}
        names = {key: named(name, architecture, block) for key, name in names.items()}
        made_run(tmp_path / "runs" / str(i), sae, folder, **names)
    for outcome in evaluate(tmp_path / "runs", options):
        assert outcome.result is not None, outcome.error
        wanted = expected.pop(outcome.name)
        assert 0 < wanted["l0"] < 0.9 * D_SAE
        assert wanted["kl"] > 5e-4, "the replacement changes something"
        for key, value in wanted.items():
            got = outcome.result.metrics[key].value
            assert got == pytest.approx(value, rel=1e-4, abs=1e-4), (outcome.name, key)
        skips = "skip_explained_variance" in wanted
        assert ("skip_explained_variance" in outcome.result.metrics) == skips
        assert "alignment" not in outcome.result.per_feature()
        write = PAIRS[int(outcome.name)][1]
        before_norm = "mlp.hook_out" in write and architecture.startswith("gemma")
        put_in = "blocks.1.mlp.hook_out" if before_norm else "blocks.1.hook_mlp_out"
        assert outcome.result.run.hook_out == put_in, "by the name that it usually has there"
    assert not expected, "every one was measured"


def linear_model(folder: Path) -> Path:
    """A tiny GPT-2 with linear MLPs, whose activation function is the identity."""
    torch.manual_seed(0)
    config = deepcopy(CONFIGS["gpt2"])
    config.activation_function = "linear"
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_skip_that_equals_a_linear_mlp_loses_nothing(text: str, tmp_path: Path) -> None:
    folder = linear_model(tmp_path / "model")
    mlp = block_of(hooked.load(folder), 1).mlp
    sae = VARIANTS["relu"](D, D_SAE, d_out=D, skip=True, apply_b_dec_to_input=False)
    sae.W_skip.data = (mlp.c_fc.weight @ mlp.c_proj.weight).float()
    sae.b_dec.data = (mlp.c_fc.bias @ mlp.c_proj.weight + mlp.c_proj.bias).float()
    sites = {"hook": "blocks.1.mlp.hook_in", "hook_out": "blocks.1.hook_mlp_out"}
    found = only(
        evaluate(made_run(tmp_path / "run", sae, folder, **sites), replace(OPTIONS, tokens=text))
    )
    metrics = {key: found.metrics[key].value for key in found.metrics}
    assert metrics["ce_zero"] != pytest.approx(metrics["ce_clean"], abs=1e-2)
    for key, value in {"mse": 0, "nmse": 0, "ce_degradation": 0, "kl": 0, "l0": 0}.items():
        assert metrics[key] == pytest.approx(value, abs=1e-6), key
    for key in ("explained_variance", "ce_recovered_zero", "skip_explained_variance"):
        assert metrics[key] == pytest.approx(1, abs=1e-5), key


def test_one_clean_pass_serves_all_of_an_output_site(
    tiny_model: Callable[[str], Path], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs = tiny_model("llama"), tmp_path / "runs"
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 64, D, generator=generator)
    write = "blocks.1.hook_mlp_out"
    for i, read in enumerate(("blocks.1.mlp.hook_in", "blocks.1.hook_resid_mid")):
        made_run(runs / f"t{i}", transcoder(x, y, seed=i), folder, hook=read, hook_out=write)
    sae = VARIANTS["relu"](D, D_SAE)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / D**0.5
    made_run(runs / "sae", sae, folder, hook=write)
    clean: list[tuple[int, ...]] = []
    passed = LanguageModel.clean

    def counting(self: LanguageModel, tokens: Tensor, *rest: Any) -> Any:
        clean.append(tuple(tokens.shape))
        return passed(self, tokens, *rest)

    monkeypatch.setattr(LanguageModel, "clean", counting)
    found = {o.name: o.result for o in evaluate(runs, replace(OPTIONS, tokens=text, batch_size=8))}
    assert len(clean) == 2, "one for each of two batches"
    keys = {name: result.comparison_key() for name, result in found.items() if result is not None}
    assert len(keys) == 3
    assert len(set(keys.values())) == 1, "all stand for the same activations"
    labels = [result.run.label for result in found.values() if result is not None]
    assert sorted(labels) == ["relu", "relu-skip-transcoder", "relu-skip-transcoder"]
    answer = frontier(runs)
    assert len(answer.groups) == 1
    assert write in answer.groups[0].title


def test_what_a_transcoder_cannot_be_measured_at_is_told(
    tiny_model: Callable[[str], Path], text: str, tmp_path: Path
) -> None:
    folder, options = tiny_model("llama"), replace(OPTIONS, tokens=text, n_tokens=64)
    x, y = torch.randn(2, 64, D, generator=torch.Generator().manual_seed(1))
    sae = transcoder(x, y)
    wrong = {
        ("blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"): "comes after the site",
        ("blocks.9.mlp.hook_in", "blocks.1.hook_mlp_out"): "is no hook point of its 3 blocks",
        ("blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out"): "takes activations of width 32, but",
        ("blocks.1.mlp.hook_in", "blocks.1.ln2.hook_normalized"): "that can be spliced",
        ("blocks.1.mlp.hook_in", None): "does not say its hook_out; pass --hook-out",
    }
    for i, ((read, write), words) in enumerate(wrong.items()):
        run = made_run(tmp_path / str(i), sae, folder, hook=read, hook_out=write)
        (outcome,) = evaluate(run, options)
        assert words in (outcome.error or ""), outcome.error
    given = replace(options, hook_out="blocks.1.hook_mlp_out")
    assert only(evaluate(run, given)).run.hook_out == "blocks.1.hook_mlp_out"
