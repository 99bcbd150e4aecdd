"""Kill ends the work within 3 s, also what blocks inside a database."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.e2e import lineitem
from tests.e2e.system import System
from tests.services import Service
from tests.waiting import wait_until

LIMIT = 3.0


@pytest.fixture(scope="module")
def small(mariadb: Service, postgres: Service) -> None:
    """A table of a few rows on either server."""
    with lineitem.connect_mysql(mariadb) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS test.kill_me (id INT PRIMARY KEY, v TEXT)")
        cursor.execute("REPLACE INTO test.kill_me VALUES (1, 'a'), (2, 'b')")
    with lineitem.connect_postgres(postgres) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kill_me (id int PRIMARY KEY, v text)")
        connection.execute("TRUNCATE kill_me")
        connection.execute("INSERT INTO kill_me VALUES (1, 'a'), (2, 'b')")


def _sessions_mysql(service: Service, text: str) -> list[Any]:
    with lineitem.connect_mysql(service) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM information_schema.processlist"
            " WHERE info LIKE %s AND id <> connection_id()",
            [f"%{text}%"],
        )
        return list(cursor.fetchall())


def _sessions_postgres(service: Service) -> list[Any]:
    with lineitem.connect_postgres(service) as connection:
        return connection.execute(
            "SELECT pid, query FROM pg_stat_activity WHERE application_name LIKE 'exchangis%'"
        ).fetchall()


def _kill_in_time(system: System, execution: str) -> None:
    began = time.monotonic()
    system.data("POST", f"/job/execution/{execution}/kill", {})
    assert system.wait_all_final(execution, within=LIMIT) == "Cancelled"
    assert time.monotonic() - began < LIMIT


def test_query_that_blocks_in_mariadb_ends_there(
    system: System, mariadb: Service, postgres: Service, small: None
) -> None:
    source = system.data_source("m", "MYSQL", mariadb.params)
    sink = system.data_source("p", "POSTGRESQL", postgres.params)
    execution = system.execute(
        system.job(
            "block",
            [{"name": "t", "where": "SLEEP(1000) = 0",
              "source": {"type": "MYSQL", "id": source, "db": "test", "table": "kill_me"},
              "sink": {"type": "POSTGRESQL", "id": sink, "db": "public", "table": "kill_out"}}],
        )
    )  # fmt: skip
    wait_until(lambda: _sessions_mysql(mariadb, "SLEEP(1000)"), what="the blocking query")
    _kill_in_time(system, execution)
    wait_until(lambda: not _sessions_mysql(mariadb, "SLEEP(1000)"), within=1)
    wait_until(lambda: not _sessions_postgres(postgres), within=1)


def test_write_that_waits_for_a_lock_in_postgres_ends_there(
    system: System, mariadb: Service, postgres: Service, small: None
) -> None:
    source = system.data_source("m", "MYSQL", mariadb.params)
    sink = system.data_source("p", "POSTGRESQL", postgres.params)
    with lineitem.connect_postgres(postgres) as holder, holder.transaction():
        holder.execute("LOCK TABLE kill_me IN ACCESS EXCLUSIVE MODE")
        execution = system.execute(
            system.job(
                "locked",
                [{"name": "t", "mode": "overwrite",
                  "source": {"type": "MYSQL", "id": source, "db": "test", "table": "kill_me"},
                  "sink": {"type": "POSTGRESQL", "id": sink, "db": "public",
                           "table": "kill_me"}}],
            )
        )  # fmt: skip
        wait_until(
            lambda: holder.execute(
                "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE NOT granted AND application_name LIKE 'exchangis%'"
            ).fetchone(),
            what="the wait for the lock",
        )
        _kill_in_time(system, execution)
        wait_until(lambda: not _sessions_postgres(postgres), what="end of all sessions")
    with lineitem.connect_postgres(postgres) as connection:
        assert connection.execute("SELECT count(*) FROM kill_me").fetchone() == (2,)


def test_runner_that_hangs_is_killed_and_its_query_ends_in_the_database(
    system: System, mariadb: Service, postgres: Service, small: None
) -> None:
    source = system.data_source("p", "POSTGRESQL", postgres.params)
    sink = system.data_source("m", "MYSQL", mariadb.params)
    execution = system.execute(
        system.job(
            "frozen",
            [{"name": "t", "where": "pg_catalog.pg_sleep(1000) IS NOT NULL",
              "source": {"type": "POSTGRESQL", "id": source, "db": "public", "table": "kill_me"},
              "sink": {"type": "MYSQL", "id": sink, "db": "test", "table": "kill_out"}}],
        )
    )  # fmt: skip
    wait_until(
        lambda: any("pg_sleep" in query for _, query in _sessions_postgres(postgres)),
        what="the blocking query",
    )
    import psutil

    assert system.process is not None
    wait_until(lambda: system.status(execution)["status"] == "Running")
    for runner in psutil.Process(system.process.pid).children(recursive=True)[1:]:
        runner.suspend()
    _kill_in_time(system, execution)
    wait_until(lambda: not _sessions_postgres(postgres), within=1, what="end of the query")


@pytest.mark.parametrize("side", ["source", "sink"])
def test_lost_connection_is_tried_again_and_ends_well(
    system: System, mariadb: Service, postgres: Service, small: None, side: str
) -> None:
    """Sessions ended by the database's administrator: retryable, and no row is doubled."""
    with lineitem.connect_mysql(mariadb) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS test.many")
        cursor.execute("CREATE TABLE test.many (id INT PRIMARY KEY, v INT, wide CHAR(250))")
        # More than the engine reads ahead, so that the source is still being read.
        cursor.execute(
            "INSERT INTO test.many SELECT seq, seq * 2, REPEAT('x', 250) FROM seq_1_to_200000"
        )
    source = system.data_source("m", "MYSQL", mariadb.params)
    sink = system.data_source("p", "POSTGRESQL", postgres.params)
    table = f"many_{side}"
    execution = system.execute(
        system.job(
            "lost",
            [{"name": "t", "limits": {"records_per_second": 50_000, "parallelism": 1},
              "source": {"type": "MYSQL", "id": source, "db": "test", "table": "many"},
              "sink": {"type": "POSTGRESQL", "id": sink, "db": "public", "table": table}}],
        )
    )  # fmt: skip

    def written() -> int:
        tasks = system.tasks(execution)
        found = system.metrics(execution, tasks[0]["taskId"]) if tasks else {}
        return int(found["indicator"]["exchangedRecords"]) if found else 0

    wait_until(lambda: written() > 1000, what="rows under way")
    if side == "sink":
        with lineitem.connect_postgres(postgres) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'exchangis%'"
            ).fetchall()
            assert ended
    else:
        with lineitem.connect_mysql(mariadb) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist"
                " WHERE user = 'exchangis' AND id <> connection_id()"
            )
            for (session,) in cursor.fetchall():
                cursor.execute(f"KILL CONNECTION {session}")
    assert system.wait_all_final(execution) == "Success", system.log(execution)
    with lineitem.connect_postgres(postgres) as connection:
        row = connection.execute(f"SELECT count(*), sum(v) FROM {table}").fetchone()
    assert row == (200_000, 200_000 * 200_001)
    assert "Trying again" in system.log(execution)
