"""A fixed rule holds out a part of every text that is long enough, without leakage."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import TokenRows
from prolu_eval.tokens.pieces import LARGEST, Piece, id_pieces, split_pieces, text_pieces
from tests.tokens.conftest import load


def parts(text: str, chunk: int = 1 << 16) -> tuple[list[Piece], list[Piece]]:
    chunks = [text[i : i + chunk] for i in range(0, len(text), chunk)]
    train = split_pieces(text_pieces(chunks), "train", rows=False)
    return list(train), list(split_pieces(text_pieces(chunks), "heldout", rows=False))


def length(pieces: list[Piece]) -> int:
    return sum(len(piece.content) for piece in pieces)


def numbered(n: int) -> str:
    return " ".join(f"word{i}" for i in range(n))


TEXTS = {
    "prose without paragraphs": numbered(400),
    "lines": numbered(9_000).replace("9 ", "9\n"),
    "paragraphs": numbered(9_000).replace("9 ", "9\n\n"),
    "no spaces": "".join(f"{i:05}" for i in range(9_000)),
    "one sentence over and over": "the cat sat on the mat. " * 700,
    "one letter": "a" * 5_000,
    "two documents": f"{numbered(200)}<|endoftext|>{numbered(90)}",
    "the same document, again and again": f"{numbered(30)}<|endoftext|>" * 50,
    "a large file": numbered(400_000),
    "a large file of one sentence": "the cat sat on the mat. " * 120_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_has_both_parts(name: str) -> None:
    text = TEXTS[name]
    train, heldout = parts(text)
    whole = length(train) + length(heldout)
    assert whole == len(text.replace("<|endoftext|>", ""))
    least = min(3_072, whole // 3) if whole < 1 << 20 else whole // 20
    assert least <= length(heldout) <= max(whole // 2, whole // 5)
    assert length(train) >= whole // 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab \n", min_size=1, max_size=4_000), st.integers(1, 999), st.data())
def test_pieces_follow_from_the_text_alone(text: str, chunk: int, data: st.DataObject) -> None:
    text = text * data.draw(st.integers(1, 20))
    text = text[: len(text) // 2] + "<|endoftext|>" + text[len(text) // 2 :]
    pieces = list(text_pieces([text[i : i + chunk] for i in range(0, len(text), chunk)]))
    assert pieces == list(text_pieces([text]))
    assert all(0 < len(piece.content) <= LARGEST for piece in pieces)
    assert not pieces or pieces[0].begins
    assert parts(text, chunk) == parts(text)


def test_long_documents_are_cut_at_paragraphs_then_lines_spaces_and_places() -> None:
    for between in ("\n\n", "\n", " "):
        text = between.join(f"{'x' * 70}{i}" for i in range(1_000))
        pieces = [str(piece.content) for piece in text_pieces([text])]
        assert "".join(pieces) == text
        assert all(piece.endswith(between) for piece in pieces[:-1])
    assert [len(piece.content) for piece in text_pieces(["x" * 20_000])] == [LARGEST] * 2 + [3_616]
    ids = np.arange(5_000)
    assert [len(piece.content) for piece in id_pieces(ids)] == [2_048, 2_048, 904]


def test_a_document_ends_where_the_side_changes() -> None:
    for part in parts(numbered(9_000)):
        for before, after in pairwise(part):
            last = str(before.content).split()[-1]
            first = str(after.content).split()[0]
            goes_on = int(first.removeprefix("word")) == int(last.removeprefix("word")) + 1
            assert after.begins != goes_on


def documents_of(rows: TokenRows) -> list[str]:
    """The text between BOS tokens, of all rows."""
    return ["".join(map(chr, part)) for row in rows.ids.numpy() + 31
            for part in np.split(row, np.flatnonzero(row == 31))]  # fmt: skip


@pytest.mark.parametrize("context_length", [16, 48])
def test_no_sequence_holds_tokens_of_both_parts(
    model: LanguageModel, tmp_path: Path, context_length: int
) -> None:
    text = numbered(3_000)
    (tmp_path / "a.txt").write_text(text)
    sides = dict(zip(("train", "heldout"), parts(text), strict=True))
    whole = {
        side: "".join(f"{'|' if p.begins else ''}{p.content}" for p in pieces)
        for side, pieces in sides.items()
    }
    for side, other in (("train", "heldout"), ("heldout", "train")):
        rows = load(tmp_path / "a.txt", model, side, context_length=context_length)  # type: ignore[arg-type]
        found = [text.strip(chr(31)) for text in documents_of(rows)]
        assert sum(map(len, found)) > 0.9 * length(sides[side])
        assert all(text in whole[side] for text in found)
        assert not any(text in whole[other] for text in found if len(text) > 12)


def test_the_rule_knows_nothing_of_the_context_length(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(numbered(3_000))
    short, long = (
        "".join(
            documents_of(load(tmp_path / "a.txt", model, "heldout", context_length=length))
        ).replace(chr(31), "")
        for length in (8, 64)
    )
    assert short.startswith(long)
    assert len(long) > 0.95 * len(short)


@pytest.mark.parametrize("name", ["rows.npy", "rows.jsonl"])
def test_rows_are_held_out_by_row(model: LanguageModel, tmp_path: Path, name: str) -> None:
    ids = np.random.default_rng(0).integers(1, 96, (100, 16))
    if name == "rows.npy":
        np.save(tmp_path / name, ids)
    else:
        (tmp_path / name).write_text("\n".join(json.dumps({"tokens": r.tolist()}) for r in ids))
    found = {
        split: {row.tobytes() for row in load(tmp_path / name, model, split).ids.numpy()}
        for split in ("all", "train", "heldout")
    }
    assert found["all"] == {row.tobytes() for row in ids}
    assert found["train"] | found["heldout"] == found["all"]
    assert not found["train"] & found["heldout"]
    assert 10 <= len(found["heldout"]) <= 50


def test_a_text_of_less_than_two_rows_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrst")
    with pytest.raises(TokensError, match="less than one row of 16 tokens in the held-out part"):
        load(tmp_path / "a.txt", model, "heldout")
