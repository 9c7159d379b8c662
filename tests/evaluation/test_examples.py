"""The strongest examples agree with a plain search, and cost nothing if they are not wanted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolu_eval.checkpoints import load_sae
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.evaluation.examples import AFTER, BEFORE, StrongestExamples
from prolu_eval.lm import LanguageModel
from prolu_eval.results import EXAMPLE, Examples, Result, read_result
from prolu_eval.saes import Relu
from prolu_eval.tokens import TokenRows, load_tokens
from tests.evaluation.test_evaluation import HOOK, made_run, only, random_sae

OPTIONS = EvaluationOptions(n_tokens=2048, context_length=64, device="cpu", split="all")
CPU = torch.device("cpu")


def plainly(codes: torch.Tensor, n: int) -> list[list[tuple[float, int]]]:
    """The n largest positive codes of each feature, earlier places first. [n_places, d_sae]"""
    found = []
    for column in codes.T.tolist():
        active = [(value, place) for place, value in enumerate(column) if value != 0]
        found.append(sorted(active, key=lambda pair: (-pair[0], pair[1]))[:n])
    return found


def held(examples: StrongestExamples) -> list[list[tuple[float, int]]]:
    pairs = zip(examples.value.tolist(), examples.place.tolist(), strict=True)
    return [[(v, p) for v, p in zip(*pair, strict=True) if p >= 0] for pair in pairs]


def take(examples: StrongestExamples, codes: torch.Tensor, first: int) -> None:
    place, feature = codes.nonzero(as_tuple=True)
    examples.add(feature, codes[place, feature], place, torch.arange(len(codes)) + first)


@given(st.integers(0, 1 << 30), st.integers(1, 4), st.lists(st.integers(0, 9), max_size=5))
def test_any_portions_give_the_same_as_sorting_all(seed: int, n: int, sizes: list[int]) -> None:
    """Many values are equal, so that the order of ties matters."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-1, 4, (sum(sizes), 3), generator=generator).float()
    one_by_one, added = (StrongestExamples(3, n, CPU) for _ in range(2))
    for i, portion in enumerate(codes.split(sizes) if sizes else ()):
        take(one_by_one, portion, sum(sizes[:i]))
        part = StrongestExamples(3, n, CPU)
        take(part, portion, sum(sizes[:i]))
        added = added + StrongestExamples.restored(**part.stored())
    assert held(one_by_one) == held(added) == plainly(codes, n)


Corpus = tuple[Path, LanguageModel, TokenRows]


@pytest.fixture(params=["tiny", "stories260k"])
def corpus(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], Path], tmp_path: Path
) -> Corpus:
    """A run of a model, and the tokens that follow from OPTIONS."""
    if request.param == "tiny":
        text = "<|endoftext|>".join(f"story {i}: <b>a & b</b> was {i % 7}. " * 9 for i in range(9))
        (tmp_path / "text.txt").write_text(text)
        name, source = str(tiny_model("llama")), str(tmp_path / "text.txt")
    else:
        name = str(request.getfixturevalue("stories"))
        source = str(request.getfixturevalue("stories_text"))
    model = LanguageModel.load(name, device="cpu")
    rows = load_tokens(source, model, split="all", n_tokens=2048, context_length=64)
    sae = random_sae(Relu, model.activations(rows.ids, HOOK)[rows.counted], -1.0)
    sae.b_enc.data[:3] = -1e9  # dead
    return made_run(tmp_path / "runs" / "run", sae, name, source), model, rows


@pytest.mark.parametrize("change", [{}, {"shard_tokens": 256, "batch_size": 3}], ids=str)
def test_the_examples_are_those_of_a_plain_search(corpus: Corpus, change: dict[str, int]) -> None:
    run, model, rows = corpus
    options = replace(OPTIONS, examples=5, **change)  # type: ignore[arg-type]
    found = Examples.of(only(evaluate(run, options)))
    assert found is not None
    assert found.most == 5
    codes = load_sae(run).encode(model.activations(rows.ids, HOOK).flatten(0, 1)).detach()
    codes[~rows.counted.flatten()] = 0
    n_some = 0
    for feature, expected in enumerate(plainly(codes, 5)):
        strongest = found.strongest(feature)
        assert [example.row * 64 + example.position for example in strongest] == [
            place for _, place in expected
        ]
        assert [example.activation for example in strongest] == pytest.approx(
            [value for value, _ in expected], rel=1e-5
        )
        n_some += len(strongest) > 0
        for example in strongest:
            ids = rows.ids[example.row].tolist()
            first = max(0, example.position - BEFORE)
            assert len(example.before) == example.position - first
            assert len(example.after) == min(AFTER, 63 - example.position)
            # Decoding the whole context gives the same text as its pieces in order.
            read = "".join([*example.before, example.token, *example.after])
            window = ids[first : example.position + AFTER + 1]
            assert read.strip() == model.tokenizer.decode(window).strip()
    assert 3 < n_some < len(codes.T), "some features are dead, and some are not"
    assert found.strongest(0) == []


def test_nothing_of_it_where_it_is_not_asked_for(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StrongestExamples, "add", None)
    result = only(evaluate(corpus[0], OPTIONS))
    assert not any(name.startswith(EXAMPLE) for name in result.arrays)
    assert Examples.of(result) is None


def test_a_result_without_enough_examples_is_measured_again(corpus: Corpus) -> None:
    run = corpus[0]
    without = only(evaluate(run, OPTIONS))

    def status(n: int) -> str:
        (outcome,) = evaluate(run, replace(OPTIONS, examples=n))
        return outcome.status

    assert [status(2), status(2), status(1), status(3), status(3)] == [
        "ok", "cached", "cached", "ok", "cached",
    ]  # fmt: skip
    (again,) = evaluate(run, OPTIONS)
    assert again.status == "cached"
    (file,) = (run / "evaluation").glob("*.json")
    stored: Result = read_result(file)
    assert stored.fingerprint == without.fingerprint
    assert stored.metrics == without.metrics
    assert np.isfinite(stored.examples()["activation"]).any()
    assert not list((run / "evaluation").glob("*.parts"))
