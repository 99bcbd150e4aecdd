"""DuckDB files: opening them once per process, waiting for other processes, reading the catalog."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from exchangis.connectors.base import Column, Context, TableSchema
from exchangis.connectors.duckdb.types import arrow_type
from exchangis.connectors.local import confined_path
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    SinkError,
    SourceError,
    TaskCancelled,
    TaskError,
)
from exchangis.domain.model import Connection, DataSet

OPEN_WAIT = 60.0
"""Seconds to wait while another process holds the file, before a retryable ConnectionFailed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of one opened file; `folder` takes what does not fit into memory."""

    memory_mb: int
    threads: int
    folder: Path


@dataclass
class _Instance:
    root: duckdb.DuckDBPyConnection
    read_only: bool
    users: int = 0
    cursors: int = 0


class Files:
    """The files that this process has open.

    DuckDB opens a file once per process and refuses a second way of opening it, so that a task
    within one file must share what its source and its sink opened. A user `hold`s a file, which
    keeps other processes from changing it, and works through `cursor`s. Reading goes through a
    connection that is read-only unless the same process writes to the file, too.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[Path, _Instance] = {}

    def hold(self, path: Path, settings: Settings, *, read_only: bool) -> None:
        """Open the file, or join in; duckdb.Error as the driver raises it."""
        with self._lock:
            instance = self._open.get(path)
            if instance is None:
                instance = self._open[path] = _Instance(
                    _connect(path, settings, read_only=read_only), read_only
                )
            elif instance.read_only and not read_only:
                if instance.cursors:
                    raise duckdb.ConnectionException("this process is reading the file")
                instance.root.close()
                try:
                    instance.root = _connect(path, settings, read_only=False)
                except duckdb.Error:
                    # Its readers must not be left without the file that they hold.
                    instance.root = _connect(path, settings, read_only=True)
                    raise
                instance.read_only = False
            instance.users += 1

    def release(self, path: Path) -> None:
        with self._lock:
            instance = self._open[path]
            instance.users -= 1
            if not instance.users:
                del self._open[path]
                instance.root.close()

    def open_cursor(self, path: Path) -> duckdb.DuckDBPyConnection:
        """A connection of its own to a held file."""
        with self._lock:
            instance = self._open[path]
            cursor = instance.root.cursor()
            instance.cursors += 1
            return cursor

    def close_cursor(self, path: Path, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._lock:
            self._open[path].cursors -= 1
            cursor.close()


_FILES = Files()  # mirrors the driver's own table of open files, which is per process as well


def _connect(path: Path, settings: Settings, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Nothing but the file itself is within reach, and no SQL can change that."""
    connection = duckdb.connect(
        str(path),
        read_only=read_only,
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{settings.memory_mb}MB",
            "threads": str(settings.threads),
            "temp_directory": str(settings.folder / "duckdb"),
        },
    )
    try:
        run(connection, "SET GLOBAL TimeZone = 'UTC'")
        run(connection, "SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def run(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Any = None
) -> list[tuple[Any, ...]]:
    """All rows of a statement; an unread result would block the connection's next one."""
    return connection.execute(sql, values).fetchall()


class Handle:
    """One source's or sink's way to its file: holds it, hands out cursors, cancels them."""

    def __init__(self, path: Path, settings: Settings, context: Context, *, read_only: bool):
        self.path = path
        self.lock_wait = OPEN_WAIT
        self._settings = settings
        self._context = context
        self._read_only = read_only
        self._held = False
        self._event = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._cursor_lock = threading.Lock()
        self._cursors: set[duckdb.DuckDBPyConnection] = set()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for as long as the block runs."""
        cursor = self.open()
        try:
            yield cursor
        finally:
            self.close_cursor(cursor)

    def open(self) -> duckdb.DuckDBPyConnection:
        """A connection; the file is opened on first use."""
        self.check()
        self._hold()
        with self._cursor_lock:
            cursor = _FILES.open_cursor(self.path)
            self._cursors.add(cursor)
        return cursor

    def close_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._cursor_lock:
            if cursor in self._cursors:
                self._cursors.remove(cursor)
                _FILES.close_cursor(self.path, cursor)

    def _hold(self) -> None:
        with self._lock:
            if self._held:
                return
            if self._read_only and not self.path.exists():
                raise ConnectionFailed(
                    f"There is no DuckDB file {self.path}.",
                    guidance="Check the path; a sink creates the file, a source needs it.",
                    retryable=False,
                )
            self._wait_for_file()
            self._held = True

    def _wait_for_file(self) -> None:
        started, told = time.monotonic(), False
        while True:
            try:
                return _FILES.hold(self.path, self._settings, read_only=self._read_only)
            except duckdb.Error as error:
                busy = "lock on file" in str(error) or "this process is reading" in str(error)
                if not busy or time.monotonic() - started >= self.lock_wait:
                    raise ConnectionFailed(
                        f"Cannot open the DuckDB file {self.path}: {first_line(error)}.",
                        guidance="Another process holds it: a DuckDB file has one writer, or"
                        " several readers."
                        if busy
                        else "",
                        retryable=busy,
                    ) from error
            if not told:
                told = True
                self._context.log("INFO", f"waiting for another process to free {self.path}")
            if self._event.wait(0.05):
                raise TaskCancelled()

    def cancel(self) -> None:
        self._event.set()
        if self._interrupt():
            # DuckDB forgets an interrupt that comes just before a statement begins: go on.
            threading.Thread(target=self._go_on_interrupting, daemon=True).start()

    def _interrupt(self) -> bool:
        """Interrupt what runs; whether there is a cursor on which something could."""
        with self._cursor_lock:
            for cursor in self._cursors:
                cursor.interrupt()
            return bool(self._cursors)

    def _go_on_interrupting(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._interrupt():
            self._ended.wait(0.1)

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        if self._event.is_set():
            raise TaskCancelled()

    def close(self) -> None:
        self._ended.set()
        for cursor in tuple(self._cursors):
            self.close_cursor(cursor)
        with self._lock:
            if self._held:
                self._held = False
                _FILES.release(self.path)

    def translated(
        self, error: Exception, kind: type[SourceError] | type[SinkError], label: str
    ) -> TaskError:
        """The error that a user meets for one of DuckDB's."""
        if self.cancelled or isinstance(error, duckdb.InterruptException):
            return TaskCancelled()
        if isinstance(error, duckdb.OutOfMemoryException):
            return kind(
                f"{label}: {first_line(error)}.",
                guidance="Raise the option memory_limit_mb of this data set.",
            )
        return kind(
            f"{label}: {first_line(error)}.",
            retryable=isinstance(error, duckdb.TransactionException),
        )


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)


def database_path(connection: Connection, context: Context) -> Path:
    """The file that a connection names, confined to the context's roots."""
    return confined_path(str(connection.get("path")), context.roots, field="path")


@dataclass(frozen=True, slots=True)
class ForeignKey:
    columns: tuple[str, ...]
    table: str
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table or view of the catalog, with what it demands of its rows.

    `unique` lists primary key, unique constraints and unique indexes; None stands for an index on
    an expression. `checks` are SQL expressions with the columns that they read.
    """

    schema_name: str
    name: str
    is_view: bool
    schema: TableSchema
    writable: tuple[str, ...]
    defaults: dict[str, str]
    unique: tuple[tuple[str, ...] | None, ...]
    checks: tuple[tuple[str, tuple[str, ...]], ...]
    foreign: tuple[ForeignKey, ...]


def table_of(dataset: DataSet) -> tuple[str, str]:
    """Schema and table that a data set names; the schema defaults to `main`."""
    if not dataset.table:
        raise InvalidRequest.field("table", dataset.table, "is required")
    for field, text in (("table", dataset.table), ("database", dataset.database)):
        if text and "\x00" in text:
            raise InvalidRequest.field(field, text, "must not hold a NUL character")
    return dataset.database or "main", dataset.table


_HERE = "database_name = current_database() AND schema_name = $1 AND table_name = $2"


def table_info(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> TableInfo | None:
    """The catalog's entry, or None; DuckDB compares names without regard to case."""
    found = run(
        connection,
        "SELECT schema_name, table_name, false, estimated_size FROM duckdb_tables()"
        " WHERE database_name = current_database()"
        " AND lower(schema_name) = lower($1) AND lower(table_name) = lower($2)"
        " UNION ALL SELECT schema_name, view_name, true, NULL FROM duckdb_views()"
        " WHERE database_name = current_database()"
        " AND lower(schema_name) = lower($1) AND lower(view_name) = lower($2)",
        [schema, table],
    )
    if not found:
        return None
    schema, table, is_view, size = found[0]
    here = [schema, table]
    columns, writable, defaults = [], [], {}
    for name, native, nullable, default, generated in run(
        connection,
        "SELECT column_name, data_type, is_nullable, column_default, is_generated"
        f" FROM duckdb_columns() WHERE {_HERE} ORDER BY column_index",
        here,
    ):
        columns.append(Column(name, arrow_type(native), native, nullable))
        if not generated:
            writable.append(name)
            if default is not None:
                defaults[name] = default
    primary: tuple[str, ...] = ()
    unique: list[tuple[str, ...] | None] = []
    checks, foreign = [], []
    for kind, names, expression, other, references in run(
        connection,
        "SELECT constraint_type, constraint_column_names, expression, referenced_table,"
        f" referenced_column_names FROM duckdb_constraints() WHERE {_HERE}"
        " ORDER BY constraint_index",
        here,
    ):
        if kind == "PRIMARY KEY":
            primary = tuple(names)
        if kind in ("PRIMARY KEY", "UNIQUE"):
            unique.append(tuple(names))
        elif kind == "CHECK":
            checks.append((expression, tuple(names)))
        elif kind == "FOREIGN KEY" and other is not None and names:
            foreign.append(ForeignKey(tuple(names), other, tuple(references)))
    known = {column.name for column in columns}
    for (sql,) in run(
        connection, f"SELECT sql FROM duckdb_indexes() WHERE {_HERE} AND is_unique AND sql <> ''",
        here,
    ):  # fmt: skip
        unique.append(_index_columns(sql, known))
    return TableInfo(
        schema, table, is_view, TableSchema(tuple(columns), primary, size),
        tuple(writable), defaults, tuple(unique), tuple(checks), tuple(foreign),
    )  # fmt: skip


_INDEX_COLUMNS = re.compile(r"\((.*)\);?\s*$", re.DOTALL)
_INDEX_COLUMN = re.compile(r'\s*("(?:[^"]|"")*"|[^",()\s]+)\s*(,|$)')


def _index_columns(sql: str, known: set[str]) -> tuple[str, ...] | None:
    """The columns of a CREATE UNIQUE INDEX as the catalog prints it; None for expressions."""
    # The table's name is quoted where it needs to be; what follows its last use is the list.
    match = _INDEX_COLUMNS.search(re.sub(r'^.*? ON (?:"(?:[^"]|"")*"|[^"(\s])+\s*', "", sql))
    names: list[str] = []
    rest = match[1] if match else ""
    while rest:
        part = _INDEX_COLUMN.match(rest)
        if part is None:
            return None
        text = part[1]
        names.append(text[1:-1].replace('""', '"') if text.startswith('"') else text)
        rest = rest[part.end() :]
    return tuple(names) if names and set(names) <= known else None


def browsing(
    connection: Connection, context: Context, settings: Settings,
    query: Callable[[duckdb.DuckDBPyConnection], list[tuple[Any, ...]]],
) -> list[tuple[Any, ...]]:  # fmt: skip
    """Rows of one query on the file, opened for it alone."""
    handle = Handle(database_path(connection, context), settings, context, read_only=True)
    handle.lock_wait = 5.0
    try:
        with handle.cursor() as cursor:
            return query(cursor)
    except duckdb.Error as error:
        raise handle.translated(error, SourceError, "DUCKDB") from error
    finally:
        handle.close()
