"""Which stored results count: one a run and setting, from one folder or several."""

from collections.abc import Callable, Sequence
from pathlib import Path

from prolu_eval.errors import ResultsError
from prolu_eval.hub import is_hub_name
from prolu_eval.results.documents import Result
from prolu_eval.results.store import outdated, read_result, result_files


def stored_results(
    folders: Sequence[Path], warn: Callable[[str], object] = lambda _: None
) -> list[Result]:
    """Every run's newest result in each setting that it was measured in, in order of path.

    Of several folders, each one's variants and runs bear its name, so that the folders can be
    compared. A damaged result, and one of a run that has changed or is gone, is passed to
    ``warn`` as a sentence and skipped. Arrays stay on disk until they are asked for.

    Raises:
        ResultsError: if a folder is none.
    """
    for folder in folders:
        if not is_hub_name(folder) and not folder.is_dir():
            raise ResultsError(folder, "is no folder", "name a folder that holds results")
    titles = _titles(folders)
    newest: dict[tuple[str, str], Result] = {}
    for folder in folders:
        for file in result_files([folder]):
            try:
                result = read_result(file, arrays="stored")
            except ResultsError as error:
                warn(str(error))
                continue
            if why := outdated(result, file):
                warn(f"{file}: {why}; evaluate it again, or delete the file.")
                continue
            result = _titled(result, titles[folder])
            key = result.run.name, result.setting.model_dump_json(exclude={"model", "tokens"})
            if key not in newest or _time(result) >= _time(newest[key]):
                newest[key] = result
    return list(newest.values())


def _time(result: Result) -> float:
    return result.file.stat().st_mtime if result.file else 0.0


def _titles(folders: Sequence[Path]) -> dict[Path, str]:
    """What tells each folder apart: its name, or all of its path; nothing for a single one."""
    if len(folders) == 1:
        return {folders[0]: ""}
    names = [folder.resolve().name for folder in folders]
    distinct = len(set(names)) == len(names)
    return dict(zip(folders, names if distinct else map(str, folders), strict=True))


def _titled(result: Result, title: str) -> Result:
    if not title:
        return result
    run = result.run
    renamed = {"name": f"{title}/{run.name}", "label": f"{title}: {run.label}"}
    return result.model_copy(update={"run": run.model_copy(update=renamed)})
