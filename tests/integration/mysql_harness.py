"""What the MySQL suites share: a raw connection, and the connector driven as the engine does."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pymysql

from exchangis.connectors.base import (
    Column,
    Context,
    ReadRequest,
    Rejected,
    Sink,
    Source,
    Split,
    TableSchema,
    WriteRequest,
)
from exchangis.connectors.mysql import MySQL
from exchangis.connectors.params import make_connection
from exchangis.domain.model import Connection, DataSet, Publish, WriteMode
from tests.services import Service

_NAMES = itertools.count()


@dataclass
class Server:
    """The test server seen from both sides."""

    service: Service
    raw: Any
    sessions: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def connector(self) -> MySQL:
        return MySQL()

    def connection(self, **changes: object) -> Connection:
        return make_connection(self.connector, {**self.service.params, **changes})

    def context(self, key: str | None = None, attempt: int = 1) -> Context:
        return Context(
            task_key=key or uuid.uuid4().hex,
            attempt=attempt,
            workdir=Path("/nonexistent"),
            log=lambda level, text: self.lines.append(f"{level} {text}"),
            session=lambda side, number: self.sessions.append((side, number)),
        )

    def run(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        with self.raw.cursor() as cursor:
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())

    def name(self) -> str:
        """A fresh table name."""
        return f"t{next(_NAMES)}"

    def source(
        self, table: str, *, options: dict[str, str] | None = None, **changes: Any
    ) -> Source:
        dataset = DataSet(type="MYSQL", table=table, options=options or {})
        return self.connector.source(self.connection(**changes), dataset, self.context())

    def sink(self, table: str, context: Context | None = None, **changes: Any) -> Sink:
        dataset = DataSet(type="MYSQL", table=table)
        return self.connector.sink(self.connection(**changes), dataset, context or self.context())

    def processes(self) -> list[int]:
        """Ids of the sessions that a connector opened and that still live."""
        known = {int(number) for _side, number in self.sessions}
        return [int(row[0]) for row in self.run("SHOW PROCESSLIST") if int(row[0]) in known]

    def read(self, table: str, **options: Any) -> pa.Table:
        """The whole table through `plan` and `read`."""
        request = options.pop("request", {})
        source = self.source(table, **options)
        try:
            schema = source.schema()
            wanted = ReadRequest(**{"columns": schema.names, **request})
            batches = [
                batch for split in source.plan(wanted) for batch in source.read(split, wanted)
            ]
            arrow = pa.schema([(n, schema.column(n).type) for n in wanted.columns])  # type: ignore[union-attr]
            return pa.Table.from_batches(batches, arrow)
        finally:
            source.close()

    def write(
        self,
        table: str,
        data: pa.Table,
        mode: WriteMode = WriteMode.APPEND,
        *,
        context: Context | None = None,
        primary_key: Sequence[str] = (),
        key_columns: Sequence[str] = (),
        **changes: Any,
    ) -> list[Rejected]:
        """Write one split and publish; the rows refused."""
        sink = self.sink(table, context, **changes)
        try:
            request = request_for(sink, data, mode, primary_key, key_columns)
            sink.prepare(request, "{}")
            writer = sink.open_writer()
            rejected: list[Rejected] = []
            rows = 0
            try:
                for batch in _in_types(data, request).to_batches():
                    written = writer.write(batch)
                    rows += written.rows
                    rejected += written.rejected
                writer.mark(Split("all", "all"), rows)
                writer.commit()
            finally:
                writer.close()
            sink.publish()
            return rejected
        finally:
            sink.close()


def _in_types(data: pa.Table, request: WriteRequest) -> pa.Table:
    """The sink's types; NULLs stay where the sink has NOT NULL, for the sink to refuse."""
    return data.cast(pa.schema([(c.name, c.type) for c in request.schema.columns]))


def request_for(
    sink: Sink,
    data: pa.Table,
    mode: WriteMode,
    primary_key: Sequence[str] = (),
    key_columns: Sequence[str] = (),
) -> WriteRequest:
    """The request that the engine would make for these columns."""
    wanted = TableSchema(
        tuple(Column(f.name, f.type, "", f.nullable) for f in data.schema), tuple(primary_key)
    )
    existing = sink.schema()
    if existing is None:
        schema = sink.proposed(wanted)
    else:
        columns = [existing.column(name) for name in data.schema.names]
        schema = TableSchema(tuple(c for c in columns if c), existing.primary_key)
    return WriteRequest(schema, mode, Publish.TASK, tuple(key_columns))


@contextlib.contextmanager
def server_of(service: Service) -> Iterator[Server]:
    raw = pymysql.connect(
        host=service.host, port=service.port, user=service.user,
        password=service.password.encode(), database=service.database, autocommit=True,
        charset="utf8mb4",
    )  # fmt: skip
    try:
        yield Server(service, raw)
    finally:
        raw.close()


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for a condition; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)  # paces the question
