"""Executing jobs, asking about executions, and ending them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exchangis.config import Settings
from exchangis.domain.clock import now_ms
from exchangis.domain.content import ParsedTask
from exchangis.domain.content_sides import Catalog
from exchangis.domain.content_variables import read_variables
from exchangis.domain.errors import InvalidRequest, NotFound
from exchangis.domain.ids import new_execution_id
from exchangis.domain.loglines import LogLevel, LogLine, make_lines
from exchangis.domain.masking import Masker
from exchangis.domain.states import State
from exchangis.service.planning import check_engine, check_name, plan
from exchangis.store.executions import (
    ExecutionRecord,
    ExecutionStatus,
    HistoryFilter,
    TaskRecord,
)
from exchangis.store.opening import Store
from exchangis.store.paging import Page
from exchangis.store.settle import Settler

BEFORE_RUNNING = frozenset({State.INITED, State.SCHEDULED})
"""Job states in which no task is shown yet (interface document, calls 3 and 4)."""


@dataclass(frozen=True, slots=True)
class ExecuteOptions:
    """What a caller may say of one execution: `timeout` in seconds, `variables` over the job's."""

    permit_partial_failures: bool = False
    strict: bool = False
    timeout: float | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submitted:
    """What is to be executed, stored as a job or not."""

    content: Any
    engine: str
    job_name: str
    execute_user: str
    job_id: int | None = None
    project_id: int | None = None
    execute_node: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


class ExecutionService:
    """`wake` is called after a submission and a kill, so that the scheduler looks at once."""

    def __init__(
        self, settings: Settings, store: Store, catalog: Catalog, wake: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._store = store
        self._catalog = catalog
        self._wake = wake
        self._settler = Settler(store.database, self._story)

    def _story(self, level: LogLevel, text: str) -> list[LogLine]:
        return make_lines(level, text, at_ms=now_ms(), zone=self._settings.zone, mask=Masker())

    # --- submitting -------------------------------------------------------------------------

    def execute_job(self, job_id: int, options: ExecuteOptions, user: str) -> str:
        """Submit a stored job; its `jobExecutionId`, stored as Inited."""
        job = self._store.jobs.get(job_id)
        return self.execute(
            Submitted(
                content=job.content,
                engine=job.engine,
                job_name=job.name,
                execute_user=job.execute_user or user,
                job_id=job.id,
                project_id=job.project_id,
                execute_node=job.execute_node,
                variables=read_variables(job.params),
            ),
            options,
            user,
        )

    def execute(self, work: Submitted, options: ExecuteOptions, user: str) -> str:
        """Check and submit a content; InvalidRequest says why it cannot be carried out.

        Each call is an execution of its own. It is stored when this returns; its tasks are made
        by a scheduler (contract, "Identifiers").
        """
        aliases = self._settings.engine_aliases
        check_engine(work.engine, aliases)
        check_name(work.job_name, "jobName")
        timeout = options.timeout if options.timeout is not None else self._settings.job_timeout
        variables = {**work.variables, **options.variables}
        tasks = plan(
            work.content,
            catalog=self._catalog,
            engine=work.engine,
            aliases=aliases,
            strict=options.strict,
            variables=variables,
        )
        execution_id = new_execution_id()
        self._store.executions.submit(
            execution_id,
            job_id=work.job_id,
            project_id=work.project_id,
            job_name=work.job_name,
            engine=work.engine,
            execute_node=work.execute_node,
            content=_text(work.content),
            params=json.dumps(variables) if variables else None,
            permit_partial=options.permit_partial_failures,
            strict=options.strict,
            created_by=user,
            execute_user=work.execute_user,
            timeout_ms=None if timeout is None else max(int(timeout * 1000), 1),
            story=self._submission_story(execution_id, work, options, tasks, user),
            now=now_ms(),
        )
        self._wake()
        return execution_id

    def _submission_story(
        self,
        execution_id: str,
        work: Submitted,
        options: ExecuteOptions,
        tasks: list[ParsedTask],
        user: str,
    ) -> list[LogLine]:
        which = f"job {work.job_id} ({work.job_name})" if work.job_id else work.job_name
        lines = self._story(
            "INFO",
            f"Execution {execution_id} of {which} submitted by {user}: {len(tasks)} sub job(s)"
            f"{', partial failures permitted' if options.permit_partial_failures else ''}.",
        )
        for task in tasks:
            if task.unknown_keys:
                lines += self._story(
                    "WARN",
                    f"{task.spec.name}: keys that no engine knows, without effect: "
                    f"{', '.join(task.unknown_keys)}",
                )
        return lines

    # --- asking -----------------------------------------------------------------------------

    def status(self, execution_id: str) -> ExecutionStatus:
        """State and progress, the call that is polled most."""
        return self._store.executions.status(_checked(execution_id))

    def get(self, execution_id: str) -> ExecutionRecord:
        """All about an execution."""
        return self._store.executions.get(_checked(execution_id))

    def tasks(self, execution_id: str) -> list[TaskRecord]:
        """The tasks, in order; none before the job is Running (contract, call 3)."""
        if self.status(execution_id).state in BEFORE_RUNNING:
            return []
        return self._store.executions.task_list(execution_id)

    def progress(self, execution_id: str) -> tuple[ExecutionStatus, list[TaskRecord]]:
        """Status and tasks; no tasks before the job is Running (contract, call 4)."""
        status = self.status(execution_id)
        if status.state in BEFORE_RUNNING:
            return status, []
        tasks = self._store.executions.task_list(execution_id)
        # Read after the tasks: a job that ended meanwhile shows its end with its tasks' ends.
        return self.status(execution_id), tasks

    def task(self, task_id: int, execution_id: str) -> TaskRecord:
        """A task of that execution; of another one it is NotFound (contract, call 5)."""
        task = self._store.executions.task(task_id)
        if task.execution_id != execution_id:
            raise NotFound(f"There is no task {task_id} in execution {_shown(execution_id)}.")
        return task

    def history(self, wanted: HistoryFilter, *, page: int, size: int) -> Page[ExecutionRecord]:
        """Executions, newest first."""
        return self._store.executions.history(wanted, page=page, size=size)

    # --- ending -----------------------------------------------------------------------------

    def kill(self, execution_id: str, user: str) -> State:
        """Ask for its end, wherever it runs; see `Settler.kill`. Returns its state now."""
        state = self._settler.kill(_checked(execution_id), user, now=now_ms())
        self._wake()
        return state

    def delete(self, execution_id: str) -> None:
        """Remove a finished execution with its tasks and logs."""
        self._store.executions.delete(_checked(execution_id))


def state_of(text: str | None) -> State | None:
    """A state as history filters name it; InvalidRequest lists the known ones."""
    if not text:
        return None
    try:
        return State(text)
    except ValueError:
        raise InvalidRequest.field(
            "status", text, "no such state", guidance=f"Known are {', '.join(State)}."
        ) from None


def _checked(execution_id: str) -> str:
    """Ids are plain ASCII: what is not cannot be one, and not every database takes it."""
    if not execution_id.isascii() or not execution_id.isprintable() or len(execution_id) > 64:
        raise NotFound(f"There is no execution {_shown(execution_id)}.")
    return execution_id


def _shown(execution_id: str) -> str:
    return execution_id if len(execution_id) <= 64 else f"{execution_id[:61]}..."


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)
