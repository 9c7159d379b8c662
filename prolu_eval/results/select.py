"""Chooses among stored results: one for each run that is readable and up to date.

A folder may hold several evaluations of its runs: on another text, on more tokens, in another
precision. Only results of one evaluation can be compared, so one is chosen for each run, and the
other evaluations are listed for the caller to choose instead.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from prolu_eval.arguments import PathLike, as_path
from prolu_eval.errors import ResultsError, UsageError
from prolu_eval.hub import is_hub_name, origin
from prolu_eval.results.documents import Result, Setting
from prolu_eval.results.store import (
    FOLDER,
    outdated,
    read_result,
    result_files,
    run_beside,
    with_current_path,
)
from prolu_eval.run_names import as_name, folder_titles, name_among, name_below

# An evaluation of fewer runs than this share of the largest one is not chosen even if it is newer.
_SHARE = 0.5
# Fields of a setting that are left out of titles if other fields tell the settings apart.
_OPAQUE = ("model_fingerprint", "tokens_fingerprint", "n_sequences")

_Run = tuple[str, str, str]  # the folder that was searched, the run's path, and its own name


@dataclass(frozen=True)
class Evaluation:
    """Comparable results of runs, with a title that tells them from other evaluations."""

    title: str
    key: str
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Selection:
    """The chosen results, one for each run, and those that were not chosen.

    Attributes:
        results: the chosen results, in the order in which they were found.
        left_out: a sentence for each result that is damaged or out of date.
        others: other evaluations of the same runs, the largest first.
    """

    results: tuple[Result, ...]
    left_out: tuple[str, ...] = ()
    others: tuple[Evaluation, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """Sentences that tell the user which results were left out."""
        if not self.others:
            return list(self.left_out)
        others = [other.results[0].setting for other in self.others]
        whole = [r.setting for r in self.results if r.dropped is None]
        taken = whole or [r.setting for r in self.results]
        told = titles([*taken, *others])
        chosen = ", ".join(dict.fromkeys(told[: len(taken)]))
        there = ", ".join(
            f"{len(other.results)} on {title} (--tokens {other.key})"
            for other, title in zip(self.others, told[len(taken) :], strict=True)
        )
        return [*self.left_out, f"the results on {chosen} are used; there are also {there}."]


def select(
    paths: Sequence[Path],
    *,
    tokens: PathLike | None = None,
    every: bool = False,
    prefer: Collection[str] = (),
    titled: bool = False,
) -> Selection:
    """Choose among the results stored in or below folders.

    For each run, results measured in a setting of ``prefer`` are used if there are any. Among the
    remaining evaluations the newest is chosen, unless it covers less than half as many runs as
    another one; runs that it does not cover get the next evaluation that covers them. Arrays stay
    in their files until they are accessed.

    Args:
        paths: folders, or hub names.
        tokens: only results on this text: its name, its path, the beginning of its fingerprint, or
            the key of an evaluation (:class:`Evaluation`).
        every: choose all readable and current results, one for each run and evaluation.
        prefer: comparison keys of settings (:meth:`~prolu_eval.results.Setting.comparison_key`).
        titled: if there are several folders, put each folder's name before the names of its
            variants, and count a run that is in two folders twice. If hub names are among the
            folders, only their variants get the release's name, and all runs share one frontier.

    Raises:
        UsageError: if a path does not exist.
        ResultsError: if there are no results, or none on ``tokens``.
    """
    for path in paths:
        if not is_hub_name(path) and not path.is_dir():
            reason = "is not a folder" if path.exists() else "does not exist"
            raise UsageError(path, reason, "name a folder of runs or of results")
    found, left_out = _found(paths, titled=titled)
    if not found:
        reasons = f" that can be used ({left_out[0].rstrip('.')})" if left_out else ""
        where = ", ".join(map(str, paths))
        raise ResultsError(
            where, f"holds no results{reasons}", "run `prolu-eval evaluate` on it first"
        )
    if tokens is not None:
        found = _on_tokens(found, str(as_path(tokens, "tokens")), paths)
    chosen = found if every else _chosen(found, set(prefer))
    results = [result for by_key in chosen.values() for result in by_key.values()]
    taken = {id(result) for result in results}
    rest = [r for by_key in found.values() for r in by_key.values() if id(r) not in taken]
    return Selection(tuple(_distinct(results)), tuple(left_out), tuple(_evaluations(rest)))


def titles(settings: Sequence[Setting]) -> list[str]:
    """The title of each setting, which tells it from the others.

    It is the name of the text alone if that is enough, and else also says in what settings on the
    same text differ. Equal settings have equal titles.
    """
    by_name: dict[str, dict[str, Setting]] = defaultdict(dict)
    for setting in settings:
        by_name[_name(setting)].setdefault(setting.comparison_key(), setting)
    told = {key: title for name, beside in by_name.items() for key, title in _told(name, beside)}
    return [told[setting.comparison_key()] for setting in settings]


def _told(name: str, beside: Mapping[str, Setting]) -> Iterator[tuple[str, str]]:
    """The key and title of each setting, for settings on texts with the same name."""
    settings = beside.values()
    fields = {field for a in settings for b in settings for field in a.differences(b)}
    if len({setting.n_counted for setting in settings}) > 1:
        fields.add("n_counted")
    readable = sorted(fields.difference(_OPAQUE))

    def title(setting: Setting, fields: Iterable[str]) -> str:
        return ", ".join([name, *(_shown(setting, field) for field in fields)])

    for shown in (readable, ["tokens", *readable], sorted(fields)):
        told = {key: title(setting, shown) for key, setting in beside.items()}
        if len(set(told.values())) == len(told):
            break
    yield from told.items()


def _name(setting: Setting) -> str:
    """The name of a text: the last part of an absolute path, or the whole name."""
    path = PurePath(setting.tokens)
    return path.name if path.is_absolute() else setting.tokens


def _shown(setting: Setting, field: str) -> str:
    """A field in words: ``130,048 tokens``, ``context length 128``, ``version 28dfe505``."""
    value = getattr(setting, field)
    if field in ("n_counted", "n_sequences"):
        return f"{value:,} {'tokens' if field == 'n_counted' else 'sequences'}"
    if field.endswith("fingerprint"):
        return f"{'model ' if field == 'model_fingerprint' else ''}version {value[:8]}"
    return str(value) if field == "tokens" else f"{field.replace('_', ' ')} {value}"


def _found(
    paths: Sequence[Path], *, titled: bool
) -> tuple[dict[_Run, dict[str, Result]], list[str]]:
    """The newest result of each run and evaluation, and a sentence for each unusable result."""
    names = folder_titles(paths)
    joined = len(paths) > 1 and any(map(is_hub_name, paths))
    found: dict[_Run, dict[str, Result]] = defaultdict(dict)
    damaged: list[str] = []
    old: dict[_Run, str] = {}
    for path, title in names.items():
        for file in result_files([path]):
            try:
                stored = read_result(file, arrays="stored")
            except ResultsError as error:
                damaged.append(str(error))
                continue
            result = with_current_path(stored, file)
            place = title if titled else "", _run_path(result, file), result.run.name.split("/")[-1]
            if why := outdated(stored, file):
                old[place] = f"{file}: {why}; evaluate it again, or delete the file."
                continue
            name = _called(result, file, path, title)
            run = result.run.model_copy(update={"name": name})
            result = result.model_copy(update={"run": run})
            if joined:
                result = prefix_label_with_release(result, path)
            elif titled and title:
                result = prefix_label_with_folder(result, title)
            same = found[place].setdefault(result.evaluation(), result)
            if _precedence(result) >= _precedence(same):
                found[place][result.evaluation()] = result
    return found, damaged + [why for place, why in old.items() if place not in found]


def _precedence(result: Result) -> tuple[bool, float]:
    """A key by which the newest result of an evaluation is largest, after any that left a race."""
    return result.dropped is None, _time(result)


def _time(result: Result) -> float:
    return result.file.stat().st_mtime if result.file else 0.0


def _called(result: Result, file: Path, path: Path, title: str) -> str:
    """The name of a run among those of the paths that are read: evaluating them names it so too.

    If the result's place does not tell where its run is, the stored name is taken.
    """
    stored = result.run.name
    if not is_hub_name(path):
        if (place := run_beside(result, file)) is not None:
            own = as_name(place.name)
            _, colon, part = f"/{stored}".rpartition(f"/{own}:")
            within = name_below(path, place) + (f":{part}" if colon else "")
            return name_among(title, within, itself=place == path)
        home = _run_folder(file)
        if f"/{home.as_posix()}".endswith(f"/{stored}"):  # as --results lays them out
            return name_among(title, name_below(path, home), itself=home == path)
    return name_among(title, stored.removeprefix(f"{title}/") if title else stored)


def prefix_names_with_folder(result: Result, title: str) -> Result:
    """A result with a folder's title before the names of its run and variant, if it has a title."""
    if not title:
        return result
    run = result.run.model_copy(update={"name": name_among(title, result.run.name)})
    return prefix_label_with_folder(result.model_copy(update={"run": run}), title)


def prefix_label_with_release(result: Result, path: Path) -> Result:
    """A result with the name of its hub release or repository before the name of its variant.

    Results of local folders are unchanged: next to a release, they are the user's own.
    """
    if not is_hub_name(path):
        return result
    run = result.run.model_copy(update={"label": f"{origin(path)}: {result.run.label}"})
    return result.model_copy(update={"run": run})


def prefix_label_with_folder(result: Result, title: str) -> Result:
    """A result with the title of its folder before its variant's name, for comparing folders."""
    run = result.run.model_copy(update={"label": f"{title}: {result.run.label}"})
    return result.model_copy(update={"run": run, "folder": title})


def _on_tokens(
    found: Mapping[_Run, dict[str, Result]], tokens: str, paths: Sequence[Path]
) -> dict[_Run, dict[str, Result]]:
    kept = {
        run: {key: r for key, r in by_key.items() if _is_on(r, tokens)}
        for run, by_key in found.items()
    }
    kept = {run: by_key for run, by_key in kept.items() if by_key}
    if not kept:
        there = _evaluations([r for by_key in found.values() for r in by_key.values()])
        offered = ", ".join(f"{e.title} ({len(e.results)} runs)" for e in there)
        where = ", ".join(map(str, paths))
        raise ResultsError(where, f"holds no results on {tokens}", f"choose one of {offered}")
    return kept


def _is_on(result: Result, tokens: str) -> bool:
    setting = result.setting
    names = {setting.tokens, _name(setting)}
    if Path(tokens).exists():
        names.add(str(Path(setting.tokens).resolve()))
        tokens = str(Path(tokens).resolve()) if tokens not in names else tokens
    begins = (setting.tokens_fingerprint, result.evaluation())
    return tokens in names or (len(tokens) >= 6 and any(b.startswith(tokens) for b in begins))


def _chosen(
    found: Mapping[_Run, dict[str, Result]], prefer: Collection[str]
) -> dict[_Run, dict[str, Result]]:
    """One result for each run, from as few evaluations as the newest and largest allow."""
    left = {run: _preferred(by_key, prefer) for run, by_key in found.items()}
    chosen: dict[_Run, dict[str, Result]] = {}
    while left:
        newest: dict[str, float] = defaultdict(float)
        count: dict[str, int] = defaultdict(int)
        for by_key in left.values():
            for key, result in by_key.items():
                count[key] += 1
                newest[key] = max(newest[key], _time(result))
        # Only evaluations that have runs in common with the largest one compete with it.
        most = max(count, key=lambda key: (count[key], newest[key]))
        rivals = {key for by_key in left.values() if most in by_key for key in by_key}
        best = max(
            (key for key in rivals if count[key] >= _SHARE * count[most]),
            key=lambda key: (newest[key], count[key]),
        )
        for run in [run for run, by_key in left.items() if best in by_key]:
            chosen[run] = {best: left.pop(run)[best]}
    return {run: chosen[run] for run in found}


def _preferred(by_key: dict[str, Result], prefer: Collection[str]) -> dict[str, Result]:
    wanted = {k: r for k, r in by_key.items() if r.setting.comparison_key() in prefer}
    return wanted or by_key


def _evaluations(results: Iterable[Result]) -> Iterator[Evaluation]:
    """Results by evaluation, the largest first."""
    by_key: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_key[result.evaluation()].append(result)
    parts = sorted(by_key.items(), key=lambda part: -len(part[1]))
    names = titles([members[0].setting for _, members in parts])
    for (key, members), title in zip(parts, names, strict=True):
        yield Evaluation(title, key, tuple(members))


def _distinct(results: Sequence[Result]) -> Iterator[Result]:
    """The results with distinct names of runs: runs of equal names are named by their paths."""
    alike: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.file is not None:
            alike[result.run.name].append(result)
    names: dict[int, str] = {}
    for name, members in alike.items():
        if len(members) == 1:
            continue
        places = [Path(_run_path(r, r.file)) for r in members if r.file is not None]
        titles = folder_titles(list(dict.fromkeys(places)))
        _, colon, part = name.rpartition("/")[2].partition(":")
        for result, place in zip(members, places, strict=True):
            if titles[place]:
                names[id(result)] = f"{titles[place]}{colon}{part}"
    for result in results:
        if (new := names.get(id(result))) is None:
            yield result
        else:
            yield result.model_copy(update={"run": result.run.model_copy(update={"name": new})})


def _run_path(result: Result, file: Path) -> str:
    """The path of a run: the folder beside its results, or the path that its result names."""
    beside = file.parent.name == FOLDER
    return str((_run_folder(file) if beside else Path(result.run.path)).resolve())


def _run_folder(file: Path) -> Path:
    """The folder of the run that a result file belongs to, or its folder in a results folder."""
    return file.parent.parent if file.parent.name == FOLDER else file.parent
