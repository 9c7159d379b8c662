"""Templates make examples of two sides, neither of which is right more often."""

import numpy as np
import pytest

from prolu_eval.tasks.templates import TEMPLATES, Inexpressible, Words


@pytest.mark.parametrize("name", TEMPLATES)
def test_examples_have_two_sides_drawn_alike(name: str) -> None:
    make = TEMPLATES[name](Words(np.random.default_rng(0), lambda _: True))
    examples = [make() for _ in range(400)]
    assert len({example.prompt for example in examples}) > 50
    for example in examples:
        assert example.right
        assert example.wrong
        assert not set(example.right) & set(example.wrong)
        assert "{a}" not in example.prompt
        assert example.prompt == example.prompt.strip()
    # A model that prefers the same continuation for every prompt is right half of the time.
    texts = {text for example in examples for text in (*example.right, *example.wrong)}
    rng = np.random.default_rng(1)
    liked = {text: rng.random() for text in sorted(texts)}
    luck = np.mean(
        [sum(liked[t] for t in e.right) > sum(liked[t] for t in e.wrong) for e in examples]
    )
    assert 0.35 < luck < 0.65
    again = TEMPLATES[name](Words(np.random.default_rng(0), lambda _: True))
    assert [again() for _ in range(400)] == examples, "examples follow from the seed"


def test_what_is_right_by_hand() -> None:
    words = Words(np.random.default_rng(0), lambda _: True)
    for name in ("ioi-give", "ioi-friends"):
        example = TEMPLATES[name](words)()
        giver, taker = example.wrong[0], example.right[0]
        assert example.prompt.count(giver.strip()) == 2
        assert example.prompt.count(taker.strip()) == 1
    year = TEMPLATES["greater-lasted"](words)()
    first = int(year.prompt.split("year ")[1][2:4])
    assert year.right[0] == f"{first + 1:02}"
    assert year.wrong[-1] == f"{first - 1:02}"
    closing = {"(": " )", "[": " ]", "{": " }"}
    for name, place in (("brackets-inner", -1), ("brackets-prose", -1), ("brackets-outer", 0)):
        example = TEMPLATES[name](words)()
        opened = [letter for letter in example.prompt if letter in closing]
        assert example.right == (closing[opened[place]],)
        assert example.wrong == (closing[opened[-1 - place]],)
    was = TEMPLATES["agreement-was"](words)()
    plural = was.prompt.split()[1].endswith("s")
    assert was.right == (" were" if plural else " was",)


def test_words_that_a_tokenizer_lacks_leave_a_task_out() -> None:
    words = Words(np.random.default_rng(0), lambda word: word in (" Tom", " is"))
    with pytest.raises(Inexpressible, match="1 of its 24 words"):
        TEMPLATES["ioi-give"](words)
    with pytest.raises(Inexpressible, match="'are'"):
        TEMPLATES["agreement-is"](words)
