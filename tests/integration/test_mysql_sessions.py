"""Sessions on the server: what they may do, what their failures say, and that they end."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pymysql
import pytest

from exchangis.connectors.base import ReadRequest, Split
from exchangis.connectors.mysql import MySQL
from exchangis.connectors.mysql.load import load_lines_into
from exchangis.connectors.mysql.session import Server as Settings
from exchangis.connectors.mysql.session import Sessions
from exchangis.connectors.mysql.wire import RowStream
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    SourceError,
    TaskCancelled,
    TaskError,
)
from exchangis.domain.model import DataSet, WriteMode
from tests.integration.mysql_harness import Server, request_for, server_of, wait_until
from tests.services import PASSWORD, Service, free_port


@pytest.fixture
def db(mariadb: Service) -> Iterator[Server]:
    with server_of(mariadb) as server:
        yield server


def test_connection_test_says_what_answered(db: Server) -> None:
    assert db.connector.test(db.connection(), db.context()).startswith("MariaDB 10.")
    assert db.processes() == []


def test_databases_and_tables_are_listed(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k INT)")
    connector = db.connector
    found = connector.databases(db.connection(), db.context())
    assert "test" in found
    assert not {"mysql", "information_schema", "performance_schema", "sys"} & set(found)
    assert table in connector.tables(db.connection(), None, db.context())


@pytest.mark.parametrize(
    ("changes", "retryable", "words"),
    [
        ({"password": "wrong"}, False, "Check user name and password"),
        ({"database": "nosuch"}, False, "Create the database"),
        ({"port": None}, True, "Check that the server runs"),
        ({"host": "nosuch.invalid"}, True, "Check that the server runs"),
    ],
)
def test_failure_to_connect_says_what_to_do_and_never_the_password(
    db: Server, changes: dict[str, object], retryable: bool, words: str
) -> None:
    if "port" in changes:
        changes = {"port": free_port()}
    with pytest.raises(ConnectionFailed) as caught:
        db.connector.test(db.connection(**changes), db.context())
    assert caught.value.retryable is retryable
    assert words in str(caught.value)
    assert PASSWORD not in f"{caught.value} {caught.value!r} {caught.value.args}"


@pytest.mark.parametrize("host", ["a/b", "a?x=1", "a#b", "u@a", "a b", "", "a\nb", "[::1]/x"])
def test_host_is_a_plain_name(host: str) -> None:
    connection = MySQL().source  # the check is at the use of the connection
    from exchangis.domain.model import Connection

    given = Connection(type="MYSQL", params={"host": host, "username": "u", "database": "d"})
    with pytest.raises(InvalidRequest, match="host"):
        connection(given, DataSet(type="MYSQL", table="t"), None)  # type: ignore[arg-type]


def test_named_time_zone_is_refused(db: Server) -> None:
    with pytest.raises(InvalidRequest, match="time_zone"):
        db.source("t", time_zone="Europe/Berlin")


def test_server_without_tls_is_told_apart(db: Server) -> None:
    with pytest.raises(ConnectionFailed, match="TLS") as caught:
        db.connector.test(db.connection(ssl_mode="required"), db.context())
    assert not caught.value.retryable
    with pytest.raises(InvalidRequest, match="ssl_ca"):
        db.connector.test(db.connection(ssl_mode="verify", ssl_ca="/no/such/file"), db.context())


def test_missing_table_is_named(db: Server) -> None:
    source = db.source("nosuch")
    with pytest.raises(SourceError, match=r"test\.nosuch"):
        source.schema()
    source.close()


def test_source_session_cannot_write(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k INT)")
    sessions = Sessions(Settings.of(db.connection()), "source", lambda _side, _id: None)
    session = sessions.open()
    with pytest.raises(pymysql.err.Error, match="READ ONLY"):
        session.run(f"INSERT INTO {table} VALUES (1)")
    with pytest.raises(pymysql.err.Error, match="syntax"):
        session.run("SELECT 1; SELECT 2")
    sessions.close()


def _blocked_read(db: Server) -> tuple[object, threading.Thread, list[BaseException]]:
    """A read that the server will not answer for a thousand seconds."""
    table = db.name()
    db.run(f"CREATE OR REPLACE VIEW {table} AS SELECT SLEEP(1000) AS k")
    source = db.source(table)
    caught: list[BaseException] = []

    def read() -> None:
        try:
            list(source.read(Split("all", "all"), ReadRequest(("k",))))
        except TaskError as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(
        lambda: db.run("SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'")
    )
    return source, thread, caught


def test_cancelled_read_ends_here_and_in_the_database(db: Server) -> None:
    source, thread, caught = _blocked_read(db)
    begun = time.monotonic()
    source.cancel()  # type: ignore[attr-defined]
    source.cancel()  # type: ignore[attr-defined]
    thread.join(2)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 2
    assert isinstance(caught[0], TaskCancelled)
    wait_until(lambda: db.processes() == [], 2)
    with pytest.raises(TaskCancelled):
        source.schema()  # type: ignore[attr-defined]
    source.close()  # type: ignore[attr-defined]


def test_sessions_of_a_killed_process_are_ended(db: Server) -> None:
    source, thread, caught = _blocked_read(db)
    ids = [number for _side, number in db.sessions]
    db.connector.end_sessions(db.connection(), [*ids, "999999999"], db.context())
    thread.join(2)
    assert not thread.is_alive()
    assert isinstance(caught[0], TaskError)
    assert caught[0].retryable
    wait_until(lambda: db.processes() == [], 2)
    source.close()  # type: ignore[attr-defined]


def test_cancelled_write_ends_while_it_waits_for_a_lock(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY)")
    sink = db.sink(table)
    data = pa.table({"id": pa.array([1], pa.int32())})
    sink.prepare(request_for(sink, data, WriteMode.APPEND), "")
    writer = sink.open_writer()
    caught: list[BaseException] = []

    def write() -> None:
        try:
            writer.write(data.to_batches()[0])
        except TaskError as error:
            caught.append(error)

    with server_of(db.service) as other:
        other.run("BEGIN")
        other.run(f"INSERT INTO {table} VALUES (1)")
        thread = threading.Thread(target=write)
        thread.start()
        wait_until(
            lambda: db.run(
                "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE %s AND ID <> "
                "CONNECTION_ID() AND TIME_MS > 100",
                f"INSERT INTO%{table}%",
            )
        )
        begun = time.monotonic()
        sink.cancel()
        thread.join(2)
        assert not thread.is_alive()
        assert time.monotonic() - begun < 2
        other.run("ROLLBACK")
    assert isinstance(caught[0], TaskCancelled)
    wait_until(lambda: db.processes() == [], 2)
    writer.close()
    sink.close()
    assert db.run(f"SELECT * FROM {table}") == []


def test_lock_wait_is_worth_a_retry_and_nothing_is_committed(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY)")
    db.run("SET GLOBAL innodb_lock_wait_timeout = 1")
    sink = db.sink(table)
    data = pa.table({"id": pa.array([1], pa.int32())})
    with server_of(db.service) as other:
        try:
            sink.prepare(request_for(sink, data, WriteMode.APPEND), "")
            writer = sink.open_writer()
            other.run("BEGIN")
            other.run(f"INSERT INTO {table} VALUES (1)")
            with pytest.raises(TaskError) as caught:
                writer.write(data.to_batches()[0])
            assert caught.value.retryable
            with pytest.raises(TaskError):
                writer.commit()
        finally:
            db.run("SET GLOBAL innodb_lock_wait_timeout = 50")
            other.run("ROLLBACK")
            writer.close()
            sink.close()


def test_closing_a_read_early_reads_no_further(db: Server) -> None:
    table = db.name()
    db.run(
        f"CREATE OR REPLACE VIEW {table} AS SELECT a.seq AS k "
        "FROM seq_1_to_100000 a, seq_1_to_100000 b"
    )
    source = db.source(table)
    batches = source.read(Split("all", "all"), ReadRequest(("k",)))
    assert next(batches).num_rows > 0
    begun = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 2
    wait_until(lambda: db.processes() == [], 2)
    source.close()


def _packet(number: int, payload: bytes) -> bytes:
    return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload


@pytest.fixture
def rogue(tmp_path: Path) -> Iterator[tuple[int, Path, list[bytes]]]:
    """A server that answers every statement by asking for a local file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"the family jewels")
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    greeting = (
        b"\x0a8.0.30\0" + struct.pack("<I", 7) + b"12345678\0" + struct.pack("<H", 0xF7DF)
        + b"\x2d" + struct.pack("<H", 2) + struct.pack("<H", 0x0008) + b"\x15" + b"\0" * 10
        + b"123456789012\0" + b"mysql_native_password\0"
    )  # fmt: skip
    ok = b"\0\0\0\2\0\0\0"

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(_packet(0, greeting))
            answered = 0
            while header := stream.read(4):
                payload = stream.read(int.from_bytes(header[:3], "little"))
                received.append(payload)
                answered += 1
                # Logging in, SET NAMES and SET autocommit pass; then it asks.
                request = ok if answered <= 2 else b"\xfb" + str(secret).encode()
                connection.sendall(_packet(header[3] + 1, request))

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], secret, received
    thread.join(10)
    listener.close()


def test_rogue_server_gets_no_file(rogue: tuple[int, Path, list[bytes]], db: Server) -> None:
    port, secret, received = rogue
    connection = db.connection(port=port, ssl_mode="disabled")
    with pytest.raises(TaskError):
        db.connector.test(connection, db.context())
    assert all(secret.read_bytes() not in payload for payload in received)


def test_load_data_sends_its_own_lines_and_reads_the_warnings(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k TINYINT)")
    sessions = Sessions(Settings.of(db.connection()), "sink", lambda _side, _id: None)
    session = sessions.open(bulk=True)
    assert load_lines_into(session, table, "(k)", memoryview(b"1\n2\n")) == 2
    assert load_lines_into(session, table, "(k)", memoryview(b"300\n")) is None
    sessions.close()


def test_answer_that_is_no_result_set_is_an_error(db: Server) -> None:
    sessions = Sessions(Settings.of(db.connection()), "source", lambda _side, _id: None)
    session = sessions.open()
    with pytest.raises(pymysql.err.OperationalError):
        RowStream(session, "SET @a = 1")
    sessions.close()


def test_server_that_says_nothing_is_given_up(db: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = db.connection(port=silent.getsockname()[1], connect_timeout=1)
        begun = time.monotonic()
        with pytest.raises(ConnectionFailed) as caught:
            db.connector.test(connection, db.context())
        assert time.monotonic() - begun < 5
    assert caught.value.retryable
