"""Dirty records: kept in a JSON Lines file, counted against the task's limit.

One line per record: `{"split", "row", "column", "reason", "record"}`, `row` counting from 1 within
the split as it was read, `column` null where the whole row was refused, `record` the source's
values. Lines are written as they occur. An attempt begins by dropping the lines of splits that it
does over, so that a record stands in the file once however often it was met.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from exchangis.domain.errors import DirtyLimitExceeded
from exchangis.domain.model import Limits
from exchangis.engine.cast import to_text
from exchangis.engine.kinds import kind

RECORD_BYTES = 64 << 10
"""A record longer than this is kept with its long values shortened."""
_SHORT = 256
_EXACT = 2**53
"""The largest whole number that every JSON reader holds exactly."""
_REASONS = 3


def json_values(array: Any) -> list[Any]:
    """A column as JSON values: numbers that JSON holds exactly and booleans as such, binary as
    base64, everything else as canonical text."""
    family = kind(array.type)
    if family == "binary":
        return [None if v is None else base64.b64encode(v).decode() for v in array.to_pylist()]
    if family == "bool":
        return list(array.to_pylist())
    if family == "int":
        values = array.to_pylist()
        return [str(v) if v is not None and abs(v) > _EXACT else v for v in values]
    try:
        return list(to_text(array).to_pylist())
    except pa.ArrowInvalid:
        return [str(scalar) if scalar.is_valid else None for scalar in array]


def _line(entry: dict[str, Any]) -> bytes:
    line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace")
    if len(line) <= RECORD_BYTES:
        return line + b"\n"
    room = max(RECORD_BYTES // (6 * max(len(entry["record"]), 1)), 16)
    entry["record"] = {
        name: _shortened(value, min(room, _SHORT)) for name, value in entry["record"].items()
    }
    entry["shortened"] = True
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _shortened(value: Any, room: int) -> Any:
    if isinstance(value, str) and len(value) > room:
        return f"{value[:room]}... ({len(value)} characters)"
    return value


@dataclass(frozen=True, slots=True)
class DirtyRecord:
    """One row that cannot be written: `row` in the split, `index` in the batch at hand."""

    row: int
    column: str | None
    reason: str
    index: int


class DirtyFile:
    """The file of one task; made at the first record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def resume(self, done: Collection[str]) -> dict[str, int]:
        """Keep the lines of the splits in `done` alone; how many each of them has.

        Lines torn by a crash go too.
        """
        counts: dict[str, int] = {}
        if not self.path.exists():
            return counts
        kept = self.path.with_name(f"{self.path.name}.resumed")
        with self.path.open("rb") as old, kept.open("wb") as new:
            for line in old:
                split = _split_of(line)
                if split in done:
                    counts[split] = counts.get(split, 0) + 1
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
        if counts:
            kept.replace(self.path)
        else:
            kept.unlink()
            self.path.unlink()
        return counts

    def write(self, split: str, batch: pa.RecordBatch, records: Sequence[DirtyRecord]) -> None:
        """Append the records; on disk before it returns, as far as a killed process goes."""
        rows = batch.take(pa.array([record.index for record in records], pa.int64()))
        names = rows.schema.names
        values = zip(*(json_values(column) for column in rows.columns), strict=True)
        lines = [
            _line(
                {
                    "split": split,
                    "row": record.row,
                    "column": record.column,
                    "reason": record.reason[:2000],
                    "record": dict(zip(names, cells, strict=True)),
                }
            )
            for record, cells in zip(records, values, strict=True)
        ]
        with self._lock:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
            self._file.writelines(lines)
            self._file.flush()

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _split_of(line: bytes) -> str:
    if not line.endswith(b"\n"):
        return ""
    try:
        return str(json.loads(line)["split"])
    except (ValueError, KeyError, TypeError):
        return ""


class DirtyLimit:
    """How many dirty records a task may have.

    Neither limit given means none is allowed; with both given both hold. The number is judged at
    once. The percentage is of the rows read, whose number is certain at the end alone: it is judged
    then, but for 0 %, which the first dirty record passes.
    """

    def __init__(self, limits: Limits, path: Path) -> None:
        self._percentage = limits.error_percentage
        self._records = limits.error_records
        if self._percentage == 0 or (self._records is None and self._percentage is None):
            self._records = 0
        self._path = path
        self._reasons: list[str] = []
        self._lock = threading.Lock()

    def note(self, reasons: Sequence[str]) -> None:
        """Remember the first reasons, for the message."""
        with self._lock:
            room = _REASONS - len(self._reasons)
            self._reasons.extend(reason for reason in reasons[:room])

    def check(self, errors: int, read: int, *, finished: bool = False) -> None:
        """Raise DirtyLimitExceeded once the limit is passed."""
        if self._records is not None and errors > self._records:
            raise self._exceeded(errors, read, f"{self._records} allowed")
        if finished and self._percentage is not None and errors * 100 > self._percentage * read:
            raise self._exceeded(errors, read, f"{self._percentage:g} % allowed")

    def _exceeded(self, errors: int, read: int, allowed: str) -> DirtyLimitExceeded:
        with self._lock:
            reasons = "; ".join(self._reasons)
        return DirtyLimitExceeded(
            f"{errors} dirty record{'' if errors == 1 else 's'} among {read} rows read, {allowed}. "
            f"First reasons: {reasons}.",
            guidance=f"They are in {shown_path(self._path)}; correct them, or raise the limit.",
        )


def shown_path(path: Path) -> str:
    """The dirty-record file as messages name it: below the folder of runs, and no further up."""
    return "/".join(path.parts[-3:])
