"""What a file format adds to the sink that all of them share."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from exchangis.connectors.base import TableSchema


@dataclass(frozen=True, slots=True)
class Stored:
    """A part or file that is merged: where it lies, and the length of its head in bytes."""

    path: Path
    head: int = 0


class PartFile(ABC):
    """An open part file of one format; `head` is the length of what it began with, in bytes."""

    head: int = 0

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> str | None:
        """Write all rows and give None, or none of them and give the reason."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file; idempotent."""


class FileFormat(ABC):
    """What a format adds to the shared sink."""

    suffixes: ClassVar[tuple[str, ...]]
    """The first is the one that parts get."""

    @abstractmethod
    def part_suffix(self) -> str:
        """Suffix of the files in a folder, with that of their compression."""

    @abstractmethod
    def fitting(self, wanted: TableSchema) -> TableSchema:
        """The columns as a new file would hold them; SinkError for a type that it cannot hold."""

    @abstractmethod
    def existing(self, path: Path, name: str) -> pa.Schema | None:
        """Columns of a file, of type null where the format takes any; None when it has none."""

    @abstractmethod
    def open_part(self, path: Path, schema: pa.Schema, name: str) -> PartFile:
        """Begin a part; `name` is the target's and tells the compression."""

    @abstractmethod
    def merge(
        self,
        existing: Path | None,
        parts: Sequence[Stored],
        out: Path,
        schema: pa.Schema,
        cancelled: threading.Event,
    ) -> None:
        """Write one file that holds the existing one's rows, then those of the parts."""
