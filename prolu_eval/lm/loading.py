"""Bringing a Hugging Face model into memory, and telling it from any other."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prolu_eval.embedded import MODEL_PATH
from prolu_eval.errors import ModelError
from prolu_eval.lm.sites import bridge_over
from prolu_eval.runs import EMBEDDED_MODEL


def load_network(
    name: str,
    device: str | None,
    device_map: str | None,
    dtype: torch.dtype,
    revision: str | None,
) -> tuple[nn.Module, Any, dict[int, str], str]:
    """A network, TransformerLens's bridge for it, its modules' paths by id, and a fingerprint.

    ``name`` is an official one.

    Raises:
        ModelError: as :meth:`prolu_eval.lm.LanguageModel.load`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = str(MODEL_PATH) if name == EMBEDDED_MODEL else name
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    local = Path(place).exists()
    if local and not (Path(place) / "config.json").exists():
        raise ModelError(
            name, "is no model folder (no config.json)", "name a Hugging Face model folder"
        )
    try:
        with quiet():
            network = AutoModelForCausalLM.from_pretrained(
                place, revision=revision, dtype=dtype, device_map=device_map
            )
            if device_map is None:
                network = network.to(device)
            fuse_activations(network)
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
            bridge, modules = bridge_over(place, network, tokenizer)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        what = "folder cannot be loaded" if local else "is no local folder, and the hub failed"
        raise ModelError(
            name, f"{what} ({reason})", "check the name, the files and the architecture"
        ) from None
    fingerprint = _fingerprint(Path(place) if local else None, place, revision, network)
    return network, bridge, modules, fingerprint


def fuse_activations(network: nn.Module) -> None:
    """Compute GPT-2's GELU in one pass; Transformers writes it as eight, equal up to rounding."""
    from transformers.activations import NewGELUActivation

    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def official_name(name: str) -> str:
    """The one name of a model: a folder's plain path, or what the hub calls it. No network.

    Checkpoints of SAELens and e2e_sae say ``gpt2-small``, an alias of TransformerLens, where the
    hub says ``gpt2``.
    """
    from transformer_lens.supported_models import MODEL_ALIASES

    if name == EMBEDDED_MODEL or Path(name).exists():
        return str(Path(name))
    known: dict[str, list[str]] = MODEL_ALIASES
    aliases = {alias.lower(): official for official, names in known.items() for alias in names}
    return aliases.get(name.lower(), name)


def _fingerprint(folder: Path | None, name: str, revision: str | None, network: nn.Module) -> str:
    """What tells this model from any other: the bytes of its files, or its commit on the hub."""
    digest = hashlib.sha256()
    if folder is None:
        commit = getattr(network.config, "_commit_hash", None)
        digest.update(f"{name}@{commit or revision}".encode())
        return digest.hexdigest()[:32]
    for path in sorted(
        [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' loading bars off the terminal."""
    from transformers.utils import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
