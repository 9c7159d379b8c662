"""Rows of token ids: their BOS tokens, their masks, and their padding on either side."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from prolu_eval.errors import TokensError
from prolu_eval.evaluation.batches import Batch
from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import TokenRows, load_tokens
from tests.tokens.conftest import load

HOOK = "blocks.1.hook_resid_post"


def ragged(lengths: list[int]) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [np.r_[0, rng.integers(1, 90, n - 1)] for n in lengths]


def padded(rows: list[NDArray[np.int64]], width: int, pad: int, side: str) -> NDArray[np.int64]:
    left = [np.r_[[pad] * (width - len(row)), row] for row in rows]
    right = [np.r_[row, [pad] * (width - len(row))] for row in rows]
    return np.array(left if side == "left" else right, dtype=np.int64)


def test_rows_with_their_own_bos_stay_as_they_are(model: LanguageModel, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(1, 96, (100, 16))
    ids[:, 0] = 0
    datasets.Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch").save_to_disk(
        tmp_path / "saved"
    )
    pd.DataFrame({"tokens": list(ids)}).to_parquet(tmp_path / "a.parquet", row_group_size=7)
    np.save(tmp_path / "a.npy", ids.astype(np.uint16))
    for name in ("saved", "a.parquet", "a.npy"):
        assert load(tmp_path / name, model).ids.tolist() == ids.tolist(), name
        assert load(tmp_path / name, model, context_length=8).ids.tolist() == ids[:, :8].tolist()
        assert load(tmp_path / name, model, context_length=32).ids.tolist() == ids.tolist()


def test_documents_that_begin_with_bos_get_no_second_one(
    model: LanguageModel, tmp_path: Path
) -> None:
    rows = ragged([9, 30, 12, 40, 25])
    masks = [[1] * len(row) for row in rows]
    table = {"input_ids": rows, "attention_mask": masks}
    pd.DataFrame(table).to_parquet(tmp_path / "with.parquet")
    pd.DataFrame({"input_ids": [r[1:] for r in rows]}).to_parquet(tmp_path / "without.parquet")
    found = load(tmp_path / "with.parquet", model)
    assert found.ids.tolist() == load(tmp_path / "without.parquet", model).ids.tolist()
    assert not ((found.ids[:, :-1] == 0) & (found.ids[:, 1:] == 0)).any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", ["mask", "pad token", "pad beyond the vocabulary"])
def test_padding_is_neither_attended_to_nor_counted_nor_a_target(
    tiny_model: Callable[[str], Path], tmp_path: Path, side: str, how: str
) -> None:
    """The losses of all real predictions equal those of the rows without padding."""
    folder = tiny_model("llama")
    model = LanguageModel.load(str(folder), device="cpu")
    lengths = [16, 9, 2, 12, 7, 3]
    rows = ragged(lengths)
    pad = {"mask": 29, "pad token": 95, "pad beyond the vocabulary": 96}[how]
    if how != "mask":
        model.tokenizer.pad_token_id = None
        model.tokenizer.add_special_tokens({"pad_token": "~" if pad == 95 else "<pad>"})
        assert model.tokenizer.pad_token_id == pad
    table = {"input_ids": list(padded(rows, 16, pad, side))}
    if how == "mask":
        ones = [np.ones(n, np.int64) for n in lengths]
        table["attention_mask"] = list(padded(ones, 16, 0, side))
    pd.DataFrame(table).to_parquet(tmp_path / "a.parquet")
    tokens = load_tokens(
        str(tmp_path / "a.parquet"), model, split="all", n_tokens=None, context_length=16
    )
    assert tokens.counted.sum(1).tolist() == [n - 1 for n in lengths]
    assert not tokens.counted[:, 0].any(), "every row begins with its BOS"
    batch = Batch.of(tokens, range(len(tokens)), 0, torch.device("cpu"))
    hidden = batch.next_of(model.clean(batch.ids, HOOK).hidden)
    losses = torch.nn.functional.cross_entropy(
        model.logits(hidden), batch.targets, reduction="none"
    )
    network = AutoModelForCausalLM.from_pretrained(folder)
    expected = []
    with torch.no_grad():
        for row in map(torch.tensor, rows):
            logits = network(input_ids=row[None]).logits[0, 1:-1]  # BOS itself does not count
            expected.append(torch.nn.functional.cross_entropy(logits, row[2:], reduction="none"))
    torch.testing.assert_close(losses, torch.cat(expected))
    assert batch.next_starts.diff().tolist() == [n - 2 for n in lengths]


def test_padding_without_a_mask_is_told_by_runs_of_special_tokens(
    stories: Path, tmp_path: Path
) -> None:
    model = LanguageModel.load(str(stories), device="cpu")  # BOS 1, EOS 2, no PAD
    rows = {
        "no padding": ([1, 9, 9, 9, 9, 9, 9, 9], [1, 9, 9, 9, 9, 9, 9, 9], 7),
        "right": ([1, 9, 8, 7, 6, 2, 2, 2], [1, 9, 8, 7, 6, 2, 2, 2], 4),
        "left": ([2, 2, 2, 1, 9, 8, 7, 6], [1, 9, 8, 7, 6, 2, 2, 2], 4),
        "left, one": ([2, 1, 9, 8, 7, 6, 5, 4], [1, 9, 8, 7, 6, 5, 4, 2], 6),
        "a leading EOS": ([2, 9, 8, 7, 6, 5, 4, 3], [2, 9, 8, 7, 6, 5, 4, 3], 7),
        "documents one after another": ([9, 9, 2, 1, 9, 9, 9, 2], [9, 9, 2, 1, 9, 9, 9, 2], 5),
    }
    np.save(tmp_path / "a.npy", np.array([given for given, _, _ in rows.values()]))
    found = load(tmp_path / "a.npy", model, context_length=8)
    assert found.ids.tolist() == [ids for _, ids, _ in rows.values()]
    assert found.counted.sum(1).tolist() == [n for _, _, n in rows.values()]


def test_included_special_tokens_leave_padding_out(model: LanguageModel, tmp_path: Path) -> None:
    """BOS and EOS are the same token here, so a row keeps one token of each run."""
    np.save(tmp_path / "a.npy", np.array([[0, 0, 0, 5, 6, 0, 0, 0], [0, 5, 6, 7, 8, 9, 7, 6]]))
    rows = load_tokens(
        str(tmp_path / "a.npy"), model, split="all", n_tokens=None, context_length=8,
        include_special=True,
    )  # fmt: skip
    assert rows.ids[0, :4].tolist() == [0, 5, 6, 0]
    assert rows.counted.sum(1).tolist() == [4, 8]


def test_rows_without_positions_that_count_are_left_out(
    model: LanguageModel, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.array([[0] * 8, [0, 5, 6, 7, 8, 9, 7, 6], [0] * 8]))
    assert load(tmp_path / "a.npy", model, context_length=8).ids.tolist() == [
        [0, 5, 6, 7, 8, 9, 7, 6]
    ]


def test_special_tokens_are_no_targets() -> None:
    counted = torch.tensor([[False, True, True, False, True], [False, True, True, True, True]])
    tokens = TokenRows(torch.arange(10).view(2, 5), counted, "t")
    batch = Batch.of(tokens, range(2), 0, torch.device("cpu"))
    assert batch.position.tolist() == [1, 2, 4, 6, 7, 8, 9]
    assert batch.next_position.tolist() == [1, 6, 7, 8]
    assert batch.targets.tolist() == [2, 7, 8, 9]
    assert batch.next_starts.tolist() == [0, 1, 4]


@pytest.mark.parametrize("name", ["attention_mask", "mask"])
@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_a_mask_of_either_name_is_gone_by(
    model: LanguageModel, tmp_path: Path, name: str, suffix: str
) -> None:
    rows = ragged([9, 12, 12, 7])
    ids = padded(rows, 12, 5, "right")  # 5 is an ordinary token: the mask alone says it is padding
    mask = np.arange(12) < np.array([[len(row)] for row in rows])
    file = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pd.DataFrame({"input_ids": list(ids), name: list(mask.astype(int))}).to_parquet(file)
    else:
        save_file({"input_ids": ids, name: mask.astype(np.int64)}, str(file))
    counted = load(file, model, context_length=12).counted.sum()
    assert counted == sum(len(row) - 1 for row in rows), "all but BOS and padding"


def test_a_mask_of_unknown_meaning_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    ids = padded(ragged([9, 12]), 12, 5, "right")
    save_file({"input_ids": ids, "loss_mask": np.ones_like(ids)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(TokensError, match="a tensor loss_mask, a mask of unknown meaning"):
        load(tmp_path / "a.safetensors", model)
    save_file({"ids": ids, "special_tokens_mask": ids * 0}, str(tmp_path / "b.safetensors"))
    assert len(load(tmp_path / "b.safetensors", model)) == 2
