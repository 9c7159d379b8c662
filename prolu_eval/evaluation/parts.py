"""Parts of a measurement, one per shard of the tokens, kept on disk until the result is stored.

A part is written completely or not at all. The process that measures it holds a lock, which is
released when the process ends, in whatever way. An interrupted evaluation therefore continues where
it was, and processes share the work without repeating any of it.

Parts of a measurement that is never finished (because the checkpoint changed, or other options were
chosen) stay on disk, because they may still be wanted by another call. They can be deleted whenever
no evaluation is running; they are then measured again if they are needed.
"""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prolu_eval.errors import ResultsError
from prolu_eval.results import Array, write_atomically

# How often a lock is tried again after its folder was removed by another process.
_ATTEMPTS = 100
# A race drops no runs before this many sequences are measured.
_FEWEST = 64


def shards(n_rows: int, rows_per_shard: int, most: int = 256) -> list[range]:
    """Rows in consecutive shards of equal size (the last may be smaller), at most ``most``."""
    size = max(1, rows_per_shard, -(-n_rows // most))
    return [range(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def looks(cut: Sequence[range]) -> list[int]:
    """After how many shards a race drops runs: after a quarter of all, and after a half.

    A number is left out if these shards have too few sequences for means to be nearly normal.
    """
    found = {-(-len(cut) // 4), -(-len(cut) // 2)} - {len(cut)}
    return sorted(n for n in found if cut[n - 1].stop >= _FEWEST)


def name_of(rows: range) -> str:
    """The name of the part over some rows."""
    return f"{rows.start:09}-{rows.stop:09}"


class Parts:
    """The parts of one measurement, by name, in their own folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, name: str) -> bool:
        """Whether a part is stored."""
        return self._path(name).exists()

    def names(self) -> set[str]:
        """The names of the stored parts."""
        return {path.stem for path in self._folder.glob("*.safetensors")}

    def read(self, name: str, but: tuple[str, ...] = ()) -> dict[str, Array] | None:
        """A part, or None if it is not stored or is damaged.

        Arrays whose names begin with one of ``but`` are left out, and not read.
        """
        try:
            with safe_open(self._path(name), framework="numpy") as file:
                names = [key for key in file.keys() if not key.startswith(but)]  # noqa: SIM118
                arrays: dict[str, Array] = {key: file.get_tensor(key) for key in names}
        except (OSError, SafetensorError):
            self._path(name).unlink(missing_ok=True)
            return None
        return arrays

    def write(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Store a part.

        Raises:
            ResultsError: if the folder cannot be written to.
        """
        write_atomically(self._path(name), save(dict(arrays)))

    def obtain(self, name: str, measure: Callable[[], Mapping[str, Array]]) -> Mapping[str, Array]:
        """A stored part, or one that is measured now and stored."""
        found = self.read(name)
        if found is None:
            measured = measure()
            self.write(name, measured)
            return measured
        return found

    def claim(self, name: str) -> FileLock | None:
        """A lock on a part, which the caller must release; None if another process holds it."""
        lock = self._lock(name)
        return lock if _acquired(lock, 0) else None

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Lock the whole measurement until the block ends; wait while another process locks it."""
        lock = self._lock("whole")
        _acquired(lock, -1)
        try:
            yield
        finally:
            lock.release()

    def remove(self) -> None:
        """Remove all parts, which is safe at any time once the result is stored."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._folder / f"{name}.lock", is_singleton=False)


def _acquired(lock: FileLock, timeout: float) -> bool:
    for attempt in range(_ATTEMPTS):
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout)
        except Timeout:
            return False
        except FileNotFoundError as error:  # another process removed the folder
            if attempt == _ATTEMPTS - 1:
                raise _unlockable(lock, error) from None
        except (OSError, NotImplementedError) as error:
            raise _unlockable(lock, error) from None
        else:
            return True
    return False


def _unlockable(lock: FileLock, error: OSError | NotImplementedError) -> ResultsError:
    reason = getattr(error, "strerror", None) or str(error)
    remedy = "name a writable folder with --results"
    if getattr(error, "errno", None) in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
        remedy = "name a --results folder on a file system with locks"
    return ResultsError(lock.lock_file, f"cannot be written or locked ({reason})", remedy)
