"""Tasks made from templates: prompts whose right continuation is known.

A language model gets an example right if it gives the right continuations together a higher
probability than the wrong ones together, by the tokens that they begin with. All tasks except
induction have two sides, drawn so that each is right equally often, so that chance is a half. In
induction, which repeats random tokens, the model must rank the token that followed last time above
all others.

Results depend on the wording of templates and on the random draws, so :data:`VERSION` must change
whenever either does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

VERSION = 1
# 1: first version (2026-11)

# The numbers of tokens that the induction tasks repeat.
INDUCTION_LENGTHS = (8, 16, 32)
# The fewest words of a task that must be single tokens, so that its examples vary enough.
LEAST_WORDS = 6


@dataclass(frozen=True)
class Example:
    """A prompt with its right and wrong continuations, which follow the prompt without a gap."""

    prompt: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


class Inexpressible(Exception):  # noqa: N818 - not an error: the task is left out, with this reason
    """A task cannot be made with a tokenizer's words; the text says why."""


class Words:
    """Draws words that are single tokens when they follow a space.

    Args:
        rng: the generator for all draws.
        is_one: whether a word, with the space before it, is one token.
    """

    def __init__(self, rng: np.random.Generator, is_one: Callable[[str], bool]) -> None:
        self.rng, self._is_one = rng, is_one

    def single(self, words: Sequence[str]) -> list[str]:
        """The words that are single tokens.

        Raises:
            Inexpressible: if there are fewer than :data:`LEAST_WORDS`.
        """
        found = [word for word in words if self._is_one(f" {word}")]
        if len(found) < LEAST_WORDS:
            raise Inexpressible(
                f"{len(found)} of its {len(words)} words are single tokens, fewer than "
                f"{LEAST_WORDS}"
            )
        return found

    def require(self, words: Sequence[str]) -> None:
        """Check that every word is a single token.

        Raises:
            Inexpressible: if one is not.
        """
        for word in words:
            if not self._is_one(f" {word}"):
                raise Inexpressible(f"{word!r} is not a single token")

    def one(self, words: Sequence[str]) -> str:
        """A word at random."""
        return words[int(self.rng.integers(len(words)))]

    def two(self, words: Sequence[str]) -> tuple[str, str]:
        """Two different words at random."""
        first, second = self.rng.choice(len(words), 2, replace=False)
        return words[int(first)], words[int(second)]

    def coin(self) -> bool:
        """True or False, at random."""
        return bool(self.rng.integers(2))


Template = Callable[[Words], Callable[[], Example]]
"""A function that checks a tokenizer's words, and returns a function that draws an example."""

_NAMES = (
    "John", "Mary", "Tom", "Anna", "James", "Sarah", "Paul", "Lily", "Ben", "Sam", "Max", "Lucy",
    "Tim", "Jack", "Mia", "Sue", "David", "Emma", "Mark", "Kate", "Peter", "Jane", "Bob", "Alice",
)  # fmt: skip
_PLACES = ("store", "park", "school", "house", "beach", "garden", "market", "station")
_THINGS = ("ball", "book", "cake", "flower", "toy", "drink", "apple", "box")


def _identification(text: str) -> Template:
    """Indirect objects (Wang et al., arXiv 2211.00593): which of two people is given something."""

    def template(words: Words) -> Callable[[], Example]:
        names = words.single(_NAMES)

        def example() -> Example:
            giver, taker = words.two(names)
            first, second = (giver, taker) if words.coin() else (taker, giver)
            place, thing = words.one(_PLACES), words.one(_THINGS)
            prompt = text.format(a=first, b=second, s=giver, place=place, thing=thing)
            return Example(prompt, (f" {taker}",), (f" {giver}",))

        return example

    return template


_NOUNS = ("war", "trip", "plan", "project", "journey", "reign", "study", "voyage")


def _greater(text: str) -> Template:
    """Years in which something may end (Hanna et al., arXiv 2305.00586): those after its start."""

    def template(words: Words) -> Callable[[], Example]:
        def example() -> Example:
            century = int(words.rng.integers(11, 18))
            year = int(words.rng.integers(11, 89))
            prompt = text.format(noun=words.one(_NOUNS), year=f"{century}{year}", century=century)
            later = tuple(f"{y:02}" for y in range(year + 1, 100))
            earlier = tuple(f"{y:02}" for y in range(year))
            return Example(prompt, later, earlier)

        return example

    return template


_PAIRS = (("(", ")"), ("[", "]"), ("{", "}"))
_INSIDE = ("a", "b", "c", "x", "y", "1", "2", "3")
_TERMS = ("the house", "a dog", "my friend", "the old man", "a red car", "the sea")


def _brackets(text: str, inside: Sequence[str], *, closed: bool) -> Template:
    """Brackets within brackets: the inner one closes first; if it is closed, the outer one next."""

    def template(words: Words) -> Callable[[], Example]:
        def example() -> Example:
            outer, inner = (_PAIRS[i] for i in words.rng.choice(len(_PAIRS), 2, replace=False))
            p, q = words.two(inside)
            prompt = text.format(p=p, q=q, r=words.one(inside), open=outer[0], inner=inner[0],
                                 close=inner[1])  # fmt: skip
            right, wrong = (outer, inner) if closed else (inner, outer)
            return Example(prompt, (f" {right[1]}",), (f" {wrong[1]}",))

        return example

    return template


_SUBJECTS = (
    ("dog", "dogs"), ("cat", "cats"), ("boy", "boys"), ("girl", "girls"), ("bird", "birds"),
    ("tree", "trees"), ("car", "cars"), ("toy", "toys"), ("friend", "friends"), ("book", "books"),
    ("teacher", "teachers"), ("king", "kings"), ("flower", "flowers"), ("author", "authors"),
)  # fmt: skip


def _agreement(text: str, verbs: tuple[str, str]) -> Template:
    """Verbs that agree in number with their subject, not with the noun between the two."""

    def template(words: Words) -> Callable[[], Example]:
        words.require(verbs)

        def example() -> Example:
            plural = words.coin()
            i, j = (int(at) for at in words.rng.choice(len(_SUBJECTS), 2, replace=False))
            prompt = text.format(subject=_SUBJECTS[i][plural], other=_SUBJECTS[j][not plural])
            return Example(prompt, (f" {verbs[plural]}",), (f" {verbs[not plural]}",))

        return example

    return template


TEMPLATES: dict[str, Template] = {
    "ioi-give": _identification(
        "When {a} and {b} went to the {place}, {s} gave a {thing} to"
    ),
    "ioi-after": _identification(
        "{a} and {b} were at the {place}. After they had played, {s} handed the {thing} to"
    ),
    "ioi-friends": _identification(
        "Once upon a time, {a} and {b} were friends. One day {s} had a {thing} and gave it to"
    ),
    "greater-lasted": _greater("The {noun} lasted from the year {year} to the year {century}"),
    "greater-began": _greater("The {noun} began in {year} and it ended in {century}"),
    "brackets-inner": _brackets("{p} = {open} {q} , {inner} {r}", _INSIDE, closed=False),
    "brackets-outer": _brackets("{p} = {open} {q} , {inner} {r} {close}", _INSIDE, closed=True),
    "brackets-prose": _brackets(
        "It was {p} {open} and {q} {inner} or {r}", _TERMS, closed=False
    ),
    "agreement-is": _agreement("The {subject} near the {other}", ("is", "are")),
    "agreement-was": _agreement("The {subject} with the {other}", ("was", "were")),
    "agreement-has": _agreement("The {subject} that the {other} saw", ("has", "have")),
    "agreement-simple": _agreement("Look at the {other}! The {subject}", ("was", "were")),
}  # fmt: skip
