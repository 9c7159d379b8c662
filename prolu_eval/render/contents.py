"""What an answer is told as, whatever the face: headings, sentences and tables, in order."""

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
    """A heading; one of level 1 begins an answer, one of level 2 a part of it."""

    text: str
    level: int


Part = Heading | str | Table


def answer_contents(answer: Answer) -> list[Part]:
    """What is told of a group: its answer, what was asked for, its runs and its variants."""
    found = answer.details
    savings = saving_table(found)
    return [
        Heading(answer.title, 1),
        answer.sentence,
        *([f"({'; '.join(answer.notes)})"] if answer.notes else []),
        *budget_tables(answer),
        *folder_tables(answer),
        run_table(answer.group, found),
        about_marks(answer.group),
        variant_table(found),
        _about_hypervolumes(found),
        *([savings] if savings[1] and not answer.folders else []),
    ]


def split_contents(answer: Answer) -> list[Part]:
    """What is told of the parts that a group's runs are split into."""
    return [
        told
        for title, part in answer.splits.items()
        for told in (Heading(f"{title}: {part.sentence}", 2), variant_table(part.details))
    ]


def _about_hypervolumes(answer: Frontier) -> str:
    """What hypervolumes are up to, and what intervals rest on."""
    reference = ", ".join(number(value) for value in answer.reference)
    keys = ", ".join(answer.keys)
    return f"Hypervolumes of ({keys}) are up to ({reference}). {_about_intervals(answer)}"


def _about_intervals(answer: Frontier) -> str:
    if not answer.n_replicates:
        return "There are no intervals: no sums over sequences to resample."
    over = "sequences and training seeds" if answer.seeds_resampled else "sequences"
    return f"Intervals are 95 %, from {answer.n_replicates} paired resamplings of {over}."
