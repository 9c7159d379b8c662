"""The sweep file: what all runs share, what varies between sweeps, what varies within one.

The three parts are the write-up's own headings. A file is TOML; see ``sweeps/four.toml``.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from prolu_eval.errors import ConfigError
from prolu_eval.runs import EMBEDDED_MODEL
from prolu_eval.saes import VARIANTS
from prolu_eval.training.penalties import PENALTIES

# Variants whose loss is reconstruction error plus a penalty on the codes.
TRAINABLE = ("relu", "prolu", "prolu_relu_hybrid")

FOUR_SWEEPS = Path(__file__).parent / "sweeps" / "four.toml"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shared(_Table):
    """What all runs share."""

    model: str = EMBEDDED_MODEL
    hook: str
    dataset: str = EMBEDDED_MODEL
    n_tokens: int = Field(gt=0, description="activations trained on; the text repeats if shorter")
    context_length: int = Field(128, ge=2)
    d_sae: int = Field(gt=0)
    batch_size: int = Field(gt=0, description="activations per step")
    buffer_size: int = Field(65_536, gt=0, description="activations shuffled together")
    warmup: float = Field(0.05, ge=0, le=1, description="fraction of steps with a rising rate")
    decay: float = Field(0.2, ge=0, le=1, description="fraction of steps with a falling rate")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    data_seed: int = 0

    @field_validator("model", "dataset")
    @classmethod
    def _absolute(cls, name: str) -> str:
        """A path that exists, made absolute so that runs can be evaluated from any folder."""
        if name == EMBEDDED_MODEL or not Path(name).exists():
            return name
        return str(Path(name).resolve())


class Within(_Table):
    """What varies within every sweep, beside its coefficients."""

    learning_rates: list[float] = Field(min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)


class Sweep(_Table):
    """One sweep: a variant, its options and penalty, over its own coefficients."""

    variant: str
    options: dict[str, Any] = Field(default_factory=dict)
    penalty: str = "l1"
    coefficients: list[float] = Field(min_length=1)


class SweepFile(_Table):
    """A whole sweep file."""

    shared: Shared
    within: Within
    sweep: list[Sweep] = Field(min_length=1)

    def plans(self) -> Iterator["Plan"]:
        """Every run of the grid, sweep by sweep."""
        for sweep in self.sweep:
            grid = product(sweep.coefficients, self.within.learning_rates, self.within.seeds)
            for coefficient, learning_rate, seed in grid:
                yield Plan(sweep, coefficient, learning_rate, seed)


@dataclass(frozen=True)
class Plan:
    """One run of a grid."""

    sweep: Sweep
    coefficient: float
    learning_rate: float
    seed: int

    @property
    def label(self) -> str:
        """The sweep's name, as tables and figures have it."""
        cls = VARIANTS[self.sweep.variant]
        sae = cls(1, 1, cls.Options.model_validate(self.sweep.options))
        return f"{sae.label}+{self.sweep.penalty}"

    @property
    def name(self) -> str:
        """The run's folder."""
        label = self.label.replace("/", "-").replace("+", "_")
        return f"{label}_c{self.coefficient:g}_lr{self.learning_rate:g}_s{self.seed}"


def read_sweep_file(path: Path, **overrides: Any) -> SweepFile:
    """Read and check a sweep file; overrides that are not None replace what is shared.

    Raises:
        ConfigError: if the file cannot be read, has an unknown key or a value out of range, or
            names an unknown variant, option or penalty.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(path, f"cannot be read ({error})", "give a TOML sweep file") from None
    if isinstance(document.get("shared"), dict):
        document["shared"] |= {key: v for key, v in overrides.items() if v is not None}
    try:
        file = SweepFile.model_validate(document)
        for sweep in file.sweep:
            _check(sweep, path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            path, f"{where}: {first['msg'].lower()}", f"compare it with {FOUR_SWEEPS}"
        ) from None
    names = [plan.name for plan in file.plans()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(path, f"has {min(twice)} twice", "remove one of the two")
    return file


def _check(sweep: Sweep, path: Path) -> None:
    if sweep.variant not in VARIANTS:
        raise ConfigError(
            path, f"unknown variant {sweep.variant!r}", f"choose {', '.join(TRAINABLE)}"
        )
    if sweep.variant not in TRAINABLE:
        raise ConfigError(
            path,
            f"variant {sweep.variant!r} has a training loss of its own, which is not offered",
            f"choose {', '.join(TRAINABLE)}; checkpoints of any variant can be evaluated",
        )
    if sweep.penalty not in PENALTIES:
        raise ConfigError(
            path, f"unknown penalty {sweep.penalty!r}", f"choose {', '.join(PENALTIES)}"
        )
    VARIANTS[sweep.variant].Options.model_validate(sweep.options)
