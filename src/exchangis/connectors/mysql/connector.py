"""The MySQL and MariaDB connector (MySQL 5.7 and later, MariaDB 10.3 and later)."""

from __future__ import annotations

from collections.abc import Sequence

from exchangis.connectors import marks
from exchangis.connectors.base import (
    Capabilities,
    Connector,
    Context,
    Param,
    Sink,
    Source,
)
from exchangis.connectors.mysql.session import (
    Server,
    Session,
    Sessions,
    is_mariadb,
    kill_sessions,
    literal,
)
from exchangis.connectors.mysql.sink import MySQLSink
from exchangis.connectors.mysql.source import MySQLSource
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import Connection, DataSet, Publish, WriteMode

_OWN = (marks.TABLE, "exchangis_stg_")
_SYSTEM = ("information_schema", "mysql", "performance_schema", "sys")


class MySQL(Connector):
    """Tables of MySQL and MariaDB, over PyMySQL alone."""

    name = "MYSQL"
    title = "MySQL / MariaDB"
    type_id = 1
    params = (
        Param("host", "Host name or address of the server.", required=True),
        Param("port", "Port of the server.", "integer", default=3306, minimum=1, maximum=65535),
        Param("username", "User to log in as.", required=True),
        Param("password", "The user's password.", secret=True),
        Param("database", "Database of tables that name none."),
        Param(
            "connect_timeout", "Seconds to wait for a connection.", "integer",
            default=10, minimum=1, maximum=300,
        ),
        Param(
            "ssl_mode",
            "TLS: disabled; preferred (where the server offers it, unchecked); required "
            "(unchecked); verify (certificate and host name are checked).",
            "choice", default="preferred", choices=("disabled", "preferred", "required", "verify"),
        ),
        Param("ssl_ca", "File of the certificate authorities to trust with ssl_mode verify."),
        Param(
            "time_zone",
            "Offset from UTC of the sessions' time zone: for functions in filters, and for times "
            "without a zone written to TIMESTAMP columns. TIMESTAMP values stay the instants that "
            "they are.",
            default="+00:00",
        ),
    )  # fmt: skip
    options = (
        Param(
            "zero_dates",
            "What a source does with 0000-00-00 and other dates of no calendar: error, or null.",
            "choice", default="error", choices=("error", "null"),
        ),
    )  # fmt: skip
    capabilities = Capabilities(
        write_modes=frozenset(WriteMode),
        publish=frozenset(Publish),
        filters=True,
        max_writers=None,
        addressing="table",
        databases=True,
        staged=True,
    )

    def test(self, connection: Connection, context: Context) -> str:
        sessions, session = _open(connection, context)
        try:
            with session.errors("asking for the version"):
                found = session.one("SELECT VERSION()")
            version = str(found[0]) if found else ""
            # MariaDB calls itself 10.11.6-MariaDB-0+deb12u1, MySQL 8.0.36-log.
            product = "MariaDB" if is_mariadb(version) else "MySQL"
            return f"{product} {version.split('-')[0]}"
        finally:
            sessions.close()

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> Source:
        return MySQLSource(
            Server.of(connection), _database(connection, dataset, "source"), dataset, context
        )

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> Sink:
        return MySQLSink(
            Server.of(connection), _database(connection, dataset, "sink"), dataset, context
        )

    def end_sessions(
        self, connection: Connection, sessions: Sequence[str], context: Context
    ) -> None:
        kill_sessions(Server.of(connection), [int(text) for text in sessions if text.isdigit()])

    def databases(self, connection: Connection, context: Context) -> list[str]:
        sessions, session = _open(connection, context)
        try:
            with session.errors("listing databases"):
                found = session.rows("SHOW DATABASES")
            return sorted(str(row[0]) for row in found if str(row[0]).lower() not in _SYSTEM)
        finally:
            sessions.close()

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        wanted = database or connection.get("database")
        if not wanted:
            raise InvalidRequest.field("database", database, "is required")
        sessions, session = _open(connection, context)
        try:
            with session.errors(f"listing the tables of {wanted}"):
                found = session.rows(
                    "SELECT TABLE_NAME FROM information_schema.TABLES "
                    f"WHERE TABLE_SCHEMA = {literal(str(wanted))}"
                )
            names = (str(row[0]) for row in found)
            return sorted(name for name in names if not name.startswith(_OWN))
        finally:
            sessions.close()


def _open(connection: Connection, context: Context) -> tuple[Sessions, Session]:
    sessions = Sessions(Server.of(connection), "source", context.session)
    return sessions, sessions.open()


def _database(connection: Connection, dataset: DataSet, side: str) -> str:
    """The data set's database, else the connection's; InvalidRequest when there is neither."""
    if not dataset.table:
        raise InvalidRequest.field(f"{side}.table", dataset.table, "is required")
    database = dataset.database or connection.get("database")
    if not database:
        raise InvalidRequest.field(
            f"{side}.database", dataset.database, "is required: the data source names none"
        )
    return str(database)
