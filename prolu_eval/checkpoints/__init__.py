"""Finding and loading checkpoints. A new format is one module and one line in :data:`FORMATS`."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prolu_eval import hub
from prolu_eval.arguments import as_path, as_paths
from prolu_eval.checkpoints import (
    atoms,
    circuit_tracer,
    cross_layer,
    crosscoders,
    dictionary_learning,
    e2e_sae,
    gemma_scope,
    gemma_scope_layers,
    goodfire,
    kissane,
    llama_scope,
    model_diffs,
    native,
    openai,
    passed_over,
    qwen_scope,
    saelens,
    sparsify,
    temporal,
)
from prolu_eval.checkpoints.base import Format
from prolu_eval.checkpoints.overrides import doubted, overridden
from prolu_eval.checkpoints.reading import check_safetensors
from prolu_eval.errors import CheckpointError, ProluEvalError
from prolu_eval.plain_text import printable
from prolu_eval.results import FOLDER, result_files
from prolu_eval.run_names import folder_titles, name_among, name_below
from prolu_eval.runs import Broken, Run
from prolu_eval.saes import SparseAutoencoder

FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        native.FORMAT,
        saelens.FORMAT,
        dictionary_learning.FORMAT,
        sparsify.FORMAT,
        openai.FORMAT,
        gemma_scope.GEMMA_SCOPE,
        gemma_scope.GEMMA_SCOPE_2,
        e2e_sae.FORMAT,
        llama_scope.LLAMA_SCOPE,
        llama_scope.LLAMA_SCOPE_R1,
        qwen_scope.FORMAT,
        goodfire.GOODFIRE,
        goodfire.QRESEARCH,
        kissane.FORMAT,
        temporal.FORMAT,
        circuit_tracer.FORMAT,
        cross_layer.FORMAT,
        gemma_scope_layers.FORMAT,
        crosscoders.FORMAT,
        model_diffs.FORMAT,
    )
}


# Endings of files that commands write, or that what they print is written to.
_PRINTED = (".md", ".json", ".csv", ".txt", ".html")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w./-]+)?")
_CARD = "README.md"  # as `prolu-eval publish --to card` writes it


def discover(path: str | Path, encoder: str | None = None) -> list[Run | Broken]:
    """Every checkpoint in or below a folder, or the one at a file, in order of path.

    With an ``encoder`` (:class:`prolu_eval.checkpoints.atoms.Encoder`), these are plain
    dictionaries instead, whose codes the encoder computes.

    ``path`` may also be ``hub:owner/name[/subfolder][@revision]``, or ``saelens:RELEASE/SAE_ID`` or
    ``neuronpedia:MODEL/SOURCE`` of SAELens's table, or a pattern of these. The names of runs are
    paths relative to ``path``, or names of the table. Results of checkpoints on the hub are kept in
    :func:`prolu_eval.hub.results_folder`.

    A checkpoint that is recognised but cannot be described, or whose file is incomplete, is
    returned as :class:`Broken`, as is a folder that cannot be listed. Files that look like
    checkpoints and are passed over (:func:`skipped`) are warned of, in one line for each reason.

    Raises:
        CheckpointError: if ``path`` does not exist or holds no checkpoint.
        UsageError: if ``path`` is a name of SAELens's table and SAELens is not installed, or if it
            is no path.
    """
    path = path if hub.is_hub_name(path) else as_path(path, "the checkpoint")
    if encoder is not None and not hub.is_hub_name(path):
        return atoms.discover(Path(path), atoms.Encoder.parse(encoder))
    places = hub.places(path)
    found = [item for place in places for item in _found_at(place)]
    return doubted(found, path, places[0].path) if str(path).startswith(hub.PREFIX) else found


def discover_all(paths: Sequence[str | Path], encoder: str | None = None) -> list[Run | Broken]:
    """Every checkpoint of one or several paths, each of which :func:`discover` takes.

    Of several, names bear besides what tells their paths apart (:mod:`prolu_eval.run_names`). What
    is named twice is found once.

    Raises:
        CheckpointError, UsageError: as :func:`discover`, of any path.
    """
    distinct: dict[Path, Path] = {}
    for path in as_paths(paths, "the checkpoints"):
        distinct.setdefault(path if hub.is_hub_name(path) else path.resolve(), path)
    found = {place: discover(path, encoder) for place, path in distinct.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    roots = {
        place: items[0].path.resolve() if place.is_file() else place
        for place, items in found.items()
    }
    titles = folder_titles(list(roots.values()))
    by_name: dict[str, Run | Broken] = {}  # what several names on the hub mean is found once
    for place, items in found.items():
        title = titles[roots[place]]
        for item in items:
            if hub.is_hub_name(place):
                name = name_among(title, item.name.removeprefix(f"{title}/"))
            else:
                itself = item.path.resolve() == roots[place]
                name = name_among(title, item.name, itself=itself)
            by_name[name] = replace(item, name=name)
    return list(by_name.values())


def _found_at(place: hub.Place) -> list[Run | Broken]:
    root = place.path
    if not root.exists():
        raise CheckpointError(root, "does not exist", _meant(root))
    searched = _Searched.of(root)
    found = [item for at, fmt in searched.places for item in _described(at, fmt, root)]
    if place.results is not None:
        found = [_kept_at(item, place.results, root) for item in found]
    found += [_closed(error, root) for error in searched.closed]
    if not found:
        if next(result_files([root]), None):
            remedy = "show them with `prolu-eval report`, or name the folder of the checkpoints"
            raise CheckpointError(root, "holds results, but no checkpoint", remedy)
        raise CheckpointError(root, _nothing_in(root, searched), _instead_of(root))
    for reason, places in _by_reason(searched.unexpected()).items():
        named = passed_over.some([printable(path) for path in places])
        logging.getLogger(__name__).warning("%s skipped: %s.", named, reason)
    if place.entry is not None:
        return [overridden(item, place.entry) for item in found]
    return found


def _meant(path: Path) -> str:
    """What to name in the place of a path that is not there."""
    remedy = "name a folder of runs"
    web = re.match(r"https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/(.+)", str(path))
    if web is not None:
        return f"write {hub.PREFIX}{web[1].replace('/tree/main', '')}, or {remedy}"
    if path.suffix in _PRINTED:
        return f"{remedy}, and write `> {path}` to have what is printed in a file"
    if _HUB_NAME.fullmatch(str(path)) and not path.parent.exists():
        return f"{remedy}, or write {hub.PREFIX}{path} if it is on the Hugging Face hub"
    return remedy


def _instead_of(root: Path) -> str:
    """What to name in the place of a path that holds no checkpoint."""
    if root.suffix == ".toml" and root.is_file():
        return f"train its runs with `prolu-eval sweep {root}`, and name their folder"
    if root.is_file() and passed_over.why(root, ()) is None:
        return "leave it out, or name a folder of runs"
    return f"name a folder of runs in one of these formats: {', '.join(FORMATS)}"


@dataclass(frozen=True)
class _Searched:
    """What there is in and below a root.

    Attributes:
        root: a folder, or a file.
        folders: each folder, with the names of its folders and of its files.
        places: the checkpoints, by their format.
        closed: why folders could not be listed.
    """

    root: Path
    folders: list[tuple[Path, list[str], frozenset[str]]]
    places: list[tuple[Path, Format]]
    closed: list[OSError]

    @classmethod
    def of(cls, root: Path) -> "_Searched":
        closed: list[OSError] = []
        folders: list[tuple[Path, list[str], frozenset[str]]] = []
        if root.is_file():
            folders.append((root.parent, [], frozenset(e.name for e in root.parent.iterdir())))
        for folder, subfolders, files in () if folders else os.walk(root, onerror=closed.append):
            folders.append((Path(folder), sorted(subfolders), frozenset(files)))
            subfolders[:] = sorted(name for name in subfolders if name != FOLDER)
        places = [
            (place, fmt)
            for folder, _, files in folders
            for fmt in FORMATS.values()
            for place in fmt.find(folder, files)
            if not root.is_file() or root in (place, *fmt.files(place))
        ]
        return cls(root, folders, places, closed)

    def passed_over(self) -> Iterator[tuple[Path, str]]:
        """Files of weights that belong to no checkpoint, and whatever else is not searched."""
        if self.root.is_file():
            return
        read = {file for place, fmt in self.places for file in fmt.files(place)}
        whole = {place: fmt.name for place, fmt in self.places}
        for folder, subfolders, files in self.folders:
            for path in (folder / name for name in subfolders):
                if path.is_symlink():
                    yield path, passed_over.LINKED
                elif path.name == FOLDER and _Searched.of(path).places:
                    yield path, passed_over.HIDDEN
            for path in (folder / name for name in sorted(files)):
                if path in read:
                    continue
                if folder in whole:
                    reason = passed_over.why_beside(path, whole[folder])
                else:
                    reason = passed_over.why(path, files)
                if reason is not None:
                    yield path, reason

    def unexpected(self) -> list[tuple[Path, str]]:
        """Of these, what may be taken for a checkpoint, in order of path."""
        names = {folder: files for folder, _, files in self.folders}
        return sorted(
            (path, reason)
            for path, reason in self.passed_over()
            if not passed_over.is_expected(path.name, names[path.parent])
            and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
        )


def skipped(path: str | Path) -> list[tuple[Path, str]]:
    """What :func:`discover` passes over in or below a folder, and why, in order of path.

    These are files of weights that belong to no checkpoint (damaged ones, those of unknown formats
    and those without a configuration), configurations without weights, links to folders, and
    checkpoints among results. Left out is what nobody takes for a checkpoint, such as the state of
    an optimiser.
    """
    return [item for place in hub.places(path) for item in _Searched.of(place.path).unexpected()]


def files_of_runs(root: Path) -> set[Path]:
    """The files in and below a folder that belong to runs of any format; of a file, itself if so.

    These are what their checkpoints are read from, whatever else lies in their folders, results and
    model cards.
    """
    searched = _Searched.of(root)
    own = {file for place, fmt in searched.places for file in fmt.files(place)}
    for place, _ in searched.places:
        own |= {path for path in place.iterdir() if path.is_file()} if place.is_dir() else set()
        own |= {parent / _CARD for parent in place.parents if root in (parent, *parent.parents)}
    if root.is_dir() or root.parent.name == FOLDER:
        for file in result_files([root if root.is_dir() else root.parent]):
            own |= {file, file.with_suffix(".safetensors")}
    return own if root.is_dir() else own & {root}


def _by_reason(passed: Iterable[tuple[Path, str]]) -> dict[str, list[Path]]:
    by_reason: dict[str, list[Path]] = {}
    for place, reason in passed:
        by_reason.setdefault(reason, []).append(place)
    return by_reason


def _nothing_in(root: Path, searched: _Searched) -> str:
    """The predicate that a path holds no checkpoint, with all known reasons."""
    if root.is_file():
        reason = passed_over.why(root, [p.name for p in root.parent.iterdir()])
        return f"is no checkpoint: {reason or 'it is no file of weights'}"
    by_reason = _by_reason(sorted(searched.passed_over()))
    reasons = [
        f"{passed_over.some([place.relative_to(root).as_posix() for place in places])}: {reason}"
        for reason, places in by_reason.items()
    ]
    return f"holds no checkpoint ({'; '.join(reasons)})" if reasons else "holds no checkpoint"


def _kept_at(item: Run | Broken, results: Path, root: Path) -> Run | Broken:
    if isinstance(item, Broken):
        return item
    within = Path() if root.is_file() else item.folder.relative_to(root)
    return replace(item, results=results / within)


def _closed(error: OSError, root: Path) -> Broken:
    folder = Path(error.filename)
    name = name_below(root, folder)
    reason = f"cannot be listed ({error.strerror})"
    return Broken(name, folder, CheckpointError(folder, reason, "make it readable"))


def _described(place: Path, fmt: Format, root: Path) -> list[Run | Broken]:
    name = name_below(root, place)
    try:
        _check_name(place)
        _check_links(fmt.files(place), root)
        runs = fmt.describe(place)
        for file in fmt.files(place):
            if file.suffix == ".safetensors":
                check_safetensors(file)
    except ProluEvalError as error:
        return [Broken(name, place, error)]
    return [
        replace(r, name=name if r.part is None else f"{name}:{printable(r.part)}") for r in runs
    ]


def _check_name(place: Path) -> None:
    try:
        str(place).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            place, "has a name that is no UTF-8, which results cannot hold", "rename it"
        ) from None


def _check_links(files: Iterable[Path], root: Path) -> None:
    """Refuse links that lead out of the searched folder (or out of the hub cache around it)."""
    top = root.resolve() if root.is_dir() else root.parent.resolve()
    allowed = [top, *(p.parent / "blobs" for p in (top, *top.parents) if p.name == "snapshots")]
    for file in filter(Path.is_symlink, files):
        try:
            inside = any(file.resolve().is_relative_to(a) for a in allowed)
        except (OSError, RuntimeError):  # a link to itself
            inside = False
        if not inside:
            raise CheckpointError(
                file, "is a link out of the folder", "replace it by a copy of the file"
            )


def load_run(run: Run) -> SparseAutoencoder:
    """The autoencoder of a run that :func:`discover` found.

    Raises:
        CheckpointError: if its files are damaged or do not fit together.
    """
    if run.loader is not None:
        sae: SparseAutoencoder = run.loader(run)
        return sae
    return FORMATS[run.format].load(run)


def load_sae(path: str | Path) -> SparseAutoencoder:
    """The one autoencoder at a path, of any format, on the CPU and ready for evaluation.

    ``load_sae(path)(x)`` maps activations to reconstructions in the model's units, both
    [..., d_in]; the result of a transcoder is [..., d_out].

    Raises:
        CheckpointError: if there is no autoencoder or more than one, or if it is damaged.
    """
    found = discover(path)
    if len(found) > 1:
        names = ", ".join(item.name for item in found[:3])
        raise CheckpointError(
            path, f"holds {len(found)} checkpoints ({names}, ...)", "name one of them"
        )
    if isinstance(found[0], Broken):
        raise found[0].cause
    return load_run(found[0])
