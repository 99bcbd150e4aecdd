"""Sessions with a PostgreSQL server: how they are opened, and ended from another thread.

Parameters reach the driver as separate keyword arguments: no URL or conninfo text is put together
from them. Every session is told to `Context.session` by its backend pid.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Literal

import psycopg
from psycopg import pq, sql

from exchangis.connectors.base import Context
from exchangis.connectors.postgres.errors import connect_failure, failure
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    SinkError,
    SourceError,
    TaskCancelled,
)
from exchangis.domain.masking import Masker
from exchangis.domain.model import Connection

Side = Literal["source", "sink"]
APPLICATION = "exchangis"
_CONTROL_TIMEOUT = 2
_HOST = re.compile(r"[^\s/?#@,\\'\"=]+")

# As pg_dump does: a site's time-outs are meant for people's queries, not for a bulk load, and
# formats are fixed so that values mean the same whatever the role's or database's settings.
_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "synchronize_seqscans": "off",
}


def check_host(host: str) -> str:
    """A plain host name or address; InvalidRequest for what could smuggle in other parameters."""
    if not _HOST.fullmatch(host):
        raise InvalidRequest.field(
            "connectParams.host", host, "expected one plain host name or address"
        )
    return host


def _arguments(connection: Connection, application: str, timeout: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "host": check_host(str(connection.get("host", ""))),
        "port": connection.get("port", 5432),
        "user": connection.get("username"),
        "dbname": connection.get("database"),
        "password": connection.get("password", ""),
        "sslmode": connection.get("sslmode", "prefer"),
        "connect_timeout": timeout,
        "application_name": application,
        "client_encoding": "UTF8",
        # The account that runs Exchangis must not lend its own credentials to a data source.
        "passfile": os.devnull,
        "gssencmode": "disable",
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    if connection.get("sslrootcert"):
        arguments["sslrootcert"] = connection.get("sslrootcert")
    return arguments


def masker(connection: Connection) -> Masker:
    """Hides this connection's secrets in a text."""
    return Masker(value.get_secret_value() for value in connection.secrets.values())


def place(connection: Connection) -> str:
    """How messages name the server: `host:port/database`."""
    return f"{connection.get('host')}:{connection.get('port', 5432)}/{connection.get('database')}"


def connect(
    connection: Connection, *, application: str = APPLICATION, timeout: int | None = None
) -> psycopg.Connection[Any]:
    """An open connection in autocommit mode, its session settings fixed; else ConnectionFailed."""
    seconds = timeout or connection.get("connect_timeout", 10)
    mask = masker(connection)
    try:
        opened = psycopg.connect(
            **_arguments(connection, application, seconds), autocommit=True, prepare_threshold=None
        )
    except (psycopg.Error, UnicodeError) as error:
        shown = error if isinstance(error, psycopg.Error) else psycopg.OperationalError("bad text")
        raise connect_failure(shown, place(connection), mask) from None
    try:
        _configure(opened)
    except psycopg.Error as error:
        opened.close()
        raise ConnectionFailed(
            f"Cannot set up a session with {place(connection)}: {mask(str(error))}"
        ) from error
    return opened


def _configure(opened: psycopg.Connection[Any]) -> None:
    settings = {**_SETTINGS, "search_path": "pg_catalog"}
    version = opened.info.server_version
    if version >= 170000:
        settings["transaction_timeout"] = "0"
    calls = sql.SQL(", ").join(
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value)
        for name, value in settings.items()
    )
    opened.execute(sql.SQL("SELECT {}").format(calls))
    if version >= 140000:
        # Ends the statement of a client that went away; not every server platform can.
        with contextlib.suppress(psycopg.errors.InvalidParameterValue):
            opened.execute("SET client_connection_check_interval = '2s'")


def terminate(connection: Connection, pids: list[int]) -> None:
    """End our own backends among `pids`, and wait a moment until they are gone.

    A pid may belong to somebody else by now: only this user's sessions that name themselves
    Exchangis are touched.
    """
    with connect(connection, timeout=_CONTROL_TIMEOUT) as control:
        patience = sql.SQL(", 2000" if control.info.server_version >= 140000 else "")
        control.execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid{}) FROM pg_stat_activity WHERE pid = ANY(%s)"
                " AND usename = current_user AND application_name LIKE {}"
            ).format(patience, APPLICATION + "%%"),
            [pids],
        )


def _close_unwanted(made: Future[psycopg.Connection[Any]]) -> None:
    if made.exception() is None:
        made.result().close()


class Session:
    """One connection in use by one thread; `abort` alone may be called from another."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.pid = connection.info.backend_pid
        # A descriptor of our own: the driver may close its one at any time, and the number could
        # then name somebody else's socket.
        self._descriptor = os.dup(connection.fileno())
        self._lock = threading.Lock()
        self._open = True

    def abort(self) -> None:
        """Cut the line: a call blocked on it raises at once, and so does every later one."""
        with self._lock:
            if self._open:
                line = socket.socket(fileno=os.dup(self._descriptor))
                with line, contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the session, and first its statement if one runs (nothing is drained)."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            os.close(self._descriptor)
        status = self.connection.pgconn.transaction_status
        if status == pq.TransactionStatus.ACTIVE:
            # Closing alone would do once the server writes again; asking it is quicker.
            with contextlib.suppress(psycopg.Error):
                self.connection.cancel_safe(timeout=_CONTROL_TIMEOUT)
        self.connection.close()


class Sessions:
    """All sessions of one source or sink: opened here, counted here, cancelled together."""

    def __init__(self, connection: Connection, context: Context, side: Side) -> None:
        self._connection = connection
        self.context = context
        self._side: Side = side
        self._kind: type[SourceError] | type[SinkError] = (
            SourceError if side == "source" else SinkError
        )
        self._mask = masker(connection)
        key = re.sub(r"[^\x21-\x7e]", "?", context.task_key)
        self._application = f"{APPLICATION} {key}"[:63]
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()
        self._cancelled = threading.Event()
        self._stop: Future[None] = Future()

    def check(self) -> None:
        """TaskCancelled once `cancel` was called."""
        if self._cancelled.is_set():
            raise TaskCancelled

    def open(self) -> Session:
        """A new session, told to the context before it does anything."""
        self.check()
        session = Session(self._connect())
        with self._lock:
            self._sessions.add(session)
        self.context.session(self._side, str(session.pid))
        if self._cancelled.is_set():
            self.release(session)
            raise TaskCancelled
        return session

    def _connect(self) -> psycopg.Connection[Any]:
        """Connect in a thread of its own: a cancel must not wait for a server that is silent."""
        made: Future[psycopg.Connection[Any]] = Future()

        def work() -> None:
            try:
                made.set_result(connect(self._connection, application=self._application))
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                made.set_exception(error)

        threading.Thread(target=work, name="postgres-connect", daemon=True).start()
        either: list[Future[Any]] = [made, self._stop]
        wait(either, return_when=FIRST_COMPLETED)
        if not made.done():
            made.add_done_callback(_close_unwanted)
            raise TaskCancelled
        return made.result()

    def resolve(self, connection: psycopg.Connection[Any], schema: str) -> None:
        """Let functions behind triggers and checks of `schema` find what they name there.

        Our own statements qualify every name; `pg_catalog` stays first.
        """
        path = sql.SQL(", ").join(map(sql.Identifier, ("pg_catalog", schema, "public")))
        connection.execute(sql.SQL("SET search_path = {}").format(path))

    def release(self, session: Session) -> None:
        """Close a session; idempotent."""
        session.close()
        with self._lock:
            self._sessions.discard(session)

    def failure(self, error: psycopg.Error, doing: str) -> Exception:
        """What to raise for a driver's error: TaskCancelled if `cancel` is what caused it."""
        if self._cancelled.is_set():
            return TaskCancelled()
        return failure(error, self._kind, doing, self._mask)

    def cancel(self) -> None:
        """Make calls under way raise at once, then end the sessions in the database."""
        with self._lock:
            self._cancelled.set()
            if not self._stop.done():
                self._stop.set_result(None)
            sessions = list(self._sessions)
        for session in sessions:
            session.abort()
        if not sessions:
            return
        try:
            terminate(self._connection, [session.pid for session in sessions])
        except (ConnectionFailed, psycopg.Error) as error:
            # The lines are cut; the server ends the sessions itself when it notices.
            self.context.log("WARN", f"Sessions could not be ended in the database: {error}")

    def close(self) -> None:
        """Close every session; idempotent."""
        with self._lock:
            sessions, self._sessions = list(self._sessions), set()
        for session in sessions:
            session.close()
