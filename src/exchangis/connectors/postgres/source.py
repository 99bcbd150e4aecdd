"""Reading a PostgreSQL table: COPY to CSV, parsed by Arrow, every lane on one snapshot."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import pq, sql
from psycopg.waiting import Wait

from exchangis.connectors.base import (
    Context,
    ReadRequest,
    Source,
    Split,
    TableSchema,
)
from exchangis.connectors.filters import check_filter
from exchangis.connectors.postgres.catalog import Relation, find_relation, find_schema
from exchangis.connectors.postgres.decode import BlockDecoder, Decoder, Policies
from exchangis.connectors.postgres.session import Session, Sessions
from exchangis.connectors.postgres.split import plan_splits, predicate
from exchangis.domain.errors import SourceError
from exchangis.domain.model import Connection, DataSet

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_JOINED_ROWS = 2_048


class PostgresSource(Source):
    """One table, view or partitioned table, seen as it was when the source first looked at it.

    The first session opens a read-only REPEATABLE READ transaction, exports its snapshot and stays
    open until `close`; each lane's session takes that snapshot over.
    """

    def __init__(self, connection: Connection, dataset: DataSet, context: Context) -> None:
        self._connection = connection
        self._dataset = dataset
        self._context = context
        self._sessions = Sessions(connection, context, "source")
        self._doing = f"Reading {dataset.label}"
        self._policies = Policies(
            dataset.options["infinite_dates"], dataset.options["nan_numerics"]
        )
        self._lock = threading.Lock()
        self._main: Session | None = None
        self._relation: Relation | None = None
        self._snapshot: str | None = None
        self._idle: list[Session] = []
        self._warned = False

    def schema(self) -> TableSchema:
        return self._opened()[1].table_schema(writable=False)

    def plan(self, request: ReadRequest) -> list[Split]:
        main, relation = self._opened()
        self._filter(request)
        try:
            return plan_splits(main.connection, relation, request)
        except psycopg.Error as error:
            raise self._sessions.failure(error, f"Planning {self._dataset.label}") from error

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        relation = self._opened()[1]
        decoder = BlockDecoder([self._decoder(relation, name) for name in request.columns])
        statement = self._statement(relation, split, request)
        self._warn_of_moved_rows(split)
        session = self._lane()
        healthy = False
        try:
            yield from self._copy(session, statement, decoder, request)
            healthy = True
        except psycopg.Error as error:
            raise self._sessions.failure(error, self._doing) from error
        finally:
            if healthy:
                with self._lock:
                    self._idle.append(session)
            else:
                self._sessions.release(session)

    def cancel(self) -> None:
        self._sessions.cancel()

    def close(self) -> None:
        self._sessions.close()

    def _opened(self) -> tuple[Session, Relation]:
        """The main session in its transaction, and the relation as that transaction sees it."""
        with self._lock:
            if self._main is None or self._relation is None:
                session = self._sessions.open()
                try:
                    self._relation = self._look(session)
                    self._main = session
                except psycopg.Error as error:
                    raise self._sessions.failure(error, self._doing) from error
                finally:
                    if self._main is None:
                        self._sessions.release(session)
            self._sessions.check()
            return self._main, self._relation

    def _look(self, session: Session) -> Relation:
        connection = session.connection
        connection.execute(_BEGIN)
        try:
            row = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
            self._snapshot = str(row[0]) if row else None
        except psycopg.DatabaseError as error:
            if connection.closed:
                raise
            connection.execute("ROLLBACK")
            connection.execute(_BEGIN)
            self._context.log(
                "WARN",
                "The server exports no snapshot, so lanes may see different moments of the table:"
                f" {error.diag.message_primary}",
            )
        table = self._dataset.table
        if not table:
            raise SourceError("The source names no table.")
        schema = find_schema(connection, self._dataset.database, self._connection.get("database"))
        relation = find_relation(connection, schema, table)
        if relation is None:
            raise SourceError(
                f"There is no table {schema}.{table} in {self._connection.get('database')}.",
                guidance="Names are case-sensitive; the data set's database names the schema.",
            )
        # Keeps the table's lock until the end: nobody rewrites or drops it between two lanes.
        connection.execute(sql.SQL("SELECT FROM {} WHERE false").format(relation.name))
        return relation

    def _warn_of_moved_rows(self, split: Split) -> None:
        """Said once: page ranges of an earlier attempt's plan hold only for an unchanged table."""
        with self._lock:
            if self._warned or self._context.attempt == 1 or "pages" not in split.data:
                return
            self._warned = True
        self._context.log(
            "WARN",
            f"This attempt sees {self._dataset.label} at a later moment than the one before: rows"
            " updated in between have moved to other pages, so that splits which are committed"
            " already may hold them twice or not at all. Start the task anew if the table changes.",
        )

    def _lane(self) -> Session:
        """A session on the common snapshot: one that an earlier split left, or a new one."""
        self._sessions.check()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        session = self._sessions.open()
        try:
            session.connection.execute(_BEGIN)
            if self._snapshot:
                session.connection.execute(
                    sql.SQL("SET TRANSACTION SNAPSHOT {}").format(self._snapshot)
                )
        except psycopg.Error as error:
            self._sessions.release(session)
            raise self._sessions.failure(error, self._doing) from error
        return session

    def _decoder(self, relation: Relation, name: str) -> Decoder:
        attribute = relation.attribute(name)
        if attribute is None:
            raise SourceError(f"{relation.schema}.{relation.table} has no column {name}.")
        return Decoder(attribute, self._policies)

    def _filter(self, request: ReadRequest) -> sql.Composable | None:
        if not request.where:
            return None
        # check_filter lets one expression through and nothing that could end it.
        text = check_filter(request.where, "postgres")
        return sql.SQL("({}\n)").format(sql.SQL(text))

    def _statement(self, relation: Relation, split: Split, request: ReadRequest) -> sql.Composed:
        columns = [self._decoder(relation, name).expression for name in request.columns]
        conditions = [c for c in (predicate(split), self._filter(request)) if c is not None]
        where = (
            sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
        )
        return sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT csv)").format(
            sql.SQL(", ").join(columns), relation.name, where
        )

    def _copy(
        self,
        session: Session,
        statement: sql.Composed,
        decoder: BlockDecoder,
        request: ReadRequest,
    ) -> Iterator[pa.RecordBatch]:
        connection = session.connection
        # Not the driver's own copy context: left early, that one reads what is still on its way.
        result = connection.pgconn.exec_(statement.as_bytes(connection))
        if result.status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(result)
        ended = False
        while not ended:
            self._sessions.check()
            block, ended = connection.wait(_rows(connection.pgconn, request, decoder.width))
            if block:
                yield from _bounded(decoder.decode(block), request)


def _rows(
    connection: pq.abc.PGconn, request: ReadRequest, width: int
) -> Generator[Wait, Any, tuple[bytes, bool]]:
    """The next rows of a running COPY as one block of CSV, and whether it has ended.

    The same steps as psycopg's `Copy.read`, for many rows at a time: its way through a generator
    and a wait for each single row triples the client's work.
    """
    blocks: list[bytes] = []
    rows: list[memoryview] = []  # one a message; joined early: each costs more than its text
    room, left = request.batch_bytes, request.batch_rows
    ended = False
    receive = connection.get_copy_data
    while left > 0 and room > 0:
        length, data = receive(1)
        if length > 0:
            rows.append(data)
            room -= length + width
            left -= 1
            if len(rows) == _JOINED_ROWS:
                blocks.append(b"".join(rows))
                rows.clear()
        elif length == 0:
            while not (yield Wait.R):
                pass
            connection.consume_input()
        else:
            _finish(connection)
            ended = True
            break
    blocks.append(b"".join(rows))
    return b"".join(blocks), ended


def _finish(connection: pq.abc.PGconn) -> None:
    """Take the results that end a COPY; raises its error."""
    failed: pq.abc.PGresult | None = None
    while result := connection.get_result():
        failed = result if result.status != pq.ExecStatus.COMMAND_OK else failed
    if failed is not None:
        raise psycopg.errors.error_from_result(failed)


def _bounded(batch: pa.RecordBatch, request: ReadRequest) -> Iterator[pa.RecordBatch]:
    """The batch, halved until it keeps the byte limit or has one row."""
    if batch.nbytes <= request.batch_bytes or batch.num_rows <= 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _bounded(batch.slice(0, half), request)
    yield from _bounded(batch.slice(half), request)
