"""Checkpoints that try to run code or to exhaust memory, each in its own folder."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.helpers.foreign_files import (
    dictionary,
    dictionary_config,
    e2e,
    linear,
    matrices,
    openai,
    saelens,
    sparsify,
    thresholds,
    top_k,
    write_json,
)

W, T = matrices(), thresholds()
MIB = 1 << 20


class Touch:
    """An object that creates a file if it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def rezipped(path: Path, change: Callable[[str, bytes], bytes], compression: int) -> None:
    """Rewrite a zip file with the content of each entry changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def with_pickle(path: Path, content: bytes) -> None:
    """Replace the pickle in a file of torch.save."""
    torch.save({}, path)
    rezipped(path, lambda n, old: content if n.endswith("data.pkl") else old, zipfile.ZIP_STORED)


def call(name: str, argument: bytes) -> bytes:
    """The pickle of {"k": name(argument)}, with the argument given as opcodes."""
    module, attribute = name.rsplit(".", 1)
    call = b"c" + module.encode() + b"\n" + attribute.encode() + b"\n" + argument + b"R"
    return b"\x80\x02}X\x01\x00\x00\x00k" + call + b"s."


HUGE = b"(\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"t"  # the tuple of 2^40


def safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    """Write a safetensors file with any header, and with any value for the header's length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + text + data)


def lying(shape: list[int], offsets: list[int]) -> dict[str, Any]:
    """A header whose W_enc does not agree with the stored bytes."""
    return {"W_enc": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}


def with_header(folder: Path, *args: Any, **options: Any) -> None:
    saelens(folder, "standard", W)
    safetensors(folder / "sae_weights.safetensors", *args, **options)


def npz_of(folder: Path, arrays: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "params.npz", "w", compression) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return folder / "params.npz"


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    """An npy file that claims a shape."""
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def understate(path: Path) -> None:
    """Say in a zip file's directory that every entry unpacks to 1000 bytes."""
    content = bytearray(path.read_bytes())
    start = 0
    while (start := content.find(b"PK\x01\x02", start)) >= 0:
        content[start + 24 : start + 28] = struct.pack("<I", 1000)
        start += 4
    path.write_bytes(bytes(content))


def holes(path: Path, size: int) -> None:
    """A sparse file of zeros, which takes no space on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def pickles(root: Path, touched: Path) -> None:
    """Files whose pickles run code, or allocate any amount of memory, if they are loaded."""
    dictionary(root / "reduce-ae", "AutoEncoder", {"bias": Touch(touched)})
    openai(root / "reduce-openai/autoencoders/0.pt", W, activation=Touch(touched))
    e2e(root / "reduce-e2e", {})
    torch.save({"a.encoder.0.weight": Touch(touched)}, root / "reduce-e2e" / "samples_400.pt")
    for name, protocol in (("plain", 2), ("stack-global", 4)):
        folder = dictionary(root / f"reduce-{name}-pickle", "AutoEncoder", {})
        (folder / "ae.pt").write_bytes(pickle.dumps({"a": Touch(touched)}, protocol))
        folder = dictionary(root / f"reduce-{name}-zip", "AutoEncoder", {})
        with_pickle(folder / "ae.pt", pickle.dumps({"a": Touch(touched)}, protocol))
    folder = saelens(root / "reduce-as-safetensors", "standard", W)
    torch.save({"W_enc": Touch(touched)}, folder / "sae_weights.safetensors")
    (root / "reduce-npz").mkdir()
    objects = {name: np.full(tuple(t.shape), Touch(touched)) for name, t in (W | T).items()}
    np.savez(root / "reduce-npz" / "params.npz", **objects)  # type: ignore[arg-type]
    for name, target, argument in (
        ("bytearray", "builtins.bytearray", HUGE),
        ("tensor", "torch.Tensor", HUGE),
        ("codec", "_codecs.encode", b"(X\x01\x00\x00\x00aX\x05\x00\x00\x00ascii" + b"t"),
        ("eval", "builtins.eval", b"(X\x03\x00\x00\x001+1t"),
    ):
        folder = dictionary(root / f"calls-{name}", "AutoEncoder", {})
        with_pickle(folder / "ae.pt", call(target, argument))
    folder = dictionary(root / "nested-tuples", "AutoEncoder", {})
    with_pickle(folder / "ae.pt", b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"K\x01s.")
    folder = dictionary(root / "two-pickles", "AutoEncoder", {})
    with zipfile.ZipFile(folder / "ae.pt", "a") as archive:
        archive.writestr("ae/DATA.PKL", pickle.dumps({"a": Touch(touched)}, 2))


def bombs(root: Path) -> None:
    """Small files that become large when they are read."""
    folder = dictionary(root / "deflated-pt", "AutoEncoder", {"bias": torch.zeros(50 * MIB)})
    rezipped(folder / "ae.pt", lambda _, content: content, zipfile.ZIP_DEFLATED)
    zeros, one = bytes(300 * MIB), bytes(4)
    arrays = {
        "W_enc": npy((75 * MIB, 1), zeros),
        "W_dec": npy((1, 75 * MIB), b""),
        "b_enc": npy((1,), one),
        "b_dec": npy((75 * MIB,), b""),
        "threshold": npy((1,), one),
    }
    npz_of(root / "npz-of-zeros", arrays)
    understate(npz_of(root / "npz-understated", arrays))
    npz_of(root / "npz-header", {n: npy((1 << 20, 1 << 20), b"") for n in (W | T)})
    overflow = npy((1 << 40, 1 << 40), b"")
    npz_of(root / "npz-overflow", dict.fromkeys((W | T), overflow))
    state = linear(W) | {"bias": torch.zeros(1).expand(1 << 40)}
    dictionary(root / "expanded", "AutoEncoder", state)
    shared = torch.zeros(4 * MIB)
    aliases = {"ae": {f"b{i}": shared for i in range(1000)}, "norm_factor": 2.0}
    dictionary(root / "aliases", "AutoEncoder", aliases)


def headers(root: Path) -> None:
    """Safetensors files whose headers give wrong sizes."""
    with_header(root / "length-2-63", {}, length=1 << 63)
    with_header(root / "length-beyond", {}, length=1 << 16)
    with_header(root / "length-huge", {}, length=1 << 30)
    holes(root / "length-holes" / "sae_weights.safetensors", 1 << 30)
    saelens(root / "length-holes", "standard", {})
    with (root / "length-holes" / "sae_weights.safetensors").open("r+b") as file:
        file.truncate(1 << 30)
        file.write(struct.pack("<Q", 90_000_000))
    with_header(root / "shape", lying([1 << 30, 1 << 30], [0, 8]), bytes(8))
    with_header(root / "offsets-beyond", lying([1 << 20], [0, 4 << 20]), bytes(8))
    with_header(root / "offsets-backward", lying([2], [8, 0]), bytes(8))
    with_header(root / "offsets-negative", lying([2], [-8, 0]), bytes(8))
    with_header(root / "overflow", lying([1 << 62, 4], [0, 0]))
    with_header(root / "no-tensors", {})
    with_header(root / "no-json", b"{" * 1000)
    with_header(root / "nested", b'{"a":' * 100_000)
    with_header(root / "empty-file", b"", length=0)
    many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}
    with_header(root / "many-tensors", many)
    for name, size in (("wide", 1 << 28), ("overwide", 1 << 60)):
        saelens(root / f"config-{name}", "standard", W, d_in=size, d_sae=size)


def configs(root: Path) -> None:
    """Configurations of 1 GB, nested 10,000 deep, or expanding."""
    deep = "[" * 10_000 + "]" * 10_000
    for name, write in (
        ("gigabyte", lambda p: holes(p, 1 << 30)),
        ("deep", lambda p: p.write_text(f'{{"architecture": {deep}}}')),
        ("lists", lambda p: p.write_text('{"a": [' + "[]," * MIB + "[]]}")),
        ("digits", lambda p: p.write_text(f'{{"d_in": 1{"0" * 10_000}}}')),
        ("infinite", lambda p: p.write_text('{"d_in": 1e999, "d_sae": NaN}')),
        ("no-text", lambda p: p.write_bytes(b"\xff\xfe\x00")),
        ("a-list", lambda p: p.write_text("[1, 2]")),
    ):
        write(saelens(root / f"saelens-{name}", "standard", W) / "cfg.json")
        write(sparsify(root / f"sparsify-{name}", W) / "cfg.json")
        write(dictionary(root / f"dictionary-{name}", "AutoEncoderTopK", top_k(W)) / "config.json")
        if name != "infinite":  # a number like another, and no size
            write(e2e(root / f"e2e-{name}", {"a": W}) / "final_config.yaml")
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
    (e2e(root / "e2e-aliases", {"a": W}) / "final_config.yaml").write_text(f"a0: &a0 x\n{levels}")
    python = "a: !!python/object/apply:pathlib.Path.touch [/tmp/never]"
    (e2e(root / "e2e-python", {"a": W}) / "final_config.yaml").write_text(python)


def outside(root: Path, elsewhere: Path) -> None:
    """Links that lead out of the folder, or in a circle."""
    whole = saelens(elsewhere / "run", "standard", W)
    folder = saelens(root / "weights-linked", "standard", W)
    (folder / "sae_weights.safetensors").unlink()
    (folder / "sae_weights.safetensors").symlink_to(whole / "sae_weights.safetensors")
    folder = saelens(root / "config-linked", "standard", W)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").symlink_to(whole / "cfg.json")
    folder = sparsify(root / "run-config-linked" / "layers.0", W)
    write_json(elsewhere / "config.json", {"model": "secret"})
    (folder.parent / "config.json").symlink_to(elsewhere / "config.json")
    folder = dictionary(root / "middle-config-linked" / "x", "AutoEncoderTopK", top_k(W))
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_1.pt")
    (folder / "config.json").unlink()
    write_json(elsewhere / "d.json", dictionary_config("AutoEncoderTopK"))
    (folder / "config.json").symlink_to(elsewhere / "d.json")
    folder = saelens(root / "scaler-linked", "standard", W)
    write_json(elsewhere / "scaler.json", {"scaling_factor": 2.0})
    (folder / "activation_scaler.json").symlink_to(elsewhere / "scaler.json")
    folder = saelens(root / "circle", "standard", W)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").symlink_to("cfg.json")
    folder = saelens(root / "zeros-linked", "standard", W)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").symlink_to("/dev/zero")
