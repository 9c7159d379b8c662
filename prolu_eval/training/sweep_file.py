"""Reading a sweep file, with what the command line puts in the place of its settings."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from prolu_eval.errors import ConfigError, UsageError
from prolu_eval.runs import EMBEDDED_MODEL
from prolu_eval.saes import VARIANTS
from prolu_eval.spelling import suggesting
from prolu_eval.synthetic import is_synthetic
from prolu_eval.training.baselines import FITTED
from prolu_eval.training.config import Shared, Sweep, SweepFile, Table, Within, with_a_dataset
from prolu_eval.training.mistakes import choice_remedy, in_words
from prolu_eval.training.objectives import OBJECTIVES

_TABLES: dict[str, type[Table]] = {"shared": Shared, "within": Within, "sweep": Sweep}
# What varies within or between sweeps; other replacements are of what is shared.
_OF_ALL = ("learning_rates", "seeds")
_VALUES = ("coefficients", "k", "target_l0")
# Values that settings may have, for finding what else is wrong in a table with wrong ones.
_STAND_INS: dict[str, Any] = {
    "hook": "", "n_tokens": 1, "batch_size": 1, "d_sae": 1, "expansion": 1.0,
    "coefficients": [1.0], "k": [1.0], "target_l0": [1.0],
}  # fmt: skip


def read_sweep_file(path: Path, **overrides: Any) -> SweepFile:
    """Read and check a sweep file; overrides that are not None replace what it says.

    Args:
        path: the file.
        overrides: what is shared by its name; ``learning_rates`` and ``seeds`` of all sweeps;
            ``coefficients``, ``k`` or ``target_l0`` of those that take them; ``variants``, the
            labels of the sweeps that are wanted (``relu``, ``prolu/ste``, ``relu+sqrt_l1``), which
            the file may lack if one of the former gives their values; ``baselines``.

    Raises:
        ConfigError: if the file cannot be read, has an unknown key or a value out of range, names
            an unknown variant, option or penalty, or has more active features than features.
        UsageError: if a model of the user's own is to be trained on no text of theirs, or a
            replacement is of no use to the file.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise ConfigError(path, "is a folder", "give a TOML sweep file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "give a TOML sweep file, as `prolu-eval sweep --example` prints one"
        if isinstance(error, tomllib.TOMLDecodeError) and _has_decimal_comma(path, reason):
            remedy = "write decimals with a point, and a comma between the numbers of a list"
        raise ConfigError(path, f"cannot be read ({reason})", remedy) from None
    replacements = {key: value for key, value in overrides.items() if value is not None}
    if "baselines" in replacements:
        document["baselines"] = replacements.pop("baselines")
    _replace_in_sweeps(document, replacements)
    lacks_text = False
    if isinstance(document.get("shared"), dict):
        document["shared"], told = _with_one_text(document["shared"])
        lacks_text = _replace_in_shared(document["shared"], with_a_dataset(replacements))
    else:
        told = []
    try:
        file = SweepFile.model_validate(document)
        names = [plan.name for plan in file.plans()]
    except ValidationError as error:
        found = error.errors()
        told += [in_words(one, _known(one)) for one in [*found, *_hidden_by(found, document)]]
    if told:
        told += ["shared.tokens: is missing"] if lacks_text else []
        raise ConfigError(path, "; ".join(told), "see `prolu-eval sweep --example`")
    if lacks_text:
        raise UsageError(
            "--tokens", f"is missing: no text is named to train on for {file.shared.model}",
            f"name some, or {EMBEDDED_MODEL} for Python's standard library",
        )  # fmt: skip
    if file.shared.d_sae is not None:
        _check_sizes(path, file.sweeps, file.shared.d_sae)
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(path, f"has {min(twice)} twice", "remove one of the two")
    return file


def _has_decimal_comma(path: Path, reason: str) -> bool:
    """Whether the line that is not TOML may have a number such as ``0,5`` in it."""
    at = re.search(r"at line (\d+)", reason)
    lines = path.read_text(encoding="utf-8").splitlines()
    return at is not None and re.search(r"\d,\d", lines[int(at[1]) - 1]) is not None


def _check_sizes(path: Path, sweeps: Sequence[Sweep], d_sae: int) -> None:
    unsuited: list[ConfigError] = []
    for sweep in sweeps:
        try:
            sweep.check(d_sae)
        except ConfigError as error:
            unsuited.append(error)
    if len(unsuited) == 1:
        raise unsuited[0]
    if unsuited:
        reasons = dict.fromkeys(f"{error.subject}: {error.reason}" for error in unsuited)
        remedies = dict.fromkeys(error.remedy for error in unsuited)
        raise ConfigError(path, "; ".join(reasons), "; ".join(remedies))


def _with_one_text(shared: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What is shared, with its text under one name, and what is wrong with the names it had."""
    try:
        return with_a_dataset(shared), []
    except ValueError as error:
        others = {name: value for name, value in shared.items() if name != "dataset"}
        return with_a_dataset(others), [f"shared: {error}"]


def _hidden_by(found: Sequence[ErrorDetails], document: dict[str, Any]) -> Iterator[ErrorDetails]:
    """Mistakes of whole tables, which are not looked for while single settings are wrong.

    Each table is read again with other values in the place of its wrong and missing settings.
    """
    tables: list[tuple[tuple[str | int, ...], type[Table], Any]] = [
        (("shared",), Shared, document.get("shared"))
    ]
    if isinstance(sweeps := document.get("sweep"), list):
        tables += [(("sweep", i), Sweep, sweep) for i, sweep in enumerate(sweeps)]
    for place, kind, table in tables:
        within = [one["loc"][len(place) :] for one in found if one["loc"][: len(place)] == place]
        if not isinstance(table, dict) or not within or not all(within):
            continue
        wrong = {str(loc[0]) for loc in within}
        right = {name: value for name, value in table.items() if name not in wrong}
        others = {name: _STAND_INS[name] for name in wrong if name in _STAND_INS}
        if others.keys() & _VALUES and right.keys() & _VALUES:
            others = {name: value for name, value in others.items() if name not in _VALUES}
        try:
            kind.model_validate(right | others)
        except ValidationError as error:
            for one in error.errors():
                if not one["loc"]:
                    one["loc"] = place
                    yield one


def _replace_in_shared(shared: dict[str, Any], replacements: dict[str, Any]) -> bool:
    """Put replacements in their place; whether no text is named for a model of the user's own."""
    if {"d_sae", "expansion"} <= replacements.keys():
        raise UsageError("--expansion", "says what --d-sae says too", "leave one of them out")
    for size, other in (("d_sae", "expansion"), ("expansion", "d_sae")):
        if size in replacements:
            shared.pop(other, None)
    if "dataset" in replacements:
        shared.pop("text_column", None)
    model = replacements.get("model", shared.get("model", EMBEDDED_MODEL))
    # The embedded text beside another model is that of the file's model, unless both say so.
    text = replacements.get("dataset", shared.get("dataset"))
    for_another = "model" in replacements and "dataset" not in replacements
    missing = text is None or (for_another and text == EMBEDDED_MODEL)
    shared |= replacements
    return missing and model != EMBEDDED_MODEL and not is_synthetic(model)


def _replace_in_sweeps(document: dict[str, Any], replacements: dict[str, Any]) -> None:
    """Put what is of sweeps in its place, and take it out of the replacements."""
    sweeps = document.get("sweep")
    sweeps = [s for s in sweeps if isinstance(s, dict)] if isinstance(sweeps, list) else []
    values = {key: replacements.pop(key) for key in _VALUES if key in replacements}
    if (labels := replacements.pop("variants", None)) is not None:
        document["sweep"] = sweeps = _chosen(sweeps, labels, values)
    for key in _OF_ALL:
        if key in replacements:
            if isinstance(document.setdefault("within", {}), dict):
                document["within"][key] = replacements.pop(key)
            for sweep in sweeps:
                sweep.pop(key, None)
    trained = [sweep for sweep in sweeps if sweep.get("chance") not in FITTED]
    taking = {
        "target_l0": trained,
        "k": [sweep for sweep in trained if _takes_k(sweep)],
        "coefficients": [sweep for sweep in trained if not _takes_k(sweep)],
    }
    for key, value in sorted(values.items(), reverse=True):  # target_l0 gives way to the others
        if not taking[key]:
            remedy = "leave it out, or name one that does with --variant"
            raise UsageError(_option(key), "is of no use: no variant here takes it", remedy)
        for sweep in taking[key]:
            for other in _VALUES:
                sweep.pop(other, None)
            sweep[key] = value


def _chosen(
    sweeps: list[dict[str, Any]], labels: list[str], values: dict[str, Any]
) -> list[dict[str, Any]]:
    """Of a file's sweeps those that labels name; a new one of each variant that it lacks."""
    found: list[dict[str, Any]] = []
    for label in labels:
        wanted = sweep_of(label)
        alike = [sweep for sweep in sweeps if _is_named(sweep, wanted)]
        if not alike:
            takes = "k" if _takes_k(wanted) else "coefficients"
            values_of = "values of k" if takes == "k" else takes
            if not {takes, "target_l0"} & values.keys():
                raise UsageError(
                    "--variant", f"the file has no sweep of {label}, so that its {values_of} "
                    "are unknown", f"give {_option(takes)} or --target-l0",
                )  # fmt: skip
            alike = [wanted]
        found += [sweep for sweep in alike if sweep not in found]
    return found


def sweep_of(label: str) -> dict[str, Any]:
    """The variant, gradient and penalty of a label such as ``prolu/ste+l1``, as a file has them.

    Raises:
        UsageError: if one of them is unknown.
    """
    named, _, penalty = label.partition("+")
    variant, _, gradient = named.partition("/")
    objective = OBJECTIVES.get(variant)
    if objective is None:
        remedy = suggesting(variant, OBJECTIVES, f"choose {', '.join(OBJECTIVES)}")
        raise UsageError("--variant", f"{variant!r} is no variant that is trained", remedy)
    if penalty and penalty not in objective.penalties:
        offered = objective.penalties
        remedy = f"choose {', '.join(offered)}" if offered else f"write {named}"
        reason = f"{penalty!r} is no penalty of {variant}"
        raise UsageError("--variant", reason, suggesting(penalty, offered, remedy))
    sweep: dict[str, Any] = {"variant": variant}
    if penalty:
        sweep["penalty"] = penalty
    if gradient:
        sweep["options"] = {"gradient": gradient}
        try:
            VARIANTS[variant].Options.model_validate(sweep["options"])
        except ValidationError as error:
            found = error.errors()[0]
            if found["type"] == "extra_forbidden":
                reason, remedy = f"{variant} takes no gradient", f"write {variant}"
            else:
                reason, remedy = f"{gradient!r} is no gradient of {variant}", choice_remedy(found)
            raise UsageError("--variant", reason, remedy) from None
    return sweep


def _is_named(sweep: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a sweep is of a variant, and of a gradient and a penalty where these are said."""
    objective = OBJECTIVES.get(str(sweep.get("variant")))
    penalty = sweep.get(
        "penalty", objective.penalties[0] if objective and objective.penalties else None
    )
    known = {"variant": sweep.get("variant"), "penalty": penalty}
    options = sweep.get("options")
    gradient = options.get("gradient") if isinstance(options, dict) else None
    alike = all(known[key] == wanted[key] for key in ("variant", "penalty") if key in wanted)
    return alike and ("options" not in wanted or gradient == wanted["options"]["gradient"])


def _takes_k(sweep: dict[str, Any]) -> bool:
    objective = OBJECTIVES.get(str(sweep.get("variant")))
    return objective is not None and objective.takes_k


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _known(found: ErrorDetails) -> list[str]:
    """The settings that there are in the table that a mistake is in."""
    inside = len(found["loc"]) > 1
    table = _TABLES.get(str(found["loc"][0])) if inside else SweepFile
    return [] if table is None else list(table.model_fields)
