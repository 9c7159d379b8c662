"""The sweep file: what all runs share, what varies between sweeps, and what varies within a sweep.

These three parts are the headings of the write-up. The file is TOML; ``sweeps/example.toml`` shows
every setting.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from prolu_eval.arguments import at_home
from prolu_eval.errors import ConfigError, UsageError
from prolu_eval.runs import EMBEDDED_MODEL, ChanceKind, chance_label
from prolu_eval.saes import VARIANTS, Normalisation, SparseAutoencoder, VariantOptions
from prolu_eval.synthetic import HOOK, is_synthetic
from prolu_eval.synthetic.benchmark import absolute
from prolu_eval.training.baselines import FITTED, HELD, TRAINED
from prolu_eval.training.objectives import OBJECTIVES

SWEEPS = Path(__file__).parent / "sweeps"
FOUR_SWEEPS = SWEEPS / "four.toml"
EXAMPLE = SWEEPS / "example.toml"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# The seeds that torch's generators accept.
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]


class Shared(_Table):
    """What all runs share."""

    model: str = EMBEDDED_MODEL
    hook: str
    dataset: str = EMBEDDED_MODEL
    text_column: str | None = Field(None, description="column of the text; see prolu_eval.tokens")
    n_tokens: int = Field(gt=0, description="activations to train on; short text is repeated")
    context_length: int = Field(128, ge=2)
    d_sae: int | None = Field(None, gt=0)
    expansion: float | None = Field(None, gt=0, description="d_sae over d_in, instead of d_sae")
    batch_size: int = Field(gt=0, description="activations per step")
    buffer_size: int = Field(65_536, gt=0, description="activations shuffled together")
    warmup: float = Field(0.05, ge=0, le=1, description="share of steps with a rising rate")
    decay: float = Field(0.2, ge=0, le=1, description="share of steps with a falling rate")
    coefficient_warmup: float = Field(
        0, ge=0, le=1, description="share of steps with a rising penalty coefficient"
    )
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    decoder_norm: Literal["unit", "free"] = Field(
        "unit", description="unit: rows of norm one; free: norms that multiply the penalty"
    )
    b_dec_init: Literal["mean", "geometric_median", "zero"] = "mean"
    b_enc_init: Annotated[float, Field(allow_inf_nan=False)] | Literal["uniform"] = Field(
        0.0,
        description="first encoder biases, in training units; uniform: drawn within 1/sqrt(d_in) "
        "of zero",
    )
    normalisation: Literal["mean_norm", "none", "layer_norm", "constant_norm"] = Field(
        "mean_norm", description="mean_norm: one factor that gives a mean norm of sqrt(d_in)"
    )
    dead_after: int = Field(
        50_000, gt=0, description="tokens without firing that make a feature dead"
    )
    resample_every: int = Field(0, ge=0, description="steps between resamplings; 0 for none")
    auxk: float = Field(1 / 32, ge=0, description="weight of topk's loss on dead features")
    k_aux: int | None = Field(
        None, gt=0, description="dead features per token; half of d_in if None"
    )
    threshold_ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay per step of batchtopk's averaged threshold",
    )
    precision: Literal["tf32", "float32", "mixed"] = Field(
        "tf32",
        description="precision of products on CUDA, also in the model: TF32, float32, or bfloat16 "
        "(mixed) with float32 weights, codes, thresholds and sums; a CPU always uses float32",
    )
    data_seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _of_a_benchmark(cls, document: Any) -> Any:
        """Fill in a benchmark's one hook point, and its samples as the dataset."""
        if isinstance(document, dict) and is_synthetic(document.get("model")):
            model = absolute(document["model"])
            return document | {"model": model, "hook": HOOK, "dataset": model}
        return document

    @field_validator("model", "dataset")
    @classmethod
    def _absolute(cls, name: str) -> str:
        """Make a path that exists absolute, so that runs can be evaluated from any folder."""
        place = Path(at_home(name))
        if name == EMBEDDED_MODEL or not place.exists():
            return str(place) if name.startswith("~") else name
        return str(place.resolve())

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.d_sae is None) == (self.expansion is None):
            raise ValueError("give either d_sae or expansion")
        return self

    def precision_on(self, device: torch.device) -> Literal["tf32", "float32", "mixed"]:
        """The precision of products on a device."""
        return self.precision if device.type == "cuda" else "float32"

    @property
    def n_steps(self) -> int:
        """Number of optimiser steps."""
        return max(1, self.n_tokens // self.batch_size)

    @property
    def sae_normalisation(self) -> Normalisation:
        """The normalisation that autoencoders apply to each activation; a factor is folded in."""
        return "none" if self.normalisation == "mean_norm" else self.normalisation

    def resamples_at(self, step: int) -> bool:
        """Whether dead features are resampled after a step; never while the rate rises or falls."""
        if not self.resample_every or (step + 1) % self.resample_every:
            return False
        return self.warmup * self.n_steps <= step < (1 - self.decay) * self.n_steps

    def dictionary_size(self, d_in: int) -> int:
        """d_sae, for activations of width d_in."""
        return self.d_sae or max(1, round((self.expansion or 0) * d_in))


LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Within(_Table):
    """What varies within every sweep, in addition to its coefficients."""

    learning_rates: list[LearningRate] | None = Field(
        None, min_length=1, description="each variant's default if none are given"
    )
    seeds: list[Seed] = Field(default=[0], min_length=1)


class Sweep(_Table):
    """One sweep: a variant with options and a penalty, over several coefficients or values of k.

    ``chance`` makes it a chance baseline (:mod:`prolu_eval.training.baselines`). A baseline that is
    computed uses a variant of its own, and takes neither penalty nor coefficients nor k.
    """

    variant: str
    chance: ChanceKind | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    penalty: str | None = None
    coefficients: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = []
    k: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = []
    learning_rates: list[LearningRate] | None = Field(None, min_length=1)
    seeds: list[Seed] | None = Field(None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _default_penalty(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("chance") in FITTED:
            return {"variant": FITTED[document["chance"]].variant, **document}
        if isinstance(document, dict) and "penalty" not in document:
            objective = OBJECTIVES.get(document.get("variant", ""))
            if objective is not None and objective.penalties:
                return {**document, "penalty": objective.penalties[0]}
        return document

    @model_validator(mode="after")
    def _suits_the_variant(self) -> Self:
        if self.chance in FITTED:
            fitted = FITTED[self.chance].variant
            if self.variant != fitted or self.options or self.penalty or self.k + self.coefficients:
                raise ValueError(
                    f"baseline {self.chance!r} is computed: it has no variant, options, penalty, "
                    "coefficients or k of yours"
                )
            return self
        if self.variant not in OBJECTIVES:
            known = "cannot be trained" if self.variant in VARIANTS else "is unknown"
            raise ValueError(f"variant {self.variant!r} {known}: choose {', '.join(OBJECTIVES)}")
        objective = OBJECTIVES[self.variant]
        wanted, other = ("k", "coefficients") if objective.takes_k else ("coefficients", "k")
        if not getattr(self, wanted) or getattr(self, other):
            raise ValueError(f"variant {self.variant!r} varies in {wanted}: give a list of that")
        if objective.takes_k and self.penalty is not None:
            raise ValueError(f"variant {self.variant!r} has no penalty")
        if not objective.takes_k and self.penalty not in objective.penalties:
            offered = ", ".join(objective.penalties)
            raise ValueError(
                f"unknown penalty {self.penalty!r} of variant {self.variant!r}: choose {offered}"
            )
        if self.chance in HELD and not self.has_encoder:
            raise ValueError(
                f"baseline {self.chance!r} trains an encoder, and this {self.variant!r} has none "
                "beside its decoder"
            )
        return self

    @property
    def has_encoder(self) -> bool:
        """Whether the variant has an encoder that is not tied to its decoder."""
        cls = VARIANTS[self.variant]
        return "W_enc" in cls.tensor_shapes(1, 1, cls.Options.model_validate(self.options))

    def as_baseline(self, kind: ChanceKind, rate: float, seed: int) -> "Sweep":
        """The chance baseline that trains like this sweep, at one learning rate and seed."""
        changed = {"chance": kind, "learning_rates": [rate], "seeds": [seed]}
        return Sweep.model_validate(self.model_dump() | changed)

    def autoencoder(
        self,
        d_in: int,
        d_sae: int,
        k: float | None = None,
        normalisation: Normalisation = "none",
    ) -> SparseAutoencoder:
        """An autoencoder of the sweep with zero weights; :meth:`check` must have passed."""
        cls = VARIANTS[self.variant]
        return cls(d_in, d_sae, self.options_with(k), normalisation=normalisation)

    def check(self, d_sae: int) -> None:
        """Check that the sweep suits a number of features.

        Raises:
            ConfigError: if an option does not suit it, or a k is larger than it.
        """
        if self.k and max(self.k) > d_sae:
            raise ConfigError(
                f"a sweep of {self.variant}",
                f"k = {max(self.k):g} is more than the {d_sae} features",
                "choose smaller values of k, or more features",
            )
        values: list[float] | list[None] = self.k or [None]
        for k in values:
            try:
                self.options_with(k).check(d_sae)
            except ValueError as error:
                raise ConfigError(
                    f"a sweep of {self.variant}", str(error), "change the sweep file"
                ) from None

    def options_with(self, k: float | None) -> VariantOptions:
        """The variant's options, checked, including k if the sweep varies k."""
        options = self.options if k is None else {**self.options, "k": k}
        return VARIANTS[self.variant].Options.model_validate(options)


class SweepFile(_Table):
    """A whole sweep file."""

    shared: Shared
    within: Within = Within()
    sweep: list[Sweep] = Field(min_length=1)
    baselines: bool = Field(
        False, description="whether chance baselines are trained and computed beside the sweeps"
    )

    @property
    def sweeps(self) -> list[Sweep]:
        """The file's sweeps, with all chance baselines added if ``baselines`` asks for them.

        Baselines that are trained copy the first sweep with an untied encoder, at its first
        learning rate and seed. Baselines that the file already names are not added.
        """
        if not self.baselines:
            return self.sweep
        named = {sweep.chance for sweep in self.sweep}
        seeds = self.within.seeds
        found = list(self.sweep)
        likely = [sweep for sweep in self.sweep if sweep.chance is None and sweep.has_encoder]
        for kind in TRAINED if likely else ():
            first = likely[0]
            rates = self.rates_of(first)
            if kind not in named:
                found.append(first.as_baseline(kind, rates[0], (first.seeds or seeds)[0]))
        computed = ({"chance": kind, "seeds": seeds[:1]} for kind in FITTED if kind not in named)
        return found + [Sweep.model_validate(sweep) for sweep in computed]

    def rates_of(self, sweep: Sweep) -> list[float]:
        """A sweep's learning rates: its own, or those of all sweeps, or the variant's default."""
        default = OBJECTIVES[sweep.variant].learning_rate if sweep.variant in OBJECTIVES else 0.0
        return sweep.learning_rates or self.within.learning_rates or [default]

    def check(self, d_in: int) -> None:
        """Check that every sweep suits the width of the activations.

        Raises:
            ConfigError: if a sweep does not suit it.
        """
        for sweep in self.sweeps:
            sweep.check(self.shared.dictionary_size(d_in))

    def plans(self) -> Iterator["Plan"]:
        """Every run of the grid, sweep by sweep."""
        for sweep in self.sweeps:
            rates = self.rates_of(sweep)
            seeds = sweep.seeds or self.within.seeds
            values = sweep.k or sweep.coefficients
            if sweep.chance in FITTED:
                values, rates = list(range(1, FITTED[sweep.chance].levels + 1)), rates[:1]
            for value, rate, seed in product(values, rates, seeds):
                yield Plan(sweep, value, rate, seed)


@dataclass(frozen=True)
class Plan:
    """One run of a grid; ``value`` is its coefficient, its k, or a computed baseline's level."""

    sweep: Sweep
    value: float
    learning_rate: float
    seed: int

    @property
    def k(self) -> float | None:
        """How many features may be active, if the sweep varies k."""
        return self.value if self.sweep.k else None

    @property
    def coefficient(self) -> float | None:
        """The penalty's coefficient, if there is one."""
        return self.value if self.sweep.coefficients else None

    @property
    def is_fitted(self) -> bool:
        """Whether the run is a chance baseline that is computed, not trained."""
        return self.sweep.chance in FITTED

    @property
    def label(self) -> str:
        """The sweep's name in tables and figures."""
        return chance_label(self._variant, self.sweep.chance)

    @property
    def _variant(self) -> str:
        label = VARIANTS[self.sweep.variant].label_of(self.sweep.options_with(self.k))
        return label if self.sweep.penalty is None else f"{label}+{self.sweep.penalty}"

    @property
    def name(self) -> str:
        """The name of the run and of its folder."""
        if self.is_fitted:
            return f"chance-{self.sweep.chance}_{self.value:g}_s{self.seed}"
        label = self._variant.replace("/", "-").replace("+", "_")
        kind = "k" if self.sweep.k else "c"
        named = f"{label}_{kind}{self.value:g}_lr{self.learning_rate:g}_s{self.seed}"
        return named if self.sweep.chance is None else f"chance-{self.sweep.chance}-{named}"


def read_sweep_file(path: Path, **overrides: Any) -> SweepFile:
    """Read and check a sweep file; overrides that are not None replace shared settings.

    Raises:
        ConfigError: if the file cannot be read, has an unknown key or a value out of range, names
            an unknown variant, option or penalty, or has a k larger than the number of features.
        UsageError: if an override names a model and no text is named to train on.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(path, f"cannot be read ({error})", "give a TOML sweep file") from None
    replacements = {key: value for key, value in overrides.items() if value is not None}
    if isinstance(document.get("shared"), dict):
        shared = document["shared"]
        if "d_sae" in replacements:
            shared.pop("expansion", None)
        if "dataset" in replacements:
            shared.pop("text_column", None)
        model = replacements.get("model", shared.get("model", EMBEDDED_MODEL))
        # If an override names another model, embedded text in the file was meant for the file's
        # model, unless the overrides name that text too.
        text = replacements.get("dataset", shared.get("dataset"))
        for_another = "model" in replacements and "dataset" not in replacements
        missing = text is None or (for_another and text == EMBEDDED_MODEL)
        if missing and model != EMBEDDED_MODEL and not is_synthetic(model):
            raise UsageError(
                "--tokens", f"is missing: no text is named to train on for {model}",
                f"name some, or {EMBEDDED_MODEL} for Python's standard library",
            )  # fmt: skip
        shared |= replacements
    try:
        file = SweepFile.model_validate(document)
        names = [plan.name for plan in file.plans()]
    except ValidationError as error:
        reasons = "; ".join(_in_words(found) for found in error.errors())
        raise ConfigError(path, reasons, "see `prolu-eval sweep --example`") from None
    if file.shared.d_sae is not None:
        for sweep in file.sweeps:
            sweep.check(file.shared.d_sae)
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(path, f"has {min(twice)} twice", "remove one of the two")
    return file


# The kinds of mistake that pydantic reports, in the terms of a sweep file.
_FOUND = {
    "missing": "is missing",
    "extra_forbidden": "is no setting",
    "list_type": "is no list",
    "too_short": "is empty",
}


def _in_words(found: ErrorDetails) -> str:
    """One mistake in a sweep file: its place, counting sweeps from 1, and its reason."""
    parts = list(found["loc"])
    if parts[:1] == ["sweep"] and len(parts) > 1 and isinstance(parts[1], int):
        parts[:2] = [f"sweep {parts[1] + 1}"]
    place = ".".join(str(part + 1) if isinstance(part, int) else part for part in parts)
    reason = _FOUND.get(found["type"])
    if reason is None:
        value = found["input"]
        given = "" if isinstance(value, dict | list) else f"{value!r} does not do: "
        reason = given + found["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{place or 'the file'}: {reason}"
