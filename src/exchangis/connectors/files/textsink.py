"""What the CSV and JSON Lines sinks share: parts made of lines, merged byte by byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa

from exchangis.connectors.files.arrow import Codec
from exchangis.connectors.files.bytes import CHUNK, Bytes, open_plain
from exchangis.connectors.files.datasets import DataFile
from exchangis.connectors.files.format import PartFile, Stored
from exchangis.domain.errors import TaskCancelled

SUFFIX_OF: dict[Codec | None, str] = {None: "", "gzip": ".gz", "zstd": ".zst", "bz2": ".bz2"}


def _packed(data: bytes, compression: Codec | None) -> bytes:
    """`data` as a compressed member of its own: members can be put one after another."""
    if compression is None or not data:
        return data
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, compression) as out:
        out.write(data)
    return buffer.getvalue().to_pybytes()


class TextPart(PartFile):
    """A part file of lines, after a head that can be cut off when parts are merged.

    `encode` gives a batch's lines; its ValueError is why the rows cannot be written.
    """

    def __init__(
        self,
        path: Path,
        compression: Codec | None,
        head: bytes,
        encode: Callable[[pa.RecordBatch], bytes],
    ) -> None:
        self._encode = encode
        packed = _packed(head, compression)
        self.head = len(packed)
        raw = pa.OSFile(str(path), "wb")
        self._out: pa.NativeFile = raw
        try:
            raw.write(packed)
            if compression is not None:
                self._out = pa.CompressedOutputStream(raw, compression)
        except BaseException:
            raw.close()
            raise

    def write(self, batch: pa.RecordBatch) -> str | None:
        try:
            lines = self._encode(batch)
        except ValueError as error:
            return str(error)
        self._out.write(lines)
        return None

    def close(self) -> None:
        if not self._out.closed:
            self._out.close()


def merge_text(
    existing: Path | None,
    parts: Sequence[Stored],
    out: Path,
    compression: Codec | None,
    cancelled: threading.Event,
) -> None:
    """Put files of lines one after another; only what stands first keeps its head."""
    with out.open("wb") as target:
        last = b""
        if existing is not None:
            _copy(existing, 0, target, cancelled)
            last = _last_byte(existing, compression)
            if last not in {b"", b"\n"}:
                target.write(_packed(b"\n", compression))
        for number, part in enumerate(parts):
            whole = number == 0 and not last
            _copy(part.path, 0 if whole else part.head, target, cancelled)


def _copy(path: Path, start: int, target: IO[bytes], cancelled: threading.Event) -> None:
    with open_plain(path) as source:
        source.seek(start)
        while data := source.read(CHUNK):
            if cancelled.is_set():
                raise TaskCancelled()
            target.write(data)


def _last_byte(path: Path, compression: Codec | None) -> bytes:
    """The last byte of a file's text; empty when it holds none."""
    facts = path.stat()
    if compression is None:
        if facts.st_size == 0:
            return b""
        with open_plain(path) as source:
            source.seek(-1, 2)
            return source.read(1)
    last = b""
    file = DataFile(path, path.name, facts.st_size, facts.st_mtime_ns)
    with Bytes(file, compression=compression) as stream:
        while data := stream.read(CHUNK):
            last = data[-1:]
    return last
