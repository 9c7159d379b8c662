"""Files that do not fit on the disk are one error, and leave nothing behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from prolu_eval.errors import ResultsError
from prolu_eval.results import replacing

resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(bytes(1 << 16)),
    "tensors": lambda path: safetensors.torch.save_file({"a": torch.zeros(1 << 14)}, path),
    "arrays": lambda path: safetensors.numpy.save_file({"a": np.zeros(1 << 14)}, path),
}


@pytest.fixture
def small_disk() -> Iterator[None]:
    """As if a disk were full after 4 KiB of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_does_not_fit_is_one_error(
    write: Callable[[Path], object], tmp_path: Path, small_disk: None
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ResultsError, match="cannot be written") as found, replacing(path) as new:
        write(new)
    assert "free space" in str(found.value)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]
