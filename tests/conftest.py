"""Fixtures of several tests: the model and text of ``../shared``, tiny random models, a browser."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from prolu_eval.checkpoints.native import save_run
from prolu_eval.processes import Helper
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("PROLU_EVAL_SHARED", ROOT.parent / "shared"))

torch.set_num_threads(1)
# Tests do not share a cache with the user or with other test processes.
os.environ["PROLU_EVAL_CACHE"] = tempfile.mkdtemp(prefix="prolu-eval-tests-")
# A loaded machine is slow to draw examples; that says nothing about the code.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

_SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "gpt2": transformers.GPT2Config(
        vocab_size=96,
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**_SMALL),
    "llama": transformers.LlamaConfig(**_GROUPED),
    "gemma2": transformers.Gemma2Config(**_GROUPED, query_pre_attn_scalar=8, sliding_window=8),
    "gemma3": transformers.Gemma3TextConfig(**_GROUPED, query_pre_attn_scalar=8, sliding_window=8),
    "qwen2": transformers.Qwen2Config(**_GROUPED),
    "qwen3": transformers.Qwen3Config(**_GROUPED),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one special token and the printable ASCII characters; 96 ids."""
    vocabulary = {"<|endoftext|>": 0, **{chr(32 + i): i + 1 for i in range(95)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model of an architecture, made on first use."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(CONFIGS[architecture])
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
            model.save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            made[architecture] = folder
        return made[architecture]

    return make


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Callable[[Path], Path]:
    """A run of a tiny model in a folder, and token ids for it."""

    def make(folder: Path) -> Path:
        ids = tmp_path / "ids.npy"
        np.save(ids, np.random.default_rng(0).integers(1, 96, 640))
        sae = Relu(32, 40)
        for parameter in (sae.W_enc, sae.W_dec):
            torch.nn.init.normal_(parameter)
        config = RunConfig(
            variant="", d_in=1, d_sae=1, hook="blocks.1.hook_resid_post",
            model=str(tiny_model("llama")), dataset=str(ids),
        )  # fmt: skip
        save_run(folder, sae, config)
        return folder

    return make


@pytest.fixture(scope="session")
def stories() -> Path:
    """Folder of the public 260K-parameter Llama."""
    folder = SHARED / "models" / "stories260k"
    if not folder.exists():
        pytest.skip("shared/models/stories260k is not here")
    return folder


@pytest.fixture(scope="session")
def stories_text() -> Path:
    """Text sampled from that model."""
    path = SHARED / "text" / "stories-sampled.txt"
    if not path.exists():
        pytest.skip("shared/text/stories-sampled.txt is not here")
    return path


@pytest.fixture(scope="session")
def gutenberg() -> str:
    """A part of a book, without markers between documents."""
    path = SHARED / "text" / "gutenberg-sample.txt"
    if not path.exists():
        pytest.skip("shared/text/gutenberg-sample.txt is not here")
    return path.read_text(encoding="utf-8")[:100_000]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, which sends no requests of its own to the network."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=chromium, args=quiet)
        yield opened
        opened.close()


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """The helpers that are started."""
    started: list[Helper] = []
    start = Helper.__init__

    def noting(self: Helper, *arguments: object) -> None:
        start(self, *arguments)  # type: ignore[arg-type]
        started.append(self)

    monkeypatch.setattr(Helper, "__init__", noting)
    return started


_SWEEP_FILE = """
[shared]
model = "{model}"
hook = "blocks.1.hook_resid_post"
dataset = "{dataset}"
n_tokens = 4096
context_length = 16
d_sae = 48
batch_size = 64
buffer_size = 512
[within]
learning_rates = [2e-3]
seeds = [0, 1]
[[sweep]]
variant = "relu"
coefficients = [0.1, 1]
[[sweep]]
variant = "prolu"
options = {{ gradient = "ste" }}
coefficients = [0.1]
"""


@pytest.fixture
def sweep_file(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Path:
    """A sweep file of six runs on a tiny random model, with its text beside it."""
    text = "<|endoftext|>".join(f"story {i}: once there was a {i % 7}. " * 4 for i in range(60))
    (tmp_path / "text.txt").write_text(text)
    path = tmp_path / "sweep.toml"
    path.write_text(_SWEEP_FILE.format(model=tiny_model("llama"), dataset=tmp_path / "text.txt"))
    return path
