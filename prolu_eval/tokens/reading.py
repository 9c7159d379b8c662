"""Text files as they come: compressed or not, with a byte order mark, with any line ends.

A file is read in chunks, as far as is asked for. Its compression is told by its first bytes.
"""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from prolu_eval.errors import TokensError

_CHUNK = 1 << 16
_UTF_16_OR_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
# Endings that say how a file is packed, and nothing about what is in it.
PACKED = (".gz", ".zst", ".bz2", ".xz")


def chunks(path: Path) -> Iterator[str]:
    """The text of a file, its line ends as line feeds, without a byte order mark.

    Raises:
        TokensError: if the file cannot be read or unpacked, or is no UTF-8 text; it names the
            offset, which in a packed file is that of the unpacked bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0
    try:
        with _opened(path) as file:
            while True:
                data = file.read(_CHUNK)
                if offset == 0 and data.startswith(_UTF_16_OR_32):
                    raise TokensError(
                        path, "is UTF-16 or UTF-32 (byte order mark at offset 0)",
                        "write it as UTF-8, e.g. with iconv -t utf-8",
                    )  # fmt: skip
                if (at := data.find(b"\0")) >= 0:
                    raise TokensError(
                        path, f"is no UTF-8 text (a zero byte at offset {offset + at:,})",
                        "give text, as UTF-8",
                    )  # fmt: skip
                try:
                    text = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    at = offset + len(data) - len(error.object) + error.start
                    byte = error.object[error.start]
                    raise TokensError(
                        path, f"is no UTF-8 text (byte 0x{byte:02x} at offset {at:,})",
                        "write it as UTF-8",
                    ) from None  # fmt: skip
                offset += len(data)
                if text := newlines.decode(text, final=not data):
                    yield text
                if not data:
                    return
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise TokensError(path, f"cannot be read ({error})", "give a readable file") from None


def lines(path: Path) -> Iterator[str]:
    """The lines of a file, each with its line feed.

    Raises:
        TokensError: as :func:`chunks`.
    """
    parts: list[str] = []
    for chunk in chunks(path):
        first, *others = chunk.split("\n")
        parts.append(first)
        for other in others:
            yield "".join(parts) + "\n"
            parts = [other]
    if last := "".join(parts):
        yield last


def _opened(path: Path) -> io.BufferedIOBase | IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(path)
    if magic.startswith(b"BZh"):
        return bz2.open(path)
    if magic.startswith(b"\xfd7zXZ\0"):
        return lzma.open(path)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        opened: IO[bytes] = pa.input_stream(str(path), compression="zstd")
        return opened
    return path.open("rb")
