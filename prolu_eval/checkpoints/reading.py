"""Reading configs and tensors from untrusted files.

No pickle is executed, and the memory used is bounded by the size of the files.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from prolu_eval.errors import CheckpointError

TRUNCATED = "copy or download the file again"
_CONFIG_BYTES, _YAML_BYTES = 4 << 20, 64 << 10
_HEADER_BYTES = 1 << 20
_UNPACKED_FREELY = 64 << 20
_INFLATION = 40

Model = TypeVar("Model", bound=BaseModel)


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, by which a small file could expand to a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("has aliases")
        return super().compose_node(parent, index)


def _no_number(_: str) -> None:
    """Read NaN and infinities, which are not valid JSON, as null."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: if the file is missing, too large for a config, or holds no object.
    """
    remedy = "restore the file that training wrote"
    check_file(path)
    if (size := path.stat().st_size) > _CONFIG_BYTES:
        raise CheckpointError(path, f"has {size} bytes, too many for a config", remedy)
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise CheckpointError(path, "cannot be read (nested too deep)", remedy) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", remedy) from None
    if not isinstance(document, dict):
        raise CheckpointError(path, "holds no JSON object", remedy)
    return document


def validate(model: type[Model], document: Any, path: Path, prefix: str = "") -> Model:
    """Convert a document to the pydantic model that describes it.

    Raises:
        CheckpointError: naming the first entry that does not fit.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in (prefix, *first["loc"]) if p != "") or "the document"
        raise CheckpointError(
            path, f"{where}: {first['msg'].lower()}", "restore the file that training wrote"
        ) from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU, mapped from disk.

    Raises:
        CheckpointError: if the file is missing, truncated or otherwise damaged.
    """
    check_safetensors(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", TRUNCATED) from None
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise CheckpointError(path, f"{name} holds complex numbers", TRUNCATED)
    return tensors


def check_safetensors(path: Path) -> None:
    """Check, from its header alone, that a safetensors file is complete.

    Raises:
        CheckpointError: if the file is missing, or its size differs from what its header says.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _HEADER_BYTES:
            raise CheckpointError(path, f"cannot be read (a header of {header} bytes)", TRUNCATED)
        with safe_open(path, framework="numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", TRUNCATED) from None


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a safetensors file, from its header alone.

    Raises:
        CheckpointError: as :func:`check_safetensors`.
    """
    check_safetensors(path)
    with safe_open(path, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file as tensors, without pickle.

    Raises:
        CheckpointError: if the file is missing, damaged or holds objects, or if it would expand
            from so few bytes to so many that it must be an archive bomb.
    """
    check_file(path)
    try:
        refuse_bomb(path, max(_UNPACKED_FREELY, _INFLATION * path.stat().st_size))
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays}
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (zip and npy headers of a damaged file raise anything)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(path, f"cannot be read ({reason})", TRUNCATED) from None


def read_npy(path: Path) -> Tensor:
    """The array of an npy file as a tensor, mapped from disk, without pickle.

    Raises:
        CheckpointError: if the file is missing or damaged, or does not hold one array of a dtype
            that torch has.
    """
    check_file(path)
    try:
        # copy on write, so that the file is never changed
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except Exception as error:  # noqa: BLE001 (as in read_npz)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(path, f"cannot be read ({reason})", TRUNCATED) from None


def refuse_bomb(path: Path, limit: int) -> None:
    """Raise :class:`CheckpointError` if a zip file's entries would unpack to more than a limit."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > limit:
        raise CheckpointError(path, f"would unpack to {unpacked} bytes", TRUNCATED)


def check_file(path: Path) -> None:
    """Raise :class:`CheckpointError` if there is no such file, or if the user may not read it."""
    if not path.is_file():
        raise CheckpointError(path, "is no file", "restore the file that training wrote")
    if not os.access(path, os.R_OK):  # as safetensors' own writer leaves its files to other users
        raise CheckpointError(path, "is not yours to read", "have its owner run chmod a+r on it")


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of an npz file, from the headers alone.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removesuffix(".npy"): _npy_shape(archive, name) for name in archive.namelist()
            }
    except Exception as error:  # noqa: BLE001 (as in read_npz)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(path, f"cannot be read ({reason})", TRUNCATED) from None


def _npy_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        shape: tuple[int, ...] = read(file)[0]
        return shape


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, of plain values only.

    Raises:
        CheckpointError: if the file is missing, too large for a config, or holds no mapping.
    """
    remedy = "restore the file that training wrote"
    check_file(path)
    if path.stat().st_size > _YAML_BYTES:
        raise CheckpointError(path, "is too large for a config", remedy)
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506
        document = json.loads(json.dumps(loaded, default=str), parse_constant=_no_number)
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(path, f"cannot be read ({reason})", remedy) from None
    if not isinstance(document, dict):
        raise CheckpointError(path, "holds no mapping", remedy)
    return document
