"""What the PostgreSQL suites share: connections, contexts, and moving whole tables by hand."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from exchangis.connectors.base import (
    Context,
    ReadRequest,
    Resume,
    Sink,
    Source,
    Split,
    TableSchema,
    WriteRequest,
)
from exchangis.connectors.params import make_connection
from exchangis.connectors.postgres import PostgreSQL
from exchangis.domain.model import Connection, DataSet, WriteMode
from tests.services import Service

_numbers = itertools.count(1)


@dataclass(repr=False)
class Kit:
    """One test's schema on the server, dropped with everything in it afterwards."""

    service: Service
    schema: str
    admin: psycopg.Connection[Any]
    workdir: Path
    logs: list[tuple[str, str]] = field(default_factory=list)
    sessions: list[tuple[str, str]] = field(default_factory=list)
    opened: list[Source | Sink] = field(default_factory=list)
    connector: PostgreSQL = field(default_factory=PostgreSQL)

    def connection(self, **changes: Any) -> Connection:
        return make_connection(self.connector, {**self.service.params, **changes})

    def context(self, task_key: str = "task-1", attempt: int = 1) -> Context:
        return Context(
            task_key=task_key,
            attempt=attempt,
            workdir=self.workdir,
            log=lambda level, text: self.logs.append((level, text)),
            session=lambda side, pid: self.sessions.append((side, pid)),
        )

    def dataset(self, table: str, **options: str) -> DataSet:
        return DataSet(type="POSTGRESQL", database=self.schema, table=table, options=options)

    def second(self) -> psycopg.Connection[Any]:
        """Another session of the suite's own, to be closed by the caller."""
        return _connect(self.service)

    def run(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.admin.execute(text, values or None)
        return cursor.fetchall() if cursor.description else []

    def source(self, table: str, **options: str) -> Source:
        source = self.connector.source(
            self.connection(), self.dataset(table, **options), self.context()
        )
        self.opened.append(source)
        return source

    def sink(self, table: str, *, key: str = "task-1", attempt: int = 1, **options: str) -> Sink:
        sink = self.connector.sink(
            self.connection(), self.dataset(table, **options), self.context(key, attempt)
        )
        self.opened.append(sink)
        return sink

    def close(self) -> None:
        for one in self.opened:
            one.close()

    def rows(self, table: str, order: str = "1") -> list[tuple[Any, ...]]:
        query = sql.SQL("SELECT * FROM {} ORDER BY " + order).format(
            sql.Identifier(self.schema, table)
        )
        return self.admin.execute(query).fetchall()

    def backends(self) -> int:
        """Sessions of ours that the server still has."""
        return int(
            self.run(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'exchangis%%'"
                " AND pid <> ALL(%s)",
                [self.admin.info.backend_pid],
            )[0][0]
        )


def request(schema: TableSchema, **changes: Any) -> ReadRequest:
    return replace(ReadRequest(columns=schema.names), **changes)


def read(source: Source, **changes: Any) -> pa.Table:
    """The whole source as one table, split after split."""
    schema = source.schema()
    wanted = request(schema, **changes)
    batches = [b for split in source.plan(wanted) for b in source.read(split, wanted)]
    return pa.Table.from_batches(batches, schema.arrow)


def batch_of(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def prepare(
    sink: Sink, schema: TableSchema, mode: WriteMode = WriteMode.APPEND, **changes: Any
) -> Resume:
    return sink.prepare(WriteRequest(schema=schema, mode=mode, **changes), '{"plan": 1}')


def write(sink: Sink, *batches: pa.RecordBatch, split: str = "s1") -> list[str]:
    """One lane's whole way; the reasons of the rejected rows."""
    writer = sink.open_writer()
    try:
        written = [writer.write(batch) for batch in batches]
        writer.mark(Split(split, split), sum(w.rows for w in written))
        writer.commit()
        return [rejected.reason for w in written for rejected in w.rejected]
    finally:
        writer.close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition, with a limit."""
    pause = threading.Event()
    for _ in range(int(seconds * 100)):
        if condition():
            return
        pause.wait(0.01)  # paces the question
    raise AssertionError("the condition did not come true")


def _connect(service: Service) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=service.host, port=service.port, user=service.user, password=service.password,
        dbname=service.database, autocommit=True, application_name="suite",
    )  # fmt: skip


def new_kit(service: Service, workdir: Path) -> Iterator[Kit]:
    with _connect(service) as admin:
        schema = f"t{next(_numbers)}"
        admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
        admin.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        admin.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(schema)))
        admin.execute("SET lock_timeout = '10s'")  # a leak shows as an error, not as a hang
        kit = Kit(service, schema, admin, workdir)
        try:
            yield kit
        finally:
            kit.close()
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
