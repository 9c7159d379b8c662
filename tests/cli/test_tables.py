"""Tables in a terminal's width: nothing is cut, no number is broken, and pipes get whole lines."""

import pytest

from prolu_eval.cli import terminal_width
from prolu_eval.plain_text import aligned, wrapped

HEAD = ("run", "variant", "model", "l0", "ce_degradation", "explained_variance", "hook")
ROWS = [
    (f"relu_l1_c{i}_lr0.008_s0", "relu+l1", "embedded", f"1{i}.25 \u00b10.12", f"0.{i} \u00b10.01",
     f"0.9{i} \u00b10.001", "blocks.3.hook_resid_post")
    for i in range(1, 4)
]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_a_wide_table_stands_in_parts_and_loses_nothing(width: int) -> None:
    lines = aligned([HEAD, *ROWS], width)
    text = "\n".join(lines)
    for row in ROWS:
        for cell in row:
            assert cell in text
    for title in HEAD:
        assert title in text
    if width >= 60:
        assert max(map(len, lines)) <= width
    named = [line for line in lines if line.startswith("relu_l1_c1")]
    assert len(named) >= (2 if width < 80 else 1), "each part says whose row it is"


def test_what_all_rows_share_is_said_once() -> None:
    first, second, *_ = aligned([HEAD, *ROWS], 80)
    assert first == "all: variant relu+l1, model embedded, hook blocks.3.hook_resid_post"
    assert not second


def test_without_a_terminal_a_row_is_a_line() -> None:
    assert len(aligned([HEAD, *ROWS])) == 1 + len(ROWS)
    assert aligned([HEAD, *ROWS]) == aligned([HEAD, *ROWS], 1_000)
    assert terminal_width() is None, "pytest captures what is printed"


def test_sentences_break_between_words() -> None:
    text = "relu+sqrt_l1 is better: 11.5 % [4.8, 17.5] fewer active features.\n\nSecond paragraph."
    lines = wrapped(text, 30).split("\n")
    assert max(map(len, lines)) <= 30
    assert " ".join(lines).split() == text.split()
    assert wrapped(text, None) == text
