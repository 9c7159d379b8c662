"""Files that a search for checkpoints passes over, and why."""

import re
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from prolu_eval.checkpoints.reading import check_safetensors
from prolu_eval.errors import CheckpointError

LINKED = "links to folders are not followed; name the link itself to read it"
HIDDEN = "folders of this name hold results; rename it to have the checkpoints in it read"
UNKNOWN = "its format is unknown"

_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pkl.gz", ".npz", ".safetensors")
_CONFIG_OF = {
    "ae.pt": "config.json",
    "sae_weights.safetensors": "cfg.json",
    "sae.safetensors": "config.json or cfg.json",
    "cc_weights.pt": "cfg.json",
}
_WEIGHTS_OF = {
    "cfg.json": "sae_weights.safetensors, sae.safetensors or cc_weights.pt",
    "final_config.yaml": "samples_N.pt",
}
# How the names of files begin that training leaves beside checkpoints, and those of token ids.
_BESIDE = re.compile(
    r"optim|(lr_?)?sched|(grad_?)?scaler|rng|random_states?|train(er|ing)_(args|state)|"
    r"training(-\d+)?\.checkpoint|(log_)?(feature_)?sparsity|activations?_|history|"
    r"(token|input)?_?ids\b|tokens?\b",
    re.IGNORECASE,
)
_NAMED = 3  # a sentence names at most so many files


def why(file: Path, beside: Collection[str]) -> str | None:
    """Why a file belongs to no checkpoint; None if it does not look like a part of one.

    Args:
        file: the file.
        beside: the names of all files in its folder.
    """
    name = file.name
    if name.endswith(_WEIGHTS):
        if (damage := _damage(file)) is not None:
            return damage
        config = _CONFIG_OF.get(name)
        if config is not None:
            return f"there is no {config} beside it"
        return "it is a language model's" if _is_of_a_model(name, beside) else UNKNOWN
    if name in _WEIGHTS_OF and not any(other.endswith(_WEIGHTS) for other in beside):
        return f"there is no {_WEIGHTS_OF[name]} beside it"
    return None


def why_beside(file: Path, kind: str) -> str | None:
    """Why a file in the folder of a checkpoint does not belong to it; None if it may do so.

    Args:
        file: the file, which is not read as a part of that checkpoint.
        kind: the format of that checkpoint.
    """
    if file.name not in _CONFIG_OF:
        return None
    return f"its folder is read as one checkpoint ({kind}); move it to a folder of its own"


def is_expected(name: str, beside: Collection[str]) -> bool:
    """Whether nobody takes a file for a checkpoint: it is a state of training, or token ids."""
    return _BESIDE.match(name) is not None or _is_of_a_model(name, beside)


def some(names: Sequence[object]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more


def _is_of_a_model(name: str, beside: Collection[str]) -> bool:
    return name.startswith(("model", "pytorch_model")) and "config.json" in beside


def _damage(file: Path) -> str | None:
    """What is wrong with a file of weights itself, as far as its beginning and its end tell."""
    try:
        if not file.stat().st_size:
            return "it is empty; copy or download it again"
        if file.suffix == ".safetensors":
            check_safetensors(file)
        with file.open("rb") as opened:
            is_archive = opened.read(2) == b"PK" or file.suffix == ".npz"
    except CheckpointError as error:
        return f"it {error.reason}; {error.remedy}"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if is_archive and not zipfile.is_zipfile(file):
        return "it is cut short; copy or download it again"
    return None
