"""The results that a comparison is about, one per run."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from prolu_eval.errors import ResultsError, UsageError
from prolu_eval.results import (
    FOLDER,
    PER_SEQUENCE,
    Result,
    Setting,
    file_digests,
    read_result,
    result_files,
)


def obtain_results(
    paths: Sequence[Path],
    *,
    settings: Collection[Setting] = (),
    warn: Callable[[str], object] = lambda _: None,
) -> list[Result]:
    """Every run's stored result with its per-sequence sums, one per run name.

    Of several results of a run, those measured on one of ``settings`` come first, then the newest.
    A damaged result, and that of a run that has changed since or is gone, is passed to ``warn``
    as a sentence and skipped.

    Raises:
        UsageError: if a path does not exist, or two runs have one name.
        ResultsError: if no result is found.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(path, "does not exist", "name a folder of runs or of results")
    wanted = {_key(setting) for setting in settings}
    best: dict[str, tuple[tuple[bool, float], Result]] = {}
    outdated: dict[str, str] = {}
    homes: dict[str, Path] = {}
    for file in result_files(paths):
        try:
            result = read_result(file, under=PER_SEQUENCE)
        except ResultsError as error:
            warn(str(error))
            continue
        if why := _outdated(result, file):
            outdated[result.run.name] = f"{file}: {why}; evaluate it again, or delete the file."
            continue
        name = result.run.name
        if (other := homes.setdefault(name, file.parent.resolve())) != file.parent.resolve():
            remedy = "compare them apart, or evaluate them in one call, which tells them apart"
            raise UsageError(other, f"and {file.parent} both hold results of a {name}", remedy)
        rank = _key(result.setting) in wanted, file.stat().st_mtime
        if name not in best or rank > best[name][0]:
            best[name] = rank, result
    for name in sorted(outdated.keys() - best.keys()):
        warn(outdated[name])
    if not best:
        where = ", ".join(map(str, paths))
        raise ResultsError(where, "holds no results", "run `prolu-eval evaluate` on it first")
    return [result for _, result in best.values()]


def _key(setting: Setting) -> str:
    return setting.model_dump_json(exclude={"model", "tokens"})


def _outdated(result: Result, file: Path) -> str | None:
    """Why a result is none of a run that is there now; None if it is, or nothing tells.

    Only checkpoints that were touched after the result was written are read again.
    """
    place = Path(result.run.path)
    if file.parent.name == FOLDER:  # beside the run, wherever that was moved to
        folder = file.parent.parent
    elif not place.exists() and place.parent.is_dir():
        return f"{place} is not there any more"
    else:
        folder = place if place.is_dir() else place.parent
    files = [folder / name for name in result.checkpoint]
    if not files or not all(path.exists() for path in files):
        return None
    touched = max(max(path.stat().st_mtime, path.stat().st_ctime) for path in files)
    if touched <= file.stat().st_mtime or file_digests(files, folder) == result.checkpoint:
        return None
    return f"{result.run.name} has changed since"
