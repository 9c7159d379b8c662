"""Tasks complete the results of runs: probes of labelled prompts, and behaviour under splicing."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval import compare, frontier, load_results, save_baseline
from prolu_eval.baseline import load_baseline
from prolu_eval.checkpoints import discover
from prolu_eval.checkpoints.native import save_run
from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.probing import Probing
from prolu_eval.evaluation.prompts import last_activations
from prolu_eval.lm import LanguageModel
from prolu_eval.render.documents import result_document
from prolu_eval.results import Result
from prolu_eval.results.table import frame
from prolu_eval.runs import Run, RunConfig
from prolu_eval.saes import Relu, SparseAutoencoder
from tests.helpers.cli import run
from tests.helpers.inducing import BEFORE, NEXT, POSITION, TOKEN, WIDTH, save_inducing

HOOK = "blocks.0.hook_resid_pre"


def only(outcomes: list[Outcome]) -> Result:
    (outcome,) = outcomes
    assert outcome.result is not None, outcome.error
    return outcome.result


def identity(width: int, kept: Any = slice(None)) -> SparseAutoencoder:
    """An autoencoder that reconstructs some dimensions exactly, and the others as zero."""
    parts = torch.zeros(width)
    parts[kept] = 1
    sae = Relu(width, 2 * width)
    sae.W_enc.data = torch.cat([torch.eye(width), -torch.eye(width)], 1)
    sae.W_dec.data = torch.cat([torch.diag(parts), -torch.diag(parts)])
    return sae


@pytest.fixture
def probed(tmp_path: Path, tiny_model: Callable[[str], Path]) -> tuple[Path, Path]:
    """Runs with and without latents for the letter that prompts end in, and task data."""
    model = LanguageModel.load(str(tiny_model("llama")), device="cpu")
    vectors = [
        model.activations(torch.tensor([model.tokenizer(letter)["input_ids"]]), HOOK)[0, 0]
        for letter in "ab"
    ]
    sae = identity(32)
    gap = vectors[1] - vectors[0]
    sae.W_enc.data[:, 5] = gap
    sae.b_enc.data[5] = -(gap @ (vectors[0] + vectors[1])) / 2
    (tmp_path / "text.txt").write_text("once there was a cab. " * 200)
    for name in ("one", "two"):
        config = RunConfig(
            variant=sae.variant, d_in=32, d_sae=sae.d_sae, model=str(tiny_model("llama")),
            hook=HOOK, dataset=str(tmp_path / "text.txt"), context_length=16,
        )  # fmt: skip
        save_run(tmp_path / "runs" / name, sae, config)
        sae.W_enc.data.zero_()  # the second run's latents are always active, and tell nothing
        sae.b_enc.data.fill_(1)
    data = tmp_path / "data"
    data.mkdir()
    # Prompts are longer than the context, of which only the end is used.
    ends = [f"a prompt too long {i}{'ab'[i % 2]},{i % 2}" for i in range(80)]
    luck = [f"prompt {i},{i * i % 3 % 2}" for i in range(80)]
    (data / "letter.csv").write_text("\n".join(["prompt,target", *ends]))
    (data / "luck.csv").write_text("\n".join(["prompt,target", *luck]))
    return tmp_path / "runs", data


def options(data: Path, **changes: Any) -> EvaluationOptions:
    made = EvaluationOptions(
        device="cpu", n_tokens=256, split="all", measure=("probes",), probe_data=data
    )
    return replace(made, **changes)


def test_a_task_that_one_latent_tells_and_one_that_nothing_tells(
    probed: tuple[Path, Path],
) -> None:
    runs, data = probed
    result = only(evaluate(runs / "one", options(data)))
    tasks = result.tasks["probes"]
    assert tasks.tasks == ("letter",), "what the model does not hold does not count"
    assert tasks.tried["letter"] == 1
    assert tasks.tried["luck"] < 0.75
    values = {key: found.value for key, found in result.metrics.items() if "probe" in key}
    assert values["probe_auc_k1"] == values["probe_accuracy_k1"] == values["probe_auc_dense"] == 1
    assert values["probe_tasks"] == 1
    assert result.metrics["probe_auc_k1"].standard_error is None, "of a single task"
    assert len(values) == 13
    assert result.sums("probes")["auc_k128"].tolist() == [1]
    of_task = result.per_task("probes")["letter"]
    assert of_task.keys() == {
        f"{score}_{what}" for score in ("auc", "accuracy")
        for what in ("dense", "k1", "k2", "k5", "k16", "k128")
    }  # fmt: skip
    assert of_task["auc_k1"].value == 1
    low, high = of_task["auc_k1"].ci95
    assert low is not None
    assert 0.8 < low < 1 == high
    document = result_document(result).to_json()["tasks"]["probes"]["per_task"]["letter"]
    assert document["auc_k1"]["ci95"] == [low, 1]
    row = frame([result]).iloc[0]
    assert row["auc_k1_by_task"] == {"letter": 1}
    assert row["auc_k1_by_task_se"]["letter"] == of_task["auc_k1"].standard_error


def test_a_stored_result_is_completed_and_nothing_is_measured_twice(
    probed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, data = probed
    plain = only(evaluate(runs / "one", options(data, measure=())))
    assert plain.tasks == {}

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(Engine, "measure_saes", fail)
    (first,) = evaluate(runs / "one", options(data, k=(1, 2)))
    assert first.status == "ok"
    assert first.result is not None
    assert first.result.metrics["l0"] == plain.metrics["l0"]
    assert "probe_auc_k5" not in first.result.metrics
    monkeypatch.setattr("prolu_eval.evaluation.probing.last_activations", fail)
    more = only(evaluate(runs / "one", options(data, k=(5,))))
    assert more.tasks["probes"].k == (1, 2, 5)
    assert more.metrics["probe_auc_k1"] == first.result.metrics["probe_auc_k1"]
    assert more.sums("probes").keys() >= {"auc_k1", "auc_k5"}
    np.testing.assert_array_equal(more.per_feature()["bias"], plain.per_feature()["bias"])
    monkeypatch.setattr("prolu_eval.evaluation.probing.sparse_probes", fail)
    (again,) = evaluate(runs / "one", options(data, k=(1, 5)))
    assert again.status == "cached"
    assert only(evaluate(runs / "one", options(data, measure=()))).tasks == more.tasks
    # Other tasks replace these, because means over different tasks cannot be paired.
    monkeypatch.undo()
    rows = (data / "letter.csv").read_text().splitlines()
    (data / "letter.csv").write_text("\n".join(rows[:61]))
    other = only(evaluate(runs / "one", options(data, k=(1,))))
    assert other.tasks["probes"].k == (1,)
    assert "probe_auc_k5" not in other.metrics
    assert not other.same_units(more, "probes")


def test_processes_at_once_repeat_no_activations(
    probed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, data = probed
    given: list[tuple[Any, ...]] = []
    known: dict[str, torch.Tensor] = {}

    class Recorded(Probing):
        def __init__(self, *args: Any, shown: bool) -> None:
            given.append(args)
            super().__init__(*args, shown=shown)

    def record(model: Any, hook: str, prompts: list[list[int]], *more: Any) -> torch.Tensor:
        return known.setdefault(str(prompts), last_activations(model, hook, prompts, *more))

    monkeypatch.setattr("prolu_eval.evaluation.extra_measures.Probing", Recorded)
    monkeypatch.setattr("prolu_eval.evaluation.probing.last_activations", record)
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "first"))
    expected = only(evaluate(runs / "one", options(data))).tasks["probes"]
    assert len(known) == 2, "one for each task"
    # Two that begin with nothing kept, and meet at every task.
    asked: list[str] = []
    both = threading.Barrier(2)

    def slow(_model: Any, _hook: str, prompts: list[list[int]], *_: Any) -> torch.Tensor:
        asked.append(str(prompts))
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=20)
        return known[str(prompts)]

    monkeypatch.setattr("prolu_eval.evaluation.probing.last_activations", slow)
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "other"))
    (run_of_one,) = discover(runs / "one")
    assert isinstance(run_of_one, Run)
    probings = [Probing(*given[0], shown=False) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda probing: probing.wanted(run_of_one), probings))
    assert found == [expected, expected]
    assert sorted(asked) == sorted(known), "each is computed once, by the one or the other"
    assert not both.broken, "both were at work at once"


def test_tasks_are_kept_in_baselines_and_compared_by_task(
    probed: tuple[Path, Path], tmp_path: Path
) -> None:
    runs, data = probed
    asked = options(data, k=(1, 2))
    results = [outcome.result for outcome in evaluate(runs, asked)]
    table = load_results(runs)
    assert table["probe_auc_k1"].iloc[0] == 1 > table["probe_auc_k1"].iloc[1]
    path = tmp_path / "baseline.json"
    save_baseline([r for r in results if r is not None], path)
    for kept, result in zip(load_baseline(path), results, strict=True):
        assert result is not None
        assert kept.tasks == result.tasks
        for column, values in result.sums("probes").items():
            np.testing.assert_array_equal(kept.sums("probes")[column], values)
    tolerances = "probe_tasks=0,probe_auc_k1=-1%"
    found = compare(runs, path, tolerance=tolerances, frontier=None)
    assert [row.verdict for row in found.rows if row.metric == "probe_tasks"] == ["pass", "pass"]
    few = next(row for row in found.rows if row.metric == "probe_auc_k1")
    assert "1 task is too few" in (few.reason or "")
    rows = (data / "letter.csv").read_text().splitlines()
    (data / "letter.csv").write_text("\n".join(rows[:61]))
    evaluate(runs, asked)
    found = compare(runs, path, tolerance=tolerances, frontier=None)
    changed = next(row for row in found.rows if row.metric == "probe_auc_k1")
    assert changed.verdict == "incomparable"
    assert "the tasks of probe_auc_k1 changed" in (changed.reason or "")


def test_a_frontier_over_tasks_parts_runs_on_different_ones(
    probed: tuple[Path, Path],
) -> None:
    runs, data = probed
    evaluate(runs, options(data))
    (answer,) = frontier(runs, y="probe_auc_k1").groups
    assert {place.name for place in answer.runs if place.on_frontier} == {"one"}
    rows = (data / "letter.csv").read_text().splitlines()
    (data / "letter.csv").write_text("\n".join(rows[:61]))
    evaluate(runs / "two", options(data))
    assert len(frontier(runs, y="probe_auc_k1").groups) == 2
    assert len(frontier(runs, y="nmse").groups) == 1


@pytest.fixture
def inducing(tmp_path: Path) -> Callable[[str, Any], Result]:
    """Measures behaviour of the handmade model if only parts of a site's activations are kept."""
    folder = save_inducing(tmp_path / "model")
    ids = np.random.default_rng(0).integers(1, 32, (8, 40))
    np.save(tmp_path / "ids.npy", ids)

    def measured(name: str, sae: SparseAutoencoder, **config: Any) -> Result:
        made = RunConfig(
            variant=sae.variant, d_in=WIDTH, d_sae=sae.d_sae, model=str(folder),
            dataset=str(tmp_path / "ids.npy"), context_length=40,
            **({"hook": "blocks.0.hook_resid_post"} | config),
        )  # fmt: skip
        save_run(tmp_path / name, sae, made)
        asked = EvaluationOptions(device="cpu", split="all", measure=("behaviour",))
        return only(evaluate(tmp_path / name, asked))

    return measured


def accuracies(result: Result) -> tuple[float | None, ...]:
    keys = ("task_accuracy_clean", "task_accuracy", "task_accuracy_lost", "behaviour_tasks")
    return tuple(result.metrics[key].value for key in keys)


def test_behaviour_of_a_model_that_repeats_what_came_next(
    inducing: Callable[..., Result],
) -> None:
    whole = inducing("whole", identity(WIDTH))
    assert accuracies(whole) == (1, 1, 0, 2)
    tasks = whole.tasks["behaviour"]
    assert tasks.tasks == ("induction-8", "induction-16")
    assert tasks.tried == {"induction-8": 1, "induction-16": 1}
    assert "64 tokens" in tasks.skipped["induction-32"]
    assert "no tokenizer" in tasks.skipped["ioi-give"]
    # At this site, the model no longer needs positions, only the token and the one before it.
    positions = torch.arange(WIDTH)
    needed = (positions < POSITION.start) | (positions >= POSITION.stop)
    assert accuracies(inducing("needed", identity(WIDTH, needed))) == (1, 1, 0, 2)
    for name, lost in (("token", TOKEN), ("before", BEFORE)):
        kept = torch.ones(WIDTH, dtype=torch.bool)
        kept[lost] = False
        _, spliced, gap, _ = accuracies(inducing(name, identity(WIDTH, kept)))
        assert spliced is not None
        assert spliced < 0.3
        assert gap == pytest.approx(1 - spliced)


def test_behaviour_with_a_transcoder_in_its_place(inducing: Callable[..., Result]) -> None:
    """The model's MLPs write zeros, so a transcoder that writes zeros loses nothing."""
    sites = {"hook": "blocks.1.hook_resid_mid", "hook_out": "blocks.1.hook_mlp_out"}
    sae = Relu(WIDTH, 2 * WIDTH, d_out=WIDTH, apply_b_dec_to_input=False)
    shape = {"d_out": WIDTH, "apply_b_dec_to_input": False}
    assert accuracies(inducing("silent", sae, **sites, **shape)) == (1, 1, 0, 2)
    # It subtracts ten times the part of the stream that is read out.
    sae.W_enc.data[NEXT, :32] = torch.eye(32)
    sae.W_dec.data[:32, NEXT] = -10 * torch.eye(32)
    assert accuracies(inducing("loud", sae, **sites, **shape)) == (1, 0, 1, 2)


def test_a_model_that_cannot_do_a_task_is_not_measured_on_it(
    probed: tuple[Path, Path],
) -> None:
    runs, data = probed
    result = only(evaluate(runs / "one", options(data, measure=("behaviour",))))
    assert accuracies(result) == (None, None, None, 0)
    tasks = result.tasks["behaviour"]
    assert tasks.tasks == ()
    assert set(tasks.tried) | set(tasks.skipped) >= {"induction-8", "greater-lasted", "ioi-give"}


def test_the_command_says_how_many_tasks_count(
    probed: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    runs, data = probed
    usual = ["evaluate", runs / "one", "--device", "cpu", "--n-tokens", "256", "--split-tokens",
             "all", "--measure", "probes,behaviour", "--probe-data", data, "--k", "1"]  # fmt: skip
    ran = run(capfd, *usual)
    assert ran.code == 0
    assert "probe_auc_k1" in ran.out
    assert "task_accuracy" in ran.out
    assert "1 of 2 probing tasks count: those that the model itself can do (data)." in ran.err
    assert "0 of 15 templated tasks count" in ran.err
    (document,) = run(capfd, *usual, "--json").json()["runs"]
    assert document["status"] == "cached"
    assert document["tasks"]["probes"]["tasks"] == ["letter"]
    assert document["metrics"]["probe_auc_k1"]["value"] == 1


def test_what_cannot_be_measured_is_told_before_anything_is(
    probed: tuple[Path, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, data = probed

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr(Engine, "measure_saes", fail)
    usual = ["evaluate", runs / "one", "--device", "cpu", "--measure", "probes"]
    for arguments, words in (
        (["--probe-data", data / "none"], ["does not exist", "pip download"]),
        (["--probe-data", data, "--tasks", "other"], ["--tasks", "'other'"]),
        (["--probe-data", data, "--k", "3"], ["--k", "1, 2, 5, 16, 128"]),
    ):
        ran = run(capfd, *usual, *arguments)
        assert ran.code == 2
        assert ran.err.count("\n") == 1
        assert all(word in ran.err for word in words)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    ran = run(capfd, *usual, "--probe-data", data)
    assert ran.code == 2
    assert 'pip install "prolu-eval[probes]"' in ran.err
