"""One attention head as a hook point: ``blocks.1.attn.hook_z[2]``."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from prolu_eval.errors import ModelError
from prolu_eval.lm import LanguageModel

TOKENS = torch.arange(26).view(2, 13) % 96
HOOK = "blocks.1.attn.hook_z"


def replaced(folder: Path, module: str, replacement: Tensor, columns: slice) -> Tensor:
    """Logits with some columns of a module's input replaced, by a hook on the HF model."""
    network = AutoModelForCausalLM.from_pretrained(folder).eval()

    def hook(_: object, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        z = arguments[0].clone()
        z[..., columns] = replacement
        return (z,)

    network.get_submodule(module).register_forward_pre_hook(hook)
    with torch.no_grad():
        logits: Tensor = network(TOKENS).logits
    return logits


@pytest.mark.parametrize(
    ("architecture", "module"),
    [("gpt2", "transformer.h.1.attn.c_proj"), ("llama", "model.layers.1.self_attn.o_proj")],
)
@pytest.mark.parametrize("head", [0, 3])
def test_a_head_alone_is_read_and_replaced(
    tiny_model: Callable[[str], Path], architecture: str, module: str, head: int
) -> None:
    folder = tiny_model(architecture)
    model = LanguageModel.load(str(folder), device="cpu")
    name = f"{HOOK}[{head}]"
    clean = model.clean(TOKENS, name)
    columns = slice(8 * head, 8 * head + 8)
    whole = model.activations(TOKENS, HOOK)
    assert model.width(name) == 8
    assert torch.equal(clean.activation, whole[..., columns])
    replacement = 0.5 * clean.activation.flip(-1) + 0.3
    expected = replaced(folder, module, replacement, columns)
    for hidden in (
        model.resume(TOKENS, name, clean, replacement),
        model.splice(TOKENS, name, replacement),
    ):
        torch.testing.assert_close(model.logits(hidden), expected, rtol=1e-4, atol=1e-4)


def test_a_head_of_processed_weights_has_its_own_part_of_the_value_bias(
    tiny_model: Callable[[str], Path],
) -> None:
    folder = str(tiny_model("gpt2"))
    model = LanguageModel.load(folder, device="cpu", processed=True)
    name = f"{HOOK}[2]"
    clean = model.clean(TOKENS, name)
    assert torch.equal(clean.activation, model.activations(TOKENS, HOOK)[..., 16:24])
    plain = LanguageModel.load(folder, device="cpu").activations(TOKENS, name)
    assert not torch.allclose(clean.activation, plain)
    same = model.resume(TOKENS, name, clean, clean.activation)
    torch.testing.assert_close(same, clean.hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (f"{HOOK}[4]", "has 4 heads, counted from 0"),
        ("blocks.1.hook_resid_post[0]", "is not the activation of attention heads"),
        ("blocks.9.attn.hook_z[0]", "is no hook point of its 3 blocks"),
    ],
)
def test_no_such_head(tiny_model: Callable[[str], Path], hook: str, words: str) -> None:
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    with pytest.raises(ModelError, match=words.replace("[", r"\[")):
        model.site(hook)
