"""Stored arrays are what safetensors reads, also where the layout of a file was seen before."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from prolu_eval.results import Array, StoredArrays
from prolu_eval.results import arrays as module

TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


def made(seed: int, n: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found = {f"a/{t}": (200 * rng.random((n, 2))).astype(t) for t in TYPES}
    return found | {"b/number": np.array(seed), "b/nothing": np.zeros((0, 3), "f4")}


def assert_read(path: Path) -> None:
    stored, expected = StoredArrays(path), load_file(path)
    assert set(stored) == expected.keys()
    for found in (dict(stored), stored.under("")):
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()
            assert found[name].flags.writeable
    assert stored.under("b/").keys() == {"b/number", "b/nothing"}
    assert stored.under("c") == {}


def test_files_of_one_layout_are_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_known", {})
    for i in range(3):
        (tmp_path / f"{i}").write_bytes(save(made(i)))
        assert_read(tmp_path / f"{i}")
        monkeypatch.setattr(module, "safe_open", None)  # after the first file, it is not needed


def test_a_file_that_another_one_replaces_is_read_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(save(made(0)))
    stored = StoredArrays(path)
    path.write_bytes(save(made(1, n=7)))
    assert stored["a/f8"].tobytes() == made(1, n=7)["a/f8"].tobytes()
    assert_read(path)


@pytest.mark.parametrize("content", [b"", b"short", save(made(0))[:-1], save(made(0)) + b"x"])
def test_a_damaged_file_is_refused_whatever_was_seen_before(tmp_path: Path, content: bytes) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    whole.write_bytes(save(made(0)))
    stored = StoredArrays(whole)
    damaged.write_bytes(content)
    with pytest.raises(SafetensorError):
        StoredArrays(damaged)
    whole.write_bytes(content)
    with pytest.raises(SafetensorError):
        stored.under("")
    whole.unlink()
    with pytest.raises(OSError, match="No such file"):
        stored.under("")


def test_types_that_no_result_has_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(save({"a": np.zeros(2, "c8")}))
    with pytest.raises(TypeError, match="arrays are of type C64"):
        StoredArrays(tmp_path / "file")
