"""Unusual models: multimodal, without tokenizer or BOS, with odd blocks, or moved."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prolu_eval.errors import ModelError
from prolu_eval.lm import LanguageModel
from tests.architectures.trying import save_tiny, try_architecture

HOOK = "blocks.1.hook_resid_post"
TOKENS = torch.arange(1, 23).view(2, 11)


@pytest.mark.parametrize(
    "architecture",
    [
        "FalconForCausalLM",  # changes tensors between modules in place
        "OPTForCausalLM",  # flattens tokens
        "MixtralForCausalLM",  # has experts
        "GraniteForCausalLM",  # scales what it adds
        "JambaForCausalLM",  # has blocks without attention
        "Olmo2ForCausalLM",  # has norms only after the parts of a block
        "OpenAIGPTLMHeadModel",  # returns lists, and has a norm after each sum
        "Gemma3ForConditionalGeneration",
    ],
)
def test_every_hook_is_spliced_or_refused(architecture: str, tmp_path: Path) -> None:
    tried = try_architecture(architecture, tmp_path)
    assert tried.refused is None
    assert not tried.wrong
    assert tried.hooks["blocks.1.hook_resid_pre"] is None


def test_the_text_part_of_a_multimodal_model_loads_alone_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("Gemma3ForConditionalGeneration", tmp_path)
    ran: list[Any] = []
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: ran.append(words))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    model = LanguageModel.load(str(tmp_path), device="cpu")
    assert not ran
    assert not [name for name, _ in model._network.named_modules() if "vision" in name]
    whole = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = whole(input_ids=TOKENS).logits
    torch.testing.assert_close(model.logits(model.clean(TOKENS, HOOK).hidden), expected)


def test_a_tokenizer_is_left_as_it_was_saved(tmp_path: Path) -> None:
    save_tiny("LlamaForCausalLM", tmp_path)
    assert LanguageModel.load(str(tmp_path), device="cpu").tokenizer is None
    words = {word: i for i, word in enumerate(["<eos>", *map(str, range(63))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(tmp_path)
    model = LanguageModel.load(str(tmp_path), device="cpu")
    assert (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) == (None, 0)
    assert len(model.tokenizer) == 64


def test_zero_at_resid_mid_leaves_nothing(tmp_path: Path) -> None:
    save_tiny("LlamaForCausalLM", tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        model = LanguageModel.load(str(tmp_path), device="cpu", dtype=dtype)
        hook = "blocks.1.hook_resid_mid"
        clean = model.clean(TOKENS, hook)
        zero = torch.zeros_like(clean.activation)
        for hidden in (
            model.resume(TOKENS, hook, clean, zero),
            model.splice(TOKENS, hook, zero),
        ):
            assert not hidden.any(), "an MLP without biases gives zero for zero"


@pytest.mark.parametrize("name", ["/gone/model", "./gone", "a/b/c"])
def test_a_moved_model_is_told_with_the_option_that_mends_it(name: str) -> None:
    with pytest.raises(ModelError, match="is a folder that is not there; pass --model"):
        LanguageModel.load(name)


def test_what_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    save_tiny("BertLMHeadModel", tmp_path / "bert")
    with pytest.raises(ModelError, match="lets positions see later ones"):
        LanguageModel.load(str(tmp_path / "bert"), device="cpu")
    transformers.T5Config(d_model=32, d_ff=32, num_layers=1, d_kv=8).save_pretrained(
        tmp_path / "t5"
    )
    with pytest.raises(ModelError, match="has an encoder besides its decoder"):
        LanguageModel.load(str(tmp_path / "t5"), device="cpu")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 9}
    config = transformers.PersimmonConfig(**small, num_attention_heads=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "unknown")
    with pytest.raises(ModelError, match=r"TransformerLens \S+ has no hook points for"):
        LanguageModel.load(str(tmp_path / "unknown"), device="cpu")


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    save_tiny("LlamaForCausalLM", tmp_path)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    state = {n: t for n, t in network.state_dict().items() if "layers.1.mlp" not in n}
    network.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"holds no weights for model\.layers\.1\.mlp"):
        LanguageModel.load(str(tmp_path), device="cpu")


def test_weights_of_more_blocks_than_the_config_names_are_refused(tmp_path: Path) -> None:
    save_tiny("LlamaForCausalLM", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    n = config["num_hidden_layers"]
    config["num_hidden_layers"] = n - 1
    config.pop("layer_types", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"model.layers.{n - 1}.*correct the number of layers"):
        LanguageModel.load(str(tmp_path), device="cpu")
