"""The contents of a stored result: the JSON document, and the arrays in the file beside it."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation, model_validator

from prolu_eval.estimates import Estimate, bounded
from prolu_eval.json_text import canonical
from prolu_eval.plain_text import printable
from prolu_eval.results.arrays import Array, StoredArrays
from prolu_eval.runs import ChanceKind

SCHEMA_VERSION = 3
# 3: runs dropped from a race (2026-11)
# 2: the options of a run's variant (2026-11)
# 1: first version (2026-11)

PER_SEQUENCE, PER_FEATURE, RESPONSE = "per_sequence/", "per_feature/", "response/"
# How the names of the standard errors of tasks' own values end, over the examples of each.
OF_TASK_ERROR = "_error"
EXAMPLE, TRUTH, PER_LAYER, PER_TASK = "example/", "truth/", "per_layer/", "per_task/"

Line = Annotated[str, AfterValidator(printable)]  # shown in tables, where it must be one line


# Settings of training that do not belong to its configuration: the seed of the data, and the file
# that a checkpoint was converted from.
_NO_CONFIGURATION = {"data_seed", "converted_from"}


class RunSummary(BaseModel):
    """What identifies a run in tables and figures.

    ``options`` are the settings of the run's variant, such as ``k``; None where a file of an
    earlier version does not have them. ``chance`` is the kind of chance baseline, if the run is
    one: such runs are shown for comparison, and are not ranked. ``hook_out`` and ``d_out`` are a
    transcoder's output site and its width; None for an autoencoder, which has only one site.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line
    path: str
    format: Line
    variant: Line
    label: Line
    d_in: int
    d_sae: int
    d_out: int | None = None
    hook: Line
    hook_out: Line | None = None
    penalty: Line | None = None
    coefficient: float | None = None
    learning_rate: float | None = None
    seed: int | None = None
    chance: ChanceKind | None = None
    options: dict[str, Any] | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _options_of_its_config(cls, document: Any) -> Any:
        """Take the options of a native run from its own configuration if the document has none."""
        if isinstance(document, dict) and document.get("options") is None:
            options = _native_config(document).get("options")
            return {**document, "options": options} if isinstance(options, dict) else document
        return document

    @property
    def not_converged(self) -> str | None:
        """The reason why training is considered unfinished; None if it is finished or unknown."""
        own = _native_config({"format": self.format, "provenance": self.provenance})
        reason: str | None = own.get("not_converged")
        return reason

    @property
    def trained_with(self) -> str | None:
        """Versions, device and precision of its training in words; None if nothing is known."""
        own = _native_config({"format": self.format, "provenance": self.provenance})
        return "; then ".join(map(_in_words, own.get("environments") or [])) or None

    @property
    def site(self) -> str:
        """The hook point whose activation the run reconstructs, and where it is spliced in."""
        return self.hook_out or self.hook

    @property
    def k(self) -> float | None:
        """The option ``k``, the number of active features; None for variants without it."""
        k = (self.options or {}).get("k")
        return k if isinstance(k, int | float) else None

    @property
    def configuration(self) -> dict[str, Any]:
        """Every known option that the run was trained with, except the seed.

        Runs with equal configurations differ in nothing but the seed. The run's name and path do
        not belong to its configuration. Options of the variant are named ``options.NAME``, other
        training settings of a native run ``training.NAME``.
        """
        config = _native_config({"format": self.format, "provenance": self.provenance})
        told = {name: config[name] for name in _OF_CONFIG if name in config}
        training = told | (config.get("training") or {})
        parts = {
            **{name: getattr(self, name) for name in _OF_SUMMARY},
            **{f"options.{name}": value for name, value in (self.options or {}).items()},
            **{
                f"training.{name}": value
                for name, value in training.items()
                if name not in _NO_CONFIGURATION
            },
        }
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def is_repeatable(self) -> bool:
        """Whether enough is known to tell another seed from another configuration.

        The seed must be known, and what sets the sparsity: a coefficient or k.
        """
        return self.seed is not None and (self.coefficient is not None or self.k is not None)


def _in_words(environment: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in environment.items() if v is not None)


_OF_SUMMARY = (
    "variant", "label", "format", "hook", "hook_out", "d_in", "d_out", "d_sae", "penalty",
    "coefficient", "learning_rate",
)  # fmt: skip
_OF_CONFIG = ("normalisation", "apply_b_dec_to_input", "dataset", "context_length", "tokens_seen")


def _native_config(run: Mapping[str, Any]) -> dict[str, Any]:
    provenance = run.get("provenance")
    config = provenance.get("config") if isinstance(provenance, dict) else None
    return config if run.get("format") == "native" and isinstance(config, dict) else {}


# The fields of a setting in which comparable results may differ, and why they do not matter.
NOT_COMPARED = {
    "model": "the model's name or path; model_fingerprint identifies its content",
    "tokens": "the text's name or path; tokens_fingerprint identifies its content",
    "dtype_reason": "why the precision was chosen; dtype is the precision",
    "n_counted": "follows from the tokens, the context length and special_tokens",
}


# The fields of a setting that identify the sequences.
OF_SEQUENCES = frozenset({"tokens_fingerprint", "n_sequences"})


class Setting(BaseModel):
    """The model, the tokens and the options that a run was evaluated with.

    Results are comparable, and paired by sequence, if their settings agree in every field except
    those of :data:`NOT_COMPARED`, and their output sites agree too (:meth:`Result.comparison_key`).
    Comparability is defined here and nowhere else. ``dtype_reason`` says why a precision was chosen
    if the user did not name one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Line
    model_fingerprint: str
    tokens: Line
    tokens_fingerprint: str
    n_sequences: int
    context_length: int
    n_counted: int
    special_tokens: Literal["exclude", "include"]
    dtype: str
    metric_version: int
    prepend_bos: bool = True
    packing: Literal["concatenate", "separate"] = "concatenate"
    weight_processing: Literal["none", "processed"] = "none"
    dtype_reason: Line | None = None

    def comparison_key(self) -> str:
        """A key that is equal for two settings exactly if results can be compared. 16 hex digits"""
        return _comparison_key(self)

    def differences(self, other: "Setting") -> list[str]:
        """The names of the fields that make results with two settings incomparable."""
        return [
            name
            for name in type(self).model_fields
            if name not in NOT_COMPARED and getattr(self, name) != getattr(other, name)
        ]


@lru_cache(maxsize=1024)
def _comparison_key(setting: Setting, site: str | None = None) -> str:
    """The comparison key of a setting alone, or of results at a site. Many results ask for it."""
    if site is not None:
        return _digest({"hook": site, "setting": _comparison_key(setting)})
    return _digest(setting.model_dump(mode="json", exclude=set(NOT_COMPARED)))


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(document).encode()).hexdigest()[:16]


class TaskSet(BaseModel):
    """The tasks that a run was measured on besides the text: probing tasks, or templated ones.

    Attributes:
        fingerprint: equal if the tasks that count, and their examples, are the same; results are
            then paired by task.
        source: where the tasks come from.
        tasks: the tasks that count, in the order of the arrays.
        tried: how well the language model itself does on each task that was tried: the AUC of the
            probe on its activations, or its accuracy.
        skipped: the tasks that could not be tried, each with the reason.
        k: the numbers of latents that probes use; empty for templated tasks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    source: Line
    tasks: tuple[Line, ...]
    tried: dict[Line, float]
    skipped: dict[Line, Line] = Field(default_factory=dict)
    k: tuple[int, ...] = ()


class Dropped(BaseModel):
    """Why a run was measured on the first tokens only: another run beat it in a race.

    ``evaluation`` is the comparison key of the race on all of its tokens, which the results of runs
    that were not dropped have. ``objectives`` are the objectives of the race. ``beaten_by`` is the
    run that is better in every objective, at ``confidence`` for all runs together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation: str
    objectives: tuple[str, ...]
    beaten_by: Line
    confidence: float


class Result(BaseModel):
    """The result of one evaluated run: the JSON document, and the arrays in the file beside it.

    ``checkpoint`` has the digests of the run's files at the time of the evaluation
    (:func:`~prolu_eval.results.file_digests`). ``tasks`` are the tasks that the run was measured
    on, by kind (``probes``, ``behaviour``). ``dropped`` is set if the run left a race early.
    ``file`` is the JSON file that the result was read from, if it was read, and ``folder`` the name
    of its folder if several folders are compared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    checkpoint: dict[str, str] = Field(default_factory=dict)
    run: RunSummary
    setting: Setting
    metrics: dict[str, Estimate]
    tasks: dict[str, TaskSet] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    dropped: Dropped | None = None
    arrays: SkipValidation[Mapping[str, Array]] = Field(default_factory=dict, exclude=True)
    file: Path | None = Field(default=None, exclude=True)
    folder: str = Field(default="", exclude=True)

    def comparison_key(self) -> str:
        """A key that is equal for two results exactly if they can share a frontier. 16 hex digits

        A transcoder can share a frontier with an autoencoder of its output site, because both
        reconstruct the same activations.
        """
        return _comparison_key(self.setting, self.run.site)

    def evaluation(self) -> str:
        """The comparison key of the evaluation that the result belongs to. 16 hex digits

        It is the result's own key, or that of the race that its run was dropped from.
        """
        return self.comparison_key() if self.dropped is None else self.dropped.evaluation

    def differences(self, other: "Result") -> list[str]:
        """What makes two results incomparable: fields of their settings, and ``hook``."""
        hook = [] if self.run.site == other.run.site else ["hook"]
        return hook + self.setting.differences(other.setting)

    def same_units(self, other: "Result", over: str) -> bool:
        """Whether two results have the same sequences, or tasks, in the same order."""
        if over == "sequences":
            return OF_SEQUENCES.isdisjoint(self.differences(other))
        own, others = self.tasks.get(over), other.tasks.get(over)
        return own is not None and others is not None and own.fingerprint == others.fingerprint

    @property
    def measured_with(self) -> str:
        """Versions and hardware of its measurement in words; nothing if nothing is known."""
        return _in_words(self.environment)

    def sums(self, over: str) -> dict[str, Array]:
        """By column, the sums of each sequence, or of each task of a kind. [n] each, float64"""
        if over == "sequences":
            return self.per_sequence()
        return _under(self.arrays, f"{PER_TASK}{over}/")

    def per_task(self, over: str) -> dict[str, dict[str, Estimate]]:
        """What was measured on each task of a kind, by task and column.

        Standard errors are over the examples of that task, and intervals, which end at 0 and 1,
        about 95 %: they say how sure the value of this one task is. None of what stored none.
        """
        sums = self.sums(over)
        found: dict[str, dict[str, Estimate]] = {}
        for i, task in enumerate(self.tasks[over].tasks):
            found[task] = {
                column: bounded(float(values[i]), float(sums[column + OF_TASK_ERROR][i]))
                for column, values in sums.items()
                if column + OF_TASK_ERROR in sums
            }
        return found

    def per_sequence(self) -> dict[str, Array]:
        """Per-sequence sums by column. [n_sequences] each, float64"""
        return _under(self.arrays, PER_SEQUENCE)

    def per_feature(self) -> dict[str, Array]:
        """Per-feature arrays by name. [d_sae] each"""
        return _under(self.arrays, PER_FEATURE)

    def per_layer(self) -> dict[str, Array]:
        """Arrays by name of a run that covers several layers, [n_layers] each; else empty."""
        return _under(self.arrays, PER_LAYER)

    def response(self) -> dict[str, Array]:
        """Response curves of some features (:mod:`prolu_eval.evaluation.scale_consistency`)."""
        return _under(self.arrays, RESPONSE)

    def truth(self) -> dict[str, Array]:
        """Arrays about a benchmark's known features (:mod:`prolu_eval.evaluation.truth`)."""
        return _under(self.arrays, TRUTH)

    def examples(self) -> dict[str, Array]:
        """The arrays that :class:`prolu_eval.results.Examples` reads; empty without examples."""
        return _under(self.arrays, EXAMPLE)


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    if isinstance(arrays, StoredArrays):
        arrays = arrays.under(prefix)
    return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
