"""Which text a sweep trains on, and that later needs are checked before it starts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prolu_eval.evaluation import EvaluationOptions
from prolu_eval.lm import LanguageModel
from prolu_eval.training import FOUR_SWEEPS, read_sweep_file
from tests.helpers.cli import run

DOCS = [f"story {i}: once there was a {i % 7}, and then it was gone. " for i in range(90)]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""
    monkeypatch.setattr(LanguageModel, "load", None)


@pytest.mark.usefixtures("no_model")
def test_a_model_of_ones_own_asks_for_text(
    tmp_path: Path, tiny_model: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--hook", "blocks.1.hook_resid_post", "--out", tmp_path / "runs", "-q")
    refused = run(capfd, "sweep", "--model", tiny_model("llama"), *options)
    assert refused.code == 2
    assert "--tokens: is missing: no text is named to train on for" in refused.err
    file = tmp_path / "sweep.toml"
    table = '[shared]\nmodel = "mine"\nhook = "h"\nn_tokens = 9\nd_sae = 9\nbatch_size = 9\n'
    rest = '[within]\nlearning_rates = [1]\n[[sweep]]\nvariant = "relu"\ncoefficients = [1]\n'
    file.write_text(table + rest)
    assert "--tokens: is missing" in run(capfd, "sweep", file, *options).err
    file.write_text(table + 'dataset = "embedded"\n' + rest)
    assert read_sweep_file(file).shared.dataset == "embedded"
    assert not (tmp_path / "runs").exists()


def test_text_that_is_named_with_a_model_is_taken() -> None:
    shared = read_sweep_file(FOUR_SWEEPS, model="mine", dataset="text.txt").shared
    assert (shared.model, shared.dataset) == ("mine", "text.txt")
    assert read_sweep_file(FOUR_SWEEPS, model="mine", dataset="embedded").shared.model == "mine"


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("no.txt", None, "is no file and no folder here; name text with --tokens"),
        ("bad.txt", b"caf\xe9", "byte 0xe9 at offset 3"),
        ("a.jsonl", b'{"body": "a"}', "name the column of the text with --text-column"),
    ],
)
def test_bad_text_is_told_before_the_model_is_loaded(
    sweep_file: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    reason: str,
) -> None:
    path = sweep_file.parent / name
    if content is not None:
        path.write_bytes(content)
    out = sweep_file.parent / "runs"
    refused = run(capfd, "sweep", sweep_file, "--tokens", path, "--out", out, "-q")
    assert refused.code == 2
    assert reason in refused.err
    assert refused.err.count("\n") == 1


def test_text_that_leaves_nothing_to_evaluate_on_is_told_before_training(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = sweep_file.parent / "short.txt"
    path.write_text("once there was one row")
    out = sweep_file.parent / "runs"
    refused = run(capfd, "sweep", sweep_file, "--tokens", path, "--out", out, "-q")
    assert refused.code == 2
    assert "less than one row of 16 tokens in the held-out part" in refused.err
    assert "--split-tokens" not in refused.err
    assert not out.exists()


def test_the_column_of_the_text_is_kept_for_the_evaluation(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = sweep_file.parent / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x", "body": doc}) for doc in DOCS))
    out = sweep_file.parent / "runs"
    given = ("--tokens", path, "--text-column", "body", "--n-tokens", 512, "--device", "cpu", "-q")
    assert run(capfd, "sweep", sweep_file, *given, "--out", out).code == 0
    config = json.loads(next(out.glob("*/config.json")).read_text())
    assert config["text_column"] == "body"
    document = run(capfd, "evaluate", out, "--n-tokens", 512, "--device", "cpu", "-q", "--json")
    assert {found["status"] for found in document.json()["runs"]} == {"ok"}
    plain = sweep_file.parent / "a.txt"
    plain.write_text("<|endoftext|>".join(DOCS))
    again = ("--tokens", plain, "--split-tokens", "heldout", "--n-tokens", 512)
    same = run(capfd, "evaluate", out, *again, "--device", "cpu", "-q", "--json").json()["runs"]
    assert {found["status"] for found in same} == {"cached"}, "the same tokens by another name"


def test_the_demo_evaluates_as_evaluate_does(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given: list[EvaluationOptions] = []
    monkeypatch.setattr("prolu_eval.cli.sweep.train_and_print", lambda *_, **__: 0)

    def answer(_: object, chosen: EvaluationOptions, *__: object, **___: object) -> int:
        given.append(chosen)
        return 0

    monkeypatch.setattr("prolu_eval.cli.frontier.evaluate_and_answer", answer)
    assert run(capfd, "demo", "--out", tmp_path, "--device", "cpu", "-q").code == 0
    assert given == [EvaluationOptions(device="cpu")]
