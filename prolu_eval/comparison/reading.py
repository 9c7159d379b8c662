"""Reads the results that a comparison is about, one for each run."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from prolu_eval.results import PER_SEQUENCE, PER_TASK, Result, Setting, StoredArrays, select


def read_results(
    paths: Sequence[Path],
    *,
    settings: Collection[Setting] = (),
    tokens: str | None = None,
    titled: bool = False,
    warn: Callable[[str], object] = lambda _: None,
) -> list[Result]:
    """One result for each run (:func:`prolu_eval.results.select`), with its sums in memory.

    Of several results of a run, one that was measured in one of ``settings`` is preferred. For
    every result that is left out, ``warn`` gets a sentence.

    Raises:
        UsageError: if a path does not exist.
        ResultsError: if no result is found, or none on the tokens asked for.
    """
    keys = {setting.comparison_key() for setting in settings}
    chosen = select(paths, prefer=keys, tokens=tokens, titled=titled)
    for sentence in chosen.left_out if keys else chosen.remarks:
        warn(sentence)
    return [_with_sums(result) for result in chosen.results]


def _with_sums(result: Result) -> Result:
    if not isinstance(result.arrays, StoredArrays):
        return result
    arrays = result.arrays.under(PER_SEQUENCE) | result.arrays.under(PER_TASK)
    return result.model_copy(update={"arrays": arrays})
