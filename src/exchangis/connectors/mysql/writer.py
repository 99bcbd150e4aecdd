"""One lane into a table: batches, their refused rows, commit marks, one transaction at a time."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pymysql.err

from exchangis.connectors.base import Rejected, Split, Writer, Written
from exchangis.connectors.bisect import write_bisecting
from exchangis.connectors.mysql.errors import LOSSY_WARNINGS, is_row_fault, number_of, text_of
from exchangis.connectors.mysql.load import LoadNotAllowed, load_allowed, load_lines_into
from exchangis.connectors.mysql.marks import Marks
from exchangis.connectors.mysql.render import (
    Target,
    insert_rows,
    load_columns,
    load_lines,
    loses_fraction,
)
from exchangis.connectors.mysql.session import Session, offset_us, quote
from exchangis.domain.errors import SinkError

_SAVEPOINT = "exchangis_batch"
_MIN_BULK = 64
"""Rows from which LOAD DATA pays."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The table that rows go to: `label` for people, `sql` for statements."""

    label: str
    sql: str
    targets: tuple[Target, ...]
    schema: pa.Schema
    transactional: bool


class MySQLWriter(Writer):
    """Rows and marks in one transaction; a broken transaction is never committed."""

    def __init__(
        self,
        session: Session,
        destination: Destination,
        marks: Marks,
        attempt: int,
        warn: Callable[[str], None],
    ) -> None:
        self._session = session
        self._into = destination
        self._marks = marks
        self._attempt = attempt
        self._warn = warn
        self._coarse = {
            number: target
            for number, target in enumerate(destination.targets)
            if target.fraction is not None and target.fraction < 6
        }
        self._offset = offset_us(session.server.time_zone)
        self._broken = False
        with session.errors(f"preparing to write {destination.label}"):
            session.run("SET SESSION autocommit = 0")
            packet = session.one("SELECT @@max_allowed_packet")
            self._bulk = destination.transactional and load_allowed(session)
        self._packet = int(packet[0]) if packet else 1 << 20
        self._columns = load_columns(destination.targets, destination.schema)
        names = ", ".join(quote(target.name) for target in destination.targets)
        self._insert = f"INSERT INTO {destination.sql} ({names}) VALUES ".encode()

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """An error here leaves a transaction that may lack rows: it must not be committed."""
        try:
            with self._session.errors(doing):
                yield
        except pa.ArrowException as error:
            self._broken = True
            raise SinkError(f"Error while {doing}: {error}") from None
        except BaseException:
            self._broken = True
            raise

    def write(self, batch: pa.RecordBatch) -> Written:
        if batch.num_rows == 0:
            return Written(0)
        with self._guarded(f"writing {self._into.label}"):
            self._look_at_fractions(batch)
            if not self._into.transactional:
                return self._write_singly(batch)
            if self._bulk and batch.num_rows >= _MIN_BULK and self._load(batch):
                return Written(batch.num_rows)
            return write_bisecting(batch, self._try_insert)

    def _look_at_fractions(self, batch: pa.RecordBatch) -> None:
        """Say, once per column, that the server rounds or cuts the times it is given."""
        for number, target in list(self._coarse.items()):
            if loses_fraction(batch.column(number), target):
                del self._coarse[number]
                self._warn(
                    f"Column {target.name} of {self._into.label} is {target.native.full_type}: "
                    "the server rounds or cuts times that have more digits of a second."
                )

    def _load(self, batch: pa.RecordBatch) -> bool:
        """Whether LOAD DATA took the batch whole; otherwise nothing of it is there."""
        lines = load_lines(batch, self._into.targets, self._offset)
        self._session.run(f"SAVEPOINT {_SAVEPOINT}")
        try:
            loaded = load_lines_into(self._session, self._into.sql, self._columns, lines)
            if loaded == batch.num_rows:
                return True
        except LoadNotAllowed:
            self._bulk = False
        except pymysql.err.Error as error:
            if not is_row_fault(error):
                raise
        self._session.run(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        return False

    def _try_insert(self, batch: pa.RecordBatch) -> str | None:
        """Insert the rows, all or none; the server's reason when it refuses."""
        self._session.run(f"SAVEPOINT {_SAVEPOINT}")
        reason = self._insert_rows(batch)
        if reason is not None:
            self._session.run(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        return reason

    def _insert_rows(self, batch: pa.RecordBatch) -> str | None:
        rows, ends = insert_rows(batch, self._into.targets, self._offset)
        room = self._packet - len(self._insert) - 64
        done = 0
        while done < batch.num_rows:
            # As many rows as fit into one statement; the ends are sorted.
            until = bisect.bisect_right(ends, ends[done] + room, done + 1) - 1
            if until <= done:
                return (
                    f"a row of {ends[done + 1] - ends[done]} bytes does not fit into the server's "
                    f"max_allowed_packet of {self._packet} bytes"
                )
            reason = self._insert_statement(bytes(rows[ends[done] : ends[until] - 1]))
            if reason is not None:
                return reason
            done = until
        return None

    def _insert_statement(self, values: bytes) -> str | None:
        try:
            self._session.run(self._insert + values)
        except pymysql.err.Error as error:
            if is_row_fault(error):
                return text_of(error)
            raise
        if self._session.warnings:
            for code, text in self._session.warning_texts():
                if code in LOSSY_WARNINGS:
                    return f"{text} (warning {code})"
        return None

    def _write_singly(self, batch: pa.RecordBatch) -> Written:
        """Row by row, for engines that cannot take a row back.

        A changed value is reported although the row is there: it cannot be removed again.
        """
        rejected = []
        for index in range(batch.num_rows):
            reason = self._insert_rows(batch.slice(index, 1))
            if reason is not None:
                rejected.append(Rejected(index, reason))
        return Written(batch.num_rows - len(rejected), tuple(rejected))

    def mark(self, split: Split, rows: int) -> None:
        with self._guarded(f"marking split {split.label}"):
            try:
                self._marks.add(self._session, split.id, self._attempt, rows)
            except pymysql.err.IntegrityError as error:
                if number_of(error) != 1062:
                    raise
                self._session.run("ROLLBACK")
                raise SinkError(
                    f"Split {split.label} of {self._into.label} was committed by another attempt "
                    "already; this one's rows were rolled back.",
                    retryable=True,
                ) from None

    def commit(self) -> None:
        if self._broken:
            raise SinkError(
                f"The transaction on {self._into.label} failed earlier and cannot be committed.",
                retryable=True,
            )
        with self._guarded(f"committing to {self._into.label}"):
            self._session.run("COMMIT")

    def rollback(self) -> None:
        with self._session.errors(f"rolling back {self._into.label}"):
            self._session.run("ROLLBACK")
        self._broken = False

    def close(self) -> None:
        self._session.close()
