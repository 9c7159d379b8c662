"""Reading text files, compressed or not, with or without a byte order mark, with any line ends.

A file is read in chunks, only as far as the caller asks. Its first bytes tell its compression.
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
_MAGIC_BYTES = 8
# The offset at which an archive of each kind has its signature, and the signature.
_ARCHIVES = {"zip": (0, b"PK\x03\x04"), "tar": (257, b"ustar")}
_UTF_16_OR_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
# Endings that name a file's compression and not the kind of its content.
PACKED = (".gz", ".zst", ".bz2", ".xz")


def chunks(path: Path) -> Iterator[str]:
    """The text of a file in chunks, with line feeds as line ends and without a byte order mark.

    Raises:
        TokensError: if the file cannot be read or decompressed, or is no UTF-8 text. The message
            names the offset of the wrong byte, in a compressed file that in the decompressed bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0
    try:
        with _opened(path) as file:
            while True:
                data = file.read(_CHUNK)
                if offset == 0:
                    _refuse_archive(path, data)
                if offset == 0 and data.startswith(_UTF_16_OR_32):
                    raise TokensError(
                        path, "is UTF-16 or UTF-32 (byte order mark at offset 0)",
                        "write it as UTF-8, e.g. with iconv -t utf-8",
                    )  # fmt: skip
                if (at := data.find(b"\0")) >= 0:
                    raise TokensError(
                        path, f"is no UTF-8 text (a zero byte at offset {offset + at:,})",
                        "give text as UTF-8, or token ids as .npy",
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


def magic(path: Path) -> bytes:
    """The first few bytes of a file, by which many formats are recognised.

    Raises:
        TokensError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAGIC_BYTES)
    except OSError as error:
        raise TokensError(
            path, f"cannot be read ({error.strerror})", "give a readable file"
        ) from None


def _refuse_archive(path: Path, data: bytes) -> None:
    for kind, (at, sign) in _ARCHIVES.items():
        if data[at:].startswith(sign):
            raise TokensError(
                path, f"is a {kind} archive, as .npz and .pt files are too" if kind == "zip"
                else f"is a {kind} archive", "unpack it, or give token ids as .npy",
            )  # fmt: skip


def _opened(path: Path) -> io.BufferedIOBase | IO[bytes]:
    begin = magic(path)
    if begin.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(path)
    if begin.startswith(b"BZh"):
        return bz2.open(path)
    if begin.startswith(b"\xfd7zXZ\0"):
        return lzma.open(path)
    if begin.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        opened: IO[bytes] = pa.input_stream(str(path), compression="zstd")
        return opened
    return path.open("rb")
