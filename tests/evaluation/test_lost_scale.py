"""``--estimate-scale``: the factor that files lost, from the activations on the first tokens."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate
from prolu_eval.lm import LanguageModel
from tests.helpers.foreign_files import matrices, saelens, write_json

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def measured(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Callable[[Path, bool], Outcome]:
    """Measures a run on 40 rows of 16 tokens, with or without an estimate."""
    ids = np.random.default_rng(0).integers(1, 96, 40 * 16)
    np.save(tmp_path / "ids.npy", ids)

    def measure(run: Path, estimate: bool) -> Outcome:
        options = EvaluationOptions(
            model=str(tiny_model("llama")), tokens=str(tmp_path / "ids.npy"), n_tokens=640,
            context_length=16, prepend_bos=False, device="cpu", estimate_scale=estimate,
        )  # fmt: skip
        (outcome,) = evaluate(run, options)
        return outcome

    return measure


def lost(folder: Path) -> Path:
    return saelens(
        folder, "standard", matrices(d_in=32, d_sae=20), d_in=32, d_sae=20,
        normalize_activations="expected_average_only_in",
    )  # fmt: skip


def test_it_is_that_of_training_on_the_same_tokens(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    measured: Callable[[Path, bool], Outcome],
) -> None:
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    tokens = torch.from_numpy(np.load(tmp_path / "ids.npy")).view(40, 16)
    norms = model.activations(tokens, HOOK).double().norm(dim=-1)
    scale = 32**0.5 / norms.mean().item()
    kept = lost(tmp_path / "kept")
    write_json(kept / "activation_scaler.json", {"scaling_factor": scale})
    expected, found = measured(kept, False), measured(lost(tmp_path / "lost"), True)
    assert expected.result is not None
    assert found.result is not None
    provenance = found.result.run.provenance
    assert provenance["activation_scale"] == pytest.approx(scale, rel=1e-6)
    assert provenance["estimated_on_tokens"] == 640
    assert "activation_scale" not in expected.result.run.provenance
    for key in ("l0", "mse", "ce_degradation", "kl"):
        value = expected.result.metrics[key].value
        assert found.result.metrics[key].value == pytest.approx(value, rel=1e-5), key


def test_without_it_the_run_is_refused_and_with_it_the_result_is_kept(
    tmp_path: Path, measured: Callable[[Path, bool], Outcome]
) -> None:
    run = lost(tmp_path / "lost")
    refused = measured(run, False)
    assert refused.status == "failed"
    assert "--estimate-scale" in (refused.error or "")
    assert [measured(run, True).status for _ in range(2)] == ["ok", "cached"]
