"""Preparing the evaluation of runs: the model, the tokens in shards, and the setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from prolu_eval.choices import Dtype
from prolu_eval.errors import ModelError
from prolu_eval.evaluation.conditions import Conditions
from prolu_eval.evaluation.cross_layer import CrossLayerEngine
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.known import KnownFeatures
from prolu_eval.evaluation.measurer import Measurer
from prolu_eval.evaluation.model_pair import PairEngine
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.parts import looks, shards
from prolu_eval.evaluation.reference import reference
from prolu_eval.evaluation.sums import Sums
from prolu_eval.lm import ActivationSource, LanguageModel, ModelPair
from prolu_eval.metrics import METRIC_VERSION
from prolu_eval.results import Setting
from prolu_eval.runs import Run, hooks_in, is_of_two_models, is_range
from prolu_eval.synthetic import SyntheticActivations, is_synthetic
from prolu_eval.tokens import TokenRows, check_source, load_tokens


@dataclass(frozen=True)
class Precision:
    """The precision of model and autoencoders, and the reason if it was chosen automatically."""

    dtype: Dtype
    reason: str | None = None


@dataclass(frozen=True)
class Prepared:
    """Conditions, with all that is needed to measure runs under them.

    Attributes:
        conditions: the conditions.
        engine: the engine that measures, on all rows of the tokens.
        shards: the rows in portions that are measured and stored one by one.
        settings: the setting of a result, by its number of first shards, for all numbers that can
            be needed.
    """

    conditions: Conditions
    engine: Measurer
    shards: Sequence[range]
    settings: Mapping[int, Setting]
    _references: dict[int, Sums] = field(default_factory=dict)

    def reference(self, n_shards: int) -> Sums:
        """Sums of the clean and ablated passes over the first shards, measured once.

        Raises:
            EvaluationError: if the model's activations are not finite.
        """
        if n_shards not in self._references:
            shards = self.shards[:n_shards]
            self._references[n_shards] = reference(self.engine, self.settings[n_shards], shards)
        return self._references[n_shards]

    def refer_to(self, n_shards: int, sums: Sums) -> None:
        """Use the sums over the first shards that another process assembled."""
        self._references[n_shards] = sums


class Preparation:
    """Loads the model and tokens of conditions; the last model is kept for the next conditions.

    Args:
        options: how to evaluate.
        local_paths: by name, the paths of models and tokens that are stored elsewhere on this
            machine.
    """

    def __init__(
        self, options: EvaluationOptions, local_paths: Mapping[str, str] | None = None
    ) -> None:
        self._options = options
        self._local_paths = {} if local_paths is None else local_paths
        self._model: tuple[tuple[str, ...], LanguageModel] | None = None

    def prepare(
        self,
        conditions: Conditions,
        runs: Sequence[Run],
        precision: Precision,
        progress: Callable[[int], Any],
        *,
        first_shard: bool = False,
        rows: TokenRows | None = None,
    ) -> Prepared:
        """Load the model and the tokens.

        Args:
            conditions: the conditions to prepare.
            runs: the runs to measure; a transcoder whose input site cannot be read for its output
                site fails later, when it is loaded.
            precision: the precision of model and autoencoders.
            progress: a function that is called with the number of rows done since its last call;
                each autoencoder's pass over a row counts.
            first_shard: whether only the first shard will be measured.
            rows: the tokens' rows if they are known already; None to read the tokens.

        Raises:
            ModelError: if the model cannot be loaded or lacks the hook point.
            TokensError: if the tokens cannot be read or do not suit the model.
        """
        engine = (
            self._on_a_benchmark(conditions, precision, progress)
            if is_synthetic(conditions.model)
            else self._in_a_model(conditions, runs, precision, progress, rows)
        )
        options, tokens = self._options, engine.tokens
        cut = shards(len(tokens), options.shard_tokens // tokens.ids.shape[1])
        if first_shard:
            cut = cut[:1]
        asked = range(1, len(cut) + 1) if options.target_se else [len(cut)]
        if options.race:
            asked = [*looks(cut), len(cut)]
        settings = {
            n: self._setting(conditions, engine.model, precision, tokens.first(cut[n - 1].stop))
            for n in asked
        }
        return Prepared(conditions, engine, cut, settings)

    def _on_a_benchmark(
        self, conditions: Conditions, precision: Precision, progress: Callable[[int], Any]
    ) -> Measurer:
        options = self._options
        dtype = getattr(torch, "float32" if precision.dtype == "tf32" else precision.dtype)
        model = SyntheticActivations.load(conditions.model, device=options.device, dtype=dtype)
        return KnownFeatures(
            model,
            model.rows(conditions.split, options.n_tokens, conditions.context_length),
            batch_size=options.batch_size,
            n_examples=options.examples,
            progress=progress,
        )

    def _in_a_model(
        self,
        conditions: Conditions,
        runs: Sequence[Run],
        precision: Precision,
        progress: Callable[[int], Any],
        rows: TokenRows | None,
    ) -> Measurer:
        options = self._options
        if rows is None:
            column = conditions.text_column or None
            check_source(self._place(conditions.tokens), column, "name text with --tokens")
        model = self._load_model(conditions, precision.dtype)
        for hook in hooks_in(conditions.hook):
            model.site(hook)
        inputs = _inputs(model, conditions.hook, runs)
        kind = CrossLayerEngine if is_range(conditions.hook) else Engine
        if is_of_two_models(conditions.hook):
            kind = PairEngine
        return kind(
            model,
            conditions.hook,
            self._rows(conditions, model) if rows is None else rows,
            inputs=inputs,
            batch_size=options.batch_size,
            n_examples=options.examples,
            progress=progress,
        )

    def _rows(self, conditions: Conditions, model: LanguageModel) -> TokenRows:
        options = self._options
        rows = load_tokens(
            self._place(conditions.tokens),
            model,
            split=conditions.split,
            n_tokens=options.n_tokens,
            context_length=conditions.context_length,
            prepend_bos=conditions.prepend_bos,
            packing=options.packing,
            include_special=options.special_tokens == "include",
            text_column=conditions.text_column or None,
        )
        return replace(rows, source=conditions.tokens)

    def _place(self, name: str) -> str:
        return self._local_paths.get(name, name)

    def _load_model(self, conditions: Conditions, dtype: Dtype) -> LanguageModel:
        dtype = "float32" if dtype == "tf32" else dtype
        key = conditions.model, conditions.revision, conditions.weight_processing, dtype
        if self._model is None or self._model[0] != key:
            self._model = None  # frees the last model's memory
            load = partial(
                LanguageModel.load,
                device=self._options.device,
                device_map=self._options.device_map,
                dtype=getattr(torch, dtype),
                revision=conditions.revision or None,
                processed=conditions.weight_processing == "processed",
            )
            name = self._place(conditions.model)
            pair = is_of_two_models(conditions.hook)
            model = ModelPair.of(name, load) if pair else load(name)
            model.name = conditions.model
            self._model = key, model
        return self._model[1]

    def _setting(
        self,
        conditions: Conditions,
        model: ActivationSource,
        precision: Precision,
        tokens: TokenRows,
    ) -> Setting:
        return Setting(
            model=model.name,
            model_fingerprint=model.fingerprint,
            tokens=tokens.source,
            tokens_fingerprint=tokens.fingerprint,
            n_sequences=len(tokens),
            context_length=tokens.ids.shape[1],
            n_counted=int(tokens.counted.sum()),
            special_tokens=self._options.special_tokens,
            dtype=precision.dtype,
            dtype_reason=precision.reason,
            metric_version=METRIC_VERSION,
            prepend_bos=conditions.prepend_bos,
            packing=self._options.packing,
            weight_processing=conditions.weight_processing,
        )


def _inputs(model: LanguageModel, hook: str, runs: Sequence[Run]) -> dict[str, str]:
    """The input sites of the transcoders among runs, by run's name, if they can be read."""
    read: dict[str, bool] = {}
    for run in runs:
        if run.d_out is not None and run.hook is not None and run.hook not in read:
            sites, into = hooks_in(run.hook), hooks_in(hook)
            try:
                for site, put_in in zip(sites, into, strict=True):
                    model.source(site, put_in)
                read[run.hook] = True
            except (ModelError, ValueError):
                read[run.hook] = False
    return {r.name: r.hook for r in runs if r.d_out is not None and r.hook and read.get(r.hook)}
