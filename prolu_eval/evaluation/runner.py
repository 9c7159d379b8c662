"""From folders of runs to stored results: grouping, what is measured already, and what fails."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prolu_eval.checkpoints import discover, load_run
from prolu_eval.errors import CheckpointError, ProluEvalError, ResultsError, UsageError
from prolu_eval.evaluation.engine import Engine, Measurement
from prolu_eval.evaluation.features import weight_arrays, weight_scalars
from prolu_eval.evaluation.options import DEFAULT_CONTEXT, Options, Outcome
from prolu_eval.lm import LanguageModel
from prolu_eval.metrics import METRIC_VERSION, METRICS
from prolu_eval.results import (
    FOLDER,
    PER_FEATURE,
    PER_SEQUENCE,
    Result,
    RunSummary,
    Setting,
    file_digests,
    read_result,
    write_result,
)
from prolu_eval.runs import Broken, Run
from prolu_eval.statistics import estimate
from prolu_eval.tokens import Split, TokenRows, load_tokens

# Weights of autoencoders that are held at once; more runs than fit share further clean passes.
_WEIGHT_BYTES = 1 << 30


@dataclass(frozen=True, order=True)
class _Group:
    """What runs must share to be measured together: one model, one hook, the same tokens."""

    model: str
    revision: str
    tokens: str
    split: Split
    context_length: int
    prepend_bos: bool
    hook: str


@dataclass(frozen=True)
class _Identity:
    """What a measurement is of: the digests of a run's files, and the fingerprint of it all."""

    checkpoint: dict[str, str]
    fingerprint: str


def evaluate(
    paths: str | Path | Sequence[str | Path],
    options: Options | None = None,
    *,
    progress: bool = False,
    on_outcome: Callable[[Outcome], Any] = lambda _: None,
) -> list[Outcome]:
    """Evaluate every run in folders, or take its stored result, and store what is measured.

    Args:
        paths: a folder of runs, a single checkpoint, or several of either.
        options: how to evaluate.
        progress: whether to show a bar on stderr.
        on_outcome: called with each outcome as soon as there is one.

    Returns:
        One outcome per checkpoint found, in the order found; a run that cannot be loaded or
        measured is ``failed`` with its reason and does not stop the others.

    Raises:
        CheckpointError: if a path holds no checkpoint at all.
        ModelError, TokensError, EvaluationError: if every run failed for that reason.
        ResultsError: if results cannot be written.
    """
    options = options or Options()
    roots = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    found = _discover(roots)
    outcomes: dict[str, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        on_outcome(outcome)

    runs: list[Run] = []
    for item in found:
        if isinstance(item, Broken):
            settle(Outcome(item.name, item.path, "failed", error=item.error))
        else:
            runs.append(item)
    session = _Session(options, progress, settle)
    for group, members in _grouped(runs, options, settle):
        try:
            session.evaluate(group, members)
        except ResultsError:
            raise
        except ProluEvalError as error:
            for run in members:
                if run.name not in outcomes:
                    settle(_failed(run, error))
    return [outcomes[item.name] for item in found]


def _discover(roots: list[Path]) -> list[Run | Broken]:
    if len(roots) == 1:
        return discover(roots[0])
    return [
        replace(item, name=f"{root.name}/{item.name}") for root in roots for item in discover(root)
    ]


def _failed(run: Run, error: ProluEvalError) -> Outcome:
    return Outcome(run.name, run.path, "failed", run.variant, run.format, error=str(error))


def _grouped(
    runs: Iterable[Run], options: Options, settle: Callable[[Outcome], None]
) -> Iterator[tuple[_Group, list[Run]]]:
    placed: list[tuple[_Group, Run]] = []
    for run in runs:
        try:
            placed.append((_group_of(run, options), run))
        except UsageError as error:
            settle(_failed(run, error))
    placed.sort(key=lambda pair: pair[0])
    for group, members in groupby(placed, key=lambda pair: pair[0]):
        yield group, [run for _, run in members]


def _group_of(run: Run, options: Options) -> _Group:
    needs = {
        "model": options.model or run.model,
        "hook": options.hook or run.hook,
        "tokens": options.tokens or run.dataset,
    }
    for what, value in needs.items():
        if value is None:
            raise UsageError(run.path, f"does not say its {what}", f"pass --{what}")
    prepend_bos = run.prepend_bos if options.prepend_bos is None else options.prepend_bos
    return _Group(
        model=str(needs["model"]),
        revision=(None if options.model else run.model_revision) or "",
        tokens=str(needs["tokens"]),
        split=options.split or ("all" if options.tokens else "heldout"),
        context_length=options.context_length or run.context_length or DEFAULT_CONTEXT,
        prepend_bos=prepend_bos,
        hook=str(needs["hook"]),
    )


class _Session:
    """Evaluates groups one after another; the last model and tokens are kept for the next group."""

    def __init__(self, options: Options, progress: bool, settle: Callable[[Outcome], None]) -> None:
        self._options, self._progress, self._settle = options, progress, settle
        self._model: tuple[tuple[str, str], LanguageModel] | None = None

    def _load_model(self, group: _Group) -> LanguageModel:
        key = group.model, group.revision
        if self._model is None or self._model[0] != key:
            model = LanguageModel.load(
                group.model,
                device=self._options.device,
                dtype=getattr(torch, self._options.dtype),
                revision=group.revision or None,
            )
            self._model = key, model
        return self._model[1]

    def evaluate(self, group: _Group, runs: list[Run]) -> None:
        model = self._load_model(group)
        model.site(group.hook)
        tokens = load_tokens(
            group.tokens,
            model,
            split=group.split,
            n_tokens=self._options.n_tokens,
            context_length=group.context_length,
            prepend_bos=group.prepend_bos,
            include_special=self._options.special_tokens == "include",
        )
        setting = self._setting(model, tokens)
        missing: dict[str, tuple[Run, _Identity]] = {}
        known: Result | None = None
        for run in runs:
            identity = _identity(run, group.hook, setting)
            stored = self._folder(run) / f"{identity.fingerprint}.json"
            if stored.exists() and (result := _usable(stored)) is not None:
                known = result
                self._settle(_outcome(run, "cached", result))
            else:
                missing[run.name] = run, identity
        if missing:
            self._measure(group, model, tokens, setting, missing, known)

    def _measure(
        self,
        group: _Group,
        model: LanguageModel,
        tokens: TokenRows,
        setting: Setting,
        missing: dict[str, tuple[Run, _Identity]],
        known: Result | None,
    ) -> None:
        with tqdm(
            desc=group.hook, unit="pass", disable=None if self._progress else True, leave=False
        ) as bar:
            engine = Engine(
                model, group.hook, tokens, batch_size=self._options.batch_size, progress=bar.update
            )
            bar.total = engine.n_batches * (len(missing) + (known is None))
            if known is not None:
                engine.remember_reference(known.per_sequence())
            for portion in _portions([run for run, _ in missing.values()]):
                saes = {}
                for run in portion:
                    try:
                        saes[run.name] = _load(run, model, group.hook)
                    except ProluEvalError as error:
                        self._settle(_failed(run, error))
                for name, measured in engine.measure(saes).items() if saes else ():
                    run, identity = missing[name]
                    if isinstance(measured, Measurement):
                        result = _result(run, group, setting, identity, measured)
                        write_result(result, self._folder(run))
                        self._settle(_outcome(run, "ok", result))
                    else:
                        self._settle(_failed(run, measured))

    def _folder(self, run: Run) -> Path:
        if self._options.results is not None:
            return self._options.results / run.name
        return run.folder / FOLDER

    def _setting(self, model: LanguageModel, tokens: TokenRows) -> Setting:
        return Setting(
            model=model.name,
            model_fingerprint=model.fingerprint,
            tokens=tokens.source,
            tokens_fingerprint=tokens.fingerprint,
            n_sequences=len(tokens),
            context_length=tokens.ids.shape[1],
            n_counted=int(tokens.counted.sum()),
            special_tokens=self._options.special_tokens,
            dtype=self._options.dtype,
            metric_version=METRIC_VERSION,
        )


def _load(run: Run, model: LanguageModel, hook: str) -> Any:
    sae = load_run(run)
    if (width := model.width(hook)) != sae.d_in:
        raise CheckpointError(
            run.path,
            f"takes activations of width {sae.d_in}, but {hook} of {model.name} has {width}",
            "name the model and the hook that it was trained on",
        )
    return sae


def _portions(runs: list[Run]) -> Iterator[list[Run]]:
    """Runs in portions whose weights fit in memory together."""
    portion: list[Run] = []
    size = 0
    for run in runs:
        weights = 8 * run.d_in * run.d_sae
        if portion and size + weights > _WEIGHT_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(run)
        size += weights
    if portion:
        yield portion


def _usable(path: Path) -> Result | None:
    """A stored result, or None if it is damaged and has to be measured again."""
    try:
        return read_result(path)
    except ResultsError:
        return None


def _outcome(run: Run, status: Any, result: Result) -> Outcome:
    return Outcome(run.name, run.path, status, run.variant, run.format, result)


def _identity(run: Run, hook: str, setting: Setting) -> _Identity:
    """What decides a measurement: the checkpoint's bytes, its place, and the setting."""
    checkpoint = file_digests(run.files, run.folder)
    names = {"model", "tokens"}  # where they lie does not matter, what is in them does
    parts = (*checkpoint.values(), run.part, hook, setting.model_dump_json(exclude=names))
    digest = hashlib.sha256(" ".join(map(str, parts)).encode())
    return _Identity(checkpoint, digest.hexdigest()[:32])


def _result(
    run: Run, group: _Group, setting: Setting, identity: _Identity, measured: Measurement
) -> Result:
    features, sae = measured.autoencoding.features, measured.autoencoding.sae
    scalars = features.scalars() | weight_scalars(sae)
    arrays = features.arrays() | weight_arrays(sae)
    return Result(
        fingerprint=identity.fingerprint,
        checkpoint=identity.checkpoint,
        run=RunSummary(
            name=run.name,
            path=str(run.path),
            format=run.format,
            variant=run.variant,
            label=run.label,
            d_in=run.d_in,
            d_sae=run.d_sae,
            hook=group.hook,
            penalty=run.penalty,
            coefficient=run.coefficient,
            learning_rate=run.learning_rate,
            seed=run.seed,
            provenance=run.provenance,
        ),
        setting=setting,
        metrics={
            key: scalars[key] if key in scalars else estimate(metric, measured.sums)
            for key, metric in METRICS.items()
        },
        environment=environment(),
        arrays={PER_SEQUENCE + name: values for name, values in measured.sums.items()}
        | {PER_FEATURE + name: values for name, values in arrays.items()},
    )


def environment() -> dict[str, Any]:
    """Versions and hardware that a measurement ran on."""
    packages = ("prolu-eval", "torch", "transformer-lens", "transformers")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{name: importlib.metadata.version(name) for name in packages},
    }
