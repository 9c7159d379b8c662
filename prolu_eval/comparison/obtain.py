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
    A damaged result, and one of a checkpoint that has changed since, is passed to ``warn`` as a
    sentence and skipped.

    Raises:
        UsageError: if a path does not exist.
        ResultsError: if no result is found.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(path, "does not exist", "name a folder of runs or of results")
    wanted = {_key(setting) for setting in settings}
    best: dict[str, tuple[tuple[bool, float], Result]] = {}
    outdated: dict[str, Path] = {}
    for file in result_files(paths):
        try:
            result = read_result(file, under=PER_SEQUENCE)
        except ResultsError as error:
            warn(str(error))
            continue
        if _is_outdated(result, file):
            outdated.setdefault(result.run.name, file)
            continue
        rank = _key(result.setting) in wanted, file.stat().st_mtime
        if result.run.name not in best or rank > best[result.run.name][0]:
            best[result.run.name] = rank, result
    for name in outdated.keys() - best.keys():
        warn(f"{outdated[name]}: {name} has changed since; run `prolu-eval evaluate` on it again.")
    if not best:
        where = ", ".join(map(str, paths))
        raise ResultsError(where, "holds no results", "run `prolu-eval evaluate` on it first")
    return [result for _, result in best.values()]


def _key(setting: Setting) -> str:
    return setting.model_dump_json(exclude={"model", "tokens"})


def _is_outdated(result: Result, file: Path) -> bool:
    """Whether the run's files are here and are no longer those that were measured.

    Only files that were touched after the result was written are read again.
    """
    place = Path(result.run.path)
    folder = file.parent.parent if file.parent.name == FOLDER else place
    folder = folder if folder.is_dir() else folder.parent
    files = [folder / name for name in result.checkpoint]
    if not files or not all(path.exists() for path in files):
        return False
    touched = max(max(path.stat().st_mtime, path.stat().st_ctime) for path in files)
    return touched > file.stat().st_mtime and file_digests(files, folder) != result.checkpoint
