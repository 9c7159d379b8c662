"""Sources of text: files of every kind, compressed, with byte order marks, and files of no text."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from prolu_eval.errors import TokensError
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import TokenRows, check_source, load_tokens
from tests.tokens.conftest import load

DOCS = [f'document {i}, with "words"; and\nanother line' for i in range(40)]
PLAIN = "<|endoftext|>".join(DOCS)
JSONL = "\n".join(json.dumps({"id": i, "text": doc}) for i, doc in enumerate(DOCS))


def table(delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["id", "text"], *enumerate(DOCS)])
    return out.getvalue()


def zstd(text: str) -> bytes:
    return bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))


FILES = {
    "a.txt": PLAIN.encode(),
    "mark.txt": b"\xef\xbb\xbf" + PLAIN.encode(),
    "windows.txt": PLAIN.replace("\n", "\r\n").encode(),
    "a.txt.gz": gzip.compress(PLAIN.encode()),
    "a.txt.bz2": bz2.compress(PLAIN.encode()),
    "a.txt.xz": lzma.compress(PLAIN.encode()),
    "a.txt.zst": zstd(PLAIN),
    "members.txt.gz": gzip.compress(PLAIN[:500].encode()) + gzip.compress(PLAIN[500:].encode()),
    "frames.txt.zst": zstd(PLAIN[:500]) + zstd(PLAIN[500:]),
    "packed-all-the-same.txt": gzip.compress(PLAIN.encode()),
    "a.jsonl": JSONL.encode(),
    "blank.ndjson": JSONL.replace("\n", "\n\n").encode() + b"\n",
    "windows.jsonl": b"\xef\xbb\xbf" + JSONL.replace("\n", "\r\n").encode(),
    "a.jsonl.gz": gzip.compress(JSONL.encode()),
    "a.jsonl.zst": zstd(JSONL),
    "lines.json": JSONL.encode(),
    "list.json": json.dumps([{"text": doc} for doc in DOCS]).encode(),
    "pretty.json": json.dumps([{"text": doc} for doc in DOCS], indent=2).encode(),
    "texts.json": json.dumps(DOCS).encode(),
    "a.csv": table().encode(),
    "semicolons.csv": table(";").encode(),
    "windows.csv": b"\xef\xbb\xbf" + table().replace("\n", "\r\n").encode(),
    "a.csv.gz": gzip.compress(table().encode()),
    "a.tsv": table("\t").encode(),
    "pipes.csv": table("|").encode(),
    "excel.csv": b"sep=;\r\n" + table(";").encode(),
    "spaces.csv": table().replace("id,text", "id, text ").encode(),
    "lines.txt": JSONL.encode(),
    "lines.jl": JSONL.encode(),
    "lines": JSONL.encode(),
    "pretty.txt": json.dumps([{"text": doc} for doc in DOCS], indent=2).encode(),
    "texts.txt.gz": gzip.compress(json.dumps(DOCS).encode()),
    "table.txt": table().encode(),
    "table": table("\t").encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_its_documents(name: str, model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text(PLAIN)
    (tmp_path / name).write_bytes(FILES[name])
    for split in ("all", "train", "heldout"):
        expected = load(tmp_path / "plain.txt", model, split)
        found = load(tmp_path / name, model, split)
        assert found.ids.tolist() == expected.ids.tolist()


BAD: dict[str, tuple[bytes, str]] = {
    "utf16.txt": (PLAIN.encode("utf-16"), r"UTF-16 or UTF-32 \(byte order mark at offset 0\)"),
    "no-mark.txt": (PLAIN.encode("utf-16-le"), "a zero byte at offset 1"),
    "latin.txt": (b"caf\xe9 au lait", "byte 0xe9 at offset 3"),
    "far.txt": (b"a" * 70_000 + b"\xff" + b"a" * 9, "byte 0xff at offset 70,000"),
    "across.txt": (b"a" * 65_535 + b"\xc3" + b"a" * 9, "byte 0xc3 at offset 65,535"),
    "cut.txt": ("né".encode()[:-1], "byte 0xc3 at offset 1"),
    "packed.txt.gz": (gzip.compress(b"caf\xe9"), "byte 0xe9 at offset 3"),
    "cut.txt.gz": (gzip.compress(PLAIN.encode())[:80], "cannot be read"),
    "cut.txt.zst": (zstd(PLAIN)[:80], "cannot be read"),
    "empty.txt": (b"", "is empty"),
    "blank.txt": (b" \r\n\r\n", "is empty"),
    "none.jsonl": (b"\n", "has no rows"),
    "null.jsonl": (b'"a"\n{"text": null}', r"row 1 \(from 0\), column 'text' has nothing"),
    "number.jsonl": (b'{"text": 5}', "column 'text' holds a value of type int"),
    "numbers.jsonl": (b"5\n6", "line 1 is a value of type int"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": "b', "line 2 is no JSON"),
    "other.jsonl": (b'{"id": 1, "body": "a"}', "but 'id', 'body'; name .* --text-column"),
    "nested.jsonl": (b'{"input_ids": [[1, 2], [3]]}', "row 0 .* column 'input_ids' holds nested"),
    "words.jsonl": (b'{"text": ["a", "b"]}', "row 0 .* column 'text' holds a list of words"),
    "fractions.jsonl": (b'{"tokens": [1.5, 2]}', "column 'tokens' holds a list of fractions"),
    "truth.jsonl": (b'{"tokens": [true, false]}', "holds a list of true and false"),
    "mask.jsonl": (b'{"attention_mask": [1, 1]}', "has no column"),
    "masked.jsonl": (b'{"tokens": [5, 6], "attention_mask": [1, 2]}', "has not one 0 or 1"),
    "short.jsonl": (b'{"tokens": [5, 6], "attention_mask": [1]}', "has not one 0 or 1"),
    "columns.json": (json.dumps({"text": DOCS}).encode(), "holds a list of words"),
    "cut.json": (json.dumps(DOCS).encode()[:-9], r"row 39 \(from 0\) is no JSON"),
    "commas.csv": (b"id,text\n1,one, two\n", r"row 0 \(from 0\) has 3 fields"),
    "no-header.csv": (b"1,once there was\n2,and so on\n", "has no column"),
    "unclosed.csv": (b'text\n"never closed', "line 2 is no CSV"),
    "twice.csv": (b"text,text\na,b\n", "names a column twice"),
    "ids.csv": (b'input_ids\n"[1, 2]"\n', "token ids written out as text"),
    "bad.parquet": (b"PAR1", "cannot be read"),
    "bad.safetensors": (b"hello", "cannot be read"),
    "archive.txt": (b"PK\x03\x04 and so on", "is a zip archive, as .npz and .pt files are too"),
    "archive.tar.gz": (gzip.compress(b"a" * 257 + b"ustar\0"), "is a tar archive; unpack it"),
    "object.jsonl": (b'{"text": {"en": "a"}}', "column 'text' holds an object with en"),
    "inner.jsonl": (b'{"doc": {"body": "a"}}', "but 'doc.body'; name .* --text-column"),
    "missing.jsonl": (b'"a"\n{"body": "b"}', r"row 1 \(from 0\) has no column 'text'"),
    "unmasked.jsonl": (
        b'{"tokens": [5], "attention_mask": [1]}\n{"tokens": [5]}',
        r"row 1 \(from 0\) has no attention_mask, where the rows before it have one",
    ),
    "later-masked.jsonl": (
        b'{"tokens": [5]}\n{"tokens": [5], "attention_mask": [1]}',
        r"row 1 \(from 0\) has an attention_mask, where the rows before it have none",
    ),
}  # fmt: skip


def checked_and_loaded(path: Path, model: LanguageModel) -> TokenRows:
    check_source(str(path), None, "name other text")
    return load(path, model)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_told_by_file_and_place(
    name: str, model: LanguageModel, tmp_path: Path
) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokensError, match=reason) as told:
        checked_and_loaded(tmp_path / name, model)
    assert str(tmp_path / name) in str(told.value)


def test_the_column_is_the_one_that_is_named(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(JSONL)
    (tmp_path / "b.jsonl").write_text(JSONL.replace('"text"', '"body"'))
    table = {"text": ["x"] * len(DOCS), "body": DOCS}
    pd.DataFrame(table).to_parquet(tmp_path / "b.parquet")
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    expected = load(tmp_path / "a.jsonl", model).fingerprint
    for name in ("b.jsonl", "b.parquet", "saved"):
        assert load(tmp_path / name, model, text_column="body").fingerprint == expected, name
    with pytest.raises(TokensError, match="has no column 'text', but 'id', 'body'"):
        load(tmp_path / "b.jsonl", model, text_column="text")
    (tmp_path / "a.txt").write_text(PLAIN)
    with pytest.raises(TokensError, match="has no columns"):
        load(tmp_path / "a.txt", model, text_column="text")


def test_what_is_in_objects_is_named_with_a_dot(model: LanguageModel, tmp_path: Path) -> None:
    records = [{"id": i, "doc": {"en": doc, "de": "x"}} for i, doc in enumerate(DOCS)]
    (tmp_path / "a.txt").write_text(PLAIN)
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    pd.DataFrame(records).to_parquet(tmp_path / "a.parquet")
    datasets.Dataset.from_list(records).save_to_disk(tmp_path / "saved")
    expected = load(tmp_path / "a.txt", model).fingerprint
    for name in ("a.jsonl", "a.parquet", "saved"):
        assert load(tmp_path / name, model, text_column="doc.en").fingerprint == expected, name
        told = (
            r"no column 'doc\.fr', but 'id', 'doc\.(en', 'doc\.de|de', 'doc\.en)'"  # in any order
        )
        with pytest.raises(TokensError, match=told):
            load(tmp_path / name, model, text_column="doc.fr")


def test_prose_is_no_records(model: LanguageModel, tmp_path: Path) -> None:
    for text in (
        '{He said} "so": it was',
        '["Well," he said, and left',
        "[1] A note, 2, and more",
        "Title, text and content\nwere all there",
        "text, content\nno second comma",
        "# text, content\n1, 2",
    ):
        (tmp_path / "a.txt").write_text(text + "\nand so on" * 9)
        (tmp_path / "a.md").write_text(text + "\nand so on" * 9)  # never read
        found = load(tmp_path / "a.txt", model).fingerprint
        assert found == load(tmp_path / "a.md", model).fingerprint, text


def test_files_without_an_ending_are_known_by_their_first_bytes(
    model: LanguageModel, tmp_path: Path
) -> None:
    ids = np.random.default_rng(0).integers(1, 96, (20, 16))
    pd.DataFrame({"text": DOCS}).to_parquet(tmp_path / "a.parquet")
    np.save(tmp_path / "ids.npy", ids)
    for name in ("a.parquet", "ids.npy"):
        bare = (tmp_path / name).with_suffix("")
        bare.write_bytes((tmp_path / name).read_bytes())
        assert load(bare, model).fingerprint == load(tmp_path / name, model).fingerprint


def test_half_characters_are_replaced(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "\\ud83d\\ude00 cut \\ud83d' + " so it is" * 30 + '"}'
    )
    (tmp_path / "b.txt").write_text("\U0001f600 cut \ufffd" + " so it is" * 30)
    for split in ("all", "train", "heldout"):
        found, expected = (load(tmp_path / name, model, split) for name in ("a.jsonl", "b.txt"))
        assert found.ids.tolist() == expected.ids.tolist()


def test_text_beside_a_column_of_words_is_taken(model: LanguageModel, tmp_path: Path) -> None:
    pd.DataFrame({"tokens": [d.split() for d in DOCS], "text": DOCS}).to_parquet(
        tmp_path / "a.parquet"
    )
    (tmp_path / "a.txt").write_text(PLAIN)
    found = load(tmp_path / "a.parquet", model).fingerprint
    assert found == load(tmp_path / "a.txt", model).fingerprint


def test_a_csv_field_may_be_long(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + '"' + "words, " * 40_000 + '"\n')
    assert load(tmp_path / "a.csv", model, n_tokens=64).ids.shape == (4, 16)


def test_a_folder_is_read_by_the_kind_of_most_of_its_bytes(
    model: LanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(PLAIN)
    expected = load(tmp_path / "a.txt", model).fingerprint
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A dataset\n")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "large.txt").write_text(PLAIN * 9)
    (folder / "data" / "train.jsonl").write_text(JSONL)
    assert load(folder, model).fingerprint == expected
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "metadata.csv").write_text("id,author\n1,a\n")
    half = "<|endoftext|>".join(DOCS[:20]), "<|endoftext|>".join(DOCS[20:])
    (texts / "0.txt").write_text(half[0])
    (texts / "1.txt.gz").write_bytes(gzip.compress(half[1].encode()))
    assert load(texts, model).fingerprint == expected


def test_a_folder_of_token_ids_is_its_files_rows(model: LanguageModel, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(1, 96, (20, 16))
    np.save(tmp_path / "ids.npy", ids)
    expected = load(tmp_path / "ids.npy", model).fingerprint
    writers: dict[str, Callable[[Path, Any], object]] = {".npy": np.save, ".safetensors": save_ids}
    for kind, write in writers.items():
        folder = tmp_path / f"shards{kind}"
        folder.mkdir()
        write(folder / f"0{kind}", ids[:12])
        write(folder / f"1{kind}", ids[12:])
        assert load(folder, model).fingerprint == expected
    np.save(tmp_path / "shards.npy" / "2.npy", ids[0])
    with pytest.raises(TokensError, match=r"2\.npy: holds ids of 1 dimensions, unlike the first"):
        load(tmp_path / "shards.npy", model)
    with pytest.raises(TokensError, match="holds token ids and has no columns"):
        load(tmp_path / "ids.npy", model, text_column="text")
    for shape in ((0, 16), (16, 0)):
        np.save(tmp_path / "none.npy", np.empty(shape, np.int64))
        with pytest.raises(TokensError, match=r"holds no token ids \(its shape is"):
            load(tmp_path / "none.npy", model)


def save_ids(path: Path, ids: Any) -> None:
    save_file({"input_ids": ids}, path)


def test_shards_that_differ_are_told_by_their_names(model: LanguageModel, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(1, 96, (20, 16))
    masked = {"input_ids": list(ids), "attention_mask": list(np.ones_like(ids))}
    pd.DataFrame({"input_ids": list(ids)}).to_parquet(tmp_path / "0.parquet")
    for other, reason in (
        (pd.DataFrame(masked), r"row 0 \(from 0\) has an attention_mask"),
        (pd.DataFrame({"text": DOCS}), r"row 0 \(from 0\) has no column 'input_ids'"),
    ):
        other.to_parquet(tmp_path / "1.parquet")
        with pytest.raises(TokensError, match=f"1.parquet: {reason}"):
            load(tmp_path, model)
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "0.txt").write_text(PLAIN)
    (folder / "1.txt").write_text(JSONL)
    with pytest.raises(
        TokensError, match=r"1\.txt: begins as a \.json file does, beside files of text"
    ):
        load(folder, model)


def test_short_rows_are_told_once(
    model: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "a\nb.npy", np.random.default_rng(0).integers(1, 96, (20, 8)))
    for split in ("heldout", "train"):
        load(tmp_path / "a\nb.npy", model, split)
    (told,) = caplog.messages
    assert told.endswith(
        "a\\nb.npy: has rows of 8 tokens; they are used as they are, shorter than the context of "
        "16."
    )


def test_pipes_and_empty_datasets_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TokensError, match="is no file, but a pipe or a device"):
        load(tmp_path / "pipe", model)
    datasets.Dataset.from_dict({"text": []}).save_to_disk(tmp_path / "none")
    with pytest.raises(TokensError, match="none: "):
        load(tmp_path / "none", model)


@pytest.mark.parametrize(
    "name", ["nofile.txt", "/nowhere/at/all", "a folder", "ids.npy", "x.csv.gz"]
)
def test_what_is_not_there_is_told_without_asking_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(TokensError, match="is no file and no folder here; pass --tokens"):
        check_source(name, None, "pass --tokens")
    check_source("owner/name:configuration", None, "")


def test_a_long_file_is_read_as_far_as_is_asked_for(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "once there was a word that nobody knew. "
    (tmp_path / "a.txt").write_text(line * 200_000 + "\xe9")
    (tmp_path / "b.txt").write_bytes((line * 200_000).encode() + b"\xff")
    taken: list[int] = []
    kind = type(model.tokenizer)
    plain = kind.__call__

    def counting(self: object, texts: list[str], *a: object, **k: object) -> object:
        taken.append(sum(map(len, texts)))
        return plain(self, texts, *a, **k)

    monkeypatch.setattr(kind, "__call__", counting)
    rows = load(tmp_path / "b.txt", model, n_tokens=1600)  # the bad byte at the end is far away
    assert rows.ids.shape == (100, 16)
    assert sum(taken) <= 20 * 1600


def test_token_ids_are_told_from_their_mask(model: LanguageModel, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(1, 96, (20, 16))
    mask = np.ones((20, 16), np.int64)
    mask[:, 12:] = 0
    save_file({"attention_mask": mask, "input_ids": ids}, tmp_path / "a.safetensors")
    rows: TokenRows = load(tmp_path / "a.safetensors", model)
    assert rows.ids.tolist() == ids.tolist()
    assert rows.counted.tolist() == (mask == 1).tolist()
    save_file({"attention_mask": mask}, tmp_path / "mask.safetensors")
    np.save(tmp_path / "mask.npy", mask)
    save_file({"x": ids, "y": ids}, tmp_path / "names.safetensors")
    save_file({"tokens": ids, "attention_mask": mask[:, :8]}, tmp_path / "short.safetensors")
    for name, reason in {
        "mask.safetensors": "has no tensor input_ids",
        "mask.npy": "only zeros and ones",
        "names.safetensors": "but x, y",
        "short.safetensors": "one 0 or 1 for each token id",
    }.items():
        with pytest.raises(TokensError, match=reason):
            load(tmp_path / name, model)


def test_ids_of_another_tokenizer_are_warned_of(
    stories: Path, stories_text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from prolu_eval.tokens import check_vocabulary

    model = LanguageModel.load(str(stories), device="cpu")
    hook = "blocks.2.hook_resid_post"
    own = load_tokens(str(stories_text), model, split="all", n_tokens=4096, context_length=64)
    check_vocabulary(model, hook, own)
    assert not caplog.records
    other = np.random.default_rng(0).permutation(np.arange(3, 500))
    swapped = np.where(own.ids < 3, own.ids, other[(own.ids.numpy() - 3) % 497])
    np.save(tmp_path / "swapped.npy", swapped)
    foreign = load_tokens(
        str(tmp_path / "swapped.npy"), model, split="all", n_tokens=4096, context_length=64
    )
    check_vocabulary(model, hook, foreign)
    assert "worse than their frequencies alone" in caplog.text
