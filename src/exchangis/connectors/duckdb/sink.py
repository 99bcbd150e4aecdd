"""Writing a table of a DuckDB file: one writer, one transaction."""

from __future__ import annotations

import threading
from typing import Any

import duckdb
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
from exchangis.connectors.duckdb.database import Handle, TableInfo, run, table_info
from exchangis.connectors.duckdb.rows import Rows
from exchangis.connectors.duckdb.types import proposed_type, quote
from exchangis.connectors.tables import check_upsert_keys, check_writable, create_statement
from exchangis.domain.errors import SinkError
from exchangis.domain.model import WriteMode


class DuckDBSink(Sink):
    """One table of one file."""

    def __init__(self, handle: Handle, schema: str, table: str, context: Context) -> None:
        self.handle = handle
        self.schema_name = schema
        self.table = table
        self.context = context
        self.request: WriteRequest | None = None
        self._writer: DuckDBWriter | None = None

    @property
    def label(self) -> str:
        return f"DUCKDB {self.schema_name}.{self.table}"

    @property
    def target(self) -> str:
        return f"{quote(self.schema_name)}.{quote(self.table)}"

    @property
    def marks(self) -> str:
        return f"{quote(self.schema_name)}.{quote(marks.TABLE)}"

    def info(self, cursor: duckdb.DuckDBPyConnection) -> TableInfo | None:
        found = table_info(cursor, self.schema_name, self.table)
        if found is not None and found.is_view:
            raise SinkError(f"{self.label} is a view; rows can be written to tables alone.")
        return found

    def schema(self) -> TableSchema | None:
        if not self.handle.path.exists():
            return None
        try:
            with self.handle.cursor() as cursor:
                info = self.info(cursor)
        except duckdb.Error as error:
            raise self.handle.translated(error, SinkError, self.label) from error
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
        try:
            with self.handle.cursor() as cursor:
                run(cursor, "BEGIN")
                info = self.info(cursor)
                if info is None:
                    if not request.create:
                        raise SinkError(
                            f"There is no table {self.schema_name}.{self.table} in"
                            f" {self.handle.path}.",
                            guidance="Create it, or let the task do so (create_table).",
                        )
                    run(cursor, f"CREATE SCHEMA IF NOT EXISTS {quote(self.schema_name)}")
                    run(
                        cursor,
                        create_statement(self.target, request, quote=quote, proposed=proposed_type),
                    )
                    info = self.info(cursor)
                if info is None:
                    raise SinkError(f"{self.label} is not there after it was created.")
                self._check_request(info, request)
                resume = self._resume(cursor, plan)
                run(cursor, "COMMIT")
        except duckdb.Error as error:
            raise self.handle.translated(error, SinkError, self.label) from error
        self.request = request
        return resume

    def _check_request(self, info: TableInfo, request: WriteRequest) -> None:
        names = request.schema.names
        check_writable(self.label, info.writable, names)
        for column in info.schema.columns:
            needed = not column.nullable and column.name not in info.defaults
            if needed and column.name in info.writable and column.name not in names:
                raise SinkError(
                    f"{self.label}: column {column.name} must not be NULL and has no default,"
                    " and the task does not fill it."
                )
        unique = [frozenset(key) for key in info.unique if key is not None]
        check_upsert_keys(self.table, info.schema, request, unique)

    def _resume(self, cursor: duckdb.DuckDBPyConnection, plan: str) -> Resume:
        key, attempt = self.context.task_key, self.context.attempt
        run(
            cursor,
            f"CREATE TABLE IF NOT EXISTS {self.marks} (task_key VARCHAR NOT NULL,"
            " split_id VARCHAR NOT NULL, attempt INTEGER NOT NULL, row_count BIGINT NOT NULL,"
            " note VARCHAR, created_at TIMESTAMP NOT NULL DEFAULT now()::TIMESTAMP,"
            " PRIMARY KEY (task_key, split_id))",
        )
        run(
            cursor,
            f"DELETE FROM {self.marks} WHERE task_key <> $1"
            f" AND created_at < now()::TIMESTAMP - INTERVAL {marks.KEEP_DAYS} DAY",
            [key],
        )
        run(
            cursor,
            f"INSERT INTO {self.marks} (task_key, split_id, attempt, row_count, note)"
            " VALUES ($1, $2, $3, 0, $4) ON CONFLICT (task_key, split_id)"
            " DO UPDATE SET attempt = greatest(attempt, excluded.attempt)",
            [key, marks.PLAN, attempt, plan],
        )
        self.check_fence(cursor)
        found = run(
            cursor,
            f"SELECT split_id, row_count, note FROM {self.marks} WHERE task_key = $1",
            [key],
        )
        stored = next(note for split_id, _, note in found if split_id == marks.PLAN)
        done = {split_id: count for split_id, count, _ in found if not split_id.startswith("#")}
        return Resume(plan=stored, done=done)

    def check_fence(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Refuse to go on once a later attempt has prepared this sink."""
        rows = run(
            cursor,
            f"SELECT attempt FROM {self.marks} WHERE task_key = $1 AND split_id = $2",
            [self.context.task_key, marks.PLAN],
        )
        if rows and rows[0][0] > self.context.attempt:
            raise SinkError(
                f"{self.label}: attempt {rows[0][0]} of this task has taken over from attempt"
                f" {self.context.attempt}."
            )

    def open_writer(self) -> Writer:
        if self.request is None:
            raise SinkError(f"{self.label}: prepare has not been called.")
        self._writer = DuckDBWriter(self, self.request)
        return self._writer

    def publish(self) -> None:
        """Nothing to do: the writer's commit showed rows and marks together."""

    def discard(self) -> None:
        """Nothing to do: there is no staging, and an open transaction ends with its connection."""

    def cancel(self) -> None:
        self.handle.cancel()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self.handle.close()


class DuckDBWriter(Writer):
    """The lane: a transaction begins with the first batch or mark after each commit."""

    def __init__(self, sink: DuckDBSink, request: WriteRequest) -> None:
        self._sink = sink
        self._request = request
        self._in_transaction = False
        self._failed = False
        """Some statement of the open transaction did not succeed: committing would lose rows."""
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = sink.handle.open()
        try:
            info = sink.info(self._cursor)
            if info is None:
                raise SinkError(f"There is no table {sink.target} in {sink.handle.path} any more.")
            upsert = request.mode is WriteMode.UPSERT
            key = (request.key_columns or info.schema.primary_key) if upsert else ()
            self._rows = Rows(self._cursor, info, request.schema.names, key, sink.context)
        except duckdb.Error as error:
            self.close()
            raise sink.handle.translated(error, SinkError, sink.label) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._cursor is None:
            raise SinkError(f"{self._sink.label}: the writer is closed.")
        return self._cursor

    def _transaction(self) -> duckdb.DuckDBPyConnection:
        """The connection inside of a transaction; an overwrite empties the table first.

        That it does so before this task's first committed split, and never after it, is decided
        by the marks inside of the transaction: a resumed task deletes none of its own rows.
        """
        cursor = self._open()
        if self._failed:
            raise SinkError(f"{self._sink.label}: the transaction failed; it must be rolled back.")
        if self._in_transaction:
            return cursor
        self._sink.handle.check()
        run(cursor, "BEGIN")
        self._in_transaction = True
        self._failed = True  # until its first statements have succeeded
        self._sink.check_fence(cursor)
        if self._request.mode is WriteMode.OVERWRITE:
            mine = run(
                cursor,
                f"SELECT count(*) FROM {self._sink.marks}"
                " WHERE task_key = $1 AND NOT starts_with(split_id, '#')",
                [self._sink.context.task_key],
            )[0][0]
            if not mine:
                run(cursor, f"DELETE FROM {self._sink.target}")
        self._failed = False
        return cursor

    def write(self, batch: pa.RecordBatch) -> Written:
        self._sink.handle.check()
        try:
            self._transaction()
            self._failed = True
            refused = self._rows.insert(self._rows.numbered([batch], batch.schema))
            self._failed = False
        except duckdb.Error as error:
            raise self._sink.handle.translated(error, SinkError, self._sink.label) from error
        rejected = tuple(Rejected(number, refused[number]) for number in sorted(refused))
        return Written(batch.num_rows - len(rejected), rejected)

    def mark(self, split: Split, rows: int) -> None:
        values: list[Any] = [
            self._sink.context.task_key, split.id, self._sink.context.attempt, rows,
        ]  # fmt: skip
        try:
            cursor = self._transaction()
            self._failed = True
            run(
                cursor,
                f"INSERT INTO {self._sink.marks} (task_key, split_id, attempt, row_count)"
                " VALUES ($1, $2, $3, $4)",
                values,
            )
            self._failed = False
        except duckdb.ConstraintException as error:
            raise SinkError(
                f"{self._sink.label}: split {split.id} has been committed already, by another"
                " attempt of this task."
            ) from error
        except duckdb.Error as error:
            raise self._sink.handle.translated(error, SinkError, self._sink.label) from error

    def commit(self) -> None:
        cursor = self._open()
        if not self._in_transaction:
            return
        self._transaction()
        try:
            run(cursor, "COMMIT")
        except duckdb.Error as error:
            raise self._sink.handle.translated(error, SinkError, self._sink.label) from error
        self._in_transaction = False

    def rollback(self) -> None:
        cursor = self._open()
        if not self._in_transaction:
            return
        try:
            run(cursor, "ROLLBACK")
        except duckdb.TransactionException:
            pass  # a failed COMMIT has rolled back already
        except duckdb.Error as error:
            raise SinkError(f"{self._sink.label}: {error}.") from error
        self._in_transaction = self._failed = False

    def close(self) -> None:
        with self._lock:
            if self._cursor is not None:
                self._sink.handle.close_cursor(self._cursor)
                self._cursor = None
