"""One lane into a PostgreSQL table: COPY under a savepoint per batch, marks with the rows."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pyarrow as pa
from psycopg import pq, sql

from exchangis.connectors.base import Split, Writer, Written
from exchangis.connectors.bisect import write_bisecting
from exchangis.connectors.postgres.catalog import Attribute
from exchangis.connectors.postgres.encode import encode
from exchangis.connectors.postgres.errors import is_row_fault, row_reason
from exchangis.connectors.postgres.session import Session, Sessions
from exchangis.domain.errors import SinkError

_PIECE = 1 << 20


class PostgresWriter(Writer):
    """Copies batches into `table`, a name that is quoted already (the target or its staging)."""

    def __init__(
        self,
        sessions: Sessions,
        schema: str,
        table: sql.Composable,
        attributes: Sequence[Attribute],
        commits: sql.Composable,
        label: str,
    ) -> None:
        self._sessions = sessions
        self._attributes = tuple(attributes)
        self._names = [attribute.name for attribute in attributes]
        self._commits = commits
        self._doing = f"Writing {label}"
        self._copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
            table, sql.SQL(", ").join(map(sql.Identifier, self._names))
        )
        self._marks: list[tuple[str, int]] = []
        self._session: Session | None = sessions.open()
        try:
            sessions.resolve(self._session.connection, schema)
        except psycopg.Error as error:
            self.close()
            raise sessions.failure(error, self._doing) from error

    def write(self, batch: pa.RecordBatch) -> Written:
        connection = self._begun()
        ordered = batch.select(self._names)
        try:
            return write_bisecting(ordered, lambda part: self._attempt(connection, part))
        except psycopg.Error as error:
            raise self._sessions.failure(error, self._doing) from error

    def mark(self, split: Split, rows: int) -> None:
        """Remembered until `commit`, so that no other attempt waits for an open mark."""
        self._marks.append((split.id, rows))

    def commit(self) -> None:
        connection = self._begun()
        context = self._sessions.context
        try:
            with connection.cursor() as cursor:
                for split_id, rows in self._marks:
                    cursor.execute(
                        sql.SQL(
                            "INSERT INTO {} (task_key, split_id, attempt, row_count)"
                            " VALUES (%s, %s, %s, %s)"
                        ).format(self._commits),
                        [context.task_key, split_id, context.attempt, rows],
                    )
        except psycopg.errors.UniqueViolation as error:
            self.rollback()
            raise SinkError(
                "Another attempt of this task has committed one of these splits already;"
                " nothing of this attempt was written.",
                retryable=True,
            ) from error
        except psycopg.Error as error:
            raise self._sessions.failure(error, self._doing) from error
        try:
            # In a failed transaction COMMIT answers ROLLBACK, and that is no error to the driver.
            status = connection.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            raise self._sessions.failure(error, f"Committing: {self._doing}") from error
        finally:
            self._marks.clear()
        if status != "COMMIT":
            raise SinkError(f"{self._doing} failed: the transaction had been aborted.")

    def rollback(self) -> None:
        self._marks.clear()
        if self._session is None:
            return
        connection = self._session.connection
        if connection.closed:
            return  # the server has rolled back by itself
        if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error as error:
                raise self._sessions.failure(error, self._doing) from error

    def close(self) -> None:
        """Ends the session; the server rolls back what is open."""
        if self._session is not None:
            self._sessions.release(self._session)
            self._session = None

    def _begun(self) -> psycopg.Connection[object]:
        self._sessions.check()
        if self._session is None:
            raise SinkError("The writer is closed.")
        connection = self._session.connection
        try:
            if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
                connection.execute("BEGIN")
        except psycopg.Error as error:
            raise self._sessions.failure(error, self._doing) from error
        return connection

    def _attempt(self, connection: psycopg.Connection[object], part: pa.RecordBatch) -> str | None:
        """Copy all rows, or none and say why; raises what is no fault of a row."""
        self._sessions.check()
        data = encode(part, self._attributes)
        connection.execute("SAVEPOINT batch")
        try:
            with connection.cursor() as cursor, cursor.copy(self._copy) as copy:
                for start in range(0, len(data), _PIECE):
                    copy.write(data[start : start + _PIECE])
        except psycopg.Error as error:
            if connection.closed or not is_row_fault(error):
                raise
            connection.execute("ROLLBACK TO SAVEPOINT batch")
            return row_reason(error)
        connection.execute("RELEASE SAVEPOINT batch")
        return None
