"""Bringing the store's schema up to what this version of Exchangis needs."""

from __future__ import annotations

from exchangis.domain.errors import ExchangisError
from exchangis.store.database import Database


class StoreTooNew(ExchangisError):
    """The store was upgraded by a newer version of Exchangis."""

    code = "store_too_new"


def is_current(database: Database) -> bool:
    """Whether the store has the schema that this version needs."""
    raise StoreTooNew(str(database))


def upgrade(database: Database) -> None:
    """Create or upgrade the schema; servers that start at once wait for each other.

    StoreTooNew when a newer version has been here.
    """
    raise StoreTooNew(str(database))
