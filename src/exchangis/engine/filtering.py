"""Filtering batches by an SQL expression for sources that have no SQL of their own.

DuckDB evaluates it in memory: no files, no network, no settings to change. Rows for which the
expression is false or NULL are left out, as WHERE does; they count as not read.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import expressions as exp

from exchangis.connectors.base import TableSchema
from exchangis.connectors.filters import check_filter
from exchangis.domain.errors import InvalidRequest, SourceError
from exchangis.engine.kinds import pc

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "threads": "1",
    "memory_limit": "256MB",
}


def filter_columns(where: str, schema: TableSchema) -> tuple[str, ...]:
    """The source columns that the filter names; SourceError lists the known ones for an unknown."""
    text = check_filter(where, "duckdb")
    tree = sqlglot.parse_one(f"SELECT 1 WHERE ({text}\n)", read="duckdb")
    if tree.find(exp.AggFunc, exp.Window):
        raise InvalidRequest.field(
            "where", where, "must judge each row on its own: no aggregates, no windows"
        )
    found: dict[str, None] = {}
    for node in tree.find_all(exp.Column):
        column = schema.column(node.name)
        if column is None or node.table:
            raise SourceError(
                f"where: there is no column {node.sql(dialect='duckdb')} in the source.",
                guidance=f"Its columns are {', '.join(schema.names)}.",
            )
        found[column.name] = None
    return tuple(found)


class BatchFilter:
    """One lane's filter; not for use by two threads at once."""

    def __init__(self, where: str, schema: TableSchema) -> None:
        """Checks the expression against the columns' types; InvalidRequest says what is wrong."""
        self._columns = filter_columns(where, schema)
        text = check_filter(where, "duckdb")
        self._query = f"SELECT CAST(({text}\n) AS BOOLEAN) AS keep FROM batch"
        self._database = duckdb.connect(":memory:", config=_CONFIG)
        self._database.execute("SET TimeZone = 'UTC'")
        self._database.execute("SET lock_configuration = true")
        names = self._columns or schema.names[:1]
        empty = schema.arrow.empty_table().select(list(names)).to_batches(max_chunksize=1)
        try:
            self._verdicts(pa.Table.from_batches(empty, _types(schema, names)))
        except duckdb.Error as error:
            self.close()
            raise InvalidRequest.field("where", where, _first_line(error)) from error
        except BaseException:
            self.close()
            raise

    def _verdicts(self, table: pa.Table) -> Any:
        self._database.register("batch", table)
        try:
            answer = self._database.sql(self._query).to_arrow_table()
        finally:
            self._database.unregister("batch")
        return answer.column("keep").combine_chunks()

    def keep(self, batch: pa.RecordBatch) -> Any:
        """Indices of the rows to keep, or None for all of them."""
        names = list(self._columns or batch.schema.names[:1])
        try:
            verdicts = self._verdicts(pa.Table.from_batches([batch.select(names)]))
        except duckdb.Error as error:
            raise SourceError(f"where: {_first_line(error)}") from error
        if len(verdicts) != batch.num_rows:
            raise SourceError("where: the filter gave not one answer per row.")
        if pc.all(pc.fill_null(verdicts, False)).as_py():
            return None
        return pc.indices_nonzero(verdicts)

    def close(self) -> None:
        """Free the database; idempotent."""
        self._database.close()


def _types(schema: TableSchema, names: tuple[str, ...]) -> pa.Schema:
    return pa.schema([schema.arrow.field(name) for name in names])


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
