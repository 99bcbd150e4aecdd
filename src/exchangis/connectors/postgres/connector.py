"""PostgreSQL (9.5 and later; page splits from 14) as source and sink.

In a job content, `POSTGRESQL.7.public.orders` names data source 7, *schema* `public` and table
`orders`: the database is a property of the connection, as PostgreSQL has it. Without a schema it is
`public`; the connection's own database name in that place means `public` too, unless a schema has
that name.

A filter is evaluated with `search_path = pg_catalog`: functions, types and operators of other
schemas are written with their schema, e.g. `public.similarity(a, 'x') > 0.5`. Because of that a
`citext` column compares like plain text in a filter, with case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from exchangis.connectors.base import Capabilities, Connector, Context, Param, Sink, Source
from exchangis.connectors.params import check_params
from exchangis.connectors.postgres.catalog import find_schema
from exchangis.connectors.postgres.errors import failure
from exchangis.connectors.postgres.session import connect, masker, place, terminate
from exchangis.connectors.postgres.sink import PostgresSink
from exchangis.connectors.postgres.source import PostgresSource
from exchangis.domain.errors import SourceError
from exchangis.domain.model import Connection, DataSet, Publish, WriteMode


class PostgreSQL(Connector):
    """Reads by COPY on one snapshot, writes by COPY with commit marks."""

    name = "POSTGRESQL"
    title = "PostgreSQL"
    type_id = 5
    params = (
        Param("host", "Host name or address of the server", required=True),
        Param("port", "Port", "integer", default=5432, minimum=1, maximum=65535),
        Param("username", "Role to log in as", required=True),
        Param("password", "Its password", secret=True),
        Param("database", "Database to connect to", required=True),
        Param(
            "connect_timeout",
            "Seconds to wait for a connection",
            "integer",
            default=10,
            minimum=2,
            maximum=600,
        ),
        Param(
            "sslmode",
            "Whether to use TLS, and how far to check the server",
            "choice",
            default="prefer",
            choices=("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
        ),
        Param("sslrootcert", "File with the trusted root certificates"),
    )
    options = (
        Param(
            "infinite_dates",
            "Source: infinite dates, dates before our era and 24:00:00 fail the task or become"
            " null",
            "choice",
            default="error",
            choices=("error", "null"),
        ),
        Param(
            "nan_numerics",
            "Source: NaN in a numeric column with a precision fails the task or becomes null",
            "choice",
            default="error",
            choices=("error", "null"),
        ),
        Param(
            "overwrite_with",
            "Sink: how overwrite empties the table; delete lets readers go on, leaving dead rows",
            "choice",
            default="truncate",
            choices=("truncate", "delete"),
        ),
    )
    capabilities = Capabilities(
        write_modes=frozenset({WriteMode.APPEND, WriteMode.OVERWRITE, WriteMode.UPSERT}),
        publish=frozenset({Publish.TASK, Publish.SPLIT}),
        filters=True,
        staged=True,
    )

    def test(self, connection: Connection, context: Context) -> str:
        with self._session(connection, "Testing") as session:
            row = session.execute("SELECT pg_catalog.current_setting('server_version')").fetchone()
        return f"PostgreSQL {row[0] if row else 'of unknown version'}"

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> Source:
        return PostgresSource(connection, self._checked(dataset), context)

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> Sink:
        return PostgresSink(connection, self._checked(dataset), context)

    def end_sessions(
        self, connection: Connection, sessions: Sequence[str], context: Context
    ) -> None:
        pids = [int(session) for session in sessions if session.isdecimal()]
        if not pids:
            return
        try:
            terminate(connection, pids)
        except psycopg.Error as error:
            raise failure(error, SourceError, "Ending sessions", masker(connection)) from error

    def databases(self, connection: Connection, context: Context) -> list[str]:
        """Schemas that the user may use, the system's own left out."""
        with self._session(connection, "Listing schemas") as session:
            rows = session.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
                " AND nspname <> 'information_schema' AND has_schema_privilege(oid, 'USAGE')"
                ' ORDER BY nspname COLLATE "C"'
            )
            return [row[0] for row in rows]

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        """Tables and views of a schema (`public` by default), without our own."""
        with self._session(connection, "Listing tables") as session:
            schema = find_schema(session, database, connection.get("database"))
            rows = session.execute(
                "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
                " AND c.relname <> 'exchangis_commits' AND c.relname !~ '^exchangis_stg_'"
                ' ORDER BY c.relname COLLATE "C"',
                [schema],
            )
            return [row[0] for row in rows]

    def _checked(self, dataset: DataSet) -> DataSet:
        """The data set with its options checked and completed; else InvalidRequest."""
        options = check_params(self.options, dataset.options, prefix="options")
        return dataset.model_copy(update={"options": options})

    @contextmanager
    def _session(self, connection: Connection, doing: str) -> Iterator[psycopg.Connection[Any]]:
        with connect(connection) as session:
            try:
                yield session
            except psycopg.Error as error:
                what = f"{doing} in {place(connection)}"
                raise failure(error, SourceError, what, masker(connection)) from error
