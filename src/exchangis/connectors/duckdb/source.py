"""Reading a table or view of a DuckDB file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute

from exchangis.connectors.base import Column, Context, ReadRequest, Source, Split, TableSchema
from exchangis.connectors.duckdb.database import Handle, TableInfo, run, table_info
from exchangis.connectors.duckdb.types import quote, reading
from exchangis.connectors.filters import check_filter
from exchangis.domain.errors import SourceError

pc: Any = pyarrow.compute  # the stubs know too few of its overloads

ROW_GROUP = 122_880
"""Rows that DuckDB stores together: a split reads whole groups."""
_VECTOR = 2_048
"""Rows that DuckDB produces at a time: what a first look at the rows' width costs."""
_INFINITE = {
    pa.date32(): (-(2**31) + 1, 2**31 - 1, pa.int32()),
    pa.timestamp("us"): (-(2**63) + 1, 2**63 - 1, pa.int64()),
    pa.timestamp("ns"): (-(2**63) + 1, 2**63 - 1, pa.int64()),
    pa.timestamp("us", tz="UTC"): (-(2**63) + 1, 2**63 - 1, pa.int64()),
}
"""How DuckDB hands out -infinity and infinity in Arrow."""


class DuckDBSource(Source):
    """One table. The file stays open, read-only, from the first call until `close`."""

    def __init__(
        self, handle: Handle, schema: str, table: str, context: Context, *, infinity: str
    ) -> None:
        self.handle = handle
        self._schema_name = schema
        self._table = table
        self._context = context
        self._infinity = infinity
        self._info: TableInfo | None = None

    @property
    def _label(self) -> str:
        return f"DUCKDB {self._schema_name}.{self._table}"

    def schema(self) -> TableSchema:
        return self._table_info().schema

    def _table_info(self) -> TableInfo:
        if self._info is None:
            try:
                with self.handle.cursor() as cursor:
                    self._info = table_info(cursor, self._schema_name, self._table)
            except duckdb.Error as error:
                raise self.handle.translated(error, SourceError, self._label) from error
        if self._info is None:
            raise SourceError(
                f"There is no table or view {self._schema_name}.{self._table} in"
                f" {self.handle.path}.",
                guidance="List the tables of the data source, or check the name.",
            )
        return self._info

    def plan(self, request: ReadRequest) -> list[Split]:
        if request.where:
            check_filter(request.where, "duckdb")
        info = self._table_info()
        rows = info.schema.rows
        label = f"{info.schema_name}.{info.name}"
        groups = (rows or 0) // ROW_GROUP
        if info.is_view or request.parallelism < 2 or groups < 2:
            return [Split("all", f"{label}: all rows", {}, rows)]
        try:
            with self.handle.cursor() as cursor:
                last = run(cursor, f"SELECT max(rowid) FROM {_name(info)}")[0][0] or 0
        except duckdb.Error as error:
            raise self.handle.translated(error, SourceError, self._label) from error
        ranges = row_ranges(last, min(request.parallelism, groups))
        return [
            Split(
                f"rowid:{'' if low is None else low}:{'' if high is None else high}",
                f"{label}: rows {low or 0} to {'the end' if high is None else high - 1}",
                {"from": low, "before": high},
                (rows or 0) // len(ranges),
            )
            for low, high in ranges
        ]

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        info = self._table_info()
        columns = [self._wanted(info, name) for name in request.columns]
        query = self._query(info, columns, split, request)
        cursor = self.handle.open()
        try:
            run(cursor, "BEGIN")
            width = self._width(cursor, query, columns)
            rows = max(1, min(request.batch_rows, request.batch_bytes // width))
            reader = cursor.sql(query).to_arrow_reader(rows)
            try:
                for batch in reader:
                    self.handle.check()
                    yield from _bounded(self._typed(batch, columns), request.batch_bytes)
            finally:
                reader.close()
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            raise self.handle.translated(error, SourceError, self._label) from error
        finally:
            self.handle.close_cursor(cursor)

    def _wanted(self, info: TableInfo, name: str) -> Column:
        column = info.schema.column(name)
        if column is None:
            raise SourceError(
                f"{self._label} has no column {name}.",
                guidance=f"It has {', '.join(info.schema.names)}.",
            )
        return column

    @staticmethod
    def _query(info: TableInfo, columns: list[Column], split: Split, request: ReadRequest) -> str:
        parts = [
            f"rowid {operator} {int(split.data[key])}"
            for key, operator in (("from", ">="), ("before", "<"))
            if split.data.get(key) is not None
        ]
        if request.where:
            parts.append(f"({check_filter(request.where, 'duckdb')})")
        selected = ", ".join(reading(c.name, c.native_type) for c in columns) or "1"
        condition = f" WHERE {' AND '.join(parts)}" if parts else ""
        # In the filter a name is the table's column first, and only then the alias above.
        return f"SELECT {selected} FROM {_name(info)}{condition}"

    @staticmethod
    def _width(cursor: duckdb.DuckDBPyConnection, query: str, columns: list[Column]) -> int:
        """Bytes of a wide row among the first ones, so that batches hold few of those."""
        if not any(pa.types.is_string(c.type) or pa.types.is_binary(c.type) for c in columns):
            return 8 * max(len(columns), 1)
        with cursor.sql(f"SELECT * FROM ({query}) LIMIT {_VECTOR}").to_arrow_reader(64) as sample:
            widths = [batch.nbytes // batch.num_rows for batch in sample if batch.num_rows]
        return int(max([1, *widths]))

    def _typed(self, batch: pa.RecordBatch, columns: list[Column]) -> pa.RecordBatch:
        if not columns:
            return batch.select([])
        arrays = [
            self._finite(array if array.type == column.type else array.cast(column.type), column)
            for array, column in zip(batch.columns, columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])

    def _finite(self, array: Any, column: Column) -> Any:
        bounds = _INFINITE.get(array.type)
        if bounds is None:
            return array
        low, high, integer = bounds
        numbers = array.cast(integer)
        ends = pc.min_max(numbers).as_py()
        if ends["min"] is None or (ends["min"] > low and ends["max"] < high):
            return array
        if self._infinity == "error":
            shown = "infinity" if ends["max"] >= high else "-infinity"
            raise SourceError(
                f"{self._label}, column {column.name}: the value {shown} has no place in other"
                " systems.",
                guidance="Set the source option infinity to null, or filter such rows out.",
            )
        finite = pc.and_(pc.greater(numbers, low), pc.less(numbers, high))
        return pc.if_else(finite, array, pa.scalar(None, array.type))

    def cancel(self) -> None:
        self.handle.cancel()

    def close(self) -> None:
        self.handle.close()


def row_ranges(last: int, parts: int) -> list[tuple[int | None, int | None]]:
    """At most `parts` ranges [from, before) of row numbers up to `last`: whole row groups each."""
    step = -(-(last + 1) // (parts * ROW_GROUP)) * ROW_GROUP
    return list(pairwise([None, *range(step, last + 1, step), None]))


def _name(info: TableInfo) -> str:
    return f"{quote(info.schema_name)}.{quote(info.name)}"


def _bounded(batch: pa.RecordBatch, limit: int) -> Iterator[pa.RecordBatch]:
    """The batch in slices of at most `limit` bytes (or single rows)."""
    if batch.num_rows <= 1 or batch.nbytes <= limit:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from _bounded(batch.slice(0, half), limit)
    yield from _bounded(batch.slice(half), limit)
