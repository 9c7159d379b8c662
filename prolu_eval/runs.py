"""The description of a run without its weights: the native config.json, and runs of any format.

This is plain data that every part of the package uses, from training to the report.
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
# What to do about a run that has not converged; a folder of a sweep takes runs of one length only.
TRAIN_LONGER = "train it longer, by `prolu-eval sweep` with more --n-tokens and a new --out"

WeightProcessing = Literal["none", "processed"]
ChanceKind = Literal[
    "frozen_decoder", "soft_frozen_decoder", "shuffled", "pca", "kmeans", "untrained"
]
# The titles of chance baselines. Those that are trained use the architecture of some variant.
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
MAX_WIDTH = 1 << 28  # the number of entries of a square matrix of this width is still an int64
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]


def is_range(hook: str) -> bool:
    """Whether a name refers to hook points of several blocks, as ``blocks.0-2.hook_mlp_out``."""
    return _SEVERAL.fullmatch(hook) is not None


def hooks_in(name: str) -> list[str]:
    """The hook points that a name refers to, one or several.

    ``blocks.0-2.hook_mlp_out`` refers to three consecutive blocks, ``blocks.7,13.hook_resid_post``
    to two blocks, and ``blocks.13,13.hook_resid_post`` to the same site of two models.
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
    """Whether a name refers to one site of two models, as ``blocks.13,13.hook_resid_post``."""
    hooks = hooks_in(hook)
    return len(hooks) == 2 and hooks[0] == hooks[1]


def hooks_of(blocks: Sequence[int], name: str) -> str:
    """The name of the hook points of several blocks, the inverse of :func:`hooks_in`."""
    first, last = blocks[0], blocks[-1]
    in_a_row = list(blocks) == list(range(first, last + 1))
    return f"blocks.{f'{first}-{last}' if in_a_row else ','.join(map(str, blocks))}.{name}"


def split_head(hook: str) -> tuple[str, int | None]:
    """A hook point, and the attention head that its name refers to, as ``hook_z[3]``, if any."""
    match = re.fullmatch(r"(.+)\[(\d+)\]", hook)
    return (hook, None) if match is None else (match[1], int(match[2]))


def chance_label(label: str, chance: ChanceKind | None) -> str:
    """The label of a run in tables and figures: its variant, or its chance baseline.

    Args:
        label: the label of its variant, including the penalty.
        chance: the kind of chance baseline; None if it is not one.
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
    d_out: Width | None = Field(
        None, description="width of a transcoder's output site; None for an autoencoder"
    )
    skip: bool = Field(False, description="whether a transcoder has a skip connection")
    normalisation: Literal["none", "layer_norm", "constant_norm"] = "none"
    apply_b_dec_to_input: bool = True

    model: str | None = Field(None, description="'embedded', a local folder, or a hub name")
    model_revision: str | None = None
    hook: str | None = None
    hook_out: str | None = Field(None, description="a transcoder's output site")
    dataset: str | None = None
    text_column: str | None = Field(None, description="the dataset's text column, if it was named")
    context_length: int | None = None
    prepend_bos: bool = True
    weight_processing: WeightProcessing | None = "none"
    tokens_seen: int | None = None

    penalty: str | None = None
    coefficient: float | None = None
    learning_rate: float | None = None
    seed: int | None = None
    target_l0: float | None = Field(
        None, description="the L0 that its coefficient was found for, if it was"
    )
    not_converged: str | None = Field(
        None, description="why training is considered unfinished, if it is"
    )
    chance: ChanceKind | None = Field(
        None, description="the kind of chance baseline; None for other runs"
    )
    environments: list[dict[str, Any]] = Field(
        default_factory=list,
        description="versions, device and precision that it was trained with: several, one after "
        "another, if an interrupted training went on with others",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="every other setting of the training run"
    )


@dataclass(frozen=True)
class Run:
    """One checkpoint of any format, described without loading its weights.

    ``name`` is unique within the folder that was searched. ``label`` is the name of its variant in
    tables and figures, including the penalty, and groups runs into sweeps; ``options`` are the
    variant's own settings. ``hook`` is the site that the run reads. A transcoder also has
    ``d_out``, the width of its output site, and ``hook_out``, the name of that site if it is known;
    for an autoencoder, which reconstructs what it reads, both are None. ``files`` are the files
    whose content determines the measurement. ``problems`` are sentences about doubtful points;
    ``provenance`` keeps the library, its version and its original configuration.
    ``weight_processing`` says whether training used the activations of the model as published
    ("none"), or of one whose weights TransformerLens had processed so that activations at this hook
    point differ ("processed": writing weights centred, layer norms and value biases folded); None
    if the files do not say. ``results`` is the folder of its results if that is not the run's own.
    ``n_weights`` is how many numbers its autoencoder holds, if that is known before it is loaded.

    ``needs_scale`` is true if the run was trained on activations multiplied by a factor that its
    files do not have; ``activation_scale`` is that factor, from another source, with one for each
    site that has its own. ``normalisation`` is the normalisation of each activation, if another
    source than the files determines it. ``besides`` says in words everything besides the files that
    determines the measurement. ``chance`` is the kind of chance baseline, if the run is one.
    ``loader`` returns the autoencoder of a run that is in no file format, given the run.
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
    loader: Callable[["Run"], Any] | None = None
    problems: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def hooks(self) -> tuple[str | None, ...]:
        """The site that the run reads, and for a transcoder its output site too."""
        return (self.hook,) if self.d_out is None else (self.hook, self.hook_out)

    @property
    def folder(self) -> Path:
        """The folder of the run: its path, or the folder that the file is in."""
        return self.path if self.path.is_dir() else self.path.parent


@dataclass(frozen=True)
class Broken:
    """A checkpoint that was recognised but could not be read, with the reason."""

    name: str
    path: Path
    cause: ProluEvalError

    @property
    def error(self) -> str:
        """The reason as a sentence."""
        return str(self.cause)
