"""The results that a comparison is about, one per run."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from prolu_eval.errors import ResultsError, UsageError
from prolu_eval.hub import is_hub_name
from prolu_eval.results import (
    PER_SEQUENCE,
    Result,
    Setting,
    outdated,
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
        if not is_hub_name(path) and not path.exists():
            raise UsageError(path, "does not exist", "name a folder of runs or of results")
    wanted = {_key(setting) for setting in settings}
    best: dict[str, tuple[tuple[bool, float], Result]] = {}
    old: dict[str, str] = {}
    homes: dict[str, Path] = {}
    for file in result_files(paths):
        try:
            result = read_result(file, under=PER_SEQUENCE)
        except ResultsError as error:
            warn(str(error))
            continue
        if why := outdated(result, file):
            old[result.run.name] = f"{file}: {why}; evaluate it again, or delete the file."
            continue
        name = result.run.name
        if (other := homes.setdefault(name, file.parent)).resolve() != file.parent.resolve():
            remedy = "evaluate them in one call, which tells them apart, or compare one of them"
            raise UsageError(other, f"and {file.parent} both hold results of a {name}", remedy)
        rank = _key(result.setting) in wanted, file.stat().st_mtime
        if name not in best or rank > best[name][0]:
            best[name] = rank, result
    for name in sorted(old.keys() - best.keys()):
        warn(old[name])
    if not best:
        where = ", ".join(map(str, paths))
        raise ResultsError(where, "holds no results", "run `prolu-eval evaluate` on it first")
    return [result for _, result in best.values()]


def _key(setting: Setting) -> str:
    return setting.model_dump_json(exclude={"model", "tokens"})
