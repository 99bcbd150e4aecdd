"""Writing a PostgreSQL table: append straight into it, overwrite and upsert through staging.

| mode      | all or nothing                                | resumable                          |
| --------- | --------------------------------------------- | ---------------------------------- |
| append    | per lane's commit; marks complete the rest    | yes, by split                      |
| overwrite | yes: one transaction swaps the rows           | yes, splits stay in staging        |
| upsert    | yes: one transaction merges the rows          | yes, splits stay in staging        |

Staging is an ordinary logged table: marks that survived a crash without their rows would lose them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import pq, sql

from exchangis.connectors import marks
from exchangis.connectors.base import (
    Context,
    Resume,
    Sink,
    TableSchema,
    WriteRequest,
)
from exchangis.connectors.postgres.catalog import (
    Attribute,
    Relation,
    find_relation,
    find_schema,
)
from exchangis.connectors.postgres.publish import merge_statements, swap_statements
from exchangis.connectors.postgres.session import Session, Sessions
from exchangis.connectors.postgres.tables import (
    create_commits,
    create_staging,
    create_target,
    drop_table,
)
from exchangis.connectors.postgres.types import created
from exchangis.connectors.postgres.writer import PostgresWriter
from exchangis.domain.errors import SinkError
from exchangis.domain.model import Connection, DataSet, WriteMode


class PostgresSink(Sink):
    """One table of a schema, with the commit marks and staging table beside it."""

    def __init__(self, connection: Connection, dataset: DataSet, context: Context) -> None:
        if not dataset.table:
            raise SinkError("The sink names no table.")
        self._connection = connection
        self._dataset = dataset
        self._context = context
        self._table: str = dataset.table
        self._sessions = Sessions(connection, context, "sink")
        self._main: Session | None = None
        self._schema: str | None = None
        self._request: WriteRequest | None = None

    def schema(self) -> TableSchema | None:
        """Columns that can be written: generated ones are left out."""
        with self._working("Looking at"):
            relation = self._relation()
        return relation.table_schema(writable=True) if relation else None

    def proposed(self, wanted: TableSchema) -> TableSchema:
        return created(wanted)

    def prepare(self, request: WriteRequest, plan: str) -> Resume:
        self._request = request
        with self._working("Preparing"), self._transaction(), self._serialized():
            if self._relation() is None:
                self._create(request)
            create_commits(self._db, self._commits)
            relation = self._existing()
            self._attributes(relation, request)
            keys = self._keys(relation, request)
            self._forget_old_marks()
            self._db.execute(
                sql.SQL(
                    "INSERT INTO {} (task_key, split_id, attempt, row_count, note)"
                    " VALUES (%s, %s, %s, 0, %s) ON CONFLICT DO NOTHING"
                ).format(self._commits),
                [self._context.task_key, marks.PLAN, self._context.attempt, plan],
            )
            found = self._marks()
            published = marks.PUBLISHED in found
            if request.mode is not WriteMode.APPEND and not published:
                self._stage(relation, request, unique=not keys, done=found)
            return Resume(
                plan=found[marks.PLAN][1] or plan,
                done={key: rows for key, (rows, _) in found.items() if not key.startswith("#")},
                published=published,
            )

    def open_writer(self) -> PostgresWriter:
        request = self._prepared()
        with self._working("Opening"):
            relation = self._existing()
        table = relation.name if request.mode is WriteMode.APPEND else self._staging
        return PostgresWriter(
            self._sessions,
            self._home,
            table,
            self._attributes(relation, request),
            self._commits,
            self._dataset.label,
        )

    def publish(self) -> None:
        request = self._prepared()
        if request.mode is WriteMode.APPEND:
            return
        with self._working("Publishing"), self._transaction(), self._serialized():
            if marks.PUBLISHED in self._marks():
                return
            relation = self._existing()
            attributes = self._attributes(relation, request)
            if request.mode is WriteMode.OVERWRITE:
                way = self._dataset.options["overwrite_with"]
                statements = swap_statements(self._db, relation, self._staging, attributes, way)
            else:
                keys = self._keys(relation, request)
                statements = merge_statements(relation, self._staging, attributes, keys)
            self._sessions.resolve(self._db, self._home)
            rows = 0
            for statement in statements:
                cursor = self._db.execute(statement)
                rows = max(rows, cursor.rowcount)
            self._db.execute(
                sql.SQL(
                    "INSERT INTO {} (task_key, split_id, attempt, row_count)"
                    " VALUES (%s, %s, %s, %s)"
                ).format(self._commits),
                [self._context.task_key, marks.PUBLISHED, self._context.attempt, rows],
            )
            drop_table(self._db, self._staging)

    def discard(self) -> None:
        with self._working("Cleaning up"), self._transaction(), self._serialized():
            # A session of a lost attempt may still hold the staging table: no reason to hang.
            self._db.execute("SET LOCAL lock_timeout = '30s'")
            drop_table(self._db, self._staging)
            if find_relation(self._db, self._home, marks.TABLE) is not None:
                self._db.execute(
                    sql.SQL("DELETE FROM {} WHERE task_key = %s").format(self._commits),
                    [self._context.task_key],
                )

    def cancel(self) -> None:
        self._sessions.cancel()

    def close(self) -> None:
        self._main = None
        self._sessions.close()

    @property
    def _db(self) -> psycopg.Connection[object]:
        """The sink's own connection, for everything but rows; used by the engine's thread."""
        self._sessions.check()
        if self._main is None or self._main.connection.closed:
            if self._main is not None:
                self._sessions.release(self._main)
            self._main = self._sessions.open()
        return self._main.connection

    @property
    def _home(self) -> str:
        if self._schema is None:
            database = self._connection.get("database")
            self._schema = find_schema(self._db, self._dataset.database, database)
        return self._schema

    @property
    def _commits(self) -> sql.Identifier:
        return sql.Identifier(self._home, marks.TABLE)

    @property
    def _staging(self) -> sql.Identifier:
        return sql.Identifier(self._home, marks.staging_name(self._context.task_key))

    def _relation(self) -> Relation | None:
        return find_relation(self._db, self._home, self._table)

    def _existing(self) -> Relation:
        relation = self._relation()
        if relation is None:
            raise SinkError(
                f"There is no table {self._home}.{self._table}.",
                guidance="Create it, or allow the task to; names are case-sensitive.",
            )
        return relation

    def _prepared(self) -> WriteRequest:
        if self._request is None:
            raise SinkError("The sink is not prepared.")
        return self._request

    @contextmanager
    def _working(self, verb: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._sessions.failure(error, f"{verb} {self._dataset.label}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._db
        connection.execute("BEGIN")
        try:
            yield
            status = connection.execute("COMMIT").statusmessage
            if status != "COMMIT":
                raise SinkError("The transaction had been aborted.")
        finally:
            idle = pq.TransactionStatus.IDLE
            if not connection.closed and connection.pgconn.transaction_status != idle:
                self._abandon(connection)

    def _abandon(self, connection: psycopg.Connection[object]) -> None:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()  # the server rolls back a session that ends

    @contextmanager
    def _serialized(self) -> Iterator[None]:
        """One such transaction at a time in this schema.

        CREATE TABLE IF NOT EXISTS of two sessions at once fails with a unique violation; and two
        attempts of a task must not both publish.
        """
        self._db.execute(
            "SELECT pg_catalog.pg_advisory_xact_lock(hashtext(%s), hashtext(%s))",
            ["exchangis", f"{self._home}.{self._table}"],
        )
        yield

    def _create(self, request: WriteRequest) -> None:
        if not request.create:
            self._existing()
        self._context.log("INFO", f"Creating table {self._home}.{self._table}.")
        keys = request.key_columns if request.mode is WriteMode.UPSERT else ()
        create_target(self._db, self._home, self._table, request.schema, keys)

    def _attributes(self, relation: Relation, request: WriteRequest) -> tuple[Attribute, ...]:
        """The columns that are written, in the request's order."""
        attributes = []
        for name in request.schema.names:
            attribute = relation.attribute(name)
            if attribute is None or attribute.generated:
                why = "computes the" if attribute else "has no"
                raise SinkError(f"{relation.schema}.{relation.table} {why} column {name}.")
            attributes.append(attribute)
        return tuple(attributes)

    def _keys(self, relation: Relation, request: WriteRequest) -> tuple[str, ...]:
        """Key columns of an upsert, empty for other modes; SinkError without a unique index."""
        if request.mode is not WriteMode.UPSERT:
            return ()
        keys = request.key_columns or relation.primary_key
        name = f"{relation.schema}.{relation.table}"
        if not keys:
            raise SinkError(
                f"{name} has no primary key, so an upsert needs key columns.",
                guidance="Name the columns that identify a row.",
            )
        missing = [key for key in keys if key not in request.schema.names]
        if missing:
            raise SinkError(f"The upsert's key columns are not written: {', '.join(missing)}.")
        if not any(set(key.columns) == set(keys) for key in relation.keys):
            raise SinkError(
                f"An upsert needs a unique index on exactly ({', '.join(keys)}) of {name}.",
                guidance="Create one: immediate, without a WHERE, over plain columns.",
            )
        return keys

    def _marks(self) -> dict[str, tuple[int, str | None]]:
        found: dict[str, tuple[int, str | None]] = {}
        with self._db.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            cursor.execute(
                sql.SQL("SELECT split_id, row_count, note FROM {} WHERE task_key = %s").format(
                    self._commits
                ),
                [self._context.task_key],
            )
            for split_id, rows, note in cursor:
                found[split_id] = (rows, note)
        return found

    def _forget_old_marks(self) -> None:
        # SKIP LOCKED: two tasks that clean up at once must not wait for each other.
        self._db.execute(
            sql.SQL(
                "DELETE FROM {0} WHERE ctid IN (SELECT ctid FROM {0} WHERE task_key <> %s"
                " AND created_at < now() - make_interval(days => %s) FOR UPDATE SKIP LOCKED)"
            ).format(self._commits),
            [self._context.task_key, marks.KEEP_DAYS],
        )

    def _stage(
        self,
        relation: Relation,
        request: WriteRequest,
        *,
        unique: bool,
        done: dict[str, tuple[int, str | None]],
    ) -> None:
        """Make the staging table; marks whose rows went with a lost one are taken back."""
        name = marks.staging_name(self._context.task_key)
        if find_relation(self._db, self._home, name) is not None:
            return
        lost = [key for key in done if not key.startswith("#")]
        if lost:
            self._context.log("WARN", "The staging table is gone: every split is read again.")
            self._db.execute(
                sql.SQL("DELETE FROM {} WHERE task_key = %s AND split_id = ANY(%s)").format(
                    self._commits
                ),
                [self._context.task_key, lost],
            )
            for key in lost:
                del done[key]
        keys = [k for k in relation.keys if set(k.columns) <= set(request.schema.names)]
        create_staging(self._db, self._staging, relation, keys if unique else [])
