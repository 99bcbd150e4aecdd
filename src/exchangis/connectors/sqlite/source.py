"""Reading a table or view of a SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from exchangis.connectors.base import Column, Context, ReadRequest, Source, Split, TableSchema
from exchangis.connectors.sqlite.conditions import checked_where
from exchangis.connectors.sqlite.database import (
    Cancel,
    TableInfo,
    open_database,
    quote,
    table_info,
    take_snapshot,
    translated,
)
from exchangis.connectors.sqlite.values import arrow_column
from exchangis.domain.errors import SourceError

SPLIT_ROWS = 50_000
"""Tables with fewer rows are read in one split."""
_EXACT_BYTES = 64 << 20
"""Files up to this size are walked once for exact quantiles; larger ones are probed."""
_PROBES = 64
_CHUNK = 256
"""Rows fetched before their bytes are counted: bounds memory when rows turn wide all at once."""


class SQLiteSource(Source):
    """One table. Each split is read by its own connection in one read transaction."""

    def __init__(
        self,
        path: Path,
        table: str,
        context: Context,
        *,
        mismatched: str = "error",
        epoch_unit: str = "seconds",
        as_text: frozenset[str] = frozenset(),
    ) -> None:
        self._path = path
        self._table = table
        self._context = context
        self._mismatched = mismatched
        self._epoch_unit = epoch_unit
        self._as_text = as_text
        self._cancel = Cancel()
        self._lock = threading.Lock()
        self._info: TableInfo | None = None
        self._first: sqlite3.Connection | None = None
        self._version: int | None = None
        self._told_change = False
        self._nulled: dict[str, int] = {}

    # ------------------------------------------------------------------ catalog and plan

    def schema(self) -> TableSchema:
        return self._table_info().schema

    def _connection(self) -> sqlite3.Connection:
        """The connection of the catalog and the plan; callers hold the lock."""
        if self._first is None:
            self._first = open_database(self._path, "ro", self._cancel)
        return self._first

    def _table_info(self) -> TableInfo:
        with self._lock:
            if self._info is None:
                connection = self._connection()
                try:
                    info = table_info(connection, self._table)
                    if info is None:
                        raise SourceError(
                            f"There is no table or view {self._table} in {self._path}.",
                            guidance="List the tables of the data source, or check the name.",
                        )
                    columns = tuple(map(self._declared, info.schema.columns))
                    schema = TableSchema(
                        columns, info.schema.primary_key, self._estimate(connection, info)
                    )
                except sqlite3.Error as error:
                    raise translated(error, SourceError, self._label, self._cancel) from error
                self._info = replace(info, schema=schema)
            return self._info

    @property
    def _label(self) -> str:
        return f"SQLITE {self._table}"

    def _declared(self, column: Column) -> Column:
        return replace(column, type=pa.string()) if column.name in self._as_text else column

    def _estimate(self, connection: sqlite3.Connection, info: TableInfo) -> int | None:
        """Rows: counted where that is quick, else the span of the row numbers, else unknown."""
        if info.kind == "table" and self._path.stat().st_size <= _EXACT_BYTES:
            return int(connection.execute(f"SELECT count(*) FROM {quote(info.name)}").fetchone()[0])
        ends = self._ends(connection, info)
        return None if ends is None else ends[1] - ends[0] + 1

    @staticmethod
    def _ends(connection: sqlite3.Connection, info: TableInfo) -> tuple[int, int] | None:
        if info.rowid is None:
            return None
        # Two subqueries: SQLite answers a single min or max from the index alone.
        low, high = connection.execute(
            f"SELECT (SELECT min({info.rowid}) FROM {quote(info.name)}),"
            f" (SELECT max({info.rowid}) FROM {quote(info.name)})"
        ).fetchone()
        return None if low is None else (low, high)

    def plan(self, request: ReadRequest) -> list[Split]:
        info = self._table_info()
        if request.where:
            checked_where(request.where, info.schema)
        rows = info.schema.rows
        parts = min(request.parallelism, (rows or 0) // SPLIT_ROWS)
        with self._lock:
            connection = self._connection()
            try:
                bounds = self._boundaries(connection, info, parts)
                # A change by others between the transactions of two splits shows in this number.
                self._version = connection.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error as error:
                raise translated(error, SourceError, self._label, self._cancel) from error
        if not bounds:
            return [Split("all", f"{info.name}: all rows", {}, rows)]
        ends = [None, *bounds, None]
        share = (rows or 0) // (len(bounds) + 1)
        return [
            Split(
                f"rowid:{'' if low is None else low}:{'' if high is None else high}",
                f"{info.name}: {info.rowid} from {'the first' if low is None else low}"
                f" to before {'the end' if high is None else high}",
                {"from": low, "before": high},
                share,
            )
            for low, high in pairwise(ends)
        ]

    def _boundaries(self, connection: sqlite3.Connection, info: TableInfo, parts: int) -> list[int]:
        """Row numbers at which splits after the first begin: rising, each of a real row."""
        ends = self._ends(connection, info)
        if parts < 2 or ends is None:
            return []
        table, rowid = quote(info.name), info.rowid
        if self._path.stat().st_size <= _EXACT_BYTES:
            step = (info.schema.rows or 0) / parts
            query = f"SELECT {rowid} FROM {table} ORDER BY {rowid} LIMIT 1 OFFSET ?"
            points = [
                row[0]
                for part in range(1, parts)
                if (row := connection.execute(query, (int(part * step),)).fetchone())
            ]
        else:
            # Even steps through the numbers, each moved up to the next real row: gaps collapse
            # into one point, so that the quantiles of the points lie where the rows are.
            low, high = ends
            count = _PROBES * parts
            query = f"SELECT {rowid} FROM {table} WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1"
            probes = sorted(
                {
                    connection.execute(query, (low + (high - low) * n // count,)).fetchone()[0]
                    for n in range(count)
                }
            )
            points = [probes[len(probes) * part // parts] for part in range(1, parts)]
        return sorted({point for point in points if point > ends[0]})

    # ------------------------------------------------------------------ reading

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        info = self._table_info()
        columns = [self._wanted(info, name) for name in request.columns]
        condition, values = self._condition(info, split, request)
        connection = open_database(self._path, "ro", self._cancel)
        try:
            connection.execute("BEGIN")
            take_snapshot(connection, self._path, self._cancel)
            selected = ", ".join(quote(column.name) for column in columns) or "1"
            query = f"SELECT {selected} FROM {quote(info.name)}{condition}"
            rows = connection.execute(query, values)
            seen = 0
            for chunk in self._chunks(rows, columns, request):
                first, seen = seen, seen + len(chunk[0])
                mismatch = partial(self._mismatch, connection, info, (query, values), first)
                yield self._batch(chunk, columns, mismatch)
            self._look_for_changes()
        except sqlite3.Error as error:
            raise translated(error, SourceError, self._label, self._cancel) from error
        finally:
            self._cancel.close(connection)

    def _wanted(self, info: TableInfo, name: str) -> Column:
        column = info.schema.column(name)
        if column is None:
            raise SourceError(
                f"{self._label} has no column {name}.",
                guidance=f"It has {', '.join(info.schema.names)}.",
            )
        return column

    @staticmethod
    def _condition(info: TableInfo, split: Split, request: ReadRequest) -> tuple[str, list[Any]]:
        parts: list[str] = []
        values: list[Any] = []
        for key, operator in (("from", ">="), ("before", "<")):
            if split.data.get(key) is not None:
                parts.append(f"{info.rowid} {operator} ?")
                values.append(int(split.data[key]))
        if request.where:
            parts.append(f"({checked_where(request.where, info.schema)})")
        return (f" WHERE {' AND '.join(parts)}" if parts else ""), values

    def _chunks(
        self, rows: sqlite3.Cursor, columns: Sequence[Column], request: ReadRequest
    ) -> Iterator[list[list[Any]]]:
        """Column-wise lists of at most about `batch_rows` rows and `batch_bytes` of payload."""
        wide = [
            n
            for n, column in enumerate(columns)
            if pa.types.is_string(column.type) or pa.types.is_binary(column.type)
        ]
        fixed = 8 * max(len(columns), 1)
        step = min(16, request.batch_rows)
        pending: list[list[Any]] = [[] for _ in columns] or [[]]
        size = 0
        while True:
            self._cancel.check()
            fetched = rows.fetchmany(min(step, request.batch_rows - len(pending[0])))
            if not fetched:
                break
            parts = list(zip(*fetched, strict=True))
            grown = fixed * len(fetched) + sum(
                len(value) for n in wide for value in parts[n] if isinstance(value, str | bytes)
            )
            for column, part in zip(pending, parts, strict=True):
                column.extend(part)
            size += grown
            # Wide rows are fetched few at a time from then on.
            fitting = request.batch_bytes * len(fetched) // grown
            step = max(1, min(_CHUNK, request.batch_rows, fitting))
            if size >= request.batch_bytes or len(pending[0]) >= request.batch_rows:
                yield pending
                pending, size = [[] for _ in parts], 0
        if pending[0]:
            yield pending

    def _batch(
        self,
        chunk: list[list[Any]],
        columns: Sequence[Column],
        mismatch: Callable[[Column, int, Any], None],
    ) -> pa.RecordBatch:
        if not columns:  # rows without columns still count
            return pa.record_batch({"": pa.nulls(len(chunk[0]))}).select([])
        arrays = [
            arrow_column(
                values,
                column.type,
                epoch_unit=self._epoch_unit,
                mismatch=partial(mismatch, column),
            )
            for values, column in zip(chunk, columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])

    def _mismatch(
        self,
        connection: sqlite3.Connection,
        info: TableInfo,
        query: tuple[str, list[Any]],
        first: int,
        column: Column,
        index: int,
        value: Any,
    ) -> None:
        """Refuse a value that does not fit its column's declared type, or count it as NULL."""
        if self._mismatched == "null":
            with self._lock:
                first = column.name not in self._nulled
                self._nulled[column.name] = self._nulled.get(column.name, 0) + 1
            if first:
                self._context.log(
                    "WARN",
                    f"{self._label}: values of column {column.name} that do not fit its declared"
                    f" type {column.native_type or 'none'} are read as NULL (mismatched=null)",
                )
            return
        offset = first + index
        where = f"row {offset + 1} of the split"
        if info.rowid is not None:
            # The same query in the same snapshot meets the same rows in the same order.
            text = query[0].replace("SELECT ", f"SELECT {info.rowid}, ", 1)
            row = connection.execute(f"{text} LIMIT 1 OFFSET ?", [*query[1], offset]).fetchone()
            if row is not None and value in row[1:]:
                where = f"rowid {row[0]}"
        shown = repr(value)
        raise SourceError(
            f"{self._label}, column {column.name}, {where}: the value"
            f" {shown if len(shown) <= 80 else shown[:77] + '...'} does not fit the declared type"
            f" {column.native_type or 'none'} (read as {column.type}).",
            guidance="Set the source option mismatched to null, or name the column in as_text.",
        )

    def _look_for_changes(self) -> None:
        """Say so if others wrote while several splits were read, each in its own transaction."""
        with self._lock:
            if self._first is None or self._told_change:
                return
            now = self._first.execute("PRAGMA data_version").fetchone()[0]
            if self._version is not None and now != self._version:
                self._told_change = True
                self._context.log(
                    "WARN",
                    f"{self._path} was changed by another program while it was read; splits that"
                    " began later may hold the changes. Use parallelism 1 for one snapshot.",
                )

    # ------------------------------------------------------------------ ends

    def cancel(self) -> None:
        self._cancel()

    def close(self) -> None:
        with self._lock:
            for name, count in self._nulled.items():
                self._context.log("WARN", f"{self._label}.{name}: {count} values read as NULL")
            self._nulled = {}
            if self._first is not None:
                self._cancel.close(self._first)
                self._first = None
