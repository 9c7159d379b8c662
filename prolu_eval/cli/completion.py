"""What the shell offers when a user presses the tab key. No torch, no model, no network.

Each function takes what is written so far of a value. Where it offers nothing, the shell offers
files and folders by itself.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import get_args

import typer

from prolu_eval.choices import DtypeChoice, Packing, SpecialTokens, Split
from prolu_eval.metrics import METRICS, PROBE_KS, TaskKind, improves_with_tokens
from prolu_eval.runs import CONFIG_FILE, EMBEDDED_MODEL, WeightProcessing

Offered = list[tuple[str, str]]
# What `sweep` trains: the names of prolu_eval.training.objectives, which would load torch.
TRAINED_VARIANTS = (
    "relu", "prolu", "prolu_relu_hybrid", "trec", "tlin", "gated", "jumprelu", "topk", "abstopk",
    "groupmax", "batchtopk", "matryoshka",
)  # fmt: skip
_OF_PROLU = ("relu", "ste", "ste_bias_only", "ste_input_only")
GRADIENTS = {"relu": ("ste",), "prolu": _OF_PROLU, "prolu_relu_hybrid": _OF_PROLU}
# Runs of a folder that are looked at: a folder may hold a hundred thousand.
_MOST = 500


def metrics(incomplete: str) -> Offered:
    """Keys of metrics that have a better direction, with what they measure."""
    return _beginning(incomplete, (m.key for m in METRICS.values() if m.direction != "none"))


def metric_values(incomplete: str) -> Offered:
    """METRIC= of METRIC=VALUE."""
    return [(f"{key}=", told) for key, told in _beginning(incomplete, METRICS)]


def standard_errors(incomplete: str) -> Offered:
    """METRIC= of metrics that more tokens make more certain."""
    improving = (key for key, metric in METRICS.items() if improves_with_tokens(metric))
    return [(f"{key}=", told) for key, told in _beginning(incomplete, improving)]


def tolerances(incomplete: str) -> Offered:
    """METRIC= of the last of several METRIC=AMOUNT with commas between them."""
    before, _, last = incomplete.rpartition(",")
    given = f"{before}," if before else ""
    found = [*_beginning(last, METRICS), *_plain(last, "hypervolume")]
    return [(f"{given}{key}=", told) for key, told in found]


def two_metrics(incomplete: str) -> Offered:
    """The first of X,Y, then the second; or none."""
    before, comma, last = incomplete.rpartition(",")
    found = [(f"{before}{comma}{key}", told) for key, told in metrics(last)]
    return found if comma else [*found, *_plain(incomplete, "none")]


def devices(incomplete: str) -> Offered:
    """Names of devices, and each of this machine's NVIDIA GPUs."""
    before, comma, last = incomplete.rpartition(",")
    gpus = sorted(Path("/dev").glob("nvidia[0-9]*"))
    numbered = [f"cuda:{gpu.name.removeprefix('nvidia')}" for gpu in gpus]
    names = [*numbered] if comma else ["cpu", "cuda", "mps", "all", *numbered]
    return [(f"{before}{comma}{name}", "") for name in names if name.startswith(last)]


def run_names(context: typer.Context, incomplete: str) -> Offered:
    """Names of the runs in the folders that stand on the command line."""
    found: dict[str, None] = {}
    for place in map(Path, [*(context.params.get("runs") or ()), *context.args]):
        if place.is_dir():
            paths = islice(place.glob(f"*/{CONFIG_FILE}"), _MOST)
            found |= dict.fromkeys(sorted(path.parent.name for path in paths))
    return [(name, "") for name in found if name.startswith(incomplete)]


def variants(incomplete: str) -> Offered:
    """Labels of variants that are trained, with commas between them."""
    labels = [
        label
        for variant in TRAINED_VARIANTS
        for label in (variant, *(f"{variant}/{g}" for g in GRADIENTS.get(variant, ())))
    ]
    return several(*labels)(incomplete)


def trained_models(incomplete: str) -> Offered:
    """What a sweep trains on: the embedded model, benchmarks, and folders."""
    benchmarks = (f"synthetic:{name}" for name, _ in presets(""))
    return places(EMBEDDED_MODEL, *benchmarks)(incomplete)


def presets(incomplete: str) -> Offered:
    """Benchmarks with known features."""
    from prolu_eval.synthetic import PRESETS

    return _plain(incomplete, *PRESETS)


def places(*names: str) -> Callable[[str], Offered]:
    """Names with a meaning of their own, and the files and folders that begin so."""

    def offered(incomplete: str) -> Offered:
        found = _plain(incomplete, *names)
        if not incomplete.startswith("-"):
            start = Path(incomplete).expanduser()
            inside = incomplete.endswith("/") or not incomplete
            folder, begun = (start, "") if inside else (start.parent, start.name)
            if folder.is_dir():
                beside = incomplete if inside else incomplete[: len(incomplete) - len(begun)]
                entries = sorted(folder.iterdir())
                found += [
                    (f"{beside}{entry.name}{'/' if entry.is_dir() else ''}", "")
                    for entry in entries
                    if entry.name.startswith(begun) and (begun or not entry.name.startswith("."))
                ]
        return found

    return offered


def words(*names: str) -> Callable[[str], Offered]:
    """One of some words."""
    return lambda incomplete: _plain(incomplete, *names)


def several(*names: str) -> Callable[[str], Offered]:
    """Words with commas between them."""

    def offered(incomplete: str) -> Offered:
        before, comma, last = incomplete.rpartition(",")
        used = before.split(",")
        return [(f"{before}{comma}{n}", "") for n in names if n.startswith(last) and n not in used]

    return offered


def _beginning(incomplete: str, keys: Iterable[str]) -> Offered:
    return [(key, METRICS[key].title) for key in keys if key.startswith(incomplete)]


def _plain(incomplete: str, *names: str) -> Offered:
    return [(name, "") for name in names if name.startswith(incomplete)]


# The options of an evaluation, by field.
EVALUATION: dict[str, Callable[[str], Offered]] = {
    "model": places(EMBEDDED_MODEL),
    "tokens": places(EMBEDDED_MODEL),
    "weight_processing": words(*get_args(WeightProcessing)),
    "special_tokens": words(*get_args(SpecialTokens)),
    "split": words(*get_args(Split)),
    "packing": words(*get_args(Packing)),
    "dtype": words(*get_args(DtypeChoice)),
    "encoder": words("top-k=", "matching-pursuit", "nnls"),
    "measure": several(*get_args(TaskKind)),
    "k": several(*map(str, PROBE_KS)),
    "target_se": standard_errors,
    "device": devices,
    "device_map": words("auto", "balanced"),
    "on": words("ray", "ray://", "slurm"),
    "ray": several("cpus=", "gpus=", "workers="),
    "slurm": several("partition=", "gpus=", "cpus=", "mem=", "time=", "array="),
}
