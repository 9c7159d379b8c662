"""How often a comparison is right on real measurements: damaged autoencoders of the embedded model.

`nox -s slow` runs these simulations, which take some minutes. The autoencoders of reports/baseline
are measured once on a pool of held-out sequences, undamaged and with damages such as a change of
code can cause. Each simulation draws its sequences from the pool.
"""

import shutil
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prolu_eval import evaluate, load_sae
from prolu_eval.baseline import load_baseline
from prolu_eval.checkpoints.native import save_run
from prolu_eval.comparison import Comparison, ComparisonOptions, compare_results, parse_tolerances
from prolu_eval.evaluation import EvaluationOptions
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS
from prolu_eval.results import PER_SEQUENCE, Result
from prolu_eval.runs import RunConfig
from prolu_eval.saes.base import SparseAutoencoder
from tests.conftest import ROOT
from tests.helpers.drawing import DEFAULTS, On, share_of

pytestmark = pytest.mark.slow

BASELINE = ROOT / "reports" / "baseline.json"
FIXED = BASELINE.with_suffix("") / "runs"
POOL, LENGTH = 1536, 64
RUNS = ("relu_l1", "prolu-ste_l1")
DAMAGED = "prolu-ste_l1_c0.4_lr0.008_s0"


def noisy_encoder(sae: SparseAutoencoder, scale: float = 0.4) -> None:
    noise = torch.randn(sae.W_enc.shape, generator=torch.Generator().manual_seed(0))
    sae.W_enc.data += scale * sae.W_enc.data.std() * noise


def slightly_noisy_encoder(sae: SparseAutoencoder) -> None:
    noisy_encoder(sae, 0.2)


def shifted_threshold(sae: SparseAutoencoder) -> None:
    sae.b_enc.data -= 0.05 * sae.b_enc.data.abs().mean()


def rescaled_decoder(sae: SparseAutoencoder, factor: float = 0.97) -> None:
    sae.W_dec.data *= factor


DAMAGES = (noisy_encoder, slightly_noisy_encoder, shifted_threshold, rescaled_decoder)
# The effect of noise on the cross-entropy varies so much between tokens that its small mean would
# need more sequences than these to be found.
TOO_SMALL = [(slightly_noisy_encoder, metric) for metric in ("ce_degradation", "kl")]
HELD_TO = [
    held for held in product(DAMAGES, ("ce_degradation", "nmse", "kl")) if held not in TOO_SMALL
]


def measured(folder: Path, batch_size: int | None = None) -> dict[str, Result]:
    options = EvaluationOptions(
        tokens="embedded", split="heldout", n_tokens=POOL * LENGTH, context_length=LENGTH,
        batch_size=batch_size, device="cpu",
    )  # fmt: skip
    outcomes = evaluate(folder, options)
    results = {outcome.name: outcome.result for outcome in outcomes if outcome.result is not None}
    assert len(results) == len(outcomes)
    assert {result.setting.n_sequences for result in results.values()} == {POOL}
    return results


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of the undamaged runs on the pool, by name."""
    folder = tmp_path_factory.mktemp("whole")
    for run in FIXED.iterdir():
        if run.name.startswith(RUNS):
            shutil.copytree(run, folder / run.name)
    return measured(folder)


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of one run, damaged in each way, by the damage's name."""
    folder = tmp_path_factory.mktemp("damaged")
    for damage in DAMAGES:
        save_damaged(FIXED / DAMAGED, damage, folder / damage.__name__)
    return measured(folder)


def save_damaged(run: Path, damage: Callable[[SparseAutoencoder], None], folder: Path) -> None:
    sae = load_sae(run)
    damage(sae)
    config = RunConfig.model_validate_json((run / "config.json").read_text())
    save_run(folder, sae, config)


def on(results: dict[str, Result]) -> On:
    """Results on the drawn sequences only."""

    def drawn(chosen: NDArray[np.int64]) -> list[Result]:
        return [_part(result, name, chosen) for name, result in results.items()]

    return drawn


def _part(result: Result, name: str, chosen: NDArray[np.int64]) -> Result:
    sums = {PER_SEQUENCE + key: sum_[chosen] for key, sum_ in result.per_sequence().items()}
    changes = {"tokens_fingerprint": str(hash(chosen.tobytes())), "n_sequences": len(chosen)}
    return result.model_copy(
        update={
            "arrays": sums,
            "run": result.run.model_copy(update={"name": name}),
            "setting": result.setting.model_copy(update=changes),
        }
    )


share = partial(share_of, pool=POOL)


def test_the_same_sequences_in_other_batches_always_pass(
    whole: dict[str, Result], tmp_path: Path
) -> None:
    shutil.copytree(FIXED / DAMAGED, tmp_path / DAMAGED)
    again = whole | measured(tmp_path, batch_size=7)
    assert share(on(again), on(whole), DEFAULTS, paired=True) == 0


@pytest.mark.parametrize("tolerance", [DEFAULTS, "l0=0,ce_degradation=0,nmse=0,hypervolume=0"])
def test_other_sequences_of_the_same_distribution_pass(
    whole: dict[str, Result], tolerance: str
) -> None:
    assert share(on(whole), on(whole), tolerance, paired=False) <= 0.05


def true_change(now: Result, then: Result, metric: str) -> float:
    """By how much a metric differs over the whole pool."""
    new, old = (estimate(METRICS[metric], r.per_sequence()).value for r in (now, then))
    assert new is not None
    assert old is not None
    print(f"{now.run.name}: {metric} {old:.4g} {(new - old) / old:+.1%}")
    return new - old


@pytest.fixture
def worsened(
    request: pytest.FixtureRequest,
    whole: dict[str, Result],
    damaged: dict[str, Result],
    metric: str,
) -> tuple[float, On]:
    """By how much a damage worsens a metric, and all runs' results with one run so damaged."""
    worse = damaged[request.param.__name__]
    return true_change(worse, whole[DAMAGED], metric), on(whole | {DAMAGED: worse})


@pytest.mark.parametrize(("worsened", "metric"), HELD_TO, indirect=["worsened"])
def test_twice_the_tolerance_is_caught_and_half_of_it_does_not_fail(
    whole: dict[str, Result], worsened: tuple[float, On], metric: str
) -> None:
    change, results = worsened
    assert share(results, on(whole), f"{metric}={change / 2}", paired=True) >= 0.95
    assert share(results, on(whole), f"{metric}={change * 2}", paired=True) == 0


@pytest.mark.parametrize(("worsened", "metric"), TOO_SMALL, indirect=["worsened"])
def test_twice_the_tolerance_that_is_too_small_to_catch_is_said_to_be(
    whole: dict[str, Result], worsened: tuple[float, On], metric: str
) -> None:
    change, results = worsened
    tolerance = f"{metric}={change / 2}"
    failing = share(results, on(whole), tolerance, paired=True)
    assert failing < 0.95
    warned = share(results, on(whole), tolerance, paired=True, of=could_miss)
    assert failing + warned == 1


def could_miss(found: Comparison) -> bool:
    return found.verdict == "pass" and found.too_few_tokens != []


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_the_projects_own_comparison_catches_one_percent_in_every_run(
    tmp_path: Path, factor: float
) -> None:
    for run in FIXED.iterdir():
        save_damaged(run, partial(rescaled_decoder, factor=factor), tmp_path / run.name)
    options = EvaluationOptions(tokens=str(FIXED.with_name("tokens.npy")), device="cpu")
    now = [outcome.result for outcome in evaluate(tmp_path, options) if outcome.result is not None]
    tolerances = FIXED.with_name("tolerances.txt").read_text(encoding="utf-8").split()
    found = compare_results(
        now, load_baseline(BASELINE), ComparisonOptions(parse_tolerances(tolerances))
    )
    worse = {row.run for row in found.runs if row.verdict == "regression"}
    assert worse == (set() if factor == 1.0 else {run.name for run in FIXED.iterdir()})
    assert found.verdict == ("pass" if factor == 1.0 else "regression")
