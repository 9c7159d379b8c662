"""The README's commands for a user's own model, on text in several forms."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer

from tests.helpers.cli import run

HOOK = "blocks.2.hook_resid_post"


def plain(folder: Path, text: str, model: Path) -> Path:
    """A book, without markers between documents."""
    (folder / "book.txt").write_text(text)
    return folder / "book.txt"


def packed(folder: Path, text: str, model: Path) -> Path:
    (folder / "book.txt.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "book.txt.gz"


def json_lines(folder: Path, text: str, model: Path) -> Path:
    lines = [json.dumps({"id": i, "text": part}) for i, part in enumerate(text.split("\n\n"))]
    (folder / "book.jsonl").write_text("\n".join(lines))
    return folder / "book.jsonl"


def table(folder: Path, text: str, model: Path) -> Path:
    with (folder / "book.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(text.split("\n\n"))])
    return folder / "book.csv"


def tokenised(folder: Path, text: str, model: Path) -> Path:
    """Token ids as SAELens's runner saves them: rows of one length that begin with BOS."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = [[tokenizer.bos_token_id, *ids[i : i + 127]] for i in range(0, len(ids) - 127, 127)]
    datasets.Dataset.from_dict({"input_ids": rows}).save_to_disk(folder / "rows")
    return folder / "rows"


@pytest.mark.parametrize("made", [plain, packed, json_lines, table, tokenised])
def test_a_sweep_and_its_frontier(
    made: Callable[[Path, str, Path], Path],
    stories: Path,
    gutenberg: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = made(tmp_path, gutenberg, stories)
    out = tmp_path / "runs"
    few = ("--n-tokens", 4096, "--d-sae", 48, "--device", "cpu", "--quiet")
    trained = run(capfd, "sweep", "--model", stories, "--tokens", source, "--hook", HOOK,
                  "--out", out, *few)  # fmt: skip
    assert trained.code == 0
    answer = run(capfd, "frontier", out, "--n-tokens", 2048, "--device", "cpu", "--json")
    assert answer.code == 0
    assert answer.err.count("Traceback") == 0
    group = answer.json()
    assert len(group["runs"]) == 24
    assert set(group["variants"]) >= {"relu+l1", "prolu/ste+l1"}
