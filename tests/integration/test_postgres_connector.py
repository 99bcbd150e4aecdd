"""Connecting to PostgreSQL: what is told when it works, and when it does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from exchangis.connectors.base import Column, TableSchema
from exchangis.connectors.params import make_connection
from exchangis.connectors.postgres import PostgreSQL
from exchangis.connectors.postgres.session import connect
from exchangis.domain.errors import ConnectionFailed, InvalidRequest, TaskCancelled
from tests.integration.postgres_kit import Kit, new_kit, prepare, request, until
from tests.services import PASSWORD, Service, free_port


@pytest.fixture
def kit(postgres: Service, tmp_path: Path) -> Iterator[Kit]:
    yield from new_kit(postgres, tmp_path)


def test_a_good_connection_names_the_server(kit: Kit) -> None:
    assert kit.connector.test(kit.connection(), kit.context()).startswith("PostgreSQL 1")
    until(lambda: kit.backends() == 0)


def test_schemas_and_tables_can_be_browsed(kit: Kit) -> None:
    kit.run('CREATE TABLE "Z z" (a int); CREATE VIEW a AS SELECT 1')
    prepare(kit.sink("t"), TableSchema((Column("a", pa.int32()),)))
    schemas = kit.connector.databases(kit.connection(), kit.context())
    assert kit.schema in schemas
    assert "public" in schemas
    assert not any(name.startswith("pg_") or name == "information_schema" for name in schemas)
    assert kit.connector.tables(kit.connection(), kit.schema, kit.context()) == ["Z z", "a", "t"]
    assert kit.connector.tables(kit.connection(), "nowhere", kit.context()) == []


@pytest.mark.parametrize(
    ("changes", "words", "retryable"),
    [
        ({"password": "wrong"}, "password", False),
        ({"password": ""}, "password", False),
        ({"username": "nobody"}, "nobody", False),
        ({"database": "nowhere"}, "nowhere", False),
        ({"sslmode": "require"}, "SSL", False),
        ({"host": "no-such-host.invalid"}, "no-such-host.invalid", True),
    ],
)
def test_what_is_wrong_with_a_connection_is_said(
    kit: Kit, changes: dict[str, Any], words: str, retryable: bool
) -> None:
    with pytest.raises(ConnectionFailed, match=words) as caught:
        kit.connector.test(kit.connection(**changes), kit.context())
    assert caught.value.retryable is retryable
    assert caught.value.guidance
    assert PASSWORD not in str(caught.value)


def test_a_port_where_nobody_listens_is_worth_a_retry(kit: Kit) -> None:
    with pytest.raises(ConnectionFailed, match="refused") as caught:
        kit.connector.test(kit.connection(port=free_port()), kit.context())
    assert caught.value.retryable


def test_a_server_that_never_answers_is_given_up_in_time(kit: Kit) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        connection = kit.connection(port=silent.getsockname()[1], connect_timeout=2)
        with pytest.raises(ConnectionFailed, match="timeout") as caught:
            kit.connector.test(connection, kit.context())
    assert caught.value.retryable


@pytest.mark.parametrize(
    "host", ["/tmp", "a b", "a,b", "u@h", "h?sslmode=disable", "h#x", "h host=x", "a=b", "h'"]
)
def test_a_host_that_is_no_plain_name_is_refused_before_connecting(kit: Kit, host: str) -> None:
    with pytest.raises(InvalidRequest, match="host"):
        kit.connector.test(kit.connection(host=host), kit.context())


def test_a_database_name_cannot_carry_other_parameters(kit: Kit) -> None:
    for name in ("test host=elsewhere", "postgresql://elsewhere/test", "test' user='x"):
        with pytest.raises(ConnectionFailed) as caught:
            kit.connector.test(kit.connection(database=name), kit.context())
        assert 'elsewhere",' not in str(caught.value)
        assert "does not exist" in str(caught.value)


def test_parameters_that_are_not_declared_are_refused(kit: Kit) -> None:
    for name in ("options", "service", "passfile", "hostaddr", "sslkey"):
        with pytest.raises(InvalidRequest, match=name):
            make_connection(PostgreSQL(), {**kit.service.params, name: "x"})


def test_credentials_of_the_account_are_not_lent(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{escaped}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with pytest.raises(ConnectionFailed, match="password"):
        kit.connector.test(kit.connection(password=None), kit.context())


def test_cancel_does_not_wait_for_a_server_that_never_answers(kit: Kit) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        connection = kit.connection(port=silent.getsockname()[1], connect_timeout=60)
        source = kit.connector.source(connection, kit.dataset("t"), kit.context())
        with ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(source.schema)
            accepted, _ = silent.accept()
            source.cancel()
            assert isinstance(connecting.exception(1), TaskCancelled)
        accepted.close()
        source.close()


def test_options_that_are_not_known_are_refused(kit: Kit) -> None:
    for options in ({"infinite_dates": "perhaps"}, {"no_such": "x"}):
        with pytest.raises(InvalidRequest, match="options"):
            kit.connector.source(kit.connection(), kit.dataset("t", **options), kit.context())


def test_session_settings_do_not_depend_on_the_role(kit: Kit) -> None:
    kit.run("ALTER ROLE exchangis SET DateStyle = 'German'; ALTER ROLE exchangis SET TimeZone = 3")
    kit.run("ALTER ROLE exchangis SET statement_timeout = '1ms'")
    try:
        with connect(kit.connection()) as session:
            shown = {
                name: session.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
                for name in (
                    "timezone", "datestyle", "statement_timeout", "search_path",
                    "client_encoding", "client_connection_check_interval", "application_name",
                )
            }  # fmt: skip
    finally:
        kit.run("ALTER ROLE exchangis RESET ALL")
    assert shown == {
        "timezone": "UTC",
        "datestyle": "ISO, YMD",
        "statement_timeout": "0",
        "search_path": "pg_catalog",
        "client_encoding": "UTF8",
        "client_connection_check_interval": "2s",
        "application_name": "exchangis",
    }


def test_sessions_name_their_task_and_other_peoples_are_left_alone(kit: Kit) -> None:
    kit.run("CREATE TABLE t (a int)")
    source = kit.source("t")
    source.plan(request(source.schema()))
    names = kit.run(
        "SELECT application_name FROM pg_stat_activity WHERE pid = %s", kit.sessions[0][1]
    )
    assert names == [("exchangis task-1",)]
    other = psycopg.connect(
        host=kit.service.host, port=kit.service.port, user=kit.service.user,
        password=kit.service.password, dbname=kit.service.database, application_name="psql",
    )  # fmt: skip
    with other:
        kit.connector.end_sessions(
            kit.connection(), [str(other.info.backend_pid), "garbage", "0"], kit.context()
        )
        assert other.execute("SELECT 1").fetchone() == (1,)
