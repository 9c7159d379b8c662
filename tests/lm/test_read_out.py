"""A head whose rows are padded for fast kernels gives the same logits."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import masking_utils

from prolu_eval.lm import LanguageModel
from prolu_eval.lm.read_out import padded_head

Search = Callable[[torch.Tensor], torch.Tensor | None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("vocab", [1, 300, 384])
def test_padded_rows_never_count(vocab: int, bias: bool) -> None:
    head = nn.Linear(8, vocab, bias=bias).requires_grad_(False)
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    logits = padded_head(head)(hidden)
    assert logits.shape == (5, vocab)
    assert logits.stride(0) % 128 == 0
    torch.testing.assert_close(logits, head(hidden))


def test_no_pass_looks_for_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel.load("embedded", device="cpu")
    looked: list[object] = []
    search: Callable[[torch.Tensor], torch.Tensor | None] = (
        masking_utils.find_packed_sequence_indices
    )

    def noting(position_ids: torch.Tensor) -> torch.Tensor | None:
        looked.append(position_ids)
        return search(position_ids)

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", noting)
    ids = torch.arange(8)[None]
    hook = "blocks.1.hook_resid_post"
    clean = model.clean(ids, hook)
    resumed = model.resume(ids, hook, clean, clean.activation)
    assert not looked
    expected = model._network.base_model(input_ids=ids, use_cache=False).last_hidden_state
    assert looked, "Transformers itself looks"
    torch.testing.assert_close(clean.hidden, expected)
    torch.testing.assert_close(resumed, expected)
