"""What PostgreSQL's catalog says about a table: the one place that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from exchangis.connectors.base import Column, TableSchema
from exchangis.connectors.postgres.types import NativeType, arrow_type


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column of a relation. `generated` columns are computed by the server, never written."""

    name: str
    type: NativeType
    nullable: bool
    generated: bool
    identity_always: bool

    @property
    def column(self) -> Column:
        return Column(self.name, arrow_type(self.type), self.type.text, self.nullable)


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A valid, immediate unique index over plain columns, without a predicate."""

    columns: tuple[str, ...]
    primary: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view, materialized view, partitioned or foreign table.

    `kind` is pg_class.relkind. `heap` says that rows live in one file addressed by ctid.
    `rows` is the statistics' estimate, None where there is none.
    """

    oid: int
    schema: str
    table: str
    kind: str
    heap: bool
    rows: int | None
    attributes: tuple[Attribute, ...]
    keys: tuple[UniqueKey, ...]

    @property
    def primary_key(self) -> tuple[str, ...]:
        return next((key.columns for key in self.keys if key.primary), ())

    @property
    def name(self) -> sql.Composable:
        return sql.Identifier(self.schema, self.table)

    def attribute(self, name: str) -> Attribute | None:
        return next((a for a in self.attributes if a.name == name), None)

    def table_schema(self, *, writable: bool) -> TableSchema:
        """All columns, or only those that a sink may fill."""
        return TableSchema(
            columns=tuple(a.column for a in self.attributes if not (writable and a.generated)),
            primary_key=self.primary_key,
            rows=self.rows,
        )


# The columns that later versions added are read through JSON, so that the query suits them all.
_RELATION = """
SELECT c.oid, c.relkind::text,
       c.relkind IN ('r', 'm') AND coalesce(am.amname = 'heap', true)
         AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid),
       CASE WHEN c.relkind = 'p' THEN
         (WITH RECURSIVE leaf(oid) AS (
            SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid
            UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN leaf l ON i.inhparent = l.oid)
          SELECT sum(greatest(k.reltuples, 0)) FROM leaf JOIN pg_class k USING (oid)
          WHERE k.relkind = 'r')
       WHEN c.relkind IN ('r', 'm', 'f') THEN
         CASE WHEN c.reltuples > 0 OR (c.reltuples = 0 AND c.relpages > 0) THEN c.reltuples END
       END::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am am ON am.oid = c.relam
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

# A domain's values are those of the type it was made from, however many domains lie between.
_ATTRIBUTES = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '',
       coalesce(to_jsonb(a) ->> 'attidentity', '') = 'a',
       base.typname, base.nspname, base.typtype::text, base.typmod,
       CASE WHEN base.typcategory = 'A' AND base.typlen = -1 THEN element.typname END
FROM pg_attribute a
CROSS JOIN LATERAL (
  WITH RECURSIVE chain AS (
    SELECT t.oid, t.typtype, t.typbasetype, a.atttypmod AS typmod, t.typtypmod, 0 AS depth
    FROM pg_type t WHERE t.oid = a.atttypid
    UNION ALL
    SELECT t.oid, t.typtype, t.typbasetype, chain.typtypmod, t.typtypmod, depth + 1
    FROM chain JOIN pg_type t ON t.oid = chain.typbasetype WHERE chain.typtype = 'd')
  SELECT t.typname, n.nspname, t.typtype, chain.typmod, t.typcategory, t.typlen, t.typelem
  FROM chain JOIN pg_type t USING (oid) JOIN pg_namespace n ON n.oid = t.typnamespace
  ORDER BY depth DESC LIMIT 1) base
LEFT JOIN pg_type element ON element.oid = base.typelem
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

_KEYS = """
SELECT i.indisprimary, array_agg(a.attname::text ORDER BY k.position)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
  AND k.position <= coalesce((to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts)
GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC, i.indexrelid
"""


def find_schema(
    connection: psycopg.Connection[Any], named: str | None, database: str | None
) -> str:
    """The schema that a data set's `database` means: itself, or `public` by default.

    People used to other systems name the connection's own database: that means `public` too,
    where no schema has that name.
    """
    if not named:
        return "public"
    if named == database:
        found = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)", [named]
        ).fetchone()
        if not (found and found[0]):
            return "public"
    return named


def find_relation(connection: psycopg.Connection[Any], schema: str, table: str) -> Relation | None:
    """The relation of exactly that name, or None."""
    row = connection.execute(_RELATION, [schema, table]).fetchone()
    if row is None:
        return None
    oid, kind, heap, rows = row
    attributes = tuple(
        Attribute(
            name=name,
            type=NativeType(text, typname, owner == "pg_catalog", typtype, typmod, element),
            nullable=not not_null,
            generated=generated,
            identity_always=always,
        )
        for name, text, not_null, generated, always, typname, owner, typtype, typmod, element
        in connection.execute(_ATTRIBUTES, [oid])
    )  # fmt: skip
    keys = tuple(
        UniqueKey(tuple(columns), primary) for primary, columns in connection.execute(_KEYS, [oid])
    )
    return Relation(oid, schema, table, kind, heap, rows, attributes, keys)
