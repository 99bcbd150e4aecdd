"""Reaching the store: reads without a transaction, writes in one that may be tried again."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from exchangis.domain.errors import InvalidRequest

T = TypeVar("T")
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_TRIES = 8
_BUSY_SECONDS = 30


class Database:
    """The store's database. Thread-safe; `close` when done.

    A thread that is in a transaction must not begin a second one.
    """

    def __init__(self, url: str) -> None:
        parsed, self.dialect = _parse(url)
        if self.dialect == "sqlite":
            self.engine: Engine = create_engine(
                parsed,
                connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None},
                pool_size=50,
            )
            event.listen(self.engine, "connect", _prepare_sqlite)
            self._reader = self.engine
        else:
            options: dict[str, Any] = {
                "pool_pre_ping": True, "pool_size": 5, "max_overflow": 15, "pool_recycle": 1800,
            }  # fmt: skip
            self.engine = create_engine(parsed, isolation_level="READ COMMITTED", **options)
            # A pool of its own: a connection that changes its mode costs MySQL two round trips.
            self._reader = create_engine(
                parsed, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **options
            )
        # SQLite has one writer at a time. Threads of ours queue here, where the next one goes on
        # at once; SQLite itself would let them ask again after growing pauses.
        self._writers = threading.Lock() if self.dialect == "sqlite" else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection on which each SELECT stands for itself: no transaction is begun or held.

        InvalidRequest when a value to look for is none that the database can hold.
        """
        with self._reader.connect() as connection:
            try:
                yield connection
            except (DataError, OverflowError, UnicodeEncodeError):  # a NUL, 2**64, a surrogate
                raise InvalidRequest("A value to look for is not one that can be stored.") from None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One write transaction, tried once: for what can't be run twice (see `transact`)."""
        with self._writers, self.engine.connect() as connection:
            if self.dialect == "sqlite":
                # A transaction that begins as a reader can't always become a writer.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                if self.dialect == "sqlite":
                    connection.exec_driver_sql("COMMIT")
                connection.commit()
            except BaseException:
                if self.dialect == "sqlite" and _in_transaction(connection):
                    connection.exec_driver_sql("ROLLBACK")
                connection.rollback()
                raise

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one write transaction; deadlocks and busy stores are tried again.

        `work` may run more than once, so it has no effect outside of the transaction.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                with self.begin() as connection:
                    return work(connection)
            except OperationalError as error:
                if attempt == _TRIES or not _worth_retrying(error):
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # let the other transaction end
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()
        self._reader.dispose()


def _parse(url: str) -> tuple[URL, str]:
    """The URL with the driver that we bring, and the family of its SQL."""
    try:
        parsed = make_url(url)
    except ArgumentError:  # its message repeats the URL, password and all
        raise InvalidRequest.field("store_url", None, "is no database URL") from None
    family = parsed.get_backend_name() if "+" in parsed.drivername else parsed.drivername
    if family not in _DRIVERS:
        raise InvalidRequest.field(
            "store_url",
            parsed.render_as_string(hide_password=True),
            "must be a sqlite, postgresql, mysql or mariadb URL",
        )
    parsed = parsed.set(drivername=_DRIVERS[family])
    if family == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidRequest.field(
            "store_url", url, "must name a file: what is in memory is not shared between threads"
        )
    if family in ("mysql", "mariadb"):
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    return parsed, {"postgres": "postgresql", "mariadb": "mysql"}.get(family, family)


def _in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    return isinstance(driver, sqlite3.Connection) and driver.in_transaction


def _prepare_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    # WAL: readers never wait for the writer. synchronous=NORMAL survives any crash of ours; after
    # a power cut the last moments may be missing, and commit marks in the sinks then prevent
    # doubled rows.
    _enter_wal(connection)
    for pragma in (
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-4096",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL, once for ever; servers that open a new file at once may collide."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))  # SQLite itself never waits for this switch


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _worth_retrying(error: DBAPIError) -> bool:
    """Deadlock, lock wait, serialization failure, busy: the same transaction may do next time."""
    original = error.orig
    if isinstance(original, sqlite3.OperationalError):
        return _is_busy(original)
    if getattr(original, "sqlstate", None) in {"40001", "40P01", "55P03"}:
        return True
    code = original.args[0] if original is not None and original.args else None
    return code in {1020, 1205, 1213}
