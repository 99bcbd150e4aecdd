"""Reaching the store: reads without a transaction, writes in one that may be tried again."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
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


class Database:
    """The store's database. Thread-safe; `close` when done."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        family = parsed.get_backend_name() if "+" in parsed.drivername else parsed.drivername
        if family not in _DRIVERS:
            raise InvalidRequest.field(
                "store_url",
                parsed.render_as_string(hide_password=True),
                "must be a sqlite, postgresql, mysql or mariadb URL",
            )
        parsed = parsed.set(drivername=_DRIVERS[family])
        self.dialect = {"postgres": "postgresql", "mariadb": "mysql"}.get(family, family)
        options: dict[str, Any] = {"pool_pre_ping": self.dialect != "sqlite"}
        if self.dialect == "sqlite":
            options["connect_args"] = {"timeout": 30, "isolation_level": None}
            options["pool_size"] = 50
        else:
            options |= {"pool_size": 10, "max_overflow": 20, "pool_recycle": 1800}
            options["isolation_level"] = "READ COMMITTED"
        if self.dialect == "mysql":
            parsed = parsed.update_query_dict({"charset": "utf8mb4"})
        self.engine: Engine = create_engine(parsed, **options)
        if self.dialect == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def skip_locked(self) -> bool:
        """Whether rows can be locked with SKIP LOCKED; SQLite has one writer at a time instead."""
        return self.dialect != "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection on which each SELECT stands for itself: no transaction is begun or held."""
        with (
            self.engine if self.dialect == "sqlite" else self._autocommit
        ).connect() as connection:
            yield connection

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
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
                with self._begin() as connection:
                    return work(connection)
            except OperationalError as error:
                if attempt == _TRIES or not _worth_retrying(error):
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # let the other transaction end
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def _in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    return isinstance(driver, sqlite3.Connection) and driver.in_transaction


def _prepare_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    # WAL: readers never wait for the writer. synchronous=NORMAL survives any crash of ours; after
    # a power cut the last moments may be missing, and commit marks in the sinks then prevent
    # doubled rows.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-16384",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _worth_retrying(error: DBAPIError) -> bool:
    """Deadlock, lock wait, serialization failure, busy: the same transaction may do next time."""
    original = error.orig
    if isinstance(original, sqlite3.OperationalError):
        return "locked" in str(original) or "busy" in str(original)
    if getattr(original, "sqlstate", None) in {"40001", "40P01", "55P03"}:
        return True
    code = original.args[0] if original is not None and original.args else None
    return code in {1205, 1213}
