"""The sweep file: what all runs share, what varies between sweeps, and what varies within a sweep.

These three parts are the headings of the write-up. The file is TOML; ``sweeps/example.toml`` shows
every setting.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prolu_eval.arguments import at_home
from prolu_eval.errors import ConfigError
from prolu_eval.runs import EMBEDDED_MODEL, ChanceKind, chance_label
from prolu_eval.saes import VARIANTS, Normalisation, SparseAutoencoder, VariantOptions
from prolu_eval.spelling import suggesting
from prolu_eval.synthetic import HOOK, is_synthetic
from prolu_eval.synthetic.benchmark import absolute
from prolu_eval.training.baselines import FITTED, HELD, TRAINED
from prolu_eval.training.mistakes import in_words
from prolu_eval.training.objectives import OBJECTIVES

SWEEPS = Path(__file__).parent / "sweeps"
FOUR_SWEEPS = SWEEPS / "four.toml"
EXAMPLE = SWEEPS / "example.toml"


class Table(BaseModel):
    """A part of a sweep file, in which every key is a setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# The seeds that torch's generators accept.
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]


class Shared(Table):
    """What all runs share."""

    model: str = Field(
        EMBEDDED_MODEL,
        description="language model: a folder, a name on the hub, embedded, or synthetic:PRESET",
    )
    hook: str = Field(description="hook point whose activations are trained on")
    dataset: str = Field(
        EMBEDDED_MODEL,
        description="text to train on: a file, a folder, token ids or a dataset; about a tenth of "
        "it is held out for evaluations",
    )
    text_column: str | None = Field(
        None, description="column of the text, if it has several or another name than text"
    )
    n_tokens: int = Field(gt=0, description="activations to train on; short text is repeated")
    context_length: int = Field(128, ge=2, description="tokens per sequence, BOS among them")
    d_sae: int | None = Field(
        None, gt=0, description="dictionary size: the number of features of each autoencoder"
    )
    expansion: float | None = Field(None, gt=0, description="d_sae over d_in, instead of d_sae")
    batch_size: int = Field(gt=0, description="activations per step")
    buffer_size: int = Field(65_536, gt=0, description="activations shuffled together")
    warmup: float = Field(0.05, ge=0, le=1, description="share of steps with a rising rate")
    decay: float = Field(0.2, ge=0, le=1, description="share of steps with a falling rate")
    coefficient_warmup: float = Field(
        0, ge=0, le=1, description="share of steps with a rising penalty coefficient"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the mean gradient")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the squared gradient")
    decoder_norm: Literal["unit", "free"] = Field(
        "unit", description="unit: rows of norm one; free: norms that multiply the penalty"
    )
    b_dec_init: Literal["mean", "geometric_median", "zero"] = Field(
        "mean", description="first decoder bias: a mean of the first activations, or zero"
    )
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
    data_seed: Seed = Field(0, description="seed of the order of activations, one for all runs")

    @model_validator(mode="before")
    @classmethod
    def _of_a_benchmark(cls, document: Any) -> Any:
        """A benchmark has one hook point, and its samples stand for text too."""
        if not isinstance(document, dict):
            return document
        document = with_a_dataset(document)
        if is_synthetic(document.get("model")):
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


def with_a_dataset(shared: dict[str, Any]) -> dict[str, Any]:
    """Settings whose tokens go by the name that 0.1.0 had for them, and runs have."""
    if "tokens" not in shared:
        return shared
    if "dataset" in shared:
        raise ValueError("tokens and dataset are the same: leave dataset out")
    others = {name: value for name, value in shared.items() if name != "tokens"}
    return others | {"dataset": shared["tokens"]}


LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Within(Table):
    """What varies within every sweep, beside its coefficients."""

    learning_rates: list[LearningRate] | None = Field(
        None, min_length=1, description="each variant's default if none are given"
    )
    seeds: list[Seed] = Field(
        default=[0], min_length=1, description="seeds of the first weights; one run for each"
    )


class Sweep(Table):
    """One sweep: a variant, its options and penalty, over its own coefficients or values of k.

    ``target_l0`` stands in the place of either: values of k that are equal to it, or coefficients
    that are still to be found (:mod:`prolu_eval.target_l0`); those that were found stand beside it,
    one for each target. ``chance`` makes it a chance baseline
    (:mod:`prolu_eval.training.baselines`): one that is computed has a variant of its own, and
    neither penalty nor coefficients nor k.
    """

    variant: str = Field(description="activation of the autoencoders, such as relu or topk")
    chance: ChanceKind | None = Field(
        None, description="makes the sweep a chance baseline of this kind"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the variant, such as gradient = 'ste'"
    )
    penalty: str | None = Field(
        None, description="sparsity penalty; the variant's first one if none is given"
    )
    coefficients: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        [], description="coefficients of the penalty; one run for each"
    )
    k: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        [], description="active features per token of topk and its kin; one run for each"
    )
    target_l0: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        [], description="values of L0 whose coefficients are searched for, or values of k"
    )
    learning_rates: list[LearningRate] | None = Field(
        None, min_length=1, description="of this sweep, instead of those within all sweeps"
    )
    seeds: list[Seed] | None = Field(
        None, min_length=1, description="of this sweep, instead of those within all sweeps"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_penalty(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("chance") in FITTED:
            return {"variant": FITTED[document["chance"]].variant, **document}
        if not isinstance(document, dict):
            return document
        objective = OBJECTIVES.get(str(document.get("variant")))
        if objective is not None and objective.penalties and "penalty" not in document:
            return {**document, "penalty": objective.penalties[0]}
        if objective is not None and objective.takes_k and not document.get("k"):
            targets = document.get("target_l0", [])
            return {**document, "k": targets, "target_l0": []} if targets else document
        return document

    @model_validator(mode="after")
    def _suits_the_variant(self) -> Self:
        if self.chance in FITTED:
            fitted = FITTED[self.chance].variant
            values = self.k + self.coefficients + self.target_l0
            if self.variant != fitted or self.options or self.penalty or values:
                raise ValueError(
                    f"baseline {self.chance!r} is computed: it has no variant, options, penalty, "
                    "coefficients or k of yours"
                )
            return self
        if self.variant not in OBJECTIVES:  # what suits an unknown variant is unknown, too
            known = "cannot be trained" if self.variant in VARIANTS else "is unknown"
            remedy = suggesting(self.variant, OBJECTIVES, f"choose {', '.join(OBJECTIVES)}")
            raise ValueError(f"variant {self.variant!r} {known}: {remedy}")
        if mistakes := list(self._mistakes()):
            raise ValueError("; ".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        """What does not suit the variant, which is known."""
        objective = OBJECTIVES[self.variant]
        wanted, other = ("k", "coefficients") if objective.takes_k else ("coefficients", "k")
        if not (getattr(self, wanted) or self.target_l0) or getattr(self, other):
            yield f"variant {self.variant!r} varies in {wanted}: give a list of that, or target_l0"
        if len(set(self.target_l0)) < len(self.target_l0):
            yield "target_l0 names a value twice: name it once"
        n_found = len(self.k) + len(self.coefficients)
        if self.target_l0 and (self.k or n_found not in (0, len(self.target_l0))):
            yield f"target_l0 stands in the place of {wanted}: leave one out"
        if objective.takes_k and self.penalty is not None:
            yield f"variant {self.variant!r} has no penalty"
        if not objective.takes_k and self.penalty not in objective.penalties:
            offered = objective.penalties
            remedy = suggesting(str(self.penalty), offered, f"choose {', '.join(offered)}")
            yield f"unknown penalty {self.penalty!r} of variant {self.variant!r}: {remedy}"
        try:
            self.options_with(self.k[0] if self.k else None)
        except ValidationError as error:
            names = list(VARIANTS[self.variant].Options.model_fields)
            yield from (f"options.{in_words(found, names)}" for found in error.errors())
            return
        if self.chance in HELD and not self.has_encoder:
            yield (
                f"baseline {self.chance!r} trains an encoder, and this {self.variant!r} has none "
                "beside its decoder"
            )

    @property
    def is_open(self) -> bool:
        """Whether it has targets, and coefficients for them are still to be found."""
        return bool(self.target_l0) and not self.coefficients

    @property
    def has_encoder(self) -> bool:
        """Whether the variant has an encoder that is not tied to its decoder."""
        cls = VARIANTS[self.variant]
        return "W_enc" in cls.tensor_shapes(1, 1, cls.Options.model_validate(self.options))

    def as_baseline(self, kind: ChanceKind, rate: float, seed: int) -> "Sweep":
        """The chance baseline that trains like this sweep, at one learning rate and seed."""
        changed = {"chance": kind, "learning_rates": [rate], "seeds": [seed]}
        if self.coefficients:  # its own L0 is another than the one that they were found for
            changed["target_l0"] = []
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


class SweepFile(Table):
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

    @property
    def still_to_be_found(self) -> str | None:
        """The first variant that has targets and no coefficients for them yet, if there is one."""
        return next((s.variant for s in self.sweep if s.is_open), None)

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
            values: list[float] = sweep.k or sweep.coefficients
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
    def target_l0(self) -> float | None:
        """The L0 that its coefficient was found for, if it was."""
        by_value = dict(zip(self.sweep.coefficients, self.sweep.target_l0, strict=False))
        return by_value.get(self.value)

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
