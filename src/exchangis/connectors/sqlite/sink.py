"""Writing a table of a SQLite file: one writer, one transaction.

Foreign keys are as SQLite has them by default, not enforced: with them on, the DELETE of an
overwrite would cascade into other tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from exchangis.connectors import marks
from exchangis.connectors.base import (
    Column,
    Context,
    Rejected,
    Resume,
    Sink,
    Split,
    TableSchema,
    Writer,
    WriteRequest,
    Written,
)
from exchangis.connectors.bisect import write_bisecting
from exchangis.connectors.sqlite.database import (
    Cancel,
    TableInfo,
    open_database,
    quote,
    table_info,
    translated,
    wait_for_lock,
)
from exchangis.connectors.sqlite.types import affinity, proposed_type
from exchangis.connectors.sqlite.values import python_column
from exchangis.connectors.tables import check_upsert_keys, check_writable, create_statement
from exchangis.domain.errors import SinkError
from exchangis.domain.model import WriteMode

LOCK_WAIT = 600.0
"""Seconds to wait for another writer's lock before a retryable SinkError."""

_MARKS = quote(marks.TABLE)
_CREATE_MARKS = f"""
CREATE TABLE IF NOT EXISTS {_MARKS} (
    task_key TEXT NOT NULL, split_id TEXT NOT NULL, attempt INTEGER NOT NULL,
    row_count INTEGER NOT NULL, note TEXT, created_at TEXT NOT NULL DEFAULT (datetime('now')),
    PRIMARY KEY (task_key, split_id)
)"""
_ROW_ERRORS = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.DataError, OverflowError)


class SQLiteSink(Sink):
    """One table of one file."""

    def __init__(
        self, path: Path, table: str, context: Context, *, nan_as_null: bool = False
    ) -> None:
        self.path = path
        self.table = table
        self.context = context
        self.nan_as_null = nan_as_null
        self.cancelled = Cancel()
        self.lock_wait = LOCK_WAIT
        self.request: WriteRequest | None = None
        self._writer: SQLiteWriter | None = None

    @property
    def label(self) -> str:
        return f"SQLITE {self.table}"

    def _info(self, connection: sqlite3.Connection) -> TableInfo | None:
        info = table_info(connection, self.table)
        if info is not None and info.kind == "view":
            raise SinkError(f"{self.label} is a view; rows can be written to tables alone.")
        return info

    def schema(self) -> TableSchema | None:
        if not self.path.exists():
            return None
        connection = open_database(self.path, "ro", self.cancelled)
        try:
            info = self._info(connection)
        except sqlite3.Error as error:
            raise translated(error, SinkError, self.label, self.cancelled) from error
        finally:
            self.cancelled.close(connection)
        if info is None:
            return None
        columns = tuple(c for c in info.schema.columns if c.name in info.writable)
        return TableSchema(columns, info.schema.primary_key)

    def proposed(self, wanted: TableSchema) -> TableSchema:
        columns = []
        for column in wanted.columns:
            native, carried = proposed_type(column.type)
            nullable = column.nullable and column.name not in wanted.primary_key
            columns.append(Column(column.name, carried, native, nullable))
        return TableSchema(tuple(columns), wanted.primary_key, wanted.rows)

    # ------------------------------------------------------------------ life of a task

    def prepare(self, request: WriteRequest, plan: str) -> Resume:
        connection = open_database(self.path, "rwc", self.cancelled)
        try:
            self.begin(connection)
            info = self._info(connection)
            if info is None:
                if not request.create:
                    raise SinkError(
                        f"There is no table {self.table} in {self.path}.",
                        guidance="Create it, or let the task do so (create_table).",
                    )
                connection.execute(
                    create_statement(
                        quote(self.table), request, quote=quote, proposed=proposed_type
                    )
                )
                info = self._info(connection)
            if info is None:
                raise SinkError(f"{self.label} is not there after it was created.")
            self._check_request(info, request)
            resume = self._resume(connection, plan)
            self.commit(connection)
        except sqlite3.Error as error:
            raise translated(error, SinkError, self.label, self.cancelled) from error
        finally:
            self.cancelled.close(connection)  # what was not committed is rolled back
        self.request = request
        return resume

    def _check_request(self, info: TableInfo, request: WriteRequest) -> None:
        check_writable(self.label, info.writable, request.schema.names)
        check_upsert_keys(self.table, info.schema, request, info.unique)

    def _resume(self, connection: sqlite3.Connection, plan: str) -> Resume:
        connection.execute(_CREATE_MARKS)
        connection.execute(
            f"DELETE FROM {_MARKS} WHERE created_at < datetime('now', ?) AND task_key <> ?",
            (f"-{marks.KEEP_DAYS} days", self.context.task_key),
        )
        connection.execute(
            f"INSERT INTO {_MARKS} (task_key, split_id, attempt, row_count, note)"
            " VALUES (?, ?, ?, 0, ?) ON CONFLICT (task_key, split_id)"
            " DO UPDATE SET attempt = max(attempt, excluded.attempt)",
            (self.context.task_key, marks.PLAN, self.context.attempt, plan),
        )
        self.check_fence(connection)
        found = connection.execute(
            f"SELECT split_id, row_count, note FROM {_MARKS} WHERE task_key = ?",
            (self.context.task_key,),
        ).fetchall()
        stored = next(note for split_id, _, note in found if split_id == marks.PLAN)
        done = {split_id: count for split_id, count, _ in found if not split_id.startswith("#")}
        return Resume(plan=stored, done=done)

    def check_fence(self, connection: sqlite3.Connection) -> None:
        """Refuse to go on once a later attempt has prepared this sink."""
        row = connection.execute(
            f"SELECT attempt FROM {_MARKS} WHERE task_key = ? AND split_id = ?",
            (self.context.task_key, marks.PLAN),
        ).fetchone()
        if row is not None and row[0] > self.context.attempt:
            raise SinkError(
                f"{self.label}: attempt {row[0]} of this task has taken over from attempt"
                f" {self.context.attempt}."
            )

    def begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock, waiting for other writers."""
        wait_for_lock(
            lambda: connection.execute("BEGIN IMMEDIATE"),
            self.cancelled, self.lock_wait, self._waiting, f"waiting to write {self.table}",
        )  # fmt: skip

    def commit(self, connection: sqlite3.Connection) -> None:
        """Commit; without WAL this waits for readers to finish."""
        wait_for_lock(
            lambda: connection.execute("COMMIT"),
            self.cancelled, self.lock_wait, self._waiting, f"committing {self.table}",
        )  # fmt: skip

    def _waiting(self) -> None:
        self.context.log("INFO", f"waiting for another program's lock on {self.path}")

    def open_writer(self) -> Writer:
        if self.request is None:
            raise SinkError(f"{self.label}: prepare has not been called.")
        self._writer = SQLiteWriter(self, self.request)
        return self._writer

    def publish(self) -> None:
        """Nothing to do: the writer's commit showed rows and marks together."""

    def discard(self) -> None:
        """Nothing to do: there is no staging, and an open transaction ends with its connection."""

    def cancel(self) -> None:
        self.cancelled()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _refusing(refused: dict[int, str], name: str) -> Callable[[int, str], None]:
    def refuse(index: int, reason: str) -> None:
        refused.setdefault(index, f"column {name}: {reason}")

    return refuse


class SQLiteWriter(Writer):
    """The lane: a transaction begins with the first batch or mark after each commit."""

    def __init__(self, sink: SQLiteSink, request: WriteRequest) -> None:
        self._sink = sink
        self._request = request
        self._failed = False
        """Some statement of the open transaction did not succeed: committing would lose rows."""
        self._connection: sqlite3.Connection | None = open_database(sink.path, "rw", sink.cancelled)
        try:
            info = table_info(self._connection, sink.table)
        except sqlite3.Error as error:
            self.close()
            raise translated(error, SinkError, sink.label, sink.cancelled) from error
        if info is None:
            self.close()
            raise SinkError(f"There is no table {sink.table} in {sink.path} any more.")
        declared = {column.name: column.native_type for column in info.schema.columns}
        self._affinities = [
            affinity(declared.get(name, ""), strict=info.strict) for name in request.schema.names
        ]
        self._statement = self._insert_statement(info)

    def _insert_statement(self, info: TableInfo) -> str:
        names = self._request.schema.names
        # OR ABORT: a constraint's own ON CONFLICT clause must not drop or replace rows silently.
        text = (
            f"INSERT OR ABORT INTO {quote(self._sink.table)} ({', '.join(map(quote, names))})"
            f" VALUES ({', '.join('?' * len(names))})"
        )
        if self._request.mode is not WriteMode.UPSERT:
            return text
        keys = self._request.key_columns or info.schema.primary_key
        changed = ", ".join(f"{quote(n)} = excluded.{quote(n)}" for n in names if n not in keys)
        action = f"UPDATE SET {changed}" if changed else "NOTHING"
        return f"{text} ON CONFLICT ({', '.join(map(quote, keys))}) DO {action}"

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SinkError(f"{self._sink.label}: the writer is closed.")
        return self._connection

    def _transaction(self) -> sqlite3.Connection:
        """The connection inside of a transaction; an overwrite empties the table first.

        That it does so before this task's first committed split, and never after it, is decided
        by the marks inside of the transaction: a resumed task deletes none of its own rows.
        """
        connection = self._open()
        if self._failed:
            raise SinkError(f"{self._sink.label}: the transaction failed; it must be rolled back.")
        if connection.in_transaction:
            return connection
        self._sink.begin(connection)
        self._failed = True  # until its first statements have succeeded
        self._sink.check_fence(connection)
        if self._request.mode is WriteMode.OVERWRITE:
            (mine,) = connection.execute(
                f"SELECT count(*) FROM {_MARKS} WHERE task_key = ? AND split_id NOT LIKE '#%'",
                (self._sink.context.task_key,),
            ).fetchone()
            if not mine:
                connection.execute(f"DELETE FROM {quote(self._sink.table)}")
        self._failed = False
        return connection

    def write(self, batch: pa.RecordBatch) -> Written:
        self._sink.cancelled.check()
        refused: dict[int, str] = {}
        names = self._request.schema.names
        columns = [
            python_column(
                array, kind, nan_as_null=self._sink.nan_as_null, refuse=_refusing(refused, name)
            )
            for array, kind, name in zip(batch.columns, self._affinities, names, strict=True)
        ]
        kept: Sequence[int] = range(batch.num_rows)
        if refused:
            kept = [index for index in kept if index not in refused]
            columns = [[column[index] for index in kept] for column in columns]
        try:
            connection = self._transaction()
            self._failed = True  # whatever else than a refused row ends the insert
            written = self._insert(connection, columns, len(kept))
            self._failed = False
        except sqlite3.Error as error:
            raise translated(error, SinkError, self._sink.label, self._sink.cancelled) from error
        rejected = [Rejected(index, reason) for index, reason in refused.items()]
        rejected += [Rejected(kept[r.index], r.reason) for r in written.rejected]
        rejected.sort(key=lambda one: one.index)
        return Written(written.rows, tuple(rejected))

    def _insert(
        self, connection: sqlite3.Connection, columns: list[list[Any]], count: int
    ) -> Written:
        def attempt(part: pa.RecordBatch) -> str | None:
            start = part.column(0)[0].as_py()
            end = start + part.num_rows
            rows = zip(*(column[start:end] for column in columns), strict=True)
            connection.execute("SAVEPOINT batch")
            try:
                connection.executemany(self._statement, rows)
            except _ROW_ERRORS as error:
                if not connection.in_transaction:  # a trigger or ON CONFLICT ROLLBACK
                    raise SinkError(
                        f"{self._sink.label}: the table's own rules rolled the task back: {error}."
                    ) from error
                connection.execute("ROLLBACK TO batch")
                connection.execute("RELEASE batch")
                return str(error)
            connection.execute("RELEASE batch")
            return None

        positions = pa.record_batch({"index": pa.array(range(count), pa.int64())})
        return write_bisecting(positions, attempt)

    def mark(self, split: Split, rows: int) -> None:
        try:
            connection = self._transaction()
            self._failed = True
            connection.execute(
                f"INSERT INTO {_MARKS} (task_key, split_id, attempt, row_count)"
                " VALUES (?, ?, ?, ?)",
                (self._sink.context.task_key, split.id, self._sink.context.attempt, rows),
            )
            self._failed = False
        except sqlite3.IntegrityError as error:
            raise SinkError(
                f"{self._sink.label}: split {split.id} has been committed already, by another"
                " attempt of this task."
            ) from error
        except sqlite3.Error as error:
            raise translated(error, SinkError, self._sink.label, self._sink.cancelled) from error

    def commit(self) -> None:
        connection = self._open()
        if not connection.in_transaction and not self._failed:
            return
        self._transaction()
        try:
            self._sink.commit(connection)
        except sqlite3.Error as error:
            raise translated(error, SinkError, self._sink.label, self._sink.cancelled) from error

    def rollback(self) -> None:
        connection = self._open()
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise SinkError(f"{self._sink.label}: {error}.") from error
        self._failed = False

    def close(self) -> None:
        if self._connection is not None:
            self._sink.cancelled.close(self._connection)
            self._connection = None
