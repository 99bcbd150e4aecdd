"""What sinks of the embedded databases (SQLite, DuckDB) do alike with a target table."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pyarrow as pa

from exchangis.connectors.base import TableSchema, WriteRequest
from exchangis.domain.errors import InvalidRequest, SinkError
from exchangis.domain.model import WriteMode


def create_statement(
    target: str,
    request: WriteRequest,
    *,
    quote: Callable[[str], str],
    proposed: Callable[[pa.DataType], tuple[str, pa.DataType]],
) -> str:
    """CREATE TABLE for what the task writes; an upsert's key columns become the primary key.

    `target` is quoted already; `proposed` tells the declared type of a column that has none.
    """
    wanted = request.schema
    keys = wanted.primary_key
    if request.mode is WriteMode.UPSERT and request.key_columns:
        keys = request.key_columns
    parts = [
        f"{quote(column.name)} {column.native_type or proposed(column.type)[0]}"
        + ("" if column.nullable and column.name not in keys else " NOT NULL")
        for column in wanted.columns
    ]
    if keys:
        parts.append(f"PRIMARY KEY ({', '.join(map(quote, keys))})")
    return f"CREATE TABLE {target} ({', '.join(parts)})"


def check_writable(label: str, writable: Collection[str], names: Collection[str]) -> None:
    """SinkError for a column that the table does not have, or computes by itself."""
    for name in names:
        if name not in writable:
            raise SinkError(
                f"{label} has no column {name} that can be written.",
                guidance=f"It has {', '.join(writable)}.",
            )


def check_upsert_keys(
    table: str,
    schema: TableSchema,
    request: WriteRequest,
    unique: Collection[frozenset[str]],
) -> None:
    """InvalidRequest unless an upsert's keys are filled and unique; other modes need none."""
    if request.mode is not WriteMode.UPSERT:
        return
    keys = request.key_columns or schema.primary_key
    missing = [key for key in keys if key not in request.schema.names]
    if not keys or missing:
        raise InvalidRequest.field(
            "key_columns", list(keys), "an upsert needs key columns that the task fills"
        )
    if frozenset(keys) not in unique:
        raise InvalidRequest.field(
            "key_columns",
            list(keys),
            f"{table} has no primary key or unique index on exactly these columns",
            guidance="Create one, or name the columns of one.",
        )
