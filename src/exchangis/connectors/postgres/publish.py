"""The statements that show a staging table's rows in the target, run in one transaction.

Overwrite empties the target in one of two ways:

- `truncate` (default): fast, leaves no dead rows. Readers wait for the switch and then see the new
  rows. It is not MVCC-safe: a REPEATABLE READ transaction that began before the switch and first
  looks at the table after it sees an empty table.
- `delete`: readers never wait and every snapshot sees the old or the new rows; slower, leaves dead
  rows for vacuum, fires DELETE triggers. Chosen by itself where TRUNCATE is impossible: foreign
  keys refer to the table, TRUNCATE is not granted, or it is no plain table.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from exchangis.connectors.postgres.catalog import Attribute, Relation
from exchangis.domain.errors import SinkError


def _names(attributes: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, attributes))


def _referring_actions(connection: psycopg.Connection[object], relation: Relation) -> str:
    """ON DELETE actions of other tables' foreign keys to this one, a letter each."""
    with connection.cursor(row_factory=psycopg.rows.scalar_row) as cursor:
        cursor.execute(
            "SELECT coalesce(string_agg(confdeltype::text, ''), '') FROM pg_constraint"
            " WHERE contype = 'f' AND confrelid = %s AND conrelid <> confrelid",
            [relation.oid],
        )
        return str(cursor.fetchone())


def _may_truncate(connection: psycopg.Connection[object], relation: Relation) -> bool:
    with connection.cursor(row_factory=psycopg.rows.scalar_row) as cursor:
        cursor.execute("SELECT has_table_privilege(%s::oid, 'TRUNCATE')", [relation.oid])
        return relation.kind in ("r", "p") and bool(cursor.fetchone())


def swap_statements(
    connection: psycopg.Connection[object],
    relation: Relation,
    staging: sql.Composable,
    attributes: Sequence[Attribute],
    way: str,
) -> list[sql.Composed]:
    """Replace the target's rows by those of staging.

    SinkError where a foreign key would carry the deletion on into other tables: overwriting one
    table must not empty another.
    """
    referring = _referring_actions(connection, relation)
    if set(referring) & {"c", "n", "d"}:
        raise SinkError(
            f"{relation.schema}.{relation.table} cannot be overwritten: foreign keys refer to it"
            " with ON DELETE CASCADE or SET, which would change other tables' rows.",
            guidance="Use upsert, or drop those foreign keys for the load.",
        )
    columns = _names([a.name for a in attributes])
    lock = sql.SQL("LOCK TABLE {} IN {} MODE")
    if way == "truncate" and not referring and _may_truncate(connection, relation):
        return [
            sql.SQL("TRUNCATE {}").format(relation.name),
            sql.SQL("INSERT INTO {} ({cols}) OVERRIDING SYSTEM VALUE SELECT {cols} FROM {}").format(
                relation.name, staging, cols=columns
            ),
        ]
    statements: list[sql.Composed] = []
    if relation.kind in ("r", "p"):
        # Readers go on; other writers wait, so that what they add is not deleted unseen.
        statements.append(lock.format(relation.name, sql.SQL("SHARE ROW EXCLUSIVE")))
    # One statement: foreign keys are checked at its end, when the new rows are there. The count is
    # what makes the deletion come first.
    statements.append(
        sql.SQL(
            "WITH gone AS (DELETE FROM {target} RETURNING 1),"
            " emptied AS (SELECT count(*) FROM gone)"
            " INSERT INTO {target} ({cols}) OVERRIDING SYSTEM VALUE"
            " SELECT {cols} FROM emptied CROSS JOIN {staging}"
        ).format(target=relation.name, staging=staging, cols=columns)
    )
    return statements


def merge_statements(
    relation: Relation,
    staging: sql.Composable,
    attributes: Sequence[Attribute],
    keys: Sequence[str],
) -> list[sql.Composed]:
    """Insert staging's rows, or update the rows with their keys; of equal keys the last row wins.

    NULLs in a key are distinct, to a unique index: such rows are all inserted.
    """
    columns = _names([a.name for a in attributes])
    key_names = _names(keys)
    rows = sql.SQL(
        "(SELECT DISTINCT ON ({keys}) {cols} FROM {staging}{where} ORDER BY {keys}, ctid DESC)"
    )
    nullable = [a.name for a in attributes if a.name in keys and a.nullable]
    if nullable:
        some_null = sql.SQL(" OR ").join(
            sql.SQL("{} IS NULL").format(sql.Identifier(name)) for name in nullable
        )
        distinct = rows.format(
            keys=key_names,
            cols=columns,
            staging=staging,
            where=sql.SQL(" WHERE NOT ({})").format(some_null),
        )
        chosen = sql.SQL("{} UNION ALL (SELECT {} FROM {} WHERE {})").format(
            distinct, columns, staging, some_null
        )
    else:
        chosen = rows.format(keys=key_names, cols=columns, staging=staging, where=sql.SQL(""))
    # An identity column GENERATED ALWAYS takes a value on insert, but no update.
    updated = [a.name for a in attributes if a.name not in keys and not a.identity_always]
    action: sql.Composable = sql.SQL("DO NOTHING")
    if updated:
        action = sql.SQL("DO UPDATE SET {}").format(
            sql.SQL(", ").join(
                sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in updated
            )
        )
    return [
        sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE {} ON CONFLICT ({}) {}").format(
            relation.name, columns, chosen, key_names, action
        )
    ]
