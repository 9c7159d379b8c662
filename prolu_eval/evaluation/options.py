"""The options of an evaluation: the description, the checks and the default of each, in one place.

The Python interface and the command line (:mod:`prolu_eval.cli.options`) both derive from them. The
module does not import torch.
"""

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from prolu_eval.arguments import at_home
from prolu_eval.choices import DtypeChoice, Packing, SpecialTokens, Split
from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS, PROBE_KS, TaskKind, improves_with_tokens, metric_key
from prolu_eval.runs import WeightProcessing
from prolu_eval.spelling import suggesting

DEFAULT_TOKENS = 131_072
DEFAULT_CONTEXT = 128
DEFAULT_OBJECTIVES = ("l0", "ce_degradation")


class Panel(Enum):
    """The subject of an option, which is the heading above it in the help."""

    WHAT = "What is measured"
    TEXT = "On which text"
    PRECISION = "How precisely, and in what portions"
    PLACE = "Where it runs, and where results go"


def option_name(field: str) -> str:
    """The name of a field of :class:`EvaluationOptions` on the command line."""
    # On the command line, `--split` already asks for a frontier below and above a value.
    return "--split-tokens" if field == "split" else f"--{field.replace('_', '-')}"


def _text(value: object) -> object:
    """Convert paths and torch devices to the text that names them, ``~`` to the home folder."""
    if isinstance(value, str | os.PathLike):
        named = os.fspath(value)
        return at_home(named) if isinstance(named, str) else named
    return str(value) if type(value).__module__ == "torch" else value


def _dtype(value: object) -> object:
    """Convert a torch dtype to its name."""
    return value if value is None else str(value).removeprefix("torch.")


def _whole(value: object) -> object:
    """Convert whole numbers of any library to Python's."""
    return int(value) if isinstance(value, Integral) else value


def metric_value(option: str, text: str) -> tuple[str, float]:
    """The metric and the number in METRIC=VALUE.

    Raises:
        UsageError: if the text does not have this form.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(option, f"{text!r} is no METRIC=VALUE", "write for example l0=32")
    metric = metric_key(name, option)
    try:
        return metric, float(value)
    except ValueError:
        raise UsageError(option, f"{text!r} has no number", "write METRIC=VALUE") from None


def _targets(value: object) -> object:
    """The standard errors to reach, from one or several METRIC=VALUE, or from a mapping."""
    option = option_name("target_se")
    if value is None:
        return {}
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Sequence):
        value = dict(metric_value(option, str(text)) for text in value)
    if isinstance(value, Mapping):
        value = {metric_key(str(name), option): target for name, target in value.items()}
        for key in value:
            if not improves_with_tokens(METRICS[key]):
                reason = f"{key!r} has no standard error to wait for"
                raise UsageError(
                    option, reason, "name a metric that is a mean or a ratio over tokens"
                )
    return value


def _objectives(value: object) -> object:
    """The objectives of a race: none, the usual ones, or those named, as ``x,y`` or in a list."""
    if value is None or value is False:
        return ()
    if value is True:
        return DEFAULT_OBJECTIVES
    keys = value.split(",") if isinstance(value, str) else value
    if isinstance(keys, Sequence):
        keys = [metric_key(str(key), "--race") for key in keys]
        for key in keys:
            if METRICS[key].direction == "none" or not improves_with_tokens(METRICS[key]):
                reason = f"{key} is no objective that can be compared on a part of the tokens"
                raise UsageError("--race", reason, "leave --race out, or choose another")
        if keys and not 2 <= len(set(keys)) == len(keys) <= 3:
            reason = f"{', '.join(keys)} are not two or three metrics"
            raise UsageError("--race", reason, "name as many, once each")
        return tuple(keys)
    return value


def _several(value: object) -> object:
    """Several values, from text with commas, from one value, or from none."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value if isinstance(value, Sequence) else (value,)


def _ks(value: object) -> object:
    """The numbers of latents for probes, of those for which metrics are defined."""
    option, found = option_name("k"), _several(value)
    if isinstance(found, Sequence):
        known = ", ".join(map(str, PROBE_KS))
        for k in found:
            if str(k) not in map(str, PROBE_KS):
                raise UsageError(option, f"{k!r} is no number of latents", f"choose from {known}")
        return tuple(int(k) for k in found)
    return found


def _share(value: object) -> object:
    """A share of the tokens, from the text I/N or from two numbers."""
    if isinstance(value, str):
        index, _, count = value.partition("/")
        try:
            value = int(index), int(count)
        except ValueError:
            raise UsageError("--shard", f"{value!r} is no share", "give e.g. 0/4") from None
    if isinstance(value, tuple) and len(value) == 2 and not 0 <= value[0] < value[1]:
        reason = f"{value[0]}/{value[1]} is no share"
        raise UsageError("--shard", reason, "count from 0, as in 0/4")
    return value


Name = Annotated[str, BeforeValidator(_text)]
Count = Annotated[int, BeforeValidator(_whole)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EvaluationOptions:
    """How to evaluate. None means the value of a run's own configuration, or else a default.

    Values are converted if they can have only one meaning: ``n_tokens=1e4``, ``results="out"``,
    ``dtype=torch.float32``, ``shard="0/4"``, ``target_se=["l0=0.5"]``.

    Raises:
        UsageError: if an option is unknown, is not one of its choices, is out of its range, or
            contradicts another.
    """

    model: Annotated[
        Name | None,
        Field(description="'embedded', a local folder or a hub name [default: what the runs say]"),
        Panel.WHAT,
    ] = None
    hook: Annotated[
        str | None, Field(description="Hook point [default: what the runs say]"), Panel.WHAT
    ] = None
    hook_out: Annotated[
        str | None,
        Field(
            description="Hook point that transcoders predict, if they read another one "
            "[default: what the runs say]"
        ),
        Panel.WHAT,
    ] = None
    weight_processing: Annotated[
        WeightProcessing | None,
        Field(
            description="Take the activations of the weights as published (none), or as "
            "TransformerLens processes them (processed) [default: what the runs say, or none]"
        ),
        Panel.WHAT,
    ] = None
    special_tokens: Annotated[
        SpecialTokens,
        Field(
            description="exclude: positions of special tokens are neither replaced nor counted; "
            "include: they are replaced and counted like others"
        ),
        Panel.WHAT,
    ] = "exclude"

    encoder: Annotated[
        str | None,
        Field(
            description="Read files as plain dictionaries of atoms, whose codes are computed by "
            "top-k=K, matching-pursuit[=K] or nnls[=PENALTY]"
        ),
        Panel.WHAT,
    ] = None
    plugin: Annotated[
        str | None,
        Field(
            description="MODULE:FUNCTION or FILE.py:FUNCTION: your own function, which returns a "
            "torch.nn.Module with encode and decode, or several by name"
        ),
        Panel.WHAT,
    ] = None
    estimate_scale: Annotated[
        bool,
        Field(
            description="If files of autoencoders lack the factor on activations in training, "
            "estimate it from the activations on the first tokens"
        ),
        Panel.WHAT,
    ] = False

    measure: Annotated[
        tuple[TaskKind, ...],
        BeforeValidator(_several),
        Field(
            description="Measure tasks in addition: probes (labelled prompts, classified by few "
            "latents), behaviour (templated tasks that the model itself can do), or "
            "probes,behaviour [default: none]"
        ),
        Panel.WHAT,
    ] = ()
    probe_data: Annotated[
        Path | None,
        BeforeValidator(_text),
        Field(
            description="The labelled prompts of probes: the wheel of sae-probes, or a folder or "
            "zip file of CSV files with columns prompt and target [default: the installed "
            "sae-probes]"
        ),
        Panel.WHAT,
    ] = None
    tasks: Annotated[
        tuple[str, ...],
        BeforeValidator(_several),
        Field(
            description="Tasks of probes, by name or pattern: 105_click_bait,5_* [default: all of "
            "two classes]"
        ),
        Panel.WHAT,
    ] = ()
    k: Annotated[
        tuple[Count, ...],
        BeforeValidator(_ks),
        Field(description="Numbers of latents for probes [default: 1,2,5,16,128]"),
        Panel.WHAT,
    ] = ()

    examples: Annotated[
        Count,
        Field(
            ge=0,
            description="Store so many of the strongest activating examples of each feature, with "
            "their context, beside the result [default: none]",
        ),
        Panel.WHAT,
    ] = 0

    tokens: Annotated[
        Name | None,
        Field(
            description="Text, JSON lines, JSON, CSV, TSV or Parquet (also as .gz or .zst), a "
            "folder of these, a dataset's folder or name, or .npy or .safetensors of token ids "
            "[default: the held-out part of the runs' own dataset]"
        ),
        Panel.TEXT,
    ] = None
    text_column: Annotated[
        str | None,
        Field(
            description="Column of --tokens that holds text or token ids [default: input_ids, "
            "tokens, text or content]"
        ),
        Panel.TEXT,
    ] = None
    split: Annotated[
        Split | None,
        Field(
            description="Which part of the tokens to use [default: all of --tokens, heldout of a "
            "run's own dataset]"
        ),
        Panel.TEXT,
    ] = None
    context_length: Annotated[
        Count | None,
        Field(ge=2, description="Tokens per sequence [default: what the runs say, or 128]"),
        Panel.TEXT,
    ] = None
    prepend_bos: Annotated[
        bool | None,
        Field(description="Begin sequences with BOS or not [default: what the runs say]"),
        Panel.TEXT,
    ] = None
    packing: Annotated[
        Packing,
        Field(
            description="concatenate: a sequence may continue in the next document; separate: each "
            "sequence stays within one document"
        ),
        Panel.TEXT,
    ] = "concatenate"

    n_tokens: Annotated[
        Count, Field(ge=1, description="Evaluate on at most so many tokens"), Panel.PRECISION
    ] = DEFAULT_TOKENS
    target_se: Annotated[
        Mapping[str, float],
        BeforeValidator(_targets),
        Field(
            description="METRIC=VALUE, e.g. ce_degradation=0.002: evaluate until every run's "
            "standard error is that small, on at most --n-tokens tokens"
        ),
        Panel.PRECISION,
    ] = Field(default_factory=dict)
    race: Annotated[
        tuple[str, ...],
        BeforeValidator(_objectives),
        Field(
            description="Measure all runs on a quarter of the tokens, and on the rest only those "
            "runs that no other run surely beats in every objective"
        ),
        Panel.PRECISION,
    ] = ()
    dtype: Annotated[
        DtypeChoice,
        BeforeValidator(_dtype),
        Field(
            description="Precision of the model and the autoencoders; tf32 is float32 with matrix "
            "products on CUDA rounded to TF32; auto is the fastest that changes no metric by a "
            "tenth of its standard error, compared with float32 on the first --shard-tokens"
        ),
        Panel.PRECISION,
    ] = "float32"
    shard: Annotated[
        tuple[int, int] | None,
        BeforeValidator(_share),
        Field(
            description="I/N, from 0/N: measure only one of N shares of the tokens. Results appear "
            "once all shares are measured, by several machines on one folder or one by one"
        ),
        Panel.PRECISION,
    ] = None
    shard_tokens: Annotated[
        Count,
        Field(ge=1, description="Save measurements after every so many tokens"),
        Panel.PRECISION,
    ] = 16_384

    device: Annotated[
        Name | None,
        Field(
            description="cpu, cuda, ..., or several that share the work: cuda:0,cuda:1, or all "
            "[default: cuda if it is available]"
        ),
        Panel.PLACE,
    ] = None
    device_map: Annotated[
        str | None,
        Field(
            description="Spread a model over several devices: auto or balanced (needs accelerate)"
        ),
        Panel.PLACE,
    ] = None
    batch_size: Annotated[
        Count | None,
        Field(ge=1, description="Sequences per batch [default: what fits the device]"),
        Panel.PLACE,
    ] = None
    on: Annotated[
        str | None,
        Field(
            description="Run on a cluster: ray (the running cluster, or this machine's CPUs and "
            "GPUs), ray://HOST:PORT, or slurm [default: this machine alone]"
        ),
        Panel.PLACE,
    ] = None
    ray: Annotated[
        str | None,
        Field(
            description="Workers of --on ray: cpus=4 (and threads) on nodes without GPUs, gpus=1 "
            "on others, workers=N at most [default: as many as fit on the nodes]"
        ),
        Panel.PLACE,
    ] = None
    slurm: Annotated[
        str | None,
        Field(
            description="Jobs of --on slurm: partition=P,gpus=1,cpus=4,mem=32,time=2:00:00,"
            "array=32, and further flags of sbatch"
        ),
        Panel.PLACE,
    ] = None
    max_failures: Annotated[
        Count | None,
        Field(
            ge=0,
            description="Stop once more than so many runs have failed [default: never stop]",
        ),
        Panel.PLACE,
    ] = None
    results: Annotated[
        Path | None,
        BeforeValidator(_text),
        Field(
            description="Folder for results [default: evaluation/ beside each run; for hub: runs, "
            "results/ in the cache folder]"
        ),
        Panel.PLACE,
    ] = None

    @model_validator(mode="wrap")
    @classmethod
    def _with_own_errors(cls, values: Any, handler: Any) -> "EvaluationOptions":
        try:
            options: EvaluationOptions = handler(values)
        except ValidationError as error:
            raise _refusal(error) from None
        for key, target in options.target_se.items():
            if not target > 0:
                reason = f"{target:g} is not above zero"
                raise UsageError("--target-se", reason, f"give e.g. {key}=0.002")
        if options.shard is not None and options.target_se:
            raise UsageError("--shard", "cannot know when --target-se is reached", "give only one")
        if options.race and (options.shard is not None or options.target_se):
            other = "--target-se" if options.target_se else "--shard"
            raise UsageError("--race", f"chooses the tokens, as {other} does", "give one of them")
        return options


def as_document(options: EvaluationOptions) -> dict[str, Any]:
    """The options as plain data; ``EvaluationOptions(**document)`` restores them."""
    document: dict[str, Any] = TypeAdapter(EvaluationOptions).dump_python(options, mode="json")
    return document


def _refusal(error: ValidationError) -> UsageError:
    """Convert an error of pydantic to the project's own error."""
    found = error.errors()[0]
    field, value, limits = str(found["loc"][0]), found["input"], found.get("ctx", {})
    subject = f"{field} ({option_name(field)})"
    match found["type"]:
        case "unexpected_keyword_argument":
            known = ", ".join(EvaluationOptions.__dataclass_fields__)
            remedy = suggesting(
                field, EvaluationOptions.__dataclass_fields__, f"choose from {known}"
            )
            return UsageError(field, "is no option of an evaluation", remedy)
        case "literal_error":
            expected = limits["expected"]
            names = expected.split("'")[1::2]
            remedy = suggesting(str(value), names, f"choose {expected}")
            return UsageError(subject, f"{value!r} is no choice", remedy)
        case "greater_than_equal":
            return UsageError(subject, f"{value!r} is too small", f"give {limits['ge']} or more")
    reason = f"{value!r} is not accepted ({found['msg'].lower()})"
    return UsageError(subject, reason, "see `prolu-eval evaluate --help`")
