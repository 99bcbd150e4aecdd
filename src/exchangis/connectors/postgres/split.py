"""Cutting a PostgreSQL table into parts that together hold each row exactly once.

- Plain heap tables (PostgreSQL 14 and later, which seek by ctid): ranges of pages. A row version
  that a snapshot sees has one ctid for as long as the snapshot lives. The last range has no end.
  Not where splits are committed one by one: a later attempt has another snapshot, in which a row
  updated meanwhile lies in another page, maybe of a split that is done.
- Otherwise, with a primary key that begins with an integer: ranges of it by the statistics'
  quantiles, open at both ends; such a key is never NULL.
- Otherwise, and for small tables: one part.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

from exchangis.connectors.base import ReadRequest, Split
from exchangis.connectors.postgres.catalog import Relation

_SMALL_BYTES = 8 << 20
_SMALL_ROWS = 50_000
_SPLIT_BYTES = 128 << 20
_SPLIT_ROWS = 1_000_000
_MOST = 1_000
_TID_RANGE_SCAN = 140000
WHOLE = Split("all", "whole table")


def plan_splits(
    connection: psycopg.Connection[Any], relation: Relation, request: ReadRequest
) -> list[Split]:
    """The parts of a relation for about `request.parallelism` lanes, larger tables in more."""
    heap = relation.heap and not request.resumable
    if heap and connection.info.server_version >= _TID_RANGE_SCAN:
        return _by_pages(connection, relation, request)
    return _by_key(connection, relation, request)


def _by_pages(
    connection: psycopg.Connection[Any], relation: Relation, request: ReadRequest
) -> list[Split]:
    row = connection.execute(
        "SELECT pg_relation_size(%s::oid), current_setting('block_size')::bigint", [relation.oid]
    ).fetchone()
    size, block = row if row else (0, 1)
    pages = size // block
    parts = min(_count(size, _SMALL_BYTES, _SPLIT_BYTES, request), max(1, pages))
    bounds = [pages * part // parts for part in range(parts)]
    if parts == 1:
        return [Split(WHOLE.id, WHOLE.label, rows=relation.rows)]
    rows = relation.rows // parts if relation.rows is not None else None
    return [
        Split(
            id=f"pages-{start}",
            label=f"pages {start} to {'the end' if end is None else end - 1}",
            data={"pages": [start, end]},
            rows=rows,
        )
        for start, end in zip(bounds, [*bounds[1:], None], strict=True)
    ]


def _by_key(
    connection: psycopg.Connection[Any], relation: Relation, request: ReadRequest
) -> list[Split]:
    whole = [Split(WHOLE.id, WHOLE.label, rows=relation.rows)]
    key = relation.attribute(relation.primary_key[0]) if relation.primary_key else None
    if key is None or not key.type.builtin or key.type.name not in ("int2", "int4", "int8"):
        return whole
    parts = _count(relation.rows or 0, _SMALL_ROWS, _SPLIT_ROWS, request)
    if parts == 1:
        return whole
    bounds = _quantiles(connection, relation, key.name, parts)
    if not bounds:
        return whole
    rows = relation.rows // (len(bounds) + 1) if relation.rows is not None else None
    edges = [None, *bounds, None]
    return [
        Split(
            id=f"key-{'first' if low is None else low}",
            label=f"{key.name} from {'the first' if low is None else low}"
            f" to {'the last' if high is None else f'below {high}'}",
            data={"key": key.name, "range": [low, high]},
            rows=rows,
        )
        for low, high in pairwise(edges)
    ]


def _count(size: int, small: int, target: int, request: ReadRequest) -> int:
    if size < small:
        return 1
    return min(_MOST, max(request.parallelism, -(-size // target)))


def _quantiles(
    connection: psycopg.Connection[Any], relation: Relation, key: str, parts: int
) -> list[int]:
    """At most `parts` - 1 distinct inner bounds, ascending; none for an empty table."""
    row = connection.execute(
        "SELECT histogram_bounds::text::bigint[] FROM pg_stats"
        " WHERE schemaname = %s AND tablename = %s AND attname = %s"
        " ORDER BY inherited DESC LIMIT 1",
        [relation.schema, relation.table, key],
    ).fetchone()
    histogram = row[0] if row else None
    if histogram and len(histogram) > parts:
        last = len(histogram) - 1
        return sorted({histogram[last * part // parts] for part in range(1, parts)})
    row = connection.execute(
        sql.SQL("SELECT min({key}), max({key}) FROM {table}").format(
            key=sql.Identifier(key), table=relation.name
        )
    ).fetchone()
    if row is None or row[0] is None:
        return []
    low, high = row
    return sorted({low + (high - low) * part // parts for part in range(1, parts)} - {low})


def predicate(split: Split) -> sql.Composable | None:
    """The condition that a row of this split meets; None for a whole table."""
    if "pages" in split.data:
        column: sql.Composable = sql.SQL("ctid")
        bounds = [
            None if page is None else sql.SQL("{}::pg_catalog.tid").format(f"({int(page)},0)")
            for page in split.data["pages"]
        ]
    elif "range" in split.data:
        column = sql.Identifier(str(split.data["key"]))
        bounds = [
            None if key is None else sql.SQL("{}::pg_catalog.int8").format(str(int(key)))
            for key in split.data["range"]
        ]
    else:
        return None
    low, high = bounds
    conditions = []
    if low is not None:
        conditions.append(sql.SQL("{} >= {}").format(column, low))
    if high is not None:
        conditions.append(sql.SQL("{} < {}").format(column, high))
    return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions))
