"""Stored jobs: what can be executed again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from sqlalchemy import Connection, delete, insert, select, update

from exchangis.domain.errors import InvalidRequest, NotFound
from exchangis.store.database import Database
from exchangis.store.paging import Page, contains, read_page
from exchangis.store.schema import jobs
from exchangis.store.values import check_values, is_id


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A stored job. `content` and `params` are JSON texts, as checked by the service."""

    id: int
    project_id: int | None
    name: str
    type: str
    engine: str
    description: str
    labels: str
    execute_user: str
    execute_node: str
    sync_type: str
    params: str | None
    content: str | None
    created_by: str
    created_at: int
    modified_by: str
    modified_at: int


class JobFields(TypedDict, total=False):
    """What a caller may set; a field that is not given stays as it is."""

    project_id: int | None
    name: str
    type: str
    engine: str
    description: str
    labels: str
    execute_user: str
    execute_node: str
    sync_type: str
    params: str | None
    content: str | None


_NAME_LENGTH = 255


class Jobs:
    """Stored jobs. Unknown ids are NotFound."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, *, user: str, now: int, **fields: Unpack[JobFields]) -> JobRecord:
        """Store a new job; `name` is required, type is OFFLINE and engine native if not given."""
        if not fields.get("name"):
            raise InvalidRequest.field("name", fields.get("name"), "is required")
        values: dict[str, Any] = {"type": "OFFLINE", "engine": "native", **fields}
        return self._db.transact(lambda connection: _insert(connection, values, user, now))

    def get(self, job_id: int) -> JobRecord:
        """The job of that id."""
        with self._db.read() as connection:
            return _find(connection, job_id)

    def update(self, job_id: int, *, user: str, now: int, **fields: Unpack[JobFields]) -> JobRecord:
        """Change the fields that are given, and no other."""
        values = {**fields, "modified_by": user, "modified_at": now}
        check_values(jobs, values)

        def work(connection: Connection) -> JobRecord:
            _find(connection, job_id)
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
            return _find(connection, job_id)

        return self._db.transact(work)

    def copy(self, job_id: int, *, name: str | None = None, user: str, now: int) -> JobRecord:
        """A second job with the same content, named `name` or `<name>_copy`."""

        def work(connection: Connection) -> JobRecord:
            source = _find(connection, job_id)
            values = {
                column.name: getattr(source, column.name)
                for column in jobs.c
                if column.name in JobFields.__annotations__
            }
            values["name"] = name or f"{source.name[: _NAME_LENGTH - len('_copy')]}_copy"
            return _insert(connection, values, user, now)

        return self._db.transact(work)

    def delete(self, job_id: int) -> None:
        """Remove the job; its executions stay in the history."""

        def work(connection: Connection) -> None:
            _find(connection, job_id)
            connection.execute(delete(jobs).where(jobs.c.id == job_id))

        self._db.transact(work)

    def query(
        self,
        *,
        project_id: int | None = None,
        type_name: str | None = None,
        name: str | None = None,
        page: int = 1,
        size: int = 10,
    ) -> Page[JobRecord]:
        """Jobs whose name holds `name`, newest first; None or empty means any."""
        conditions = []
        if project_id is not None:
            conditions.append(jobs.c.project_id == project_id)
        if type_name:
            conditions.append(jobs.c.type == type_name)
        if name:
            conditions.append(contains(jobs.c.name, name))
        with self._db.read() as connection:
            return read_page(
                connection, jobs, list(jobs.c), conditions, _record, page=page, size=size
            )


def _record(row: Any) -> JobRecord:
    return JobRecord(**row._mapping)


def _find(connection: Connection, job_id: int) -> JobRecord:
    if not is_id(job_id):
        raise _unknown(job_id)
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise _unknown(job_id)
    return _record(row)


def _insert(connection: Connection, values: dict[str, Any], user: str, now: int) -> JobRecord:
    stamped = {
        **values, "created_by": user, "created_at": now, "modified_by": user, "modified_at": now,
    }  # fmt: skip
    check_values(jobs, stamped)
    key = connection.execute(insert(jobs).values(stamped)).inserted_primary_key
    assert key is not None
    return _find(connection, key[0])


def _unknown(job_id: int) -> NotFound:
    return NotFound(f"There is no job {job_id}.")
