"""Bringing the store's schema up to what this version of Exchangis needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from exchangis.domain.errors import ExchangisError
from exchangis.store.database import Database

_LOCK_NAME = "exchangis.upgrade"
_LOCK_NUMBER = 0x45584348  # PostgreSQL's advisory locks have numbers
_LOCK_SECONDS = 300


class StoreTooNew(ExchangisError):
    """The store was upgraded by a newer version of Exchangis."""

    code = "store_too_new"


class StoreBusy(ExchangisError):
    """Another server is upgrading the store and does not come to an end."""

    code = "store_busy"


def is_current(database: Database) -> bool:
    """Whether the store has the schema that this version needs; StoreTooNew if a later one."""
    with _quiet(), database.read() as connection:
        return _revision(connection) == _scripts().get_current_head()


def upgrade(database: Database) -> None:
    """Create or upgrade the schema; servers that start at once wait for each other.

    StoreTooNew when a newer version has been here.
    """
    if is_current(database):
        return
    config = _config()
    with _quiet(), _alone(database) as connection:
        if _revision(connection) == _scripts().get_current_head():
            return  # another server did it while we waited
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revision(connection: Connection) -> str | None:
    """The step that the store is at; None when it is empty."""
    found = MigrationContext.configure(connection).get_current_heads()
    known = {script.revision for script in _scripts().walk_revisions()}
    unknown = set(found) - known
    if unknown:
        raise StoreTooNew(
            f"The store has schema {', '.join(sorted(unknown))}, which this version of Exchangis "
            "does not know.",
            guidance="Start the newer version that upgraded it, or restore the store's backup.",
        )
    return found[0] if found else None


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction that only one server at a time is in."""
    with database.begin() as connection:
        if database.dialect == "postgresql":  # SQLite: begin() has the write lock already
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER}
            )
        if database.dialect != "mysql":
            yield connection
            return
        # MySQL commits with every statement on the schema, so the lock is the session's.
        got = connection.execute(
            text("SELECT GET_LOCK(:name, :seconds)"),
            {"name": _LOCK_NAME, "seconds": _LOCK_SECONDS},
        ).scalar_one()
        if got != 1:
            raise StoreBusy(guidance="Look for a server that hangs while it starts.")
        try:
            yield connection
            connection.commit()  # before the next server looks
        except BaseException:
            connection.rollback()
            raise
        finally:
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})


@contextmanager
def _quiet() -> Iterator[None]:
    """Alembic tells of each step at INFO; a user who starts a server did not ask."""
    logger = logging.getLogger("alembic")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
