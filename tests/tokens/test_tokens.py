"""Rows of tokens: every source, splits by document, packing, and the special-token mask."""

import os
import sysconfig
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from prolu_eval.embedded import SPLITS, documents, split_of
from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import load_tokens
from tests.tokens.conftest import load

TEXT = "<|endoftext|>".join(f"document number {i}, with words. " * 3 for i in range(200))


def test_text_is_packed_with_bos_at_each_row_and_document(
    model: LanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("abcdefg<|endoftext|>hi<|endoftext|>jklmnopqrstuvwxyz")
    rows = load(tmp_path / "a.txt", model, context_length=8)
    letters = [[model.tokenizer.decode([i]) for i in row] for row in rows.ids]
    B = "<|endoftext|>"
    assert letters == [
        [B, *"abcdefg"],
        [B, *"hi", B, *"jklm"],
        [B, *"nopqrst"],
    ]  # "uvwxyz" is less than a row
    assert torch.equal(rows.counted, rows.ids != 0)


def test_a_file_a_folder_and_a_dataset_hold_the_same_documents(
    model: LanguageModel, tmp_path: Path
) -> None:
    texts = TEXT.split("<|endoftext|>")
    (tmp_path / "one.txt").write_text(TEXT)
    (tmp_path / "folder").mkdir()
    for i, text in enumerate(texts):
        (tmp_path / "folder" / f"{i:03}.txt").write_text(text)
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "dataset")
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    datasets.Dataset.from_dict({"input_ids": ids}).save_to_disk(tmp_path / "ids")
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "one.parquet")
    (tmp_path / "many").mkdir()
    for i, part in enumerate((texts[:90], texts[90:])):
        datasets.Dataset.from_dict({"text": part}).to_parquet(tmp_path / "many" / f"{i}.parquet")
    names = ("one.txt", "folder", "dataset", "ids", "one.parquet", "many")
    fingerprints = {load(tmp_path / name, model).fingerprint for name in names}
    assert len(fingerprints) == 1


def test_the_split_is_by_document_and_the_parts_are_disjoint(
    model: LanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    sizes = {split: load(tmp_path / "a.txt", model, split).ids.numel()
             for split in ("train", "heldout", "all")}  # fmt: skip
    assert 0.03 < sizes["heldout"] / sizes["all"] < 0.2
    assert sizes["train"] + sizes["heldout"] == pytest.approx(sizes["all"], abs=32)
    text = {split: model.tokenizer.decode(load(tmp_path / "a.txt", model, split).ids.flatten())
            for split in ("train", "heldout")}  # fmt: skip
    numbers = {split: {w for w in t.replace(",", " ").split() if w.isdigit()}
               for split, t in text.items()}  # fmt: skip
    assert len(numbers["heldout"]) > 5


def test_the_embedded_text_is_split_by_file() -> None:
    assert split_of("asyncio/base_events.py") == split_of("asyncio/base_events.py")
    train, heldout = list(documents("train")), list(documents("heldout"))
    assert len(heldout) > 20
    assert len(train) > 5 * len(heldout)
    assert not set(filter(None, train)) & set(filter(None, heldout))


def test_folders_that_the_embedded_text_leaves_out_are_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may hold tens of thousands of files, which took a second of every evaluation."""
    names = ["b.py", "a/c.py", "a.py", "site-packages/many/d.py", "a/test/e.py", "a/f.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    looked_into, scandir = [], os.scandir

    def noting(folder: str) -> Any:
        looked_into.append(Path(folder))
        return scandir(folder)

    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    monkeypatch.setattr(os, "scandir", noting)
    found = {split: list(documents(split)) for split in SPLITS}
    expected = ["a/c.py", "a.py", "b.py"]  # in order of path, as a folder precedes what it begins
    assert found == {s: [name for name in expected if split_of(name) == s] for s in SPLITS}
    assert set(looked_into) == {tmp_path, tmp_path / "a"}


@pytest.mark.parametrize("name", ["ids.npy", "ids.safetensors"])
def test_token_ids_from_files(model: LanguageModel, tmp_path: Path, name: str) -> None:
    ids = np.random.default_rng(0).integers(1, 96, (5, 40))
    for array in (ids.astype(np.uint16), ids.astype(np.int32)):
        if name.endswith("npy"):
            np.save(tmp_path / name, array)
        else:
            save_file({"tokens": array}, tmp_path / name)
        rows = load(tmp_path / name, model, context_length=32)
        np.testing.assert_array_equal(rows.ids.numpy(), ids[:, :32], "rows stay rows")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 400), st.integers(2, 24))
def test_a_limit_keeps_a_prefix_of_the_rows(
    model: LanguageModel, tmp_path: Path, n_tokens: int, context_length: int
) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    whole = load(tmp_path / "a.txt", model, context_length=context_length)
    part = load(tmp_path / "a.txt", model, n_tokens=n_tokens, context_length=context_length)
    assert len(part) == max(1, n_tokens // context_length)
    assert torch.equal(part.ids, whole.ids[: len(part)])


def test_fingerprint_follows_ids_and_mask(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT.replace("number 7,", "number 8,"))
    (tmp_path / "copy.txt").write_text(TEXT)
    first = load(tmp_path / "a.txt", model)
    included = load_tokens(
        str(tmp_path / "a.txt"), model, split="all", n_tokens=None, context_length=16,
        include_special=True,
    )  # fmt: skip
    assert first.fingerprint == load(tmp_path / "copy.txt", model).fingerprint
    assert first.fingerprint != load(tmp_path / "b.txt", model).fingerprint
    assert first.fingerprint != included.fingerprint
    assert included.counted.all()


def test_pickled_ids_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(TokensError, match="cannot be read"):
        load(tmp_path / "evil.npy", model)


def test_rows_are_made_once_for_the_same_content(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "copy.txt").write_text(TEXT)
    first = load(tmp_path / "a.txt", model, n_tokens=640)
    (kept,) = (tmp_path / "cache" / "tokens").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("prolu_eval.tokens.rows.encode", None)
        assert load(tmp_path / "copy.txt", model, n_tokens=640).fingerprint == first.fingerprint
    kept.write_bytes(kept.read_bytes()[:100])
    assert load(tmp_path / "a.txt", model, n_tokens=640).fingerprint == first.fingerprint
    load(tmp_path / "a.txt", model, n_tokens=320)
    load(tmp_path / "a.txt", model, n_tokens=640, context_length=8)
    (tmp_path / "a.txt").write_text(TEXT + "more")
    load(tmp_path / "a.txt", model, n_tokens=640)
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 4


def test_separate_packing_keeps_rows_within_documents(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghijk<|endoftext|>hi<|endoftext|>lmnopqrstu")
    rows = load_tokens(
        str(tmp_path / "a.txt"), model, split="all", n_tokens=None, context_length=5,
        packing="separate", prepend_bos=False,
    )  # fmt: skip
    letters = ["".join(model.tokenizer.decode([i]) for i in row) for row in rows.ids]
    assert letters == ["abcde", "fghij", "lmnop", "qrstu"]
