"""What a run is, without its weights: the native config.json, and the description of any format.

Plain data, read by everything from training to the report.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prolu_eval.errors import ProluEvalError

SCHEMA_VERSION = 1
# 1: first version (2026-11)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "sae.safetensors"
EMBEDDED_MODEL = "embedded"

WeightProcessing = Literal["none", "processed"]
ChanceKind = Literal[
    "frozen_decoder", "soft_frozen_decoder", "shuffled", "pca", "kmeans", "untrained"
]
# What each chance baseline is called; those that are trained are so as some variant is.
CHANCE_TITLES: dict[ChanceKind, str] = {
    "frozen_decoder": "frozen decoder",
    "soft_frozen_decoder": "soft-frozen decoder",
    "shuffled": "shuffled activations",
    "pca": "PCA",
    "kmeans": "k-means",
    "untrained": "untrained",
}
_OF_NO_VARIANT: tuple[ChanceKind, ...] = ("pca", "kmeans", "untrained")
BETWEEN_MODELS = "+"
_SEVERAL = re.compile(r"blocks\.(\d{1,4}(?:[-,]\d{1,4})+)\.(.+)")
MAX_WIDTH = 1 << 28  # a matrix of this many squared still has a size
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]


def is_range(hook: str) -> bool:
    """Whether a name is of several blocks' hook points, as ``blocks.0-2.hook_mlp_out`` is."""
    return _SEVERAL.fullmatch(hook) is not None


def hooks_in(name: str) -> list[str]:
    """The hook points of several blocks, or the one that is named.

    ``blocks.0-2.hook_mlp_out`` are those of three blocks in a row, ``blocks.7,13.hook_resid_post``
    those of two; ``blocks.13,13.hook_resid_post`` is the same site of two models.
    """
    match = _SEVERAL.fullmatch(name)
    if match is None:
        return [name]
    ends = [part.split("-") for part in match[1].split(",")]
    blocks = [i for part in ends for i in range(int(part[0]), int(part[-1]) + 1)]
    return [f"blocks.{i}.{match[2]}" for i in blocks]


def of_two_models(first: str, second: str) -> str:
    """The name of two models that are compared, as ``--model`` takes it."""
    return f"{first}{BETWEEN_MODELS}{second}"


def is_of_two_models(hook: str) -> bool:
    """Whether a name is of one site of each of two models: ``blocks.13,13.hook_resid_post``."""
    hooks = hooks_in(hook)
    return len(hooks) == 2 and hooks[0] == hooks[1]


def hooks_of(blocks: Sequence[int], name: str) -> str:
    """The name of the hook points of several blocks, which :func:`hooks_in` takes apart."""
    first, last = blocks[0], blocks[-1]
    in_a_row = list(blocks) == list(range(first, last + 1))
    return f"blocks.{f'{first}-{last}' if in_a_row else ','.join(map(str, blocks))}.{name}"


def of_head(hook: str) -> tuple[str, int | None]:
    """A hook point, and the one attention head of it that its name means: ``hook_z[3]``, if any."""
    match = re.fullmatch(r"(.+)\[(\d+)\]", hook)
    return (hook, None) if match is None else (match[1], int(match[2]))


def chance_label(label: str, chance: ChanceKind | None) -> str:
    """What a run is called in tables and figures: its variant, or the chance baseline that it is.

    Args:
        label: of its variant, penalty included.
        chance: which baseline it is; None for none.
    """
    if chance is None:
        return label
    of = "" if chance in _OF_NO_VARIANT else f" ({label})"
    return f"chance: {CHANCE_TITLES[chance]}{of}"


class RunConfig(BaseModel):
    """config.json of a native run folder."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    variant: str
    options: dict[str, Any] = Field(default_factory=dict, description="the variant's own settings")
    d_in: Width
    d_sae: Width
    d_out: Width | None = Field(None, description="of a transcoder; None for an autoencoder")
    skip: bool = Field(False, description="whether a transcoder has a skip connection")
    normalisation: Literal["none", "layer_norm", "constant_norm"] = "none"
    apply_b_dec_to_input: bool = True

    model: str | None = Field(None, description="'embedded', a local folder, or a hub name")
    model_revision: str | None = None
    hook: str | None = None
    hook_out: str | None = Field(None, description="of a transcoder: the site that it stands for")
    dataset: str | None = None
    text_column: str | None = Field(None, description="of the dataset, where it was named")
    context_length: int | None = None
    prepend_bos: bool = True
    weight_processing: WeightProcessing | None = "none"
    tokens_seen: int | None = None

    penalty: str | None = None
    coefficient: float | None = None
    learning_rate: float | None = None
    seed: int | None = None
    not_converged: str | None = Field(
        None, description="why its training is called unfinished, if it is"
    )
    chance: ChanceKind | None = Field(
        None, description="the chance baseline that it is; None for what claims are made of"
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="every other setting of the training run"
    )


@dataclass(frozen=True)
class Run:
    """One checkpoint of any format, described without loading its weights.

    ``name`` tells it apart within the folder that was searched; ``label`` is its variant as tables
    and figures name it, penalty included, and groups runs into sweeps; ``options`` are the
    variant's own settings. ``hook`` is the site that it reads. A transcoder has ``d_out``, the
    width of the site that it stands for, which ``hook_out`` names where it is known; of an
    autoencoder, which reconstructs what it reads, both are None. ``files`` are those whose bytes
    decide the measurement. ``problems`` are sentences about what is doubtful; ``provenance`` keeps
    the library, its version and its original configuration. ``weight_processing`` says if the
    activations of training were those of the model as published ("none"), or of one whose weights
    TransformerLens had processed so that activations at this hook differ ("processed": writing
    weights centred, layer norms and value biases folded); None where the files do not tell.
    ``results`` is where its results are kept if that is not beside it. ``n_weights`` is how many
    numbers its autoencoder holds, where that is known before it is loaded.

    ``needs_scale`` says that it was trained on activations times a factor that its files lost;
    ``activation_scale`` is that factor, from elsewhere, one for each site that has its own.
    ``normalisation`` is what is done to each activation where something else than the files says
    so. ``besides`` says in words all that decides the measurement beside the files. ``chance``
    names the chance baseline that it is, if it is one. ``loader`` gives the autoencoder of a run
    that no format has.
    """

    name: str
    path: Path
    format: str
    variant: str
    label: str
    d_in: int
    d_sae: int
    files: tuple[Path, ...]
    hook: str | None = None
    hook_out: str | None = None
    d_out: int | None = None
    n_weights: int | None = None
    model: str | None = None
    model_revision: str | None = None
    dataset: str | None = None
    text_column: str | None = None
    context_length: int | None = None
    prepend_bos: bool = True
    weight_processing: WeightProcessing | None = None
    penalty: str | None = None
    coefficient: float | None = None
    learning_rate: float | None = None
    seed: int | None = None
    part: str | None = None
    results: Path | None = None
    needs_scale: bool = False
    activation_scale: tuple[float, ...] | None = None
    normalisation: Literal["none", "layer_norm", "constant_norm"] | None = None
    besides: str = ""
    chance: ChanceKind | None = None
    loader: Callable[[], Any] | None = None
    problems: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def hooks(self) -> tuple[str | None, ...]:
        """The site that it reads, and a transcoder's that it stands for."""
        return (self.hook,) if self.d_out is None else (self.hook, self.hook_out)

    @property
    def folder(self) -> Path:
        """The folder that it lies in, or is."""
        return self.path if self.path.is_dir() else self.path.parent


@dataclass(frozen=True)
class Broken:
    """A checkpoint that was recognised and could not be read: where, and why."""

    name: str
    path: Path
    cause: ProluEvalError

    @property
    def error(self) -> str:
        """The sentence why."""
        return str(self.cause)
