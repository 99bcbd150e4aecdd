"""Reading a table of MySQL or MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from exchangis.connectors.base import Context, ReadRequest, Source, Split, TableSchema
from exchangis.connectors.filters import check_filter
from exchangis.connectors.mysql.catalog import Table, find_table
from exchangis.connectors.mysql.plan import condition, make_splits
from exchangis.connectors.mysql.read import Field, RowFormat, make_field
from exchangis.connectors.mysql.session import Server, Session, Sessions, offset_us, quote
from exchangis.connectors.mysql.types import NativeColumn
from exchangis.connectors.mysql.wire import RowStream
from exchangis.domain.errors import SourceError
from exchangis.domain.model import DataSet


def _is_dated(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


class MySQLSource(Source):
    """One table or view. Each read is one query of its own session, in a snapshot of its own."""

    def __init__(self, server: Server, database: str, dataset: DataSet, context: Context) -> None:
        self._server = server
        self._database = database
        self._name = dataset.table or ""
        self._label = f"{database}.{self._name}"
        self._zero_dates = dataset.options.get("zero_dates") or "error"
        self._context = context
        self._sessions = Sessions(server, "source", context.session)
        self._table: Table | None = None

    def schema(self) -> TableSchema:
        session = self._sessions.open()
        try:
            schema = self._described(session).schema(writable=False)
        finally:
            session.close()
        if self._zero_dates != "null":
            return schema
        columns = (replace(c, nullable=True) if _is_dated(c.type) else c for c in schema.columns)
        return replace(schema, columns=tuple(columns))

    def _described(self, session: Session) -> Table:
        if self._table is None:
            with session.errors(f"looking up {self._label}"):
                self._table = find_table(session, self._database, self._name)
        if self._table is None:
            raise SourceError(
                f"There is no table {self._label} on {self._server.label} that the user may see.",
                guidance="Check the names (they may be case-sensitive) and the user's rights.",
            )
        return self._table

    def _from(self, table: Table) -> str:
        return f"{quote(table.database)}.{quote(table.name)}"

    def plan(self, request: ReadRequest) -> list[Split]:
        session = self._sessions.open()
        try:
            table = self._described(session)
            for name in request.columns:
                self._column(table, name)
            with session.errors(f"planning {self._label}"):
                if request.where:
                    # The server says whether the filter makes sense before a row is read.
                    where = check_filter(request.where, "mysql")
                    session.run(f"SELECT 1 FROM {self._from(table)} WHERE ({where}\n) LIMIT 0")
                splits = make_splits(session, table, max(1, request.parallelism))
        finally:
            session.close()
        if len(splits) > 1:
            self._context.log(
                "INFO",
                f"{self._label} is read in {len(splits)} splits, each in a snapshot of its own: "
                "rows changed meanwhile may be seen before or after their change.",
            )
        return splits

    def _column(self, table: Table, name: str) -> NativeColumn:
        column = table.column(name)
        if column is None:
            raise SourceError(
                f"{self._label} has no column {name}.",
                guidance=f"It has {', '.join(column.name for column in table.columns)}.",
            )
        return column

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        session = self._sessions.open()
        finished = False
        try:
            with session.errors(f"reading {self._label}"):
                yield from self._batches(session, split, request)
            finished = True
        finally:
            if finished:
                session.close()
            else:
                session.kill()

    def _batches(
        self, session: Session, split: Split, request: ReadRequest
    ) -> Iterator[pa.RecordBatch]:
        table = self._described(session)
        rows = RowFormat(
            tuple(self._field(table, name) for name in request.columns), table=self._label
        )
        tail = self._tail(table, split, request)
        session.run("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        stream = RowStream(session, f"SELECT {rows.line}{tail}")
        yield from self._stream(stream, rows, request)
        if stream.unlined:
            count = stream.unlined
            self._context.log(
                "INFO",
                f"{count} rows of {self._label} are longer than the server's max_allowed_packet "
                "allows for a line; they are read column by column.",
            )
            long = f"SELECT {rows.columns}{tail} AND {rows.line} IS NULL"
            stream = RowStream(session, long, rows.line_of)
            yield from self._stream(stream, rows, request)
            if stream.rows != count:
                raise SourceError(
                    f"{stream.rows} of {count} long rows of {self._label} were found again.",
                    guidance="The table was changed while it was read, and its engine has no "
                    "snapshots. Raise max_allowed_packet on the server.",
                )
        elif stream.warnings:
            for code, text in session.warning_texts()[:3]:
                self._context.log("WARN", f"{self._label}: {text} (warning {code})")

    def _stream(
        self, stream: RowStream, rows: RowFormat, request: ReadRequest
    ) -> Iterator[pa.RecordBatch]:
        # A batch's fixed parts get one half of its bytes and the texts the other.
        half = max(1, request.batch_bytes // 2)
        most = rows.rows_within(request.batch_rows, half)
        while not stream.done:
            lines = stream.take(most, half)
            if lines:
                yield rows.batch(lines)

    def _field(self, table: Table, name: str) -> Field:
        column = self._column(table, name)
        dated = self._zero_dates == "null" and _is_dated(column.arrow)
        return make_field(
            column,
            nullable=column.nullable or table.is_view or dated,
            offset=offset_us(self._server.time_zone),
            zero_dates=self._zero_dates,
        )

    def _tail(self, table: Table, split: Split, request: ReadRequest) -> str:
        """FROM and WHERE of a split."""
        conditions = [text for text in (condition(split),) if text]
        if request.where:
            conditions.append(f"({check_filter(request.where, 'mysql')}\n)")
        return f" FROM {self._from(table)} WHERE {' AND '.join(conditions) or '1=1'}"

    def cancel(self) -> None:
        self._sessions.cancel()

    def close(self) -> None:
        self._sessions.close()
