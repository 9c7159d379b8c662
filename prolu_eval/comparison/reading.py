"""Reads the results that a comparison is about, one for each run."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from prolu_eval.hub import is_hub_name
from prolu_eval.results import (
    FOLDER,
    PER_SEQUENCE,
    PER_TASK,
    Result,
    Setting,
    StoredArrays,
    result_files,
    select,
)
from prolu_eval.run_names import as_name, folder_titles


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


def unevaluated(paths: Sequence[Path], names: Iterable[str]) -> list[str]:
    """Of the names of runs without a result, those whose checkpoints lie in the folders.

    Such a run was trained again, or never evaluated. Checkpoints are not read: a run counts as
    there if its folder holds anything besides results.

    Args:
        paths: folders of runs, or names on the hub, where nothing is looked for.
        names: names of runs, as :func:`read_results` would give them.
    """
    titles = folder_titles(paths)
    places = [(path, f"{titles[path]}/") for path in paths if not is_hub_name(path)]
    return [
        name
        for name in names
        if any(_is_there(path, name.removeprefix(title)) for path, title in places)
    ]


def _is_there(folder: Path, name: str) -> bool:
    """Whether a folder holds the checkpoint of a name, which may be a part of one (``NAME:PART``).

    A folder that is a checkpoint itself is called by its own name.
    """
    if name == as_name(folder.resolve().name):
        return _holds_a_checkpoint(folder)
    before, _, last = name.rpartition("/")
    places = (folder / name, folder / before / last.partition(":")[0])
    return any(place.is_file() or _holds_a_checkpoint(place) for place in places)


def _holds_a_checkpoint(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    results = {file.stem for file in result_files([folder])}
    others = (p for p in folder.iterdir() if p.is_file() and p.stem not in results)
    return folder.name != FOLDER and next(others, None) is not None


def _with_sums(result: Result) -> Result:
    if not isinstance(result.arrays, StoredArrays):
        return result
    arrays = result.arrays.under(PER_SEQUENCE) | result.arrays.under(PER_TASK)
    return result.model_copy(update={"arrays": arrays})
