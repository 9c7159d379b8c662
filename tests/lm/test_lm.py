"""Capturing, splicing and resuming agree with TransformerLens's own hooked forward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from prolu_eval.errors import ModelError
from prolu_eval.lm import LanguageModel, official_name
from tests.conftest import CONFIGS

HOOKS = [
    "hook_resid_pre", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z",
    "mlp.hook_post",
]  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def pair(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]
) -> tuple[LanguageModel, Any]:
    """A model as we load it, and TransformerLens's bridge over the same weights."""
    folder = str(tiny_model(request.param))
    return (
        LanguageModel.load(folder, device="cpu"),
        TransformerBridge.boot_transformers(folder, device="cpu"),
    )


@pytest.mark.parametrize("hook", [f"blocks.{i}.{name}" for i in range(3) for name in HOOKS])
def test_resumed_pass_equals_a_hooked_forward(pair: tuple[LanguageModel, Any], hook: str) -> None:
    model, bridge = pair
    tokens = torch.randint(1, 96, (2, 20), generator=torch.Generator().manual_seed(1))
    captured: list[Tensor] = []
    with torch.no_grad():
        logits = bridge.run_with_hooks(
            tokens, fwd_hooks=[(hook, lambda value, hook: captured.append(value))]
        )
        replacement = captured[0] * torch.linspace(-1, 2, captured[0].shape[-1])
        expected = bridge.run_with_hooks(
            tokens, fwd_hooks=[(hook, lambda value, hook: replacement)]
        )
    clean = model.clean(tokens, hook)

    assert (expected - logits).abs().max() > 1e-3, "the replacement must change something"
    torch.testing.assert_close(model.logits(clean.hidden), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clean.activation, captured[0].flatten(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.activations(tokens, hook), clean.activation)
    resumed = model.resume(tokens, hook, clean, replacement.flatten(2))
    torch.testing.assert_close(model.logits(resumed), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        resumed, model.splice(tokens, hook, replacement.flatten(2)), rtol=1e-5, atol=1e-5
    )


def test_resid_mid_is_replaced_on_the_skip_connection_too(
    tiny_model: Callable[[str], Path],
) -> None:
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    tokens = torch.arange(1, 21).view(2, 10)
    hook = "blocks.1.hook_resid_mid"
    clean = model.clean(tokens, hook)
    replacement = clean.activation * 0.5
    layer: Any = model._network.get_submodule("model.layers.1")
    expected = replacement + layer.mlp(layer.post_attention_layernorm(replacement))
    after = model.clean(tokens, "blocks.1.hook_resid_post")
    reference = model.resume(tokens, "blocks.1.hook_resid_post", after, expected)
    resumed = model.resume(tokens, hook, clean, replacement)
    torch.testing.assert_close(resumed, reference, rtol=1e-5, atol=1e-5)


def test_a_resumed_pass_runs_only_the_blocks_after_the_hook(
    tiny_model: Callable[[str], Path],
) -> None:
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    ran: list[int] = []
    for index in range(3):
        attention = model._network.get_submodule(f"model.layers.{index}.self_attn")
        attention.register_forward_hook(lambda *_, index=index: ran.append(index))
    tokens = torch.ones(1, 4, dtype=torch.long)
    clean = model.clean(tokens, "blocks.1.hook_resid_post")
    ran.clear()
    model.resume(tokens, "blocks.1.hook_resid_post", clean, clean.activation)
    assert ran == [2]
    ran.clear()
    model.activations(tokens, "blocks.1.hook_resid_post")
    assert ran == [0, 1]
    model.clean(tokens, "blocks.1.hook_resid_post")
    assert ran == [0, 1, 0, 1, 2], "nothing of a resumed pass stays behind"


def test_what_is_no_model_or_hook_is_named(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        LanguageModel.load(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        LanguageModel.load(str(tmp_path))
    model = LanguageModel.load(str(tiny_model("gpt2")), device="cpu")
    with pytest.raises(ModelError, match=r"no hook point 'blocks.7.hook_resid_pre'"):
        model.site("blocks.7.hook_resid_pre")


def test_fingerprint_follows_the_weights(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    source = tiny_model("gpt2")
    first = LanguageModel.load(str(source), device="cpu").fingerprint
    network: Any = LanguageModel.load(str(source), device="cpu")._network
    network.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    assert LanguageModel.load(str(tmp_path), device="cpu").fingerprint == first
    next(network.parameters()).data.view(-1)[0] += 1
    network.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    assert LanguageModel.load(str(tmp_path), device="cpu").fingerprint != first


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "qwen2", "llama"])
@pytest.mark.parametrize(
    "name", ["hook_resid_pre", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z"]
)
def test_processed_weights_are_those_of_transformer_lens(
    tiny_model: Callable[[str], Path], architecture: str, name: str
) -> None:
    folder = str(tiny_model(architecture))
    hook = f"blocks.1.{name}"
    bridge = TransformerBridge.boot_transformers(folder, device="cpu")
    bridge.enable_compatibility_mode(disable_warnings=True)
    tokens = torch.randint(1, 96, (2, 20), generator=torch.Generator().manual_seed(1))
    captured: list[Tensor] = []
    with torch.no_grad():
        bridge.run_with_hooks(
            tokens, fwd_hooks=[(hook, lambda value, hook: captured.append(value))]
        )
        replacement = captured[0] * 0.5
        expected = bridge.run_with_hooks(
            tokens, fwd_hooks=[(hook, lambda value, hook: replacement)]
        )
    model = LanguageModel.load(folder, device="cpu", processed=True)
    clean = model.clean(tokens, hook)
    torch.testing.assert_close(clean.activation, captured[0].flatten(2), rtol=1e-4, atol=1e-4)
    resumed = model.resume(tokens, hook, clean, replacement.flatten(2))
    torch.testing.assert_close(
        model.logits(resumed).log_softmax(-1), expected.log_softmax(-1), rtol=1e-3, atol=1e-3
    )


def test_every_architecture_reads_out_hidden_states(tiny_model: Callable[[str], Path]) -> None:
    for architecture in CONFIGS:
        model = LanguageModel.load(str(tiny_model(architecture)), device="cpu")
        assert model._read_out is not None, architecture
        tokens = torch.arange(1, 13).view(2, 6)
        hidden = model.clean(tokens, "blocks.0.hook_resid_post").hidden
        assert hidden.shape == (2, 6, 32)
        logits = model._network(tokens, use_cache=False).logits
        parts = (whole.flatten(0, 1).split(5) for whole in (hidden, logits))
        for part, expected in zip(*parts, strict=True):
            torch.testing.assert_close(model.logits(part), expected, rtol=1e-5, atol=1e-5)


def test_without_a_trunk_of_its_own_a_network_is_run_whole(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny_model("gemma2"))
    tokens = torch.arange(1, 13).view(2, 6)
    hook = "blocks.1.hook_resid_post"
    usual = LanguageModel.load(folder, device="cpu")
    monkeypatch.setattr("prolu_eval.lm.read_out._same", lambda *_: False)
    plain = LanguageModel.load(folder, device="cpu")
    assert plain._read_out is None
    found = []
    for model in (usual, plain):
        clean = model.clean(tokens, hook)
        found.append(model.logits(model.resume(tokens, hook, clean, clean.activation * 0.5)))
    torch.testing.assert_close(*found)


def test_a_model_spread_by_a_device_map_gives_the_same(tiny_model: Callable[[str], Path]) -> None:
    pytest.importorskip("accelerate")
    tokens = torch.arange(1, 13).view(2, 6)
    hook = "blocks.1.hook_resid_post"
    found = []
    for device_map in (None, "auto"):
        model = LanguageModel.load(str(tiny_model("llama")), device="cpu", device_map=device_map)
        clean = model.clean(tokens, hook)
        found.append(model.logits(model.resume(tokens, hook, clean, clean.activation * 0.5)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small", "gpt2"),
        ("GPT2-small", "gpt2"),
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("gpt2", "gpt2"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("some/other", "some/other"),
    ],
)
def test_other_libraries_names_of_models_are_the_hubs(name: str, expected: str) -> None:
    assert official_name(name) == expected
