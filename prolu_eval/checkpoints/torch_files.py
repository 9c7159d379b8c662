"""Reading untrusted files of ``torch.save`` without executing pickles."""

import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolu_eval.checkpoints.reading import TRUNCATED, check_file, refuse_bomb
from prolu_eval.errors import CheckpointError

_PLAIN = "use a checkpoint that is a plain state dict, and whole"
_PICKLE_BYTES, _PICKLE_TUPLES = 1 << 20, 20_000
# The names that the pickle of a state dict uses. torch.load allows more, and some of them can
# allocate any amount of memory.
_PICKLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.serialization _get_layout",
    "torch Size",
    "torch device",
}


def read_torch(path: Path) -> dict[str, Any]:
    """The dict in a file of ``torch.save``, on the CPU, loaded with ``weights_only=True``.

    Raises:
        CheckpointError: if the file is missing, damaged, compressed or older than torch 1.6, if it
            holds anything besides tensors and plain values, or if tensors claim more numbers than
            are stored.
    """
    check_file(path)
    try:
        _check_zip(path)
        refuse_bomb(path, path.stat().st_size)
        _check_pickle(path)
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (a hostile file may raise anything in the unpickler)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            path, f"cannot be read without executing what it holds ({reason})", _PLAIN
        ) from None
    if not isinstance(document, dict):
        raise CheckpointError(path, "holds no dict of tensors", TRUNCATED)
    n_bytes = 0
    for name, tensor in _tensors(document):
        _check_tensor(path, name, tensor)
        n_bytes += tensor.nbytes
    # Tied matrices share their storage, so each byte may count twice.
    if n_bytes > 2 * path.stat().st_size:
        raise CheckpointError(path, "claims more numbers than it stores", TRUNCATED)
    return document


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            path, "is no file of torch.save since 1.6", "save it again with today's torch"
        )


def _tensors(document: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in document.items():
        if isinstance(value, Tensor):
            yield str(name), value
        elif isinstance(value, dict):
            yield from ((str(n), t) for n, t in value.items() if isinstance(t, Tensor))


def mentions(path: Path, names: Iterable[str]) -> bool:
    """Whether a file of ``torch.save`` may be a dict with these names, from its pickle's bytes."""
    try:
        content = _pickle(path)
    except Exception:  # noqa: BLE001 (zip headers of a damaged file raise anything)
        return False
    return all(name.encode() in content for name in names)


def _pickle(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        pickles = [e for e in archive.infolist() if e.filename.lower().endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _PICKLE_BYTES:
            raise CheckpointError(path, "holds no pickle of a state dict", TRUNCATED)
        return archive.read(pickles[0])


def _check_pickle(path: Path) -> None:
    """Refuse a pickle that uses names no state dict needs, or is nested so deep that it crashes."""
    n_tuples = 0
    for opcode, argument, _ in pickletools.genops(_pickle(path)):
        n_tuples += opcode.name.startswith("TUPLE")
        named = str(argument or opcode.name)
        known = named in _PICKLED or (named.startswith("torch ") and _is_harmless(named[6:]))
        if (opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not known) or (
            n_tuples > _PICKLE_TUPLES
        ):
            raise CheckpointError(
                path, f"cannot be read without executing what it holds ({named})", _PLAIN
            )


def _is_harmless(name: str) -> bool:
    """Whether torch's attribute is a dtype or the type of a storage."""
    found = getattr(torch, name, None)
    return isinstance(found, torch.dtype) or name.endswith("Storage")


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(path, f"{name} is no plain tensor", "save it as dense CPU tensor")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(path, f"{name} claims more numbers than it stores", TRUNCATED)
