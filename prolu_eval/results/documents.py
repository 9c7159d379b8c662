"""What a stored result holds: the JSON document, and the arrays beside it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation
from safetensors import safe_open

from prolu_eval.estimates import Estimate
from prolu_eval.plain_text import printable

SCHEMA_VERSION = 1
# 1: first version (2026-11)

PER_SEQUENCE, PER_FEATURE, RESPONSE = "per_sequence/", "per_feature/", "response/"
EXAMPLE = "example/"

Array = NDArray[Any]
Line = Annotated[str, AfterValidator(printable)]  # shown in tables and files of one line a run


class RunSummary(BaseModel):
    """What identifies a run in tables and figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line
    path: str
    format: Line
    variant: Line
    label: Line
    d_in: int
    d_sae: int
    hook: Line
    penalty: Line | None = None
    coefficient: float | None = None
    learning_rate: float | None = None
    seed: int | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)


class Setting(BaseModel):
    """What was measured on: two results are comparable, and paired, if their settings are equal."""

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


class Result(BaseModel):
    """One evaluated run: the JSON document, and the arrays that lie beside it.

    ``checkpoint`` are the digests of the run's files that were measured
    (:func:`~prolu_eval.results.file_digests`). ``file`` is the JSON file that it was read from, if
    it was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    checkpoint: dict[str, str] = Field(default_factory=dict)
    run: RunSummary
    setting: Setting
    metrics: dict[str, Estimate]
    environment: dict[str, Any] = Field(default_factory=dict)
    arrays: SkipValidation[Mapping[str, Array]] = Field(default_factory=dict, exclude=True)
    file: Path | None = Field(default=None, exclude=True)

    def per_sequence(self) -> dict[str, Array]:
        """Per-sequence sums by column. [n_sequences] each, float64"""
        return _under(self.arrays, PER_SEQUENCE)

    def per_feature(self) -> dict[str, Array]:
        """Per-feature arrays by name. [d_sae] each"""
        return _under(self.arrays, PER_FEATURE)

    def response(self) -> dict[str, Array]:
        """Response curves of some features (:mod:`prolu_eval.evaluation.scale_consistency`)."""
        return _under(self.arrays, RESPONSE)

    def examples(self) -> dict[str, Array]:
        """The arrays that :class:`prolu_eval.results.Examples` reads; none without examples."""
        return _under(self.arrays, EXAMPLE)


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    found = arrays.under(prefix) if isinstance(arrays, StoredArrays) else arrays
    return {key.removeprefix(prefix): a for key, a in found.items() if key.startswith(prefix)}
