"""A file as a stream of UTF-8 bytes without a byte order mark: unpacked where it is gzip, converted where it is UTF-16.

Compression and encoding are found by the first bytes, not by the name, so that standard input is read as a file is.
Nothing is unpacked further ahead than a buffer.
"""

import codecs
import gzip
import io
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from common.texts.form import STANDARD_INPUT

BUFFER_BYTES: Final = 1 << 18
HEAD_BYTES: Final = 4
GZIP: Final = b"\x1f\x8b"
UTF_16: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
UTF_32: Final = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
# What cannot be read here, and what to do about it.
OTHERS: Final = {
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it first, as in `zstd -dc FILE | dejavec ... -`",
    b"\xfd7zX": "is compressed with xz: unpack it first, as in `xz -dc FILE | dejavec ... -`",
    b"BZh": "is compressed with bzip2: unpack it first, as in `bzip2 -dc FILE | dejavec ... -`",
    b"PK\x03\x04": "is a zip archive: unpack it first",
    b"PAR1": "is a Parquet file: name it .parquet, or give --format parquet",
}


class SourceError(OSError):
    """A file that cannot be read as texts; the message names the file, the reason and, where there is one, a remedy."""


class Peeked(io.RawIOBase):
    """A stream whose first bytes, `head`, have been looked at; `n_read` counts what has been read of it."""

    def __init__(self, read_into: Callable[[memoryview], int | None]) -> None:
        super().__init__()
        self._read_into = read_into
        self.n_read = 0
        self.head = self._ahead = b""
        while len(self.head) < HEAD_BYTES:
            piece = bytearray(HEAD_BYTES - len(self.head))
            n_bytes = read_into(memoryview(piece)) or 0
            if not n_bytes:
                break
            self.head += bytes(piece[:n_bytes])
        self._ahead = self.head

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """What was looked at, then what follows."""
        if self._ahead:
            n_bytes = min(len(buffer), len(self._ahead))
            buffer[:n_bytes], self._ahead = self._ahead[:n_bytes], self._ahead[n_bytes:]
        else:
            n_bytes = self._read_into(buffer) or 0
        self.n_read += n_bytes
        return n_bytes


class Utf16(io.RawIOBase):
    """UTF-16 as UTF-8. What is not valid becomes bytes that are not valid UTF-8, so that its line alone is at fault."""

    def __init__(self, stream: io.BufferedReader, codec: str) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(codec)("surrogatepass")
        self._ahead = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """Convert the next piece."""
        while not self._ahead:
            piece = self._stream.read1(BUFFER_BYTES)
            self._ahead = self._converted(piece)
            if not piece:
                break
        n_bytes = min(len(buffer), len(self._ahead))
        buffer[:n_bytes], self._ahead = self._ahead[:n_bytes], self._ahead[n_bytes:]
        return n_bytes

    def _converted(self, piece: bytes) -> bytes:
        try:
            return self._decoder.decode(piece, not piece).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # half a character at the very end
            self._decoder.reset()
            return b"\xff"


def open_raw(path: Path) -> io.FileIO:
    """The file without a buffer, `-` for standard input, which closing leaves open. Raises OSError."""
    if path != STANDARD_INPUT:
        return io.FileIO(path)
    if sys.stdin is None:
        raise SourceError("there is no standard input")
    return io.FileIO(sys.stdin.fileno(), closefd=False)


def size_of(file: io.FileIO) -> int | None:
    """Bytes of the file now; None for a pipe or a terminal."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def utf8_stream(raw: Peeked, name: str) -> io.BufferedReader:
    """The content in UTF-8, without a byte order mark. Raises SourceError, which calls the file `name`."""
    content = raw
    if raw.head.startswith(GZIP):
        # readinto1 returns what is there before it finds that the rest is damaged; readinto loses it.
        content = Peeked(gzip.GzipFile(fileobj=io.BufferedReader(raw, BUFFER_BYTES), mode="rb").readinto1)
    stream: io.BufferedReader = io.BufferedReader(content, BUFFER_BYTES)
    head = content.head
    for magic, remedy in OTHERS.items():
        if head.startswith(magic):
            raise SourceError(f"{name} {remedy}")
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    elif head not in UTF_32 and (codec := UTF_16.get(head[:2])):
        stream.read(len(codecs.BOM_UTF16_LE))
        return io.BufferedReader(Utf16(stream, codec), BUFFER_BYTES)
    elif b"\0" in head:
        raise SourceError(
            f"{name} is neither UTF-8 nor UTF-16 with a byte order mark: convert it first, "
            "as in `iconv -f UTF-16LE -t UTF-8 FILE | dejavec ... -`"
        )
    return stream
