"""Writing a table of MySQL or MariaDB.

append     all or nothing with `publish: task` (one transaction per lane, completed by marks after a
           crash between two commits); resumable by split with `publish: split`.
overwrite  all or nothing, resumable: rows go to a staging table made like the target, which then
           takes the target's name in one RENAME TABLE. Where the target has triggers, foreign keys
           (either way) or system versions, which a new table would not have, its rows are replaced
           in one transaction instead.
upsert     all or nothing, resumable: rows go to a staging table, then one INSERT ... SELECT ... ON
           DUPLICATE KEY UPDATE in the order in which they came, so that later rows win.

Engines without transactions (MyISAM, Aria) cannot keep "all or nothing"; a warning says so. DDL
commits by itself in these servers: every step is written so that it can be repeated, and a named
lock on the server keeps two attempts of one task from taking steps at the same time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from exchangis.connectors.base import (
    Context,
    Resume,
    Sink,
    TableSchema,
    Writer,
    WriteRequest,
)
from exchangis.connectors.marks import PLAN, PUBLISHED, PUBLISHING, staging_name
from exchangis.connectors.marks import TABLE as COMMITS
from exchangis.connectors.mysql.catalog import (
    Table,
    find_table,
    has_triggers_or_foreign_keys,
    table_exists,
)
from exchangis.connectors.mysql.marks import Mark, Marks
from exchangis.connectors.mysql.publish import (
    SEQUENCE,
    Replacement,
    insert_select,
    upsert_select,
)
from exchangis.connectors.mysql.render import Target
from exchangis.connectors.mysql.session import Server, Session, Sessions, literal, quote
from exchangis.connectors.mysql.types import created_schema
from exchangis.connectors.mysql.writer import Destination, MySQLWriter
from exchangis.domain.errors import InvalidRequest, SinkError
from exchangis.domain.model import DataSet, WriteMode

_LOCK_SECONDS = 30


class MySQLSink(Sink):
    """One table. `prepare` decides where rows go; `publish` and `discard` end the task."""

    def __init__(self, server: Server, database: str, dataset: DataSet, context: Context) -> None:
        self._server = server
        self._database = database
        self._name = dataset.table or ""
        self._label = f"{database}.{self._name}"
        self._context = context
        self._sessions = Sessions(server, "sink", context.session)
        self._marks = Marks(database, context.task_key)
        self._staging = staging_name(context.task_key)
        self._request: WriteRequest | None = None
        self._keys: tuple[str, ...] = ()
        self._into: Destination | None = None

    @contextlib.contextmanager
    def _admin(self, doing: str) -> Iterator[Session]:
        """A session for DDL and marks, its errors the task's."""
        session = self._sessions.open()
        try:
            with session.errors(f"{doing} {self._label}"):
                yield session
        finally:
            session.close()

    @contextlib.contextmanager
    def _alone(self, doing: str) -> Iterator[Session]:
        """The same, while no other attempt of this task takes such steps."""
        with self._admin(doing) as session:
            got = session.one(f"SELECT GET_LOCK({literal(self._staging)}, {_LOCK_SECONDS})")
            if not got or got[0] != 1:
                raise SinkError(
                    f"Another attempt of this task is still at work on {self._label}.",
                    retryable=True,
                )
            yield session

    def _sql(self, name: str) -> str:
        return f"{quote(self._database)}.{quote(name)}"

    def schema(self) -> TableSchema | None:
        with self._admin("looking up") as session:
            table = find_table(session, self._database, self._name)
        return table.schema(writable=True) if table else None

    def proposed(self, wanted: TableSchema) -> TableSchema:
        with self._admin("planning") as session:
            return created_schema(wanted, wanted.primary_key, _key_collation(session))

    def prepare(self, request: WriteRequest, plan: str) -> Resume:
        self._request = request
        with self._alone("preparing") as session:
            self._marks.create(session)
            self._marks.sweep(session)
            found = self._marks.read(session)
            if PUBLISHED in found:
                self._drop_leftovers(session)
                return _resume(found, published=True)
            first = PLAN not in found
            if first:
                self._marks.note(session, PLAN, self._context.attempt, plan)
            target = self._checked_target(session, request)
            if request.mode is WriteMode.APPEND:
                target = target or self._create(session, self._name, request)
                self._into = self._destination(session, target)
            elif PUBLISHING in found and find_table(session, self._database, self._staging) is None:
                self._replacement.finish(session)
                found = self._marks.read(session)
                return _resume(found, published=True)
            else:
                if request.mode is WriteMode.UPSERT:
                    target = target or self._create(session, self._name, request)
                    self._keys = self._checked_keys(target, request)
                self._into = self._stage(session, target, keep=not first)
            return _resume(self._marks.read(session))

    def _checked_target(self, session: Session, request: WriteRequest) -> Table | None:
        target = find_table(session, self._database, self._name)
        if target is None:
            if not request.create:
                raise SinkError(
                    f"There is no table {self._label} on {self._server.label}.",
                    guidance="Create it, or let the task create it (create_table).",
                )
            return None
        self._name = target.name
        if target.is_view:
            raise SinkError(
                f"{self._label} is a view.", guidance="Name the table that it shows instead."
            )
        for column in request.schema.columns:
            native = target.column(column.name)
            if native is None or native.generated:
                raise SinkError(
                    f"{self._label} has no column {column.name} that can be written.",
                    guidance=f"It has {', '.join(column.name for column in target.columns)}.",
                )
        return target

    def _create(self, session: Session, name: str, request: WriteRequest) -> Table:
        keys = request.key_columns or request.schema.primary_key
        if request.mode is WriteMode.UPSERT and not keys:
            raise InvalidRequest.field(
                "key_columns", [], f"are required: {self._label} is made by this task for upsert"
            )
        schema = created_schema(request.schema, tuple(keys), _key_collation(session))
        parts = [
            f"{quote(column.name)} {column.native_type}{'' if column.nullable else ' NOT NULL'}"
            for column in schema.columns
        ]
        if keys:
            parts.append(f"PRIMARY KEY ({', '.join(map(quote, keys))})")
        session.run(
            f"CREATE TABLE IF NOT EXISTS {self._sql(name)} ({', '.join(parts)}) "
            "ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"
        )
        return self._existing(session, name)

    def _existing(self, session: Session, name: str) -> Table:
        table = find_table(session, self._database, name)
        if table is None:
            raise SinkError(f"{self._database}.{name} was made and is gone again.", retryable=True)
        return table

    def _checked_keys(self, target: Table, request: WriteRequest) -> tuple[str, ...]:
        """The upsert's key, if the table has a unique index on just those columns."""
        keys = request.key_columns or target.primary_key
        if not keys:
            raise SinkError(
                f"{self._label} has no primary key to find rows by.",
                guidance="Name key_columns for which the table has a unique index.",
            )
        wanted = {key.lower() for key in keys}
        if not any({name.lower() for name in i.columns} == wanted for i in target.indexes):
            raise SinkError(
                f"{self._label} has no primary key or unique index on ({', '.join(keys)}).",
                guidance="An upsert needs one on exactly its key columns.",
            )
        filled = {name.lower() for name in request.schema.names}
        if missing := [key for key in keys if key.lower() not in filled]:
            raise SinkError(f"The task does not fill key column {', '.join(missing)}.")
        others = [i.name for i in target.indexes if {c.lower() for c in i.columns} != wanted]
        if others:
            self._context.log(
                "WARN",
                f"{self._label} has further unique indexes ({', '.join(others)}): the server also "
                "updates a row that is equal in one of those.",
            )
        return tuple(keys)

    def _stage(self, session: Session, target: Table | None, *, keep: bool) -> Destination:
        """The staging table, with the rows that its split marks speak of, or empty without any."""
        assert self._request is not None
        staging = find_table(session, self._database, self._staging)
        if staging is not None and not (keep and self._is_transactional(session, staging)):
            session.run(f"DROP TABLE {self._sql(self._staging)}")
            staging = None
        if staging is None:
            self._marks.forget(session, keep=(PLAN,))
            staging = self._create_staging(session, target, self._request)
        return self._destination(session, staging)

    def _create_staging(
        self, session: Session, target: Table | None, request: WriteRequest
    ) -> Table:
        if target is None:
            return self._create(session, self._staging, request)
        if request.mode is WriteMode.OVERWRITE:
            session.run(f"CREATE TABLE {self._sql(self._staging)} LIKE {self._sql(target.name)}")
        else:
            # Without the target's unique indexes: of rows with one key the later one wins.
            names = ", ".join(map(quote, request.schema.names))
            session.run(
                f"CREATE TABLE {self._sql(self._staging)} "
                f"({quote(SEQUENCE)} BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY) "
                f"ENGINE=InnoDB SELECT {names} FROM {self._sql(target.name)} LIMIT 0"
            )
        return self._existing(session, self._staging)

    def _is_transactional(self, session: Session, table: Table) -> bool:
        found = session.one(
            "SELECT TRANSACTIONS FROM information_schema.ENGINES "
            f"WHERE ENGINE = {literal(table.engine)}"
        )
        return bool(found and found[0] == "YES")

    def _destination(self, session: Session, table: Table) -> Destination:
        assert self._request is not None
        transactional = self._is_transactional(session, table)
        if not transactional:
            self._context.log(
                "WARN",
                f"{self._label} uses the engine {table.engine}, which has no transactions: a task "
                "that fails leaves the rows written so far, a retry may write rows twice, and "
                "rows are written one by one.",
            )
        targets = []
        for name in self._request.schema.names:
            native = table.column(name)
            if native is None:
                raise SinkError(f"{self._database}.{table.name} has no column {name}.")
            targets.append(Target(name, native))
        return Destination(
            label=self._label,
            sql=self._sql(table.name),
            targets=tuple(targets),
            schema=self._request.schema.arrow,
            transactional=transactional,
        )

    def open_writer(self) -> Writer:
        if self._into is None:
            raise SinkError(f"{self._label} was not prepared for writing.")
        session = self._sessions.open(bulk=True)
        try:
            return MySQLWriter(
                session,
                self._into,
                self._marks,
                self._context.attempt,
                warn=lambda text: self._context.log("WARN", text),
            )
        except BaseException:
            session.abort()
            raise

    @property
    def _replacement(self) -> Replacement:
        return Replacement(
            self._database, self._name, self._staging, self._marks, self._context.attempt
        )

    def publish(self) -> None:
        request = self._request
        if request is None:
            raise SinkError(f"{self._label} was not prepared for publishing.")
        if request.mode is WriteMode.APPEND:
            return
        with self._alone("publishing") as session:
            if PUBLISHED in self._marks.read(session):
                self._drop_leftovers(session)
                return
            if request.mode is WriteMode.UPSERT:
                self._publish_in_transaction(session, request)
                return
            target = find_table(session, self._database, self._name)
            if target is not None and self._must_stay(session, target):
                self._publish_in_transaction(session, request)
                return
            steps = self._replacement
            steps.begin(session)
            steps.rename(session)
            steps.finish(session)

    def _must_stay(self, session: Session, target: Table) -> bool:
        """Whether a table of the same columns could not stand in for the target."""
        return target.kind != "BASE TABLE" or has_triggers_or_foreign_keys(
            session, self._database, target.name
        )

    def _publish_in_transaction(self, session: Session, request: WriteRequest) -> None:
        target, staging = self._sql(self._name), self._sql(self._staging)
        names = request.schema.names
        session.run("START TRANSACTION")
        if request.mode is WriteMode.UPSERT:
            session.run(upsert_select(target, staging, names, self._keys))
        else:
            session.run(f"DELETE FROM {target}")
            session.run(insert_select(target, staging, names))
        self._marks.note(session, PUBLISHED, self._context.attempt)
        session.run("COMMIT")
        self._drop_leftovers(session)

    def _drop_leftovers(self, session: Session) -> None:
        session.run(f"DROP TABLE IF EXISTS {self._sql(self._staging)}")
        session.run(f"DROP TABLE IF EXISTS {self._sql(self._replacement.old)}")

    def discard(self) -> None:
        with self._alone("discarding what was staged for") as session:
            self._drop_leftovers(session)
            if table_exists(session, self._database, COMMITS):
                self._marks.forget(session)

    def cancel(self) -> None:
        self._sessions.cancel()

    def close(self) -> None:
        self._sessions.close()


def _key_collation(session: Session) -> str:
    """A collation in which texts are equal only when their bytes are."""
    found = session.rows(
        "SELECT COLLATION_NAME FROM information_schema.COLLATIONS WHERE COLLATION_NAME IN "
        "('utf8mb4_nopad_bin', 'utf8mb4_0900_bin')"
    )
    return str(found[0][0]) if found else "utf8mb4_bin"


def _resume(found: dict[str, Mark], *, published: bool = False) -> Resume:
    special = {PLAN, PUBLISHING, PUBLISHED}
    plan = found[PLAN].note if PLAN in found else None
    return Resume(
        plan=plan or "",
        done={name: mark.rows for name, mark in found.items() if name not in special},
        published=published,
    )
