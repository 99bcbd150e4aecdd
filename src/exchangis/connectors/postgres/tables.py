"""The tables that a PostgreSQL sink makes: the target, its staging, the commit marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg
from psycopg import sql

from exchangis.connectors.base import TableSchema
from exchangis.connectors.postgres.catalog import Relation, UniqueKey
from exchangis.connectors.postgres.types import created
from exchangis.domain.errors import SinkError

_LONGEST_NAME = 63


def _names(columns: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def check_name(name: str) -> None:
    """SinkError for a name that PostgreSQL would cut short, and so give to something else."""
    size = len(name.encode())
    if not 0 < size <= _LONGEST_NAME or "\x00" in name:
        raise SinkError(
            f"PostgreSQL takes names of 1 to {_LONGEST_NAME} bytes; {name!r} has {size}.",
            guidance="Map the column to a shorter name, or create the table yourself.",
        )


def create_target(
    connection: psycopg.Connection[object],
    schema_name: str,
    table: str,
    wanted: TableSchema,
    keys: Sequence[str],
) -> None:
    """CREATE TABLE for these columns; `keys` of an upsert become unique."""
    schema = created(wanted)
    primary = schema.primary_key or tuple(keys)
    parts: list[sql.Composable] = []
    for name in (table, *schema.names):
        check_name(name)
    for column in schema.columns:
        # `created` makes these words itself, from Arrow types.
        native = sql.SQL(column.native_type)
        null = sql.SQL("" if column.nullable else " NOT NULL")
        parts.append(sql.SQL("{} {}{}").format(sql.Identifier(column.name), native, null))
    if primary and set(primary) <= set(schema.names):
        parts.append(sql.SQL("PRIMARY KEY ({})").format(_names(primary)))
    if keys and set(keys) != set(primary):
        parts.append(sql.SQL("UNIQUE ({})").format(_names(keys)))
    connection.execute(
        sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(
            sql.Identifier(schema_name, table), sql.SQL(", ").join(parts)
        )
    )


def create_commits(connection: psycopg.Connection[object], table: sql.Composable) -> None:
    """The table of commit marks (see `exchangis.connectors.marks`)."""
    connection.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (task_key text NOT NULL, split_id text NOT NULL,"
            " attempt integer NOT NULL, row_count bigint NOT NULL, note text,"
            " created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (task_key, split_id))"
        ).format(table)
    )


def create_staging(
    connection: psycopg.Connection[object],
    staging: sql.Composable,
    relation: Relation,
    unique: Sequence[UniqueKey],
) -> None:
    """A table like the target, with its checks, so that a bad row is found while it is copied.

    `unique` keys are repeated on it: a duplicate is then a row's fault as well. Vacuum is kept
    away: it would free places for later rows, and their order in the file is their order in time.
    """
    version = connection.info.server_version
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS{}{})").format(
            staging,
            relation.name,
            sql.SQL(" INCLUDING IDENTITY" if version >= 100000 else ""),
            sql.SQL(" INCLUDING GENERATED" if version >= 120000 else ""),
        )
    )
    connection.execute(sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = false)").format(staging))
    for key in unique:
        connection.execute(
            sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(staging, _names(key.columns))
        )


def drop_table(connection: psycopg.Connection[object], table: sql.Composable) -> None:
    """DROP TABLE if it is there."""
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
