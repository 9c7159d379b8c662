"""Loading a Hugging Face model, and computing the fingerprint that identifies it.

No code that comes with a model is executed, and no package is installed for it.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prolu_eval.devices import default_device
from prolu_eval.embedded import MODEL_PATH
from prolu_eval.errors import ModelError, ProluEvalError
from prolu_eval.installation import broken_installation
from prolu_eval.lm.sites import bridge_over
from prolu_eval.runs import EMBEDDED_MODEL

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
                    "vocab.txt", "spiece.model", "tekken.json")  # fmt: skip
_MOVED = "pass --model with the folder where it is now, or its name on the hub"


@dataclass(frozen=True)
class Loaded:
    """A network, and what is known about it.

    ``bridge`` is TransformerLens's bridge over a second tree of the network's modules; ``modules``
    gives the path of each module of that tree by its ``id()``; ``tokenizer`` is the model's own
    tokenizer as it was saved, or None.
    """

    network: Any
    bridge: Any
    modules: dict[int, str]
    tokenizer: Any
    fingerprint: str


def load_network(
    name: str,
    device: str | None,
    device_map: str | None,
    dtype: torch.dtype,
    revision: str | None,
) -> Loaded:
    """Load the network of a model, which is named by its official name.

    Raises:
        InstallationError: if a package that the model needs cannot be imported.
        ModelError: as :meth:`prolu_eval.lm.LanguageModel.load`.
    """
    place = str(MODEL_PATH) if name == EMBEDDED_MODEL else name
    local = _is_local(name, place)
    device = device or default_device()
    try:
        with quiet():
            network = _network(name, place, revision, dtype, device_map)
            if device_map is None:
                network = network.to(device)
            fuse_activations(network)
            tokenizer = _tokenizer(place, revision)
    except ProluEvalError:
        raise
    except Exception as error:  # noqa: BLE001 (files and architectures of all kinds raise anything)
        if (broken := broken_installation(error)) is not None:
            raise broken from None
        what = "folder cannot be loaded" if local else "is no local folder, and the hub failed"
        remedy = "check the files and the architecture" if local else f"check the name, or {_MOVED}"
        raise ModelError(name, f"{what} ({_reason(error)})", remedy) from None
    bridge, modules = _bridge(name, place, network)
    fingerprint = _fingerprint(Path(place) if local else None, place, revision, network)
    return Loaded(network, bridge, modules, tokenizer, fingerprint)


def fuse_activations(network: nn.Module) -> None:
    """Compute GPT-2's GELU by one fused operation, where Transformers uses eight.

    The results are equal up to rounding.
    """
    from transformers.activations import NewGELUActivation

    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def official_name(name: str) -> str:
    """The official name of a model: a folder's plain path, or the model's name on the hub.

    Checkpoints of SAELens and e2e_sae name the model ``gpt2-small``, TransformerLens's alias, which
    is called ``gpt2`` on the hub. No request is sent over the network.
    """
    from transformer_lens.supported_models import MODEL_ALIASES

    if name == EMBEDDED_MODEL or Path(name).exists():
        return str(Path(name))
    known: dict[str, list[str]] = MODEL_ALIASES
    aliases = {alias.lower(): official for official, names in known.items() for alias in names}
    return aliases.get(name.lower(), name)


# While it loads a model, Transformers replaces methods of its classes, and it restores the methods
# that it found. If two threads loaded at once, the replaced methods would be found and restored,
# and weights would no longer be tied.
_LOADING = threading.Lock()


def _is_local(name: str, place: str) -> bool:
    """Whether a model is a local folder; otherwise it is a name on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if Path(place).exists():
        if not (Path(place) / "config.json").exists():
            raise ModelError(
                name, "is no model folder (no config.json)", "name a Hugging Face model folder"
            )
        return True
    try:
        validate_repo_id(place)
    except HFValidationError:
        raise ModelError(name, "is a folder that is not there", _MOVED) from None
    return False


def _network(
    name: str, place: str, revision: str | None, dtype: torch.dtype, device_map: str | None
) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    settings: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(place, **settings)
    kinds = (AutoModelForCausalLM, AutoModelForImageTextToText)
    kind = next((k for k in kinds if type(config) in k._model_mapping), None)
    if kind is None or config.is_encoder_decoder:
        what = f"is a {config.model_type} model"
        if config.is_encoder_decoder:
            what = "has an encoder besides its decoder"
        raise ModelError(
            name, f"{what}, not a causal language model", "name a causal language model"
        )
    with _LOADING:
        network, report = kind.from_pretrained(
            place, dtype=dtype, device_map=device_map, output_loading_info=True, **settings
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            name,
            f"holds no weights for {missing[0]} ({len(missing)} tensors are missing)",
            "download or save the model again",
        )
    if left := _left_over(network, report["unexpected_keys"]):
        raise ModelError(
            name,
            f"holds weights of blocks that its config.json leaves out ({left[0]} and "
            f"{len(left) - 1} more tensors)",
            "correct the number of layers in config.json, or save the smaller model again",
        )
    if dtype == torch.float64:
        # Experts run by a grouped matrix product, which torch does not have in float64.
        network.set_experts_implementation("eager")
    return network if config.get_text_config() is config else _text_part(name, network)


def _left_over(network: nn.Module, keys: Iterable[str]) -> list[str]:
    """Of the tensors in a model's files that it has no place for, those of additional blocks.

    Such a tensor has a counterpart in the first block. The other tensors without a place are
    buffers that older versions of transformers saved.
    """
    known = {name for name, _ in network.named_parameters()}
    ends = {".".join(parts[i:]) for parts in (n.split(".") for n in known) for i in range(2)}
    return sorted(key for key in keys if re.sub(r"\.\d+\.", ".0.", key, count=1) in ends)


def _text_part(name: str, whole: Any) -> Any:
    """The causal language model within a multimodal model, whose other parts are dropped.

    Raises:
        ModelError: if transformers has no separate model class for the text part, or if the part
            alone computes other logits than the whole model does.
    """
    from transformers import AutoModelForCausalLM

    text, what = whole.config.get_text_config(), f"is a multimodal {whole.config.model_type} model"
    remedy = "name a model of text alone"
    if type(text) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(name, f"{what}, whose text part is no separate model", remedy)
    with torch.device("meta"):
        part = AutoModelForCausalLM.from_config(text)
    trunk, head = whole.get_decoder(), whole.get_output_embeddings()
    if type(trunk) is not type(part.base_model) or head is None:
        raise ModelError(name, f"{what}, whose text part cannot be separated", remedy)
    setattr(part, part.base_model_prefix, trunk)
    part.set_output_embeddings(head)
    part.config._commit_hash = getattr(whole.config, "_commit_hash", None)
    part.eval()
    if not _same_logits(part, whole.eval()):
        raise ModelError(name, f"{what}, whose text part alone gives other logits", remedy)
    return part


@torch.inference_mode()
def _same_logits(part: nn.Module, whole: nn.Module) -> bool:
    tokens = torch.arange(4, device=next(whole.parameters()).device)[None]
    found, expected = (
        network(input_ids=tokens, use_cache=False).logits for network in (part, whole)
    )
    return torch.equal(found, expected)


def _tokenizer(place: str, revision: str | None) -> Any:
    """The model's tokenizer; None if it has none."""
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    held = (
        cached_file(place, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        for file in _TOKENIZER_FILES
    )
    if not any(held):
        return None
    return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)


def _bridge(name: str, place: str, network: Any) -> tuple[Any, dict[int, str]]:
    version = metadata.version("transformer-lens")
    try:
        with quiet():
            bridge, modules = bridge_over(place, network)
    except Exception as error:  # noqa: BLE001 (each architecture's adapter raises its own)
        if (broken := broken_installation(error)) is not None:
            raise broken from None
        unknown = str(error).startswith("Could not determine supported architecture")
        reason = "" if unknown else f" ({_reason(error)})"
        raise ModelError(
            name,
            f"TransformerLens {version} has no hook points for {type(network).__name__}{reason}",
            "name a model of an architecture that TransformerLens knows",
        ) from None
    if not hasattr(bridge, "blocks"):
        raise ModelError(
            name,
            f"has no single stack of blocks (TransformerLens {version}, {type(network).__name__})",
            "name a model whose blocks follow one another",
        )
    return bridge, modules


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _fingerprint(folder: Path | None, name: str, revision: str | None, network: nn.Module) -> str:
    """A hash that identifies this model: of its files' bytes, or of its commit on the hub."""
    if folder is None:
        commit = getattr(network.config, "_commit_hash", None)
        named = f"{name}@{commit or revision}"
        return hashlib.sha256(named.encode()).hexdigest()[:32]
    return folder_fingerprint(folder)


def folder_fingerprint(folder: Path) -> str:
    """A hash that identifies the model in a folder, computed from its files' bytes."""
    digest = hashlib.sha256()
    for path in sorted(
        [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' progress bars and notices off the terminal."""
    from transformers.utils import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
