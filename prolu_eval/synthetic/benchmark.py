"""The description of a benchmark as data, the presets, and their names; without torch."""

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prolu_eval.errors import ModelError
from prolu_eval.spelling import suggesting

VERSION: Literal[1] = 1
# 1: first version (2026-11)

PREFIX = "synthetic:"
HOOK = "activations"
BENCHMARK_FILE = "benchmark.json"


class Benchmark(BaseModel):
    """A known dictionary and how its features fire; equal descriptions give equal samples.

    A sample is ``x = sum of a_i d_i + bias + noise``: ``d_i`` [d_in] are unit vectors, and ``a_i``
    is the magnitude of feature i where the feature is active, else 0. Features are in order of how
    often they fire, except that features with a parent come after all features without one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = VERSION
    name: str
    tests: str = Field("", description="what the benchmark tests, in a sentence")
    seed: int = Field(0, ge=0)
    d_in: int = Field(gt=0, le=1 << 16, description="width of the activations")
    n_features: int = Field(gt=0, le=1 << 17, description="features of the dictionary")
    basis: Literal["orthogonal", "random", "superposed"] = Field(
        "random",
        description="orthogonal: at most d_in features; random: independent unit vectors; "
        "superposed: more than d_in unit vectors, moved apart until they are a tight frame",
    )
    l0: float = Field(gt=0, description="features that are active at once, on average")
    zipf: float = Field(
        0, ge=0, description="firing probabilities fall as rank^-zipf, none being above a half"
    )
    children: int = Field(
        0, ge=0, description="number of children of each parent, which fire only where it does"
    )
    child_rate: float = Field(
        0.3, gt=0, le=1, description="how often a child fires where its parent does"
    )
    groups: int = Field(0, ge=0, description="groups of features that tend to fire together")
    correlation: float = Field(
        0,
        ge=0,
        lt=1,
        description="correlation within a group of the normal variables that decide "
        "whether features fire",
    )
    magnitude: Literal["half_normal", "log_normal", "wide"] = Field(
        "log_normal",
        description="distribution of a feature's magnitude where it is active, of mean 1: |N(0, s)|"
        "; exp(N); or uniform in its logarithm",
    )
    spread: float = Field(
        0.25,
        gt=0,
        description="standard deviation of the logarithm (log_normal), or the ratio of the largest "
        "magnitude to the smallest (wide); half_normal has none",
    )
    noise: float = Field(0, ge=0, description="standard deviation of the noise, per coordinate")
    bias: float = Field(0, ge=0, description="norm of the constant that is added to all samples")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.basis == "orthogonal" and self.n_features > self.d_in:
            raise ValueError(f"{self.n_features} directions cannot be orthogonal in {self.d_in} "
                             "dimensions")  # fmt: skip
        if self.basis == "superposed" and self.n_features <= self.d_in:
            raise ValueError("superposed features must be more than the dimensions")
        if self.n_features % (1 + self.children):
            raise ValueError(f"{self.n_features} features cannot be divided into parents with "
                             f"{self.children} children each")  # fmt: skip
        if self.groups > self.n_parents:
            raise ValueError(f"{self.n_parents} features are too few for {self.groups} groups")
        if self.magnitude == "wide" and self.spread <= 1:
            raise ValueError("the ratio of the largest magnitude to the smallest must be above 1")
        most = 0.5 * self.n_parents * (1 + self.children * self.child_rate)
        if self.l0 > most:
            raise ValueError(f"at most {most:g} of these features can be active on average")
        return self

    @property
    def n_parents(self) -> int:
        """Features that have no parent."""
        return self.n_features // (1 + self.children)

    @property
    def fingerprint(self) -> str:
        """A digest that differs between benchmarks with different samples. 32 hex digits"""
        named = {"name", "tests"}
        return hashlib.sha256(self.model_dump_json(exclude=named).encode()).hexdigest()[:32]


def _preset(name: str, tests: str, **settings: object) -> Benchmark:
    return Benchmark.model_validate({"name": name, "tests": tests, **settings})


PRESETS: dict[str, Benchmark] = {
    preset.name: preset
    for preset in (
        _preset(
            "superposition",
            "Are four times as many features as dimensions told apart, including rare ones?",
            d_in=64, n_features=256, basis="superposed", l0=4, zipf=1.0, noise=0.01, bias=1,
        ),
        _preset(
            "wide-magnitudes",
            "Is a feature reconstructed along its whole ray if its magnitude varies a "
            "hundredfold?",
            d_in=64, n_features=128, basis="superposed", l0=5, zipf=0.5, magnitude="wide",
            spread=100, noise=0.01, bias=1,
        ),
        _preset(
            "hierarchy",
            "Does a feature keep its meaning where a more specific one is active, or is it "
            "absorbed by that one, or split?",
            d_in=128, n_features=128, basis="orthogonal", l0=6, zipf=0.5, children=3,
            child_rate=0.25, noise=0.01, bias=1,
        ),
        _preset(
            "correlated",
            "Are features that tend to fire together told apart?",
            d_in=64, n_features=128, basis="superposed", l0=5, zipf=0.5, groups=16,
            correlation=0.6, noise=0.01, bias=1,
        ),
        _preset(
            "noise-threshold",
            "Is the threshold found below which a feature cannot be told from noise?",
            d_in=64, n_features=128, basis="superposed", l0=5, zipf=0.5, magnitude="half_normal",
            noise=0.2, bias=1,
        ),
    )
}  # fmt: skip


def is_synthetic(model: object) -> bool:
    """Whether a model's name is that of a benchmark; what is no name is none."""
    return isinstance(model, str) and model.startswith(PREFIX)


def place_of(name: str) -> Path | None:
    """The folder that a benchmark's name refers to; None for a preset's name."""
    own = name.removeprefix(PREFIX)
    return None if own in PRESETS else Path(own)


def absolute(name: str) -> str:
    """A benchmark's name with an absolute path, which is valid in any working directory."""
    folder = place_of(name)
    return name if folder is None else f"{PREFIX}{folder.resolve()}"


def named_benchmark(name: str) -> Benchmark:
    """The benchmark of a name, ``synthetic:PRESET`` or ``synthetic:FOLDER``.

    Raises:
        ModelError: if there is no such preset or folder, or its description cannot be read.
    """
    folder = place_of(name)
    if folder is None:
        return PRESETS[name.removeprefix(PREFIX)]
    path = folder / BENCHMARK_FILE
    if not path.is_file():
        raise ModelError(
            name, f"is not a preset, and {path} does not exist",
            suggesting(
                name.removeprefix(PREFIX), PRESETS,
                f"choose {', '.join(PRESETS)}, or name a folder that `prolu-eval synthetic` wrote",
            ),
        )  # fmt: skip
    try:
        return Benchmark.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(path, f"cannot be read ({error.strerror})", "make it readable") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise ModelError(
            path, f"{where}: {reason}" if where else reason, "write it again with `prolu-eval "
            "synthetic`, or mend the description",
        ) from None  # fmt: skip
