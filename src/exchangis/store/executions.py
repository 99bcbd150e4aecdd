"""Executions: submitting them, asking about them, and their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select

from exchangis.domain.errors import Conflict, NotFound
from exchangis.domain.loglines import LogLine
from exchangis.domain.states import FINAL, UNFINISHED, State
from exchangis.store import log_lines
from exchangis.store.database import Database
from exchangis.store.paging import Page, contains, read_page
from exchangis.store.schema import executions, log_chunks, log_streams, tasks
from exchangis.store.values import check_values, is_id


@dataclass(frozen=True, slots=True)
class ExecutionStatus:
    """What is polled most: one row's state, progress (0..1) and tasks not final yet."""

    state: State
    progress: float
    open_tasks: int
    total_tasks: int

    @property
    def all_final(self) -> bool:
        """Whether the job and all its tasks are final (`allTaskStatus`)."""
        return self.state in FINAL and self.open_tasks == 0


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """An execution. Times in milliseconds, `flow` in records/s over all its tasks."""

    id: int
    execution_id: str
    job_id: int | None
    project_id: int | None
    job_name: str
    engine: str
    execute_node: str
    permit_partial: bool
    strict: bool
    state: State
    progress: float
    total_tasks: int
    open_tasks: int
    flow: float
    created_by: str
    execute_user: str
    created_at: int
    launched_at: int | None
    updated_at: int
    ended_at: int | None
    timeout_ms: int | None
    deadline: int | None
    kill_requested_at: int | None
    kill_user: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task of an execution: its state and its metrics (contract, calls 3 to 5).

    `cpu` is vcores in use, `memory` bytes in use, `flow` records/s (the average once final).
    """

    id: int
    execution_id: str
    position: int
    name: str
    engine: str
    source_type: str
    sink_type: str
    execute_user: str
    state: State
    progress: float
    weight: float | None
    attempt: int
    failures: int
    max_attempts: int
    owner: str | None
    next_attempt_at: int | None
    created_at: int
    launched_at: int | None
    updated_at: int
    ended_at: int | None
    deadline: int | None
    cpu: float
    memory: int
    flow: float
    read_records: int
    exchanged_records: int
    error_records: int
    ignored_records: int
    read_bytes: int
    external_id: str | None
    external_info: str | None
    error_code: str | None
    error: str | None
    dirty_file: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """What was submitted: the JSON texts of content and job variables."""

    content: str
    params: str | None


@dataclass(frozen=True, slots=True)
class HistoryFilter:
    """Which executions; None (or an empty text) means any. Launch times in ms, both inclusive."""

    execution_id: str | None = None
    job_id: int | None = None
    job_name: str | None = None
    state: State | None = None
    launched_from_ms: int | None = None
    launched_to_ms: int | None = None
    project_id: int | None = None


_EXECUTION = [executions.c[field.name] for field in fields(ExecutionRecord)]
_TASK = [tasks.c[field.name] for field in fields(TaskRecord)]
_STATUS = select(
    executions.c.state, executions.c.progress, executions.c.open_tasks, executions.c.total_tasks
).where(executions.c.execution_id == bindparam("execution_id"))


class Executions:
    """Executions and their tasks. Unknown ids are NotFound, which names them."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def submit(
        self,
        execution_id: str,
        *,
        job_id: int | None,
        project_id: int | None,
        job_name: str,
        engine: str,
        execute_node: str = "",
        content: str,
        params: str | None = None,
        permit_partial: bool = False,
        strict: bool = False,
        created_by: str,
        execute_user: str,
        timeout_ms: int | None = None,
        story: Sequence[LogLine] = (),
        now: int,
    ) -> None:
        """Store a new execution as Inited, with the first lines of its job log."""
        values: dict[str, Any] = {
            "execution_id": execution_id,
            "job_id": job_id,
            "project_id": project_id,
            "job_name": job_name,
            "engine": engine,
            "execute_node": execute_node,
            "content": content,
            "params": params,
            "permit_partial": permit_partial,
            "strict": strict,
            "state": State.INITED,
            "created_by": created_by,
            "execute_user": execute_user,
            "created_at": now,
            "updated_at": now,
            "timeout_ms": timeout_ms,
            "deadline": None if timeout_ms is None else now + timeout_ms,
        }
        check_values(executions, values)

        def work(connection: Connection) -> None:
            connection.execute(insert(executions).values(values))
            stream = log_lines.job_stream(execution_id)
            log_lines.create(connection, [stream], execution_id)
            log_lines.append(connection, stream, story)

        self._db.transact(work)

    def status(self, execution_id: str) -> ExecutionStatus:
        """State and progress: one row by its unique index."""
        with self._db.read() as connection:
            row = connection.execute(_STATUS, {"execution_id": execution_id}).first()
        if row is None:
            raise _unknown(execution_id)
        return ExecutionStatus(State(row[0]), row[1], row[2], row[3])

    def get(self, execution_id: str) -> ExecutionRecord:
        """All about an execution but its content, which `submission` gives."""
        with self._db.read() as connection:
            row = connection.execute(
                select(*_EXECUTION).where(executions.c.execution_id == execution_id)
            ).first()
        if row is None:
            raise _unknown(execution_id)
        return _execution(row)

    def submission(self, execution_id: str) -> Submission:
        """The content and the variables as submitted."""
        query = select(executions.c.content, executions.c.params)
        with self._db.read() as connection:
            row = connection.execute(query.where(executions.c.execution_id == execution_id)).first()
        if row is None:
            raise _unknown(execution_id)
        return Submission(row.content, row.params)

    def task_list(self, execution_id: str) -> list[TaskRecord]:
        """The execution's tasks in the order of its content; none before they are made."""
        query = select(*_TASK).where(tasks.c.execution_id == execution_id)
        with self._db.read() as connection:
            found = [_task(row) for row in connection.execute(query.order_by(tasks.c.position))]
            if not found:
                self._require(connection, execution_id)
        return found

    def task(self, task_id: int) -> TaskRecord:
        """One task."""
        if not is_id(task_id):
            raise NotFound(f"There is no task {task_id}.")
        with self._db.read() as connection:
            row = connection.execute(select(*_TASK).where(tasks.c.id == task_id)).first()
        if row is None:
            raise NotFound(f"There is no task {task_id}.")
        return _task(row)

    def history(
        self, wanted: HistoryFilter = HistoryFilter(), *, page: int = 1, size: int = 10
    ) -> Page[ExecutionRecord]:
        """Executions, newest first."""
        with self._db.read() as connection:
            return read_page(
                connection, executions, _EXECUTION, _conditions(wanted), _execution,
                page=page, size=size,
            )  # fmt: skip

    def unfinished_count(self) -> int:
        """Executions that are not final, or have tasks that are not."""
        query = select(func.count()).where(executions.c.state.in_(UNFINISHED))
        with self._db.read() as connection:
            return int(connection.execute(query).scalar_one())

    def delete(self, execution_id: str) -> None:
        """Remove a finished execution with its tasks and logs; Conflict while work is under way."""

        def work(connection: Connection) -> None:
            row = connection.execute(
                select(executions.c.state, executions.c.open_tasks)
                .where(executions.c.execution_id == execution_id)
                .with_for_update()
            ).first()
            if row is None:
                raise _unknown(execution_id)
            if State(row.state) not in FINAL:
                raise Conflict(
                    f"Execution {execution_id} is {row.state}: it can be deleted once it is final.",
                    guidance="Kill it first.",
                )
            if row.open_tasks:
                raise Conflict(
                    f"Execution {execution_id} is {row.state}, but {row.open_tasks} of its tasks "
                    "are still being stopped: try again shortly."
                )
            _remove(connection, execution_id)

        self._db.transact(work)

    def purge(self, *, before_ms: int, limit: int = 100) -> int:
        """Remove up to `limit` executions that ended before, oldest first, each for itself.

        Returns how many; fewer than `limit` means that none is left.
        """
        query = (
            select(executions.c.execution_id)
            .where(
                executions.c.ended_at < before_ms,
                executions.c.state.in_(FINAL),
                executions.c.open_tasks == 0,
            )
            .order_by(executions.c.ended_at)
            .limit(limit)
        )
        with self._db.read() as connection:
            old = connection.execute(query).scalars().all()
        for execution_id in old:
            self._db.transact(lambda c, x=execution_id: _remove(c, x))  # type: ignore[misc]
        return len(old)

    def _require(self, connection: Connection, execution_id: str) -> None:
        query = select(executions.c.id).where(executions.c.execution_id == execution_id)
        if connection.execute(query).first() is None:
            raise _unknown(execution_id)


def _unknown(execution_id: str) -> NotFound:
    return NotFound(f"There is no execution {execution_id}.")


def _execution(row: Any) -> ExecutionRecord:
    values = dict(row._mapping)
    return ExecutionRecord(**{**values, "state": State(row.state)})


def _task(row: Any) -> TaskRecord:
    return TaskRecord(**{**row._mapping, "state": State(row.state)})


def _conditions(wanted: HistoryFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.execution_id:
        conditions.append(executions.c.execution_id == wanted.execution_id)
    if wanted.job_id is not None:
        conditions.append(executions.c.job_id == wanted.job_id)
    if wanted.project_id is not None:
        conditions.append(executions.c.project_id == wanted.project_id)
    if wanted.job_name:
        conditions.append(contains(executions.c.job_name, wanted.job_name))
    if wanted.state:
        conditions.append(executions.c.state == wanted.state)
    if wanted.launched_from_ms is not None:
        conditions.append(executions.c.launched_at >= wanted.launched_from_ms)
    if wanted.launched_to_ms is not None:
        conditions.append(executions.c.launched_at <= wanted.launched_to_ms)
    return conditions


def _remove(connection: Connection, execution_id: str) -> None:
    streams = select(log_streams.c.id).where(log_streams.c.execution_id == execution_id)
    connection.execute(delete(log_chunks).where(log_chunks.c.stream_id.in_(streams)))
    connection.execute(delete(log_streams).where(log_streams.c.execution_id == execution_id))
    connection.execute(delete(tasks).where(tasks.c.execution_id == execution_id))
    connection.execute(delete(executions).where(executions.c.execution_id == execution_id))
