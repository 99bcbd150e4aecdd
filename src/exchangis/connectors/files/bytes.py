"""Byte streams of files: ranges, decompression and transcoding to UTF-8, cut off by cancel."""

from __future__ import annotations

import codecs
import contextlib
import io
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from exchangis.connectors.files.arrow import Codec
from exchangis.connectors.files.datasets import DataFile
from exchangis.domain.errors import SourceError, TaskCancelled

CHUNK = 1 << 20
_UTF8 = frozenset({"utf-8", "ascii"})


def open_plain(path: Path) -> io.FileIO:
    """Open a resolved path for reading; a link put there since then is refused by the system."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return io.FileIO(descriptor, "rb")


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in _UTF8


class Bytes(io.RawIOBase):
    """The bytes of `file` from `start` up to `end`, decompressed, in UTF-8 without a mark.

    `end` and `start` count bytes of the plain file, so they are for files without compression.
    Every read asks `cancelled` first and raises TaskCancelled, also inside of Arrow's readers.
    `quotes` counts the quote bytes that went by, if one is given.
    """

    def __init__(
        self,
        file: DataFile,
        *,
        compression: Codec | None = None,
        encoding: str = "utf-8",
        start: int = 0,
        end: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        quote: bytes = b"",
    ) -> None:
        super().__init__()
        self._file = file
        self._cancelled = cancelled
        self._left = None if end is None else end - start
        self._quote = quote
        self.quotes = 0
        self._pending = b""
        self._ended = False
        self._encoding = encoding
        self._decoder = (
            None if is_utf8(encoding) else codecs.getincrementaldecoder(encoding)("strict")
        )
        self._raw = open_plain(file.path)
        self._unpacked: pa.NativeFile | None = None
        try:
            if compression:
                self._unpacked = pa.CompressedInputStream(
                    pa.PythonFile(self._raw, "r"), compression
                )
            elif start:
                self._raw.seek(start)
        except BaseException:
            self._raw.close()
            raise
        self._first = start == 0

    def readable(self) -> bool:
        return True

    def _more(self, size: int) -> bytes:
        if self._cancelled():
            raise TaskCancelled()
        if self._left is not None:
            size = min(size, self._left)
            if size == 0:
                return b""
        try:
            found = self._unpacked.read(size) if self._unpacked else self._raw.read(size)
        except pa.ArrowException as error:
            raise SourceError(f"{self._file.name}: cannot be decompressed: {error}") from error
        except OSError as error:
            # Arrow tells of a broken archive by an OSError without a number.
            if error.errno is None:
                raise SourceError(f"{self._file.name}: cannot be decompressed: {error}") from error
            raise
        if self._left is not None:
            self._left -= len(found)
        return found

    def _next(self, size: int) -> bytes:
        """Some bytes of UTF-8; empty at the end alone."""
        while not self._ended:
            found = self._more(size)
            self._ended = not found
            if self._decoder is not None:
                try:
                    found = self._decoder.decode(found, final=self._ended).encode()
                except UnicodeDecodeError as error:
                    raise SourceError(
                        f"{self._file.name}: not {self._encoding} text: {error.reason}.",
                        guidance="Give the right option `encoding`.",
                    ) from error
            if self._first and found:
                self._first = False
                found = found.removeprefix(codecs.BOM_UTF8)
            if found:
                if self._quote:
                    self.quotes += found.count(self._quote)
                return found
        return b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            pieces = [self._pending, *iter(lambda: self._next(CHUNK), b"")]
            self._pending = b""
            return b"".join(pieces)
        if not self._pending:
            self._pending = self._next(max(size, 1))
        taken, self._pending = self._pending[:size], self._pending[size:]
        return taken

    def push_back(self, data: bytes) -> None:
        """Give `data` back, to be read first."""
        self._pending = data + self._pending

    def close(self) -> None:
        if not self.closed:
            if self._unpacked is not None:
                with contextlib.suppress(pa.ArrowException):
                    self._unpacked.close()
            self._raw.close()
        super().close()


def line_blocks(stream: Bytes, size: int, limit: int, name: str) -> Iterator[bytes]:
    """Whole lines in blocks of about `size` bytes; SourceError for a line above `limit` bytes."""
    pending: list[bytes] = []
    while found := stream.read(size):
        cut = found.rfind(b"\n") + 1
        if cut:
            yield b"".join((*pending, found[:cut]))
            pending = [found[cut:]] if cut < len(found) else []
        else:
            pending.append(found)
            if sum(map(len, pending)) > limit:
                raise SourceError(f"{name}: a line is longer than {limit >> 20} MiB.")
    if pending:
        yield b"".join(pending)


def cut_points(file: DataFile, first: int, parts: int) -> list[int]:
    """Offsets right after newlines that cut the file from `first` on into about `parts` ranges.

    The list begins with `first` and ends with the file's size.
    """
    points = [first]
    step = (file.size - first) / max(1, parts)
    with io.BufferedReader(io.FileIO(file.path, "rb")) as raw:
        for number in range(1, parts):
            raw.seek(int(first + step * number))
            raw.readline()
            if points[-1] < raw.tell() < file.size:
                points.append(raw.tell())
    return [*points, file.size]


def holds_byte(file: DataFile, byte: bytes) -> bool:
    """Whether a byte occurs anywhere in the file; much faster than parsing it."""
    if file.size == 0:
        return False
    with open_plain(file.path) as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view.find(byte) >= 0
