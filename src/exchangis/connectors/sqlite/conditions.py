"""Filters on SQLite tables, whose exact decimals are text (see `types`)."""

from __future__ import annotations

import pyarrow as pa
import sqlglot
from sqlglot import expressions as exp

from exchangis.connectors.base import TableSchema
from exchangis.connectors.filters import check_filter
from exchangis.domain.errors import InvalidRequest


def checked_where(where: str, schema: TableSchema) -> str:
    """The filter as one expression; InvalidRequest also where SQLite would pick other rows.

    A decimal kept as text compares as text: '10' < '9'. Whoever filters by one has to say how it
    is to be compared, by a CAST.
    """
    text = check_filter(where, "sqlite")
    exact = {
        column.name.casefold(): column
        for column in schema.columns
        if pa.types.is_decimal(column.type) and "TEXT" in column.native_type.upper()
    }
    for node in sqlglot.parse_one(text, read="sqlite").find_all(exp.Column):
        column = exact.get(node.name.casefold())
        if column is not None and not isinstance(node.parent, exp.Cast | exp.Is):
            raise InvalidRequest.field(
                "where", where,
                f"{column.name} is {column.native_type}, which SQLite compares as text",
                guidance=f"Write CAST({column.name} AS REAL), or filter by another column.",
            )  # fmt: skip
    return text
