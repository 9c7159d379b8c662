"""Plain dictionaries with an encoder of the user's choice, and users' own modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prolu_eval import evaluate
from prolu_eval.checkpoints import discover, load_run
from prolu_eval.checkpoints.atoms import Encoder
from prolu_eval.checkpoints.native import save_run
from prolu_eval.errors import UsageError
from prolu_eval.lm import LanguageModel
from prolu_eval.runs import Broken, Run, RunConfig
from prolu_eval.saes import Relu
from tests.helpers.cli import run
from tests.helpers.foreign_files import D_IN, inputs, matrices, write_tensors

HOOK = "blocks.1.hook_resid_post"
ATOMS, X = matrices()["W_dec"], inputs()
UNIT = ATOMS / ATOMS.norm(dim=1, keepdim=True)


def the_run(path: Path, encoder: str) -> Run:
    (item,) = discover(path, encoder)
    assert isinstance(item, Run), item
    return item


def test_top_k_of_a_numpy_dictionary(tmp_path: Path) -> None:
    np.save(tmp_path / "atoms.npy", ATOMS.numpy())
    sae = load_run(the_run(tmp_path / "atoms.npy", "top-k=3"))
    h = X @ UNIT.T
    codes = torch.relu(torch.zeros_like(h).scatter(-1, *_largest(h, 3)))
    torch.testing.assert_close(sae.encode(X), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(X), codes @ UNIT, rtol=1e-5, atol=1e-5)


def _largest(h: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = h.topk(k, dim=-1)
    return found.indices, found.values


def test_matching_pursuit_of_a_dictionary_with_a_mean(tmp_path: Path) -> None:
    mean = torch.linspace(-1, 1, D_IN)
    write_tensors(tmp_path / "a.safetensors", {"dictionary": ATOMS, "mean": mean})
    sae = load_run(the_run(tmp_path, "matching-pursuit=3"))
    residual, codes = X - mean, torch.zeros(len(X), len(UNIT))
    for _ in range(3):
        value, index = torch.relu(residual @ UNIT.T).max(-1)
        codes[torch.arange(len(X)), index] += value
        residual = residual - value[:, None] * UNIT[index]
    torch.testing.assert_close(sae.encode(X), codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae(X), codes @ UNIT + mean, rtol=1e-4, atol=1e-5)


def test_nnls_reconstructs_best(tmp_path: Path) -> None:
    np.save(tmp_path / "atoms.npy", ATOMS.numpy())
    item = the_run(tmp_path, "nnls=0.5")
    assert (item.variant, item.options["penalty"]) == ("nnls", 0.5)
    codes = load_run(item).encode(X)
    gradient = (codes @ UNIT - X) @ UNIT.T + 0.5
    assert gradient[codes > 0].abs().max() < 1e-2
    assert gradient.min() > -1e-2


@pytest.mark.parametrize(
    "text", ["top-k", "top-k=0", "top-k=x", "matching-pursuit=0", "nnls=-1", "nnls=nan", "lasso"]
)
def test_encoders_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no encoder; write top-k=32"):
        Encoder.parse(text)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3, np.float32), "is no matrix of atoms"),
        (np.zeros((0, 3), np.float32), "is no matrix of atoms"),
        (np.zeros((2, 3), np.int64), "is no matrix of atoms"),
        (np.array([[None, 1], [2, 3]]), "cannot be read"),
    ],
)
def test_files_that_are_no_dictionary(tmp_path: Path, array: Any, words: str) -> None:
    np.save(tmp_path / "atoms.npy", array)
    (item,) = discover(tmp_path, "top-k=2")
    assert isinstance(item, Broken)
    assert words in item.error
    assert "\n" not in item.error


class Mine(nn.Module):
    """Research code: no format, no base class."""

    def __init__(self, seed: int, power: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder, self.out = nn.Linear(32, 40), nn.Linear(40, 32)
        self.power = power

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(self.encoder(x))

    def decode(self, codes: Tensor) -> Tensor:
        x_hat: Tensor = self.out(codes**self.power)
        return x_hat


@pytest.fixture
def settings(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 96, 640))
    monkeypatch.chdir(tmp_path)
    return {"model": str(tiny_model("llama")), "tokens": str(tmp_path / "ids.npy"), "hook": HOOK,
            "context_length": 16, "prepend_bos": False, "device": "cpu"}  # fmt: skip


def test_a_module_is_measured_as_the_same_checkpoint_is(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    module = Mine(0)
    sae = Relu(32, 40, apply_b_dec_to_input=False)
    sae.W_enc.data, sae.b_enc.data = module.encoder.weight.T, module.encoder.bias
    sae.W_dec.data, sae.b_dec.data = module.out.weight.T.contiguous(), module.out.bias
    save_run(tmp_path / "native", sae, RunConfig(variant="", d_in=1, d_sae=1))
    (mine,) = evaluate(module, **settings)
    (expected,) = evaluate(tmp_path / "native", **settings)
    assert mine.result is not None
    assert expected.result is not None
    for key in ("l0", "l1", "mse", "ce_degradation", "kl"):
        value = expected.result.metrics[key].value
        assert mine.result.metrics[key].value == pytest.approx(value, rel=1e-4), key
    assert (mine.name, mine.result.run.label) == ("Mine", "Mine")
    assert [outcome.status for outcome in evaluate(module, **settings)] == ["cached"]
    assert [outcome.status for outcome in evaluate(Mine(1), **settings)] == ["ok"]


def test_a_decoder_that_is_not_affine_is_called_itself(settings: dict[str, Any]) -> None:
    bent = Mine(0, power=2.0)
    (outcome,) = evaluate({"bent": bent}, **settings)
    assert outcome.result is not None
    tokens = torch.from_numpy(np.load("ids.npy")).view(40, 16)
    x = LanguageModel.load(settings["model"], device="cpu").activations(tokens, HOOK).flatten(0, 1)
    with torch.no_grad():
        error = (bent.decode(bent.encode(x)) - x).double().square().sum(1).mean()
    assert outcome.result.metrics["mse"].value == pytest.approx(error.item(), rel=1e-4)


@pytest.mark.parametrize("how", ["own:make", "own.py:make"])
def test_a_plugin_on_the_command_line(
    tmp_path: Path, settings: dict[str, Any], how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = "from tests.evaluation.test_own_encoders import Mine\n"
    source += "def make(): return {'a': Mine(1), 'b': Mine(2)}\n"
    (tmp_path / "own.py").write_text(source)
    given = [f"--{k.replace('_', '-')}={v}" for k, v in settings.items() if k != "prepend_bos"]
    ran = run(capfd, "evaluate", "--plugin", how, "--no-prepend-bos", *given, "--json", "--quiet")
    assert ran.code == 0, ran.err
    found = ran.json()["runs"]
    assert [(r["run"], r["status"], r["variant"]) for r in found] == [
        ("a", "ok", "custom"), ("b", "ok", "custom"),
    ]  # fmt: skip
    assert run(capfd, "report", tmp_path, "-o", tmp_path / "page.html").code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("own", "names no function"),
        ("nothing_of_this_name:make", "fails (ModuleNotFoundError"),
        ("absent.py:make", "fails ("),
        ("math:pi", "fails (TypeError"),
        ("os:getcwd", "gives a str"),
    ],
)
def test_plugins_that_are_none(
    settings: dict[str, Any], text: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = run(capfd, "evaluate", "--plugin", text)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_modules_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="lacks encode or decode"):
        evaluate(nn.Linear(3, 3))
    with pytest.raises(UsageError, match="give it d_in"):
        evaluate({"x": type("Odd", (Mine,), {"decode": lambda _, codes: codes[:, :1]})(0)})


def test_nothing_named(capfd: pytest.CaptureFixture[str]) -> None:
    ran = run(capfd, "evaluate")
    assert (ran.code, "RUNS: are missing" in ran.err) == (2, True)
