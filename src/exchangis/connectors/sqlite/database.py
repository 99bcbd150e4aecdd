"""SQLite files: opening them, waiting for locks, and reading the catalog."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote as quote_uri

from exchangis.connectors.base import Column, Context, TableSchema
from exchangis.connectors.local import confined_path
from exchangis.connectors.sqlite.types import arrow_type
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    SinkError,
    SourceError,
    TaskCancelled,
    TaskError,
)
from exchangis.domain.model import Connection, DataSet

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_UNFINISHED = frozenset({sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY})
READ_WAIT = 60.0
"""Seconds that a reader waits for a writer's commit before a retryable ConnectionFailed."""
_CANCEL_CHECK_OPS = 200_000
"""Virtual machine steps between looks at a cancel flag: some milliseconds."""


def quote(name: str) -> str:
    """An identifier in SQLite's quotes; InvalidRequest for a NUL, which no name can hold."""
    if "\x00" in name:
        raise InvalidRequest.field("identifier", name, "must not hold a NUL character")
    return '"' + name.replace('"', '""') + '"'


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else's lock is the reason."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BUSY


def database_path(connection: Connection, context: Context) -> Path:
    """The file that a connection names, confined to the context's roots."""
    return confined_path(str(connection.get("path")), context.roots, field="path")


def table_name(dataset: DataSet) -> str:
    """The data set's table; SQLite knows no database but `main` (and no file of another name)."""
    if dataset.database not in (None, "", "main"):
        raise InvalidRequest.field(
            "database", dataset.database, "a SQLite file has only the database main"
        )
    if not dataset.table:
        raise InvalidRequest.field("table", dataset.table, "is required")
    return dataset.table


class Cancel:
    """A flag that interrupts every connection registered with it; safe from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[sqlite3.Connection] = set()

    def __call__(self) -> None:
        self._event.set()
        with self._lock:
            for connection in self._connections:
                connection.interrupt()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the flag for at most that long."""
        return self._event.wait(seconds)

    def check(self) -> None:
        if self._event.is_set():
            raise TaskCancelled()

    def watch(self, connection: sqlite3.Connection) -> None:
        """Make the flag end this connection's statements, also one that begins later."""
        with self._lock:
            self._connections.add(connection)
        connection.set_progress_handler(self._event.is_set, _CANCEL_CHECK_OPS)

    def close(self, connection: sqlite3.Connection) -> None:
        """Close a watched connection; interrupting a closed one would be an error."""
        with self._lock:
            self._connections.discard(connection)
            connection.close()


def open_database(path: Path, mode: str, cancel: Cancel) -> sqlite3.Connection:
    """A connection in autocommit mode, watched by `cancel`; ConnectionFailed names the path.

    `mode` is SQLite's: `ro` for sources, `rw`, or `rwc` where the file may be created.
    """
    if mode != "rwc" and not path.exists():
        raise ConnectionFailed(
            f"There is no SQLite file {path}.",
            guidance="Check the path; a sink creates the file, a source needs it.",
            retryable=False,
        )
    try:
        connection = sqlite3.connect(
            f"file:{quote_uri(str(path))}?mode={mode}",
            uri=True,
            timeout=0.1,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=16,
        )
    except sqlite3.Error as error:
        raise ConnectionFailed(f"Cannot open {path}: {error}.", retryable=False) from error
    cancel.watch(connection)
    try:
        if mode == "ro":
            connection.execute("PRAGMA query_only=ON")
            # A hostile file's views must not reach functions with side effects.
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
        take_snapshot(connection, path, cancel)
    except sqlite3.Error as error:
        cancel.close(connection)
        if mode == "ro" and error.sqlite_errorcode in _UNFINISHED and os.access(path, os.W_OK):
            # A writer was killed and left its journal. Rolling it back is how SQLite reads such a
            # file: until then it holds half of a transaction, and a read-only connection may not.
            cancel.close(open_database(path, "rw", cancel))
            return open_database(path, mode, cancel)
        raise ConnectionFailed(
            f"Cannot use {path} as a SQLite database: {error}.", retryable=is_busy(error)
        ) from error
    except BaseException:
        cancel.close(connection)
        raise
    return connection


def take_snapshot(connection: sqlite3.Connection, path: Path, cancel: Cancel) -> None:
    """Read something, so that an open transaction sees the database as it is now.

    Without WAL a writer's commit keeps readers out for a moment: wait for it.
    """
    wait_for_lock(
        lambda: connection.execute("SELECT count(*) FROM sqlite_schema").fetchone(),
        cancel,
        READ_WAIT,
        lambda: None,
        f"opening {path}",
        ConnectionFailed,
    )


def wait_for_lock(
    action: Callable[[], object],
    cancel: Cancel,
    limit: float,
    waiting: Callable[[], None],
    doing: str,
    kind: type[SinkError] | type[ConnectionFailed] = SinkError,
) -> None:
    """Try `action` until no other connection's lock stops it.

    `waiting` is told every five seconds. After `limit` seconds a retryable error of that `kind`;
    TaskCancelled as soon as the flag is set.
    """
    started = time.monotonic()
    told = 0.0
    while True:
        cancel.check()
        try:
            action()
        except sqlite3.Error as error:
            if not is_busy(error):
                cancel.check()
                raise
            waited = time.monotonic() - started
            if waited >= limit:
                raise kind(
                    f"The database stayed locked for {limit:g} s while {doing}.",
                    guidance="End the other program's transaction, or try again later.",
                    retryable=True,
                ) from error
            if not told or waited - told >= 5:
                told = max(waited, 0.001)
                waiting()
            cancel.wait(0.05)
        else:
            return


def translated(
    error: sqlite3.Error, kind: type[SourceError] | type[SinkError], label: str, cancel: Cancel
) -> TaskError:
    """The error that a user meets for one of SQLite's."""
    if cancel.is_set:
        return TaskCancelled()
    return kind(f"{label}: {error}.", retryable=is_busy(error))


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table or view of the catalog.

    `rowid` is the name under which the row number can be asked for, None where there is none (or
    all its names are taken). `writable` leaves out generated columns. `unique` holds the column
    sets of unique keys that an upsert may name.
    """

    name: str
    kind: str
    strict: bool
    rowid: str | None
    schema: TableSchema
    writable: tuple[str, ...]
    unique: tuple[frozenset[str], ...]


def table_names(connection: sqlite3.Connection) -> list[str]:
    """Tables and views that belong to the user, sorted."""
    rows = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main'"
        " AND type IN ('table', 'view', 'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND name NOT LIKE 'exchangis\\_%' ESCAPE '\\'"
    )
    return sorted(str(name) for (name,) in rows)


def table_info(connection: sqlite3.Connection, table: str) -> TableInfo | None:
    """The catalog's entry, or None; SQLite compares names without regard to ASCII case."""
    found = connection.execute(
        "SELECT name, type, wr, strict FROM pragma_table_list"
        " WHERE schema = 'main' AND name = ? COLLATE NOCASE",
        (table,),
    ).fetchone()
    if found is None:
        return None
    name, kind, without_rowid, strict = found
    columns: list[Column] = []
    writable: list[str] = []
    keys: list[tuple[int, str]] = []
    for _, column, declared, required, _, key, hidden in connection.execute(
        "SELECT * FROM pragma_table_xinfo(?, 'main')", (name,)
    ):
        if hidden == 1:  # a virtual table's argument, not a column
            continue
        native = str(declared or "").removesuffix(" GENERATED ALWAYS").strip()
        columns.append(Column(str(column), arrow_type(native), native, not required))
        if hidden == 0:
            writable.append(str(column))
        if key:
            keys.append((int(key), str(column)))
    taken = {column.name.lower() for column in columns}
    aliases = (a for a in ("rowid", "_rowid_", "oid") if a not in taken)
    rowid = next(aliases, None) if kind == "table" and not without_rowid else None
    key_names = tuple(column for _, column in sorted(keys))
    return TableInfo(
        name=str(name),
        kind=str(kind),
        strict=bool(strict),
        rowid=rowid,
        schema=TableSchema(tuple(columns), key_names),
        writable=tuple(writable),
        unique=tuple(_unique_keys(connection, str(name), key_names)),
    )


def _unique_keys(
    connection: sqlite3.Connection, table: str, primary_key: tuple[str, ...]
) -> Iterable[frozenset[str]]:
    if primary_key:
        yield frozenset(primary_key)
    for index, unique, partial in connection.execute(
        "SELECT name, \"unique\", partial FROM pragma_index_list(?, 'main')", (table,)
    ).fetchall():
        names = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM pragma_index_info(?, 'main')", (index,)
            )
        ]
        if unique and not partial and None not in names:
            yield frozenset(map(str, names))
