"""SQLite files as sources and sinks, over the standard library's driver.

A source reads in read-only transactions. A sink is one writer with one transaction for the whole
task: append, overwrite (DELETE, then INSERT) and upsert (ON CONFLICT DO UPDATE) are all or nothing,
with the commit marks in the same transaction; `publish: split` commits split by split and resumes.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from exchangis.connectors.base import Capabilities, Connector, Context, Param, Sink, Source
from exchangis.connectors.params import check_params
from exchangis.connectors.sqlite.database import (
    Cancel,
    database_path,
    open_database,
    table_name,
    table_names,
    translated,
)
from exchangis.connectors.sqlite.sink import SQLiteSink
from exchangis.connectors.sqlite.source import SQLiteSource
from exchangis.domain.errors import SourceError
from exchangis.domain.model import Connection, DataSet, Publish, WriteMode


class SQLite(Connector):
    """One SQLite database file."""

    name = "SQLITE"
    title = "SQLite"
    type_id = 20
    params = (Param("path", "The database file", required=True),)
    options = (
        Param(
            "mismatched",
            "Source: what becomes of a value that does not fit its column's declared type",
            kind="choice",
            default="error",
            choices=("error", "null"),
        ),
        Param(
            "epoch_unit",
            "Source: unit of integers in date and time columns, counted from 1970",
            kind="choice",
            default="seconds",
            choices=("seconds", "milliseconds", "microseconds"),
        ),
        Param("as_text", "Source: columns, separated by commas, to read as text"),
        Param(
            "nan",
            "Sink: whether a NaN, which SQLite cannot hold, is a dirty record or NULL",
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

    def test(self, connection: Connection, context: Context) -> str:
        cancel = Cancel()
        cancel.close(open_database(database_path(connection, context), "ro", cancel))
        return f"SQLite {sqlite3.sqlite_version}"

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> Source:
        options = self._options(dataset)
        names = (name.strip() for name in str(options.get("as_text", "")).split(","))
        return SQLiteSource(
            database_path(connection, context),
            table_name(dataset),
            context,
            mismatched=options["mismatched"],
            epoch_unit=options["epoch_unit"],
            as_text=frozenset(name for name in names if name),
        )

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> Sink:
        return SQLiteSink(
            database_path(connection, context),
            table_name(dataset),
            context,
            nan_as_null=self._options(dataset)["nan"] == "null",
        )

    def _options(self, dataset: DataSet) -> dict[str, Any]:
        return check_params(self.options, dataset.options, prefix="options")

    def databases(self, connection: Connection, context: Context) -> list[str]:
        return ["main"]

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        cancel = Cancel()
        opened = open_database(database_path(connection, context), "ro", cancel)
        try:
            return table_names(opened)
        except sqlite3.Error as error:
            raise translated(error, SourceError, "SQLITE", cancel) from error
        finally:
            cancel.close(opened)
