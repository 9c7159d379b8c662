"""What a stored result holds: the JSON document, and the arrays beside it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation, model_validator
from safetensors import safe_open

from prolu_eval.estimates import Estimate
from prolu_eval.json_text import canonical
from prolu_eval.plain_text import printable
from prolu_eval.runs import ChanceKind

SCHEMA_VERSION = 3
# 3: what was dropped from a race (2026-11)
# 2: the options of a run's variant (2026-11)
# 1: first version (2026-11)

PER_SEQUENCE, PER_FEATURE, RESPONSE = "per_sequence/", "per_feature/", "response/"
EXAMPLE, TRUTH, PER_LAYER, PER_TASK = "example/", "truth/", "per_layer/", "per_task/"

Array = NDArray[Any]
Line = Annotated[str, AfterValidator(printable)]  # shown in tables and files of one line a run


# Settings of training that do not make it another one: seeds, and where a conversion came from.
_NO_CONFIGURATION = {"data_seed", "converted_from"}


class RunSummary(BaseModel):
    """What identifies a run in tables and figures.

    ``options`` are its variant's own settings, such as ``k``; None where a file of an earlier
    version does not tell. ``chance`` names the chance baseline that it is, if it is one: such a run
    is shown beside others, and not ranked among them. ``hook_out`` and ``d_out`` are a transcoder's
    output site and its width; None for an autoencoder, which has one site.
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
        """Take the options of a native run from its own configuration where none are named."""
        if isinstance(document, dict) and document.get("options") is None:
            options = _native_config(document).get("options")
            return {**document, "options": options} if isinstance(options, dict) else document
        return document

    @property
    def not_converged(self) -> str | None:
        """Why its training is called unfinished; None if it is not, or nothing is known."""
        own = _native_config({"format": self.format, "provenance": self.provenance})
        reason: str | None = own.get("not_converged")
        return reason

    @property
    def site(self) -> str:
        """The hook point at which its reconstruction is put in, and compared with what is there."""
        return self.hook_out or self.hook

    @property
    def k(self) -> float | None:
        """How many features a sweep over k lets be active, of a variant that has such an option."""
        k = (self.options or {}).get("k")
        return k if isinstance(k, int | float) else None

    @property
    def configuration(self) -> dict[str, Any]:
        """Every option that the run was trained with, as far as it is known, but the seed.

        Runs of equal configuration are repeats of one training if their seeds differ. What it is
        called and where it lies is no part of it. Options of the variant are ``options.NAME``,
        other settings of a native run's training ``training.NAME``.
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
        """Whether enough is known to tell a repeat with another seed from another configuration.

        That is the seed, and what sets the sparsity: a coefficient or k.
        """
        return self.seed is not None and (self.coefficient is not None or self.k is not None)


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
    "model": "what the model is called or where it lies; model_fingerprint says what is in it",
    "tokens": "what the text is called or where it lies; tokens_fingerprint says what is in it",
    "dtype_reason": "why the precision was chosen; dtype says which it is",
    "n_counted": "follows from the tokens, the context length and special_tokens",
}


# Those that say which sequences were measured on.
OF_SEQUENCES = frozenset({"tokens_fingerprint", "n_sequences"})


class Setting(BaseModel):
    """What was measured on.

    Results are comparable, and paired by sequence, if their settings agree in every field but
    those of :data:`NOT_COMPARED`, and their output sites too (:meth:`Result.comparison_key`). This
    is the only definition of it. ``dtype_reason`` says why a precision was chosen that nobody
    named.
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
        """Equal for settings on which results are comparable, and for no others. 16 hex digits"""
        return _digest(self.model_dump(mode="json", exclude=set(NOT_COMPARED)))

    def differences(self, other: "Setting") -> list[str]:
        """The names of the fields that make results on two settings incomparable."""
        return [
            name
            for name in type(self).model_fields
            if name not in NOT_COMPARED and getattr(self, name) != getattr(other, name)
        ]


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(document).encode()).hexdigest()[:16]


class TaskSet(BaseModel):
    """Tasks that a run was measured on besides the text: probing ones, or templated ones.

    Attributes:
        fingerprint: equal where the tasks that count, and their examples, are the same; results are
            then paired by task.
        source: where the tasks come from.
        tasks: those that count, in the order of the arrays.
        tried: how well the language model does those that were tried: the AUC of the probe on its
            activations, or its accuracy.
        skipped: those that could not be tried, and why.
        k: of probing, the numbers of latents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    source: Line
    tasks: tuple[Line, ...]
    tried: dict[Line, float]
    skipped: dict[Line, Line] = Field(default_factory=dict)
    k: tuple[int, ...] = ()


class StoredArrays(Mapping[str, Array]):
    """The arrays of a stored result, read from disk whenever they are asked for and never kept.

    Raises:
        OSError, SafetensorError: if the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="numpy") as file:
            self._keys = tuple(file.keys())

    def __getitem__(self, key: str) -> Array:
        if key not in self._keys:
            raise KeyError(key)
        return self.under(key)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def under(self, prefix: str) -> dict[str, Array]:
        """The arrays whose names begin so, read together."""
        with safe_open(self._path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in self._keys if key.startswith(prefix)}


class Dropped(BaseModel):
    """Why a run was measured on the first tokens alone: in a race, another run beat it.

    ``evaluation`` is the comparison key of the race on all of its tokens, which results of the runs
    that were not dropped have; ``objectives`` are those that it was about; ``beaten_by`` names the
    run that is better in each, at ``confidence`` for all runs together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation: str
    objectives: tuple[str, ...]
    beaten_by: Line
    confidence: float


class Result(BaseModel):
    """One evaluated run: the JSON document, and the arrays that lie beside it.

    ``checkpoint`` are the digests of the run's files that were measured
    (:func:`~prolu_eval.results.file_digests`). ``tasks`` says which tasks it was measured on, by
    what metrics are over (``probes``, ``behaviour``), if it was. ``dropped`` is there if the run
    left a race with what had been measured. ``file`` is the JSON file that it was read from, if it
    was, and ``folder`` the name of the folder that it belongs to where several are compared.
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
        """Equal for results that may meet on one frontier, and for no others. 16 hex digits

        A transcoder meets an autoencoder of its output site: both stand for the same activations.
        """
        return _digest({"hook": self.run.site, "setting": self.setting.comparison_key()})

    def evaluation(self) -> str:
        """The comparison key of the evaluation that it belongs to.

        That is its own, or that of the race that its run was dropped from. 16 hex digits
        """
        return self.comparison_key() if self.dropped is None else self.dropped.evaluation

    def differences(self, other: "Result") -> list[str]:
        """What makes two results incomparable: fields of their settings, and ``hook``."""
        hook = [] if self.run.site == other.run.site else ["hook"]
        return hook + self.setting.differences(other.setting)

    def same_units(self, other: "Result", over: str) -> bool:
        """Whether the sequences, or tasks, of two results are the same ones in the same order."""
        if over == "sequences":
            return OF_SEQUENCES.isdisjoint(self.differences(other))
        own, others = self.tasks.get(over), other.tasks.get(over)
        return own is not None and others is not None and own.fingerprint == others.fingerprint

    def sums(self, over: str) -> dict[str, Array]:
        """Sums by column of each sequence, or of each task of a kind. [n] each, float64"""
        if over == "sequences":
            return self.per_sequence()
        return _under(self.arrays, f"{PER_TASK}{over}/")

    def per_sequence(self) -> dict[str, Array]:
        """Per-sequence sums by column. [n_sequences] each, float64"""
        return _under(self.arrays, PER_SEQUENCE)

    def per_feature(self) -> dict[str, Array]:
        """Per-feature arrays by name. [d_sae] each"""
        return _under(self.arrays, PER_FEATURE)

    def per_layer(self) -> dict[str, Array]:
        """Arrays by name of what stands for several layers. [n_layers] each; none of others."""
        return _under(self.arrays, PER_LAYER)

    def response(self) -> dict[str, Array]:
        """Response curves of some features (:mod:`prolu_eval.evaluation.scale_consistency`)."""
        return _under(self.arrays, RESPONSE)

    def truth(self) -> dict[str, Array]:
        """What is known of a benchmark's features (:mod:`prolu_eval.evaluation.truth`)."""
        return _under(self.arrays, TRUTH)

    def examples(self) -> dict[str, Array]:
        """The arrays that :class:`prolu_eval.results.Examples` reads; none without examples."""
        return _under(self.arrays, EXAMPLE)


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    if isinstance(arrays, StoredArrays):
        arrays = arrays.under(prefix)
    return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
