"""Evaluating groups of runs: what is stored already, what has to be measured, and for how long."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Any, Literal

import torch
from tqdm import tqdm

from prolu_eval.checkpoints import load_run
from prolu_eval.errors import CheckpointError, ProluEvalError
from prolu_eval.estimates import Estimate
from prolu_eval.evaluation import scale_consistency
from prolu_eval.evaluation.assembly import Identity, fingerprint, result_of, setting_of
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.grouping import Group
from prolu_eval.evaluation.measuring import Home, measure
from prolu_eval.evaluation.options import Options, Outcome
from prolu_eval.evaluation.parts import shards
from prolu_eval.evaluation.reference import reference
from prolu_eval.evaluation.sums import Sums
from prolu_eval.intervals import estimate
from prolu_eval.lm import LanguageModel
from prolu_eval.metrics import METRICS
from prolu_eval.results import FOLDER, Result, Setting, file_digests
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows, check_source, load_tokens, warn_of_foreign_ids

Settle = Callable[[Outcome], None]
# Shards that the search for enough tokens begins with, and by how much it overshoots its estimate.
_FIRST_SHARDS, _MARGIN = 2, 1.1


def failed(run: Run, error: ProluEvalError) -> Outcome:
    """The outcome of a run that could not be evaluated."""
    return Outcome(run.name, run.path, "failed", run.variant, run.format, error=str(error))


@dataclass(frozen=True)
class _Work:
    """A group to evaluate: its engine, its tokens in shards, and the setting on the first of them.

    ``settings`` has the numbers of shards that may be asked for.
    """

    group: Group
    engine: Engine
    shards: Sequence[range]
    settings: Mapping[int, Setting]


class Session:
    """Evaluates groups one after another; the last model is kept for the next group."""

    def __init__(self, options: Options, progress: bool, settle: Settle) -> None:
        self._options, self._progress, self._settle = options, progress, settle
        self._model: tuple[tuple[str, ...], LanguageModel] | None = None

    def evaluate(self, group: Group, runs: Sequence[Run]) -> None:
        """Evaluate the runs of a group, and settle each."""
        check_source(group.tokens, group.text_column or None, "name text with --tokens")
        model = self._load_model(group)
        model.site(group.hook)
        tokens = self._load_tokens(group, model)
        per_shard = self._options.shard_tokens // tokens.ids.shape[1]
        cut = shards(len(tokens), per_shard)
        asked = range(1, len(cut) + 1) if self._options.target_se else [len(cut)]
        settings = {
            n: setting_of(group, self._options, model, tokens.first(cut[n - 1].stop)) for n in asked
        }
        with tqdm(
            desc=group.hook, unit="row", disable=None if self._progress else True, leave=False
        ) as bar:
            engine = Engine(
                model,
                group.hook,
                tokens,
                batch_size=self._options.batch_size,
                compiled=self._options.compile,
                progress=bar.update,
            )
            work = _Work(group, engine, cut, settings)
            homes = [self._home(run, work) for run in runs]
            bar.total = len(tokens) * (len(homes) + 2)
            n = len(cut)
            if self._options.target_se:
                n, homes = self._enough(work, homes, bar)
            self._evaluate_on(work, n, homes, bar)

    def _evaluate_on(self, work: _Work, n: int, homes: Sequence[Home], bar: "tqdm[Any]") -> None:
        """Settle runs by their results on the first ``n`` shards, measured where there are none."""
        missing = []
        for home in homes:
            if (result := home.result(n)) is not None:
                home.parts.remove()  # whoever stored the result may have been killed before that
                self._settle(_outcome(home.run, "cached", result))
            else:
                missing.append(home)
        if missing:
            sums = reference(work.engine, work.settings[n], work.shards[:n])
            engine = work.engine
            rows = engine.tokens.first(work.shards[n - 1].stop)
            if n_targets := sums["n_next"].sum():
                ce_clean = sums["ce_clean"].sum() / n_targets
                warn_of_foreign_ids(rows, engine.model.name, ce_clean)
            pairs = scale_consistency.sample(engine.model, engine.hook, rows)

            def conclude(home: Home, sae: SparseAutoencoder) -> None:
                with home.parts.whole():
                    outcome = self._conclude(work, n, home, sae, sums, pairs)
                if outcome.status != "partial":
                    home.parts.remove()
                self._settle(outcome)

            self._measure(work, missing, self._mine(work.shards[:n]), conclude, bar)

    def _conclude(
        self,
        work: _Work,
        n: int,
        home: Home,
        sae: SparseAutoencoder,
        sums: Sums,
        pairs: scale_consistency.Sample,
    ) -> Outcome:
        run = home.run
        if (stored := home.result(n)) is not None:  # another process was here first
            return _outcome(run, "ok", stored)
        measured = home.measured(work.shards[:n])
        if measured is None:
            return Outcome(run.name, run.path, "partial", run.variant, run.format)
        identity = Identity(home.checkpoint, home.fingerprints[n])
        result = result_of(run, sae, work.group, work.settings[n], identity, measured, sums, pairs)
        return _outcome(run, "ok", home.write(result, n))

    def _measure(
        self,
        work: _Work,
        homes: Sequence[Home],
        cut: Sequence[range],
        then: Callable[[Home, SparseAutoencoder], None],
        bar: "tqdm[Any]",
    ) -> None:
        measure(
            work.engine,
            homes,
            cut,
            load=lambda run: _load(run, work.engine.model, work.group.hook),
            fail=lambda run, error: self._settle(failed(run, error)),
            then=then,
            skipped=bar.update,
        )

    def _enough(self, work: _Work, homes: list[Home], bar: "tqdm[Any]") -> tuple[int, list[Home]]:
        """The number of shards on which every run reaches the standard errors asked for, or all.

        Beside it, the runs that can be measured at all.
        """
        targets, most = self._options.target_se, len(work.shards)
        n = min(_FIRST_SHARDS, most)
        while True:
            for known in work.settings:
                results = [home.result(known) for home in homes]
                if all(r is not None and excess(r.metrics, targets) <= 1 for r in results):
                    return known, homes
            homes = self._measurable(work, homes, work.shards[:n], bar)
            sums = reference(work.engine, work.settings[n], work.shards[:n])
            found = [self._excess(home, work.shards[:n], sums) for home in homes]
            if None in found:  # another process is done with a run, and has removed its parts
                done = (home.finished() for home in homes)
                return max((count for count in done if count is not None), default=n), homes
            worst = max((e for e in found if e is not None), default=0)
            if worst <= 1 or n == most:
                return n, homes
            n = min(most, max(n + 1, ceil(n * _MARGIN * worst**2))) if isfinite(worst) else n + 1

    def _measurable(
        self, work: _Work, homes: Sequence[Home], cut: Sequence[range], bar: "tqdm[Any]"
    ) -> list[Home]:
        """Measure runs on some shards; those with which that went well."""
        measured: list[Home] = []
        self._measure(work, homes, cut, lambda home, _: measured.append(home), bar)
        return measured

    def _excess(self, home: Home, cut: Sequence[range], sums: Sums) -> float | None:
        targets = self._options.target_se
        measured = home.measured(cut)
        if measured is None:
            return None
        found = {**sums, **measured.by_row}
        return excess({key: estimate(METRICS[key], found) for key in targets}, targets)

    def _mine(self, cut: Sequence[range]) -> Sequence[range]:
        if self._options.shard is None:
            return cut
        index, count = self._options.shard
        return cut[index::count]

    def _home(self, run: Run, work: _Work) -> Home:
        folder = run.results or run.folder / FOLDER
        if self._options.results is not None:
            folder = self._options.results / run.name
        checkpoint = file_digests(run.files, run.folder)
        names = {
            n: fingerprint(run, checkpoint, work.group.hook, setting)
            for n, setting in work.settings.items()
        }
        return Home.at(folder, run, checkpoint, names)

    def _load_model(self, group: Group) -> LanguageModel:
        key = group.model, group.revision, group.weight_processing
        if self._model is None or self._model[0] != key:
            self._model = None  # the last one's memory
            dtype = "float32" if self._options.dtype == "tf32" else self._options.dtype
            model = LanguageModel.load(
                group.model,
                device=self._options.device,
                device_map=self._options.device_map,
                dtype=getattr(torch, dtype),
                revision=group.revision or None,
                processed=group.weight_processing == "processed",
            )
            self._model = key, model
        return self._model[1]

    def _load_tokens(self, group: Group, model: LanguageModel) -> TokenRows:
        return load_tokens(
            group.tokens,
            model,
            split=group.split,
            n_tokens=self._options.n_tokens,
            context_length=group.context_length,
            prepend_bos=group.prepend_bos,
            packing=self._options.packing,
            include_special=self._options.special_tokens == "include",
            text_column=group.text_column or None,
        )


def _load(run: Run, model: LanguageModel, hook: str) -> SparseAutoencoder:
    sae = load_run(run)
    if (width := model.width(hook)) != sae.d_in:
        raise CheckpointError(
            run.path,
            f"takes activations of width {sae.d_in}, but {hook} of {model.name} has {width}",
            "name the model and the hook that it was trained on",
        )
    return sae


def _outcome(run: Run, status: Literal["ok", "cached"], result: Result) -> Outcome:
    return Outcome(run.name, run.path, status, run.variant, run.format, result)


def excess(found: Mapping[str, Estimate], targets: Mapping[str, float]) -> float:
    """The largest ratio of a standard error to what it is to be; infinite where there is none."""
    errors = {key: found[key].standard_error for key in targets}
    return max(inf if e is None else e / targets[key] for key, e in errors.items())
