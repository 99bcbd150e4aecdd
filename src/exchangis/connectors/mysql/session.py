"""Sessions with a MySQL or MariaDB server: opened by allow-listed settings, ended for certain.

All use of PyMySQL's internals is here and in `wire`: the connection object's buffered file,
its socket, and the calls that send a command and read a packet.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pymysql
import pymysql.err
from pymysql.constants import CLIENT

from exchangis.connectors.mysql.errors import Side, connect_error, number_of, statement_error
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    TaskCancelled,
    TaskError,
)
from exchangis.domain.model import Connection

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253})")
_OFFSET = re.compile(r"([+-])(0\d|1[0-4]):([0-5]\d)")
_HOURS = 3600
_NO_TLS = 2026
"""The driver's error number for a server that offers no TLS."""
_KILL_TIMEOUT = 3
"""Seconds that a fresh connection may take to end the others."""

SOURCE_SETTINGS = (
    "SET SESSION sql_mode = ''",
    f"SET SESSION net_write_timeout = {_HOURS}, net_read_timeout = {_HOURS}, "
    f"wait_timeout = {24 * _HOURS}, sql_select_limit = DEFAULT",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET SESSION TRANSACTION READ ONLY",
)
"""A slow sink must not cut the source; literals and double quotes mean what they mean by default
whatever the server's global mode; and nothing that a filter says can write."""

SINK_SETTINGS = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'",
    f"SET SESSION net_write_timeout = {_HOURS}, net_read_timeout = {_HOURS}, "
    f"wait_timeout = {24 * _HOURS}, sql_select_limit = DEFAULT, sql_safe_updates = 0, "
    "lock_wait_timeout = 60",
)
"""Strict for every engine: what does not fit is an error. A 0 for an AUTO_INCREMENT column is a
value like any other. Waiting for a table's metadata lock ends (the default is a day or a year)."""


def quote(name: str) -> str:
    """A quoted identifier: backticks doubled (both servers' rule; NUL is in no name)."""
    if not name or "\x00" in name:
        raise InvalidRequest.field("name", name, "is no name of a database object")
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """A quoted string literal for sessions of ours, in which backslash escapes hold."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\x00", "\\0") + "'"


def offset_us(time_zone: str) -> int:
    """Microseconds east of UTC of `+08:00`.

    Offsets alone are taken: a named zone repeats an hour each autumn, in which a TIMESTAMP's text
    no longer says which instant it was.
    """
    match = _OFFSET.fullmatch(time_zone)
    if match is None:
        raise InvalidRequest.field(
            "connectParams.time_zone", time_zone, "expected an offset from UTC such as +00:00"
        )
    sign, hours, minutes = match.groups()
    seconds = int(hours) * 3600 + int(minutes) * 60
    return (-seconds if sign == "-" else seconds) * 1_000_000


def _check_host(host: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    if _HOST.fullmatch(host) is None:
        raise InvalidRequest.field(
            "connectParams.host", host, "expected a plain host name or address"
        )
    return host


@dataclass(frozen=True)
class Server:
    """Where and how to connect: all that ever reaches the driver."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str | None
    connect_timeout: int
    ssl_mode: str
    ssl_ca: str | None
    time_zone: str

    @classmethod
    def of(cls, connection: Connection) -> Server:
        """The checked settings of a connection; InvalidRequest names a wrong one."""
        time_zone = connection.get("time_zone") or "+00:00"
        offset_us(time_zone)
        return cls(
            host=_check_host(str(connection.get("host", ""))),
            port=int(connection.get("port") or 3306),
            user=str(connection.get("username", "")),
            password=str(connection.get("password") or ""),
            database=connection.get("database") or None,
            connect_timeout=int(connection.get("connect_timeout") or 10),
            ssl_mode=connection.get("ssl_mode") or "preferred",
            ssl_ca=connection.get("ssl_ca") or None,
            time_zone=time_zone,
        )

    @property
    def label(self) -> str:
        return f"{self.host}:{self.port}"

    def masked(self, text: str) -> str:
        """`text` without the password, should a server repeat it."""
        return text.replace(self.password, "******") if len(self.password) >= 3 else text

    def _tls(self) -> ssl.SSLContext | None:
        if self.ssl_mode == "disabled":
            return None
        if self.ssl_mode != "verify":
            return _unchecked_tls()
        if not self.ssl_ca:
            return _checked_tls(None, 0)
        try:
            return _checked_tls(self.ssl_ca, Path(self.ssl_ca).stat().st_mtime_ns)
        except OSError as error:
            reason = "holds no certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise InvalidRequest.field(
                "connectParams.ssl_ca", self.ssl_ca, f"cannot be used: {reason}"
            ) from None

    def connect(self, *, bulk: bool = False, timeout: int | None = None) -> Any:
        """A PyMySQL connection in the session time zone; ConnectionFailed says why not.

        `bulk` lets the server accept LOAD DATA LOCAL. Even then the driver itself never opens a
        file: its own switch stays off, and `load` sends the one stream that it holds.
        """
        tls = self._tls()
        try:
            try:
                return self._connect(tls, bulk=bulk, timeout=timeout)
            except pymysql.err.OperationalError as error:
                if self.ssl_mode != "preferred" or number_of(error) != _NO_TLS:
                    raise
                return self._connect(None, bulk=bulk, timeout=timeout)
        except (pymysql.err.Error, OSError, RuntimeError, ValueError, IndexError) as error:
            failed = connect_error(error, self.label)
            raise ConnectionFailed(
                self.masked(failed.message), guidance=failed.guidance, retryable=failed.retryable
            ) from None

    def _connect(self, tls: ssl.SSLContext | None, *, bulk: bool, timeout: int | None) -> Any:
        seconds = timeout or self.connect_timeout
        raw: Any = pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password.encode(),
            database=self.database,
            charset="utf8mb4",
            connect_timeout=seconds,
            read_timeout=seconds,
            autocommit=True,
            local_infile=False,
            client_flag=CLIENT.LOCAL_FILES if bulk else 0,
            program_name="exchangis",
            init_command=f"SET SESSION time_zone = {literal(self.time_zone)}",
            ssl=tls,
            ssl_disabled=tls is None,
        )
        # A server that accepts and then says nothing is as good as none, so that logging in has a
        # limit too; a statement may take its time.
        raw._read_timeout = None
        return raw


@cache
def _unchecked_tls() -> ssl.SSLContext:
    """Encrypts and checks nothing. Made once: the driver's own way loads all authorities' files for
    each connection, which takes ten times as long as connecting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@lru_cache(maxsize=8)
def _checked_tls(ca: str | None, _modified: int) -> ssl.SSLContext:
    """Checks certificate and host name; made anew when the file has changed."""
    return ssl.create_default_context(cafile=ca)


class Session:
    """One connection to the server, with its id there."""

    def __init__(self, raw: Any, server: Server, owner: Sessions) -> None:
        self.raw = raw
        self.server = server
        self._owner = owner
        self.id = 0
        self.closed = False

    def run(self, sql: str | bytes) -> int:
        """Execute one statement; the number of rows it affected. Raises PyMySQL's errors."""
        try:
            return int(self.raw.query(sql) or 0)
        except RuntimeError as error:  # the driver's answer to a request for a local file
            self.abort()
            raise pymysql.err.OperationalError(2013, str(error)) from None

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Execute one statement and fetch its result whole: for small results."""
        self.run(sql)
        found = self.raw._result.rows
        return list(found or ())

    def one(self, sql: str) -> tuple[Any, ...] | None:
        """The first row of a small result, or None."""
        found = self.rows(sql)
        return found[0] if found else None

    @property
    def column_names(self) -> list[str]:
        """Column names of the last result."""
        return [str(column[0]) for column in self.raw._result.description]

    @property
    def warnings(self) -> int:
        """Warnings that the last statement left."""
        result = self.raw._result
        return int(result.warning_count or 0) if result is not None else 0

    def warning_texts(self) -> list[tuple[int, str]]:
        """Numbers and texts of the last statement's warnings (the server keeps the first 64)."""
        return [(int(code), str(text)) for _level, code, text in self.rows("SHOW WARNINGS")]

    def translated(self, error: BaseException, doing: str) -> TaskError:
        """The error as the task sees it; a cancelled one says no more than that."""
        if self._owner.cancelled:
            return TaskCancelled()
        translated = statement_error(error, self._owner.side, doing)
        translated.message = self.server.masked(translated.message)
        translated.args = (translated.message,)
        return translated

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turns the driver's errors within into the task's."""
        try:
            yield
        except (pymysql.err.Error, OSError) as error:
            raise self.translated(error, doing) from None

    def disconnect(self) -> None:
        """Wake whoever is blocked on the socket; any thread may call it."""
        sock = self.raw._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(2)

    def abort(self) -> None:
        """Drop the connection without a word: nothing that is under way is waited for."""
        if not self.closed:
            self.closed = True
            self._owner.forget(self)
            self.raw._result = None
            self.raw._force_close()

    def close(self) -> None:
        """Say goodbye; the server rolls back what is open. Idempotent."""
        if not self.closed:
            self.closed = True
            self._owner.forget(self)
            with contextlib.suppress(pymysql.err.Error):
                self.raw.close()

    def kill(self) -> None:
        """End a statement that is still running here (early close) and the session with it.

        Closing alone would make the server, or us, go through the rest of the result first.
        """
        if not self.closed:
            if not self._owner.cancelled:  # cancel() has ended it already
                with contextlib.suppress(TaskError):
                    kill_sessions(self.server, [self.id])
            self.abort()


class Sessions:
    """The open sessions of one source or sink, so that all can be ended from any thread."""

    def __init__(self, server: Server, side: Side, report: Callable[[str, str], None]) -> None:
        self.server = server
        self.side: Side = side
        self._report = report
        self._lock = threading.Lock()
        self._open: set[Session] = set()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def open(self, *, bulk: bool = False) -> Session:
        """A new session, set up for its side, in autocommit mode."""
        if self.cancelled:
            raise TaskCancelled()
        session = Session(self.server.connect(bulk=bulk), self.server, self)
        with self._lock:
            self._open.add(session)
        try:
            with session.errors(f"setting up a session with {self.server.label}"):
                found = session.one("SELECT CONNECTION_ID(), VERSION()")
                assert found is not None
                session.id = int(found[0])
                self._report(self.side, str(session.id))
                for statement in SOURCE_SETTINGS if self.side == "source" else SINK_SETTINGS:
                    session.run(statement)
                limit = "max_statement_time" if is_mariadb(str(found[1])) else "max_execution_time"
                session.run(f"SET SESSION {limit} = 0")
        except BaseException:
            session.abort()
            raise
        self._end_if_cancelled(session)
        return session

    def _end_if_cancelled(self, session: Session) -> None:
        """`cancel` may have run while this session was being opened."""
        if self.cancelled:
            session.abort()
            raise TaskCancelled()

    def forget(self, session: Session) -> None:
        with self._lock:
            self._open.discard(session)

    def cancel(self) -> None:
        """End every session here and on the server; blocked calls raise at once."""
        self._cancelled.set()
        with self._lock:
            doomed = list(self._open)
        for session in doomed:
            session.disconnect()  # first, so that nobody here waits for a server that is away
        # Where the server takes no more connections it ends each statement when it next looks at
        # the closed socket.
        with contextlib.suppress(TaskError):
            kill_sessions(self.server, [session.id for session in doomed if session.id])

    def close(self) -> None:
        with self._lock:
            remaining = list(self._open)
        for session in remaining:
            session.close()


def is_mariadb(version: str) -> bool:
    """Whether a server's version text is MariaDB's."""
    return "mariadb" in version.lower()


def kill_sessions(server: Server, ids: list[int]) -> None:
    """End sessions and their statements over a fresh connection; those gone are no error."""
    if not ids:
        return
    raw = server.connect(timeout=min(server.connect_timeout, _KILL_TIMEOUT))
    try:
        for session_id in ids:
            try:
                raw.query(f"KILL {int(session_id)}")
            except pymysql.err.Error as error:
                if error.args and error.args[0] in (1094, 1317):  # no such thread; our own end
                    continue
                raise statement_error(error, "sink", f"ending session {session_id}") from None
    finally:
        with contextlib.suppress(pymysql.err.Error):
            raw.close()
