"""Migrations, on every database: they make exactly the schema that the code speaks of."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text

from exchangis.store.database import Database
from exchangis.store.schema import metadata, mutexes
from exchangis.store.upgrade import StoreTooNew, is_current, upgrade
from tests.store_helpers import BACKENDS, fresh_url

NewDatabase = Callable[[], Database]


@pytest.fixture(params=BACKENDS)
def open_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewDatabase]:
    """Opens an empty database, each time the same one."""
    service = None if request.param == "sqlite" else request.getfixturevalue(request.param)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(fresh_url(tmp_path_factory.mktemp("store"), service))
        yield lambda: stack.enter_context(contextlib.closing(Database(url)))


def _shape(database: Database) -> dict[str, object]:
    inspector = inspect(database.engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"], c["default"])
             for c in inspector.get_columns(table)],
            sorted((i["name"] or "", tuple(i["column_names"]), bool(i["unique"]))
                   for i in inspector.get_indexes(table)),
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(str(sorted(k.items())) for k in (
                {n: str(v) for n, v in key.items() if n != "referred_schema"}
                for key in inspector.get_foreign_keys(table))),
            sorted(tuple(u["column_names"]) for u in inspector.get_unique_constraints(table)),
        )
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }  # fmt: skip


def test_migrated_schema_is_the_codes_schema(open_database: NewDatabase) -> None:
    database = open_database()
    assert not is_current(database)
    upgrade(database)
    assert is_current(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    migrated = _shape(database)
    with database.engine.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert _shape(database) == migrated


def test_upgrade_leaves_the_claim_mutex_once(open_database: NewDatabase) -> None:
    database = open_database()
    upgrade(database)
    upgrade(database)
    with database.read() as connection:
        assert connection.execute(select(mutexes.c.name)).scalars().all() == ["claim"]


def test_servers_that_start_at_once_upgrade_once(open_database: NewDatabase) -> None:
    databases = [open_database() for _ in range(4)]
    gate = threading.Barrier(4)

    def start(database: Database) -> None:
        gate.wait(30)
        upgrade(database)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, databases))
    assert is_current(databases[0])
    with databases[0].read() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
        assert connection.execute(select(mutexes.c.name)).scalars().all() == ["claim"]


def test_newer_store_is_refused_with_what_to_do(open_database: NewDatabase) -> None:
    database = open_database()
    upgrade(database)
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for ask in (upgrade, is_current):
        with pytest.raises(StoreTooNew, match=r"9999.*newer version"):
            ask(database)


def test_upgrade_that_was_cut_off_goes_on(open_database: NewDatabase) -> None:
    database = open_database()
    upgrade(database)
    with database.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text("DROP TABLE servers"))
    upgrade(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_upgrade_is_quiet(
    open_database: NewDatabase,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG, "alembic")
    caplog.clear()
    upgrade(open_database())
    assert [record for record in caplog.records if record.name.startswith("alembic.runtime")] == []
    assert capfd.readouterr() == ("", "")
