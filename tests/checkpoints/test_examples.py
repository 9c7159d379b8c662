"""The examples of a new variant and a new format: one file and one line in a registry each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prolu_eval.checkpoints import FORMATS
from prolu_eval.checkpoints.native import save_run
from prolu_eval.runs import RunConfig
from prolu_eval.saes import VARIANTS
from tests.conftest import ROOT
from tests.examples.goodfire import FORMAT
from tests.examples.squared_relu import SquaredRelu
from tests.helpers.cli import run
from tests.helpers.foreign_files import inputs, matrices, write_pt
from tests.helpers.format_checks import check, run_at

W, X = matrices(), inputs()
H = X @ W["W_enc"] + W["b_enc"]


def test_a_new_variant_is_saved_loaded_and_evaluated(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(VARIANTS, SquaredRelu.variant, SquaredRelu)
    sae = SquaredRelu(32, 40)
    for name, tensor in matrices(0, 32, 40).items():
        sae.get_parameter(name).data = 0.1 * tensor
    model = str(tiny_model("llama"))
    config = RunConfig(variant="", d_in=1, d_sae=1, model=model, hook="blocks.1.hook_resid_post")
    save_run(tmp_path / "run", sae, config)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 96, 320))
    ran = run(
        capfd, "evaluate", tmp_path / "run", "--tokens", tmp_path / "ids.npy",
        "--context-length", 32, "--device", "cpu", "--quiet", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (outcome,) = ran.json()["runs"]
    assert outcome["variant"] == "squared_relu"
    assert 0 < outcome["metrics"]["l0"]["value"] < 40


def test_a_new_format_is_found_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FORMATS, FORMAT.name, FORMAT)
    state = {
        "encoder_linear.weight": W["W_enc"].t(),
        "encoder_linear.bias": W["b_enc"],
        "decoder_linear.weight": W["W_dec"].t(),
        "decoder_linear.bias": W["b_dec"],
    }
    write_pt(tmp_path / "layer-50.pth", state)
    codes = torch.relu(H)
    check(tmp_path, codes, codes @ W["W_dec"] + W["b_dec"])
    assert run_at(tmp_path).format == "goodfire"
    assert run(capfd, "convert", tmp_path, tmp_path / "to", "--to", "saelens").code == 0
    write_pt(tmp_path / "layer-50.pth", {"encoder_linear.weight": W["W_enc"].t()})
    ran = run(capfd, "inspect", tmp_path / "layer-50.pth", "--weights")
    assert ran.code == 2
    assert "lacks tensor" in ran.out


@pytest.mark.parametrize(
    ("page", "name"), [("add_a_variant", "squared_relu"), ("add_a_format", "goodfire")]
)
def test_the_documentation_shows_the_examples_as_they_are(page: str, name: str) -> None:
    shown = (ROOT / "docs" / "howto" / f"{page}.md").read_text()
    assert f"```python\n{(ROOT / 'tests' / 'examples' / f'{name}.py').read_text()}```\n" in shown
