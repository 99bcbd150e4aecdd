"""DuckDB files as sources and sinks.

A DuckDB file is open in one writing process or in several reading ones; a source or sink waits for
others to finish. A sink is one writer with one transaction for the whole task, marks included:
append, overwrite (DELETE, then INSERT) and upsert (ON CONFLICT DO UPDATE) are all or nothing;
`publish: split` commits split by split and resumes.
"""

from __future__ import annotations

from typing import Any

import duckdb

from exchangis.connectors.base import Capabilities, Connector, Context, Param, Sink, Source
from exchangis.connectors.duckdb.database import (
    Handle,
    Settings,
    browsing,
    database_path,
    run,
    table_of,
)
from exchangis.connectors.duckdb.sink import DuckDBSink
from exchangis.connectors.duckdb.source import DuckDBSource
from exchangis.connectors.params import check_params
from exchangis.domain.model import Connection, DataSet, Publish, WriteMode


class DuckDB(Connector):
    """One DuckDB database file; a data set's `database` is a schema in it."""

    name = "DUCKDB"
    title = "DuckDB"
    type_id = 21
    params = (Param("path", "The database file", required=True),)
    options = (
        Param(
            "memory_limit_mb",
            "Memory that DuckDB may use; what needs more goes to the task's work folder",
            kind="integer",
            default=256,
            minimum=64,
            maximum=1 << 20,
        ),
        Param("threads", "Threads of DuckDB", kind="integer", default=2, minimum=1, maximum=64),
        Param(
            "infinity",
            "Source: what becomes of infinite dates and times",
            kind="choice",
            default="error",
            choices=("error", "null"),
        ),
    )
    capabilities = Capabilities(
        write_modes=frozenset(WriteMode),
        publish=frozenset(Publish),
        filters=True,
        max_writers=1,
    )

    def _handle(
        self, connection: Connection, options: dict[str, Any], context: Context, *, read_only: bool
    ) -> Handle:
        settings = Settings(options["memory_limit_mb"], options["threads"], context.workdir)
        return Handle(database_path(connection, context), settings, context, read_only=read_only)

    def test(self, connection: Connection, context: Context) -> str:
        settings = Settings(64, 1, context.workdir)
        rows = browsing(connection, context, settings, lambda c: run(c, "SELECT version()"))
        return f"DuckDB {rows[0][0].removeprefix('v')}"

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> Source:
        options = check_params(self.options, dataset.options, prefix="options")
        schema, table = table_of(dataset)
        handle = self._handle(connection, options, context, read_only=True)
        return DuckDBSource(handle, schema, table, context, infinity=options["infinity"])

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> Sink:
        options = check_params(self.options, dataset.options, prefix="options")
        schema, table = table_of(dataset)
        handle = self._handle(connection, options, context, read_only=False)
        return DuckDBSink(handle, schema, table, context)

    def databases(self, connection: Connection, context: Context) -> list[str]:
        def query(cursor: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
            return run(
                cursor,
                "SELECT schema_name FROM duckdb_schemas()"
                " WHERE database_name = current_database()"
                " AND schema_name NOT IN ('information_schema', 'pg_catalog') ORDER BY 1",
            )

        settings = Settings(64, 1, context.workdir)
        return [name for (name,) in browsing(connection, context, settings, query)]

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        def query(cursor: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
            return run(
                cursor,
                "SELECT table_name FROM information_schema.tables"
                " WHERE table_catalog = current_database() AND table_schema = $1"
                " AND NOT starts_with(table_name, 'exchangis_') ORDER BY 1",
                [database or "main"],
            )

        settings = Settings(64, 1, context.workdir)
        return [name for (name,) in browsing(connection, context, settings, query)]
