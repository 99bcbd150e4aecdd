"""How things end: outcomes of attempts, kills, time-outs, lost leases, and what a job becomes.

Each function is one transaction that locks the execution's row first, so that two ends of the
same job never decide past each other. A final state is never left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, or_, select, update

from exchangis.domain.errors import Conflict, NotFound
from exchangis.domain.loglines import LogLevel, LogLine
from exchangis.domain.states import (
    FINAL,
    UNFINISHED,
    State,
    decide_job,
    job_sources_of,
    open_job_state,
    task_sources_of,
)
from exchangis.store import log_lines
from exchangis.store.database import Database
from exchangis.store.execution_rows import ACTIVE, lock, refresh_progress
from exchangis.store.schema import executions, tasks
from exchangis.store.values import fit

MAX_CLAIMS = 50
"""A task claimed this often is given up: it keeps taking its servers down with it."""

TIME_LIMIT = "time_limit_exceeded"

Story = Callable[[LogLevel, str], list[LogLine]]
"""Makes the log lines for one message."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `state` is Success, Failed, Cancelled, Timeout or Undefined.

    `retry_in_ms` not None asks for another attempt instead of Failed. `values` are further task
    columns (metrics). `discarded` says that nothing half-written is left behind. A message never
    holds a secret.
    """

    task_id: int
    execution_id: str
    attempt: int
    state: State
    error_code: str | None = None
    error: str | None = None
    retry_in_ms: int | None = None
    discarded: bool = False
    values: tuple[tuple[str, Any], ...] = ()
    lines: tuple[LogLine, ...] = ()


class Settler:
    """Ends attempts, tasks and jobs. `story` formats lines of the job log."""

    def __init__(self, database: Database, story: Story) -> None:
        self._db = database
        self._story = story

    def finish(self, owner: str, outcomes: Sequence[Outcome], *, now: int) -> set[int]:
        """Settle attempts of `owner`; ids of tasks whose outcome was refused as stale."""

        def work(connection: Connection) -> set[int]:
            return {
                outcome.task_id
                for outcome in sorted(outcomes, key=lambda o: (o.execution_id, o.task_id))
                if not self._finish(connection, owner, outcome, now)
            }

        return self._db.transact(work) if outcomes else set()

    def _finish(self, connection: Connection, owner: str, outcome: Outcome, now: int) -> bool:
        job = lock(connection, outcome.execution_id)
        task = connection.execute(
            select(tasks).where(tasks.c.id == outcome.task_id).with_for_update()
        ).first()
        if (
            job is None
            or task is None
            or task.attempt != outcome.attempt
            or task.owner != owner
            or task.state not in ACTIVE
        ):
            return False
        log_lines.append(connection, log_lines.task_stream(task.id), outcome.lines)
        if outcome.values:
            connection.execute(
                update(tasks).where(tasks.c.id == task.id).values(fit(tasks, dict(outcome.values)))
            )
        state, error, code = outcome.state, outcome.error, outcome.error_code
        if task.stop_state is not None and state is not State.SUCCESS:
            state, error, code = _stopped(task, error, code)
        if state is State.FAILED and outcome.retry_in_ms is not None:
            self._wait(connection, job, task, outcome, now)
        else:
            self._end(connection, job, task, state, error, code, now, discarded=outcome.discarded)
        self._settle(connection, job, now)
        return True

    def _wait(
        self, connection: Connection, job: Any, task: Any, outcome: Outcome, now: int
    ) -> None:
        assert outcome.retry_in_ms is not None
        _move_task(
            connection,
            task,
            State.WAIT_FOR_RETRY,
            failures=task.failures + 1,
            next_attempt_at=now + outcome.retry_in_ms,
            error=outcome.error,
            error_code=outcome.error_code,
            now=now,
        )
        self._tell(
            connection,
            job,
            "WARN",
            f"Task {task.id} ({task.name}) attempt {task.attempt} failed: {outcome.error} "
            f"Trying again in {outcome.retry_in_ms / 1000:.1f} s "
            f"(failure {task.failures + 1} of {task.max_attempts}).",
        )

    def _end(
        self,
        connection: Connection,
        job: Any,
        task: Any,
        state: State,
        error: str | None,
        code: str | None,
        now: int,
        *,
        discarded: bool = False,
    ) -> None:
        """Put a task into a final state, close its log and tell the job log.

        What its attempts may have left behind is noted for whichever server cleans up next.
        """
        progress = {"progress": 1.0} if state is State.SUCCESS else {}
        happy = state is State.SUCCESS
        _move_task(
            connection,
            task,
            state,
            failures=task.failures + (state is State.FAILED),
            error=None if happy else error,
            error_code=None if happy else code,
            ended_at=now,
            next_attempt_at=None,
            now=now,
            cpu=0.0,
            memory=0,
            cleanup=not happy and task.attempt > 0 and not discarded,
            **progress,
        )
        log_lines.close(connection, log_lines.task_stream(task.id))
        level: LogLevel = "INFO" if happy else "WARN" if state is State.CANCELLED else "ERROR"
        reason = f": {error}" if error and not happy else "."
        self._tell(connection, job, level, f"Task {task.id} ({task.name}): {state}{reason}")

    def _settle(self, connection: Connection, job: Any, now: int) -> None:
        """Give the job the state that its tasks decide; stop what a decision makes needless."""
        execution_id = job.execution_id
        counted = connection.execute(
            select(tasks.c.state, func.count())
            .where(tasks.c.execution_id == execution_id)
            .group_by(tasks.c.state)
        )
        counts = {State(state): count for state, count in counted}
        still_open = sum(count for state, count in counts.items() if state in UNFINISHED)
        current = State(
            connection.execute(
                select(executions.c.state).where(executions.c.id == job.id)
            ).scalar_one()
        )
        connection.execute(
            update(executions)
            .where(executions.c.id == job.id)
            .values(open_tasks=still_open, updated_at=now)
        )
        refresh_progress(connection, [execution_id], now=now)
        if current in UNFINISHED:
            decided = decide_job(
                counts,
                permit_partial_failures=bool(job.permit_partial),
                killed=job.kill_requested_at is not None,
            )
            if decided is None:
                shown = open_job_state(counts, current)
                if shown is not current:
                    _move_job(connection, job, shown, updated_at=now)
            else:
                reason = _reason(connection, job, decided)
                self._end_job(connection, job, decided, reason, now)
                if still_open:
                    self._stop_rest(connection, job, State.CANCELLED, now)
                    return self._settle(connection, job, now)
                current = decided
        if current in FINAL and still_open == 0:
            log_lines.close(connection, log_lines.job_stream(execution_id))
        return None

    def _end_job(
        self, connection: Connection, job: Any, state: State, error: str | None, now: int
    ) -> None:
        values: dict[str, Any] = {"ended_at": now, "updated_at": now, "error": error}
        if state is State.SUCCESS:
            values["progress"] = 1.0
        total = func.sum(tasks.c.exchanged_records)
        exchanged = connection.execute(
            select(func.coalesce(total, 0)).where(tasks.c.execution_id == job.execution_id)
        ).scalar_one()
        began = connection.execute(
            select(func.min(tasks.c.launched_at)).where(tasks.c.execution_id == job.execution_id)
        ).scalar_one()
        values["flow"] = float(exchanged) * 1000 / max(now - began, 1) if began else 0.0
        if _move_job(connection, job, state, **values):
            level: LogLevel = (
                "INFO" if state is State.SUCCESS
                else "WARN" if state in (State.CANCELLED, State.PARTIAL_SUCCESS)
                else "ERROR"
            )  # fmt: skip
            self._tell(connection, job, level, f"Job: {state}{f': {error}' if error else '.'}")

    def _stop_rest(self, connection: Connection, job: Any, state: State, now: int) -> None:
        """Waiting tasks get `state` now; their owners are asked to stop those under way."""
        open_rows = connection.execute(
            select(tasks)
            .where(
                tasks.c.execution_id == job.execution_id,
                tasks.c.state.in_([State.INITED, State.WAIT_FOR_RETRY]),
            )
            .with_for_update()
        ).all()
        for task in open_rows:
            self._end(connection, job, task, state, task.error, task.error_code, now)
        connection.execute(
            update(tasks)
            .where(
                tasks.c.execution_id == job.execution_id,
                tasks.c.state.in_(ACTIVE),
                tasks.c.stop_requested_at.is_(None),
            )
            .values(stop_requested_at=now, stop_state=state, updated_at=now)
        )

    def _tell(self, connection: Connection, job: Any, level: LogLevel, text: str) -> None:
        log_lines.append(
            connection, log_lines.job_stream(job.execution_id), self._story(level, text)
        )

    # --- what others ask for ----------------------------------------------------------------

    def kill(self, execution_id: str, user: str, *, now: int) -> State:
        """Ask for the end of an execution; durable, on whatever server its tasks run.

        Its state becomes Cancelled when the work has ended. Killing twice is no error; a final
        execution is Conflict, unless it is Cancelled already.
        """

        def work(connection: Connection) -> State:
            job = lock(connection, execution_id)
            if job is None:
                raise NotFound(f"There is no execution {execution_id}.")
            current = State(job.state)
            if current in FINAL and current is not State.CANCELLED:
                raise Conflict(
                    f"Execution {execution_id} has ended already, as {current}: "
                    "there is nothing to kill."
                )
            if current is State.CANCELLED or job.kill_requested_at is not None:
                return current
            connection.execute(
                update(executions)
                .where(executions.c.id == job.id)
                .values(kill_requested_at=now, kill_user=user, updated_at=now)
            )
            self._tell(connection, job, "WARN", f"Kill requested by {user}.")
            self._stop_rest(connection, job, State.CANCELLED, now)
            locked = lock(connection, execution_id)
            self._settle(connection, locked, now)
            return State(
                connection.execute(
                    select(executions.c.state).where(executions.c.id == job.id)
                ).scalar_one()
            )

        return self._db.transact(work)

    def refuse_generation(self, execution_id: str, error: str, *, now: int) -> None:
        """The job's tasks cannot be made: it is Failed, and its log says why."""

        def work(connection: Connection) -> None:
            job = lock(connection, execution_id)
            if job is not None and State(job.state) is State.INITED:
                self._end_job(connection, job, State.FAILED, error, now)
                log_lines.close(connection, log_lines.job_stream(execution_id))

        self._db.transact(work)

    # --- what time brings -------------------------------------------------------------------

    def expire_leases(self, *, now: int, dead_owners: Sequence[str] = ()) -> int:
        """Take over active tasks whose lease ran out or whose owner is known to be dead.

        Looks at every such task, whatever happened to its owner. Returns how many.
        """
        lost = tasks.c.lease_until < now
        if dead_owners:
            lost = or_(lost, tasks.c.owner.in_(dead_owners))
        found = select(tasks.c.id, tasks.c.execution_id, tasks.c.attempt).where(
            tasks.c.state.in_(ACTIVE), or_(tasks.c.lease_until.is_(None), lost)
        )
        with self._db.read() as connection:
            rows = connection.execute(found.limit(500)).all()

        def take(connection: Connection, task_id: int, execution_id: str, attempt: int) -> bool:
            job = lock(connection, execution_id)
            task = connection.execute(
                select(tasks).where(
                    tasks.c.id == task_id,
                    tasks.c.attempt == attempt,
                    tasks.c.state.in_(ACTIVE),
                    or_(tasks.c.lease_until.is_(None), lost),
                )
            ).first()
            if job is None or task is None:
                return False
            if task.stop_state is not None:
                self._end(connection, job, task, *_stopped(task, None, None), now)
            elif task.attempt >= MAX_CLAIMS:
                error = f"Given up after {task.attempt} attempts lost with their servers."
                self._end(connection, job, task, State.FAILED, error, "runner_lost", now)
            else:
                _move_task(connection, task, State.WAIT_FOR_RETRY, next_attempt_at=now, now=now)
                self._tell(
                    connection, job, "WARN",
                    f"Task {task.id} ({task.name}): its server {task.owner} is gone; "
                    "the task is taken over.",
                )  # fmt: skip
            self._settle(connection, job, now)
            return True

        return sum(
            self._db.transact(
                partial(take, task_id=row.id, execution_id=row.execution_id, attempt=row.attempt)
            )
            for row in rows
        )

    def expire_deadlines(self, *, now: int) -> int:
        """Tasks and executions that outran their limits become Timeout. Returns how many."""
        late_tasks = select(tasks.c.id, tasks.c.execution_id).where(
            tasks.c.state.in_([*ACTIVE, State.WAIT_FOR_RETRY]),
            tasks.c.deadline < now,
            tasks.c.stop_requested_at.is_(None),
        )
        late_jobs = select(executions.c.execution_id).where(
            executions.c.state.in_(UNFINISHED),
            executions.c.deadline < now,
            executions.c.kill_requested_at.is_(None),  # a kill is Cancelled, however long it takes
        )
        with self._db.read() as connection:
            task_rows = connection.execute(late_tasks.limit(500)).all()
            job_rows = connection.execute(late_jobs.limit(500)).all()

        def stop_task(connection: Connection, task_id: int, execution_id: str) -> None:
            job = lock(connection, execution_id)
            task = connection.execute(
                select(tasks)
                .where(tasks.c.id == task_id, tasks.c.stop_requested_at.is_(None))
                .with_for_update()
            ).first()
            if job is None or task is None or State(task.state) in FINAL:
                return
            error = _time_limit(task)
            if task.state == State.WAIT_FOR_RETRY:
                self._end(connection, job, task, State.TIMEOUT, error, TIME_LIMIT, now)
                self._settle(connection, job, now)
            else:
                connection.execute(
                    update(tasks)
                    .where(tasks.c.id == task_id, tasks.c.state.in_(ACTIVE))
                    .values(stop_requested_at=now, stop_state=State.TIMEOUT, updated_at=now)
                )
                self._tell(connection, job, "ERROR", f"Task {task.id} ({task.name}): {error}")

        def stop_job(connection: Connection, execution_id: str) -> None:
            job = lock(connection, execution_id)
            if job is None or job.kill_requested_at is not None or State(job.state) in FINAL:
                return
            error = f"The execution outran its time limit of {(job.timeout_ms or 0) / 1000:g} s."
            self._end_job(connection, job, State.TIMEOUT, error, now)
            self._stop_rest(connection, job, State.CANCELLED, now)
            self._settle(connection, job, now)

        for row in task_rows:
            self._db.transact(partial(stop_task, task_id=row.id, execution_id=row.execution_id))
        for row in job_rows:
            self._db.transact(partial(stop_job, execution_id=row.execution_id))
        return len(task_rows) + len(job_rows)


def _time_limit(task: Any) -> str:
    return f"The task outran its time limit of {(task.timeout_ms or 0) / 1000:g} s."


def _stopped(
    task: Any, error: str | None, code: str | None
) -> tuple[State, str | None, str | None]:
    """What a task becomes that ended because somebody asked for it."""
    if task.stop_state == State.TIMEOUT:
        return State.TIMEOUT, _time_limit(task), TIME_LIMIT
    return State(task.stop_state), error, code


def _reason(connection: Connection, job: Any, decided: State) -> str | None:
    """Why a job ended that way: who killed it, or its first task that ended so."""
    if decided is State.SUCCESS:
        return None
    if job.kill_requested_at is not None:
        return f"Killed by {job.kill_user}."
    unhappy = FINAL - {State.SUCCESS} if decided is State.PARTIAL_SUCCESS else {decided}
    task = connection.execute(
        select(tasks.c.id, tasks.c.name, tasks.c.state, tasks.c.error)
        .where(tasks.c.execution_id == job.execution_id, tasks.c.state.in_(unhappy))
        .order_by(tasks.c.ended_at, tasks.c.position)
        .limit(1)
    ).one()
    return f"Task {task.id} ({task.name}) {task.state}{f': {task.error}' if task.error else '.'}"


def _move_task(
    connection: Connection, task: Any, target: State, *, now: int, **values: Any
) -> None:
    # Final: the average over the task's life (contract, call 5); waiting: nothing flows.
    flow = (
        tasks.c.exchanged_records * 1000.0 / max(now - task.launched_at, 1)
        if target in FINAL and task.launched_at
        else 0.0
    )
    moved = connection.execute(
        update(tasks)
        .where(
            tasks.c.id == task.id,
            tasks.c.attempt == task.attempt,
            tasks.c.state.in_(task_sources_of(target)),
        )
        .values(
            state=target,
            owner=None,
            lease_until=None,
            flow=flow,
            updated_at=now,
            **fit(tasks, values),
        )
    )
    if moved.rowcount == 0:
        raise Conflict(f"Task {task.id} cannot go from {task.state} to {target}.")


def _move_job(connection: Connection, job: Any, target: State, **values: Any) -> bool:
    moved = connection.execute(
        update(executions)
        .where(executions.c.id == job.id, executions.c.state.in_(job_sources_of(target)))
        .values(state=target, **fit(executions, values))
    )
    return bool(moved.rowcount)
