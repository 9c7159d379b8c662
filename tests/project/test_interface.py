"""The public interface, on which notebooks and other packages rely."""

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

import prolu_eval
from prolu_eval.results import write_result
from prolu_eval.saes import Relu
from tests.helpers.synthetic import sweep
from tests.project.test_imports import loaded_after

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs with results."""
    for made in sweep():
        write_result(made, tmp_path / "runs" / made.run.name / "evaluation")
    return tmp_path / "runs"


def test_every_public_name_is_there_and_listed() -> None:
    assert dir(prolu_eval) == sorted(prolu_eval.__all__)
    for name in prolu_eval.__all__:
        assert getattr(prolu_eval, name) is not None
    assert prolu_eval.__version__ == importlib.metadata.version("prolu-eval")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = prolu_eval.nonsense


def test_types_are_there_for_other_packages() -> None:
    """`nox -s types` checks a program that uses them, ``tests/examples/typed_program.py``."""
    assert (ROOT / "prolu_eval" / "py.typed").exists()


def test_answers_and_comparisons_need_no_torch(runs: Path) -> None:
    calls = ("frontier(p).sentence", "compare(p, p).verdict", "load_results(p)")
    said = "\n".join(f"prolu_eval.{call}" for call in calls)
    loaded = loaded_after(f"import prolu_eval\np = {str(runs)!r}\n{said}")
    assert loaded.isdisjoint({"torch", "transformers", "transformer_lens"})


def test_an_answer_from_a_folder_a_table_or_results_is_one(runs: Path, tmp_path: Path) -> None:
    table = prolu_eval.load_results(runs)
    answers = [prolu_eval.frontier(given) for given in (runs, table, sweep())]
    assert len({answer.sentence for answer in answers}) == 1
    answer = answers[0]
    on = answer.table[answer.table["on_frontier"]]
    assert sorted(on["name"]) == sorted(prolu_eval.pareto_frontier(table)["name"])
    drawn = {
        name
        for trace in answer.figure().data
        for name in (() if trace.text is None else trace.text)
    }
    assert drawn == set(table["name"])
    assert answer.report(tmp_path / "page.html").stat().st_size > 100_000
    assert answer.sentence[:20] in answer._repr_html_()
    some = table[table["label"] == "prolu+l1"]
    assert len(prolu_eval.frontier(some).table) == len(some)
    with pytest.raises(prolu_eval.ProluEvalError, match="does not say where"):
        prolu_eval.frontier(table.drop(columns="file"))


def test_two_folders_are_compared_without_a_baseline(runs: Path, tmp_path: Path) -> None:
    assert prolu_eval.compare(runs, runs).verdict == "pass"
    shutil.copytree(runs, tmp_path / "again")
    answer = prolu_eval.frontier([runs, tmp_path / "again"])
    assert {(part.first, part.second) for part in answer.groups[0].folders} == {
        ("runs", "again"), ("again", "runs"),
    }  # fmt: skip
    assert "runs and again are tied within what these runs can tell" in answer.sentence


def test_answers_are_printed_in_short(runs: Path) -> None:
    answer, comparison = prolu_eval.frontier(runs), prolu_eval.compare(runs, runs)
    assert repr(answer) == f"<FrontierAnswer: {answer.sentence}>"
    assert repr(comparison) == f"<Comparison: {comparison.headline}>"


def test_warnings_name_the_callers_line(runs: Path) -> None:
    made = sweep()[0]
    other = made.setting.model_copy(update={"tokens": "other", "tokens_fingerprint": "0" * 32})
    again = made.model_copy(update={"setting": other, "fingerprint": "f" * 32})
    write_result(again, runs / made.run.name / "evaluation")
    with pytest.warns(UserWarning, match="tokens") as warned:
        prolu_eval.frontier(runs)
    assert {warning.filename for warning in warned} == {__file__}


def test_a_folder_of_results_alone_is_told_from_one_without_anything(runs: Path) -> None:
    with pytest.raises(prolu_eval.ProluEvalError, match="holds results, but no checkpoint") as e:
        prolu_eval.discover(runs)
    assert "prolu-eval report" in str(e.value)


def test_variants_are_compared_at_a_budget(runs: Path) -> None:
    at = prolu_eval.frontier(runs, at={"l0": 4}).groups[0].at
    assert {part.label for part in at} == set(prolu_eval.load_results(runs)["label"])
    assert all(part.budget == 4 and part.other == "ce_degradation" for part in at)
    with pytest.raises(prolu_eval.ProluEvalError, match="not an objective"):
        prolu_eval.frontier(runs, at={"mse": 4})


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an eighth of its tokens or a quarter, so that it takes seconds rather than a minute."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    for written, fewer in {"131_072": "16_384", "=32_768": "=8_192", "=16_384": "=4_096"}.items():
        assert text.count(written) == 1
        text = text.replace(written, fewer)
    notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    outputs = {cell["id"]: cell.get("outputs", []) for cell in notebook.cells}
    assert outputs["install"] == []
    assert "application/vnd.plotly.v1+json" in outputs["figure"][0]["data"]
    assert outputs["table"][0]["data"]["text/html"].count("<tr") == 11
    assert "prolu/ste+l1" in outputs["evaluate"][0]["text"]
    assert "regression" in outputs["compare"][-1]["text"]
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_the_notebook_shows_its_outputs_and_stays_small() -> None:
    """They are kept by `nox -s notebook`, with the figure as a picture, which any viewer shows."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    outputs = {cell["id"]: cell.get("outputs", []) for cell in notebook.cells}
    assert outputs["figure"][0]["data"].keys() >= {"image/png"}
    assert outputs["table"][0]["data"]["text/html"].count("<tr") == 11
    assert NOTEBOOK.stat().st_size < 200_000


def test_names_of_the_first_version_still_work() -> None:
    from prolu_eval.results import Scalar

    assert prolu_eval.Options is prolu_eval.EvaluationOptions
    assert Scalar is prolu_eval.Estimate


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda runs: prolu_eval.evaluate(5), "the runs: 5 is not a path"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.evaluate(b"runs"), "is not a path"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.evaluate([]), "name a folder of runs"),
        (
            lambda runs: prolu_eval.evaluate(runs, {"n_tokens": 5}),  # type: ignore[arg-type]
            "options: are of type dict",
        ),
        (lambda runs: prolu_eval.load_results(5), "5 is not a path"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.frontier(5), "5 is not a path"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.frontier(runs, at=5), "at: 5 names no metric"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.frontier(runs, at={"l0": float("nan")}), "nan is not a finite"),
        (lambda runs: prolu_eval.frontier(runs, reference={"l0": "a"}), "'a' is not a finite"),  # type: ignore[dict-item]
        (
            lambda runs: prolu_eval.frontier(runs, splits={"l0": [float("inf")]}),
            "inf is not a finite number",
        ),
        (lambda runs: prolu_eval.compare(runs, 5), "the baseline: 5 is not a path"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.convert(None, "out"), "None is not a path"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.train(None, 5), "out: 5 is not a path"),  # type: ignore[arg-type]
        (lambda runs: prolu_eval.train(5, "out"), "the sweep: 5 is not a path"),  # type: ignore[arg-type]
        (lambda runs: Relu(4, 8)(np.zeros((2, 4))), "give a tensor"),
        (lambda runs: Relu(4, 8)(torch.zeros(2, 5)), "the SAE encodes width 4"),
        (lambda runs: Relu(4, 8).encode(torch.zeros(2, 4).double()), r"convert one of the two"),
        (lambda runs: prolu_eval.save_baseline([], "b.json"), "no path is given"),
        (
            lambda runs: prolu_eval.train(None, "out", {"device": "cpu"}),  # type: ignore[arg-type]
            "settings: are of type dict",
        ),
    ],
)
def test_values_of_other_types_are_the_projects_own_errors(
    call: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    for found in sweep():
        write_result(found, tmp_path)
    with pytest.raises(prolu_eval.ProluEvalError, match=told):
        call(tmp_path)


# Public functions, with one value that may be wrong.
CALLS: list[Callable[[Path, Any], object]] = [
    lambda runs, value: prolu_eval.discover(value),
    lambda runs, value: prolu_eval.load_sae(value),
    lambda runs, value: prolu_eval.load_results(value),
    lambda runs, value: prolu_eval.load_results(runs, tokens=value),
    lambda runs, value: prolu_eval.load_baseline(value),
    lambda runs, value: prolu_eval.save_baseline(value, "b.json"),
    lambda runs, value: prolu_eval.save_baseline(runs, value),
    lambda runs, value: prolu_eval.frontier(runs, x=value),
    lambda runs, value: prolu_eval.frontier(runs, tokens=value),
    lambda runs, value: prolu_eval.frontier(runs).report(value),
    lambda runs, value: prolu_eval.frontier(runs).figure(value),
    lambda runs, value: prolu_eval.pareto_frontier(value),
    lambda runs, value: prolu_eval.pareto_frontier(pd.DataFrame({"l0": [1.0]}), value),
    lambda runs, value: prolu_eval.convert(runs, "out", to=value),
    lambda runs, value: prolu_eval.compare(runs, runs, tolerance=value),
    lambda runs, value: prolu_eval.compare(runs, runs, frontier=value),
    lambda runs, value: prolu_eval.compare(runs, runs, match=value),
    lambda runs, value: prolu_eval.compare(runs, runs, only=value),
    lambda runs, value: prolu_eval.compare(runs, runs, alpha=value),
    lambda runs, value: prolu_eval.compare(runs, runs, unpaired=value),
    lambda runs, value: prolu_eval.evaluate({"a": value}, hook="blocks.1.hook_resid_post"),
    lambda runs, value: prolu_eval.prolu(value, torch.zeros(3)),
    lambda runs, value: prolu_eval.prolu(torch.zeros(3), torch.zeros(3), value),
    lambda runs, value: Relu(4, 8)(value),
    lambda runs, value: Relu(4, 8).encode(value),
    lambda runs, value: Relu(4, 8).decode(value),
]
WRONG = (7, b"runs", [None], {"a": 1}, float("nan"), np.zeros(2), torch.zeros(2), object())


def test_no_wrong_value_ends_in_a_raw_error(tmp_path: Path) -> None:
    for made in sweep()[:3]:
        write_result(made, tmp_path / "runs" / made.run.name / "evaluation")
    for i, call in enumerate(CALLS):
        for value in WRONG:
            try:
                call(tmp_path / "runs", value)
            except prolu_eval.ProluEvalError:
                continue
            pytest.fail(f"call {i} takes {value!r}")


def test_a_baseline_is_saved_of_a_folder(runs: Path, tmp_path: Path) -> None:
    prolu_eval.save_baseline(runs, tmp_path / "b.json")
    assert prolu_eval.compare(runs, tmp_path / "b.json").verdict == "pass"
