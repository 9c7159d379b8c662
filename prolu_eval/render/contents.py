"""The contents of an answer for every output format: headings, sentences and tables, in order."""

from typing import NamedTuple

from prolu_eval.analysis import Answer, Frontier
from prolu_eval.estimates import number
from prolu_eval.render.tables import (
    Table,
    about_marks,
    budget_tables,
    folder_tables,
    run_table,
    saving_table,
    variant_table,
)


class Heading(NamedTuple):
    """A heading: level 1 begins an answer, level 2 a part of an answer."""

    text: str
    level: int


Part = Heading | str | Table


def answer_contents(answer: Answer) -> list[Part]:
    """The contents for a group: its answer, budgets and folders, its runs and its variants."""
    found = answer.details
    savings = saving_table(found)
    return [
        Heading(answer.title, 1),
        answer.sentence,
        *([f"({'; '.join(answer.notes)})"] if answer.notes else []),
        *budget_tables(answer),
        *folder_tables(answer),
        run_table(answer.group, found),
        about_marks(answer.group, found),
        variant_table(found),
        _about_hypervolumes(found),
        *([savings] if savings[1] and not answer.folders else []),
    ]


def split_contents(answer: Answer) -> list[Part]:
    """The contents for the parts that a group's runs are split into."""
    return [
        told
        for title, part in answer.splits.items()
        for told in (Heading(f"{title}: {part.sentence}", 2), variant_table(part.details))
    ]


def _about_hypervolumes(answer: Frontier) -> str:
    """The reference point of hypervolumes, and what the intervals rest on, in two sentences."""
    reference = ", ".join(number(value) for value in answer.reference)
    keys = ", ".join(answer.keys)
    return (
        f"Hypervolumes over ({keys}) have the reference point ({reference}). "
        f"{_about_intervals(answer)}"
    )


def _about_intervals(answer: Frontier) -> str:
    if not answer.n_replicates:
        return "There are no intervals: these results have no sums per sequence to resample."
    over = "sequences and training seeds" if answer.seeds_resampled else "sequences"
    return f"Intervals are 95 %, from {answer.n_replicates} paired resamplings of {over}."
