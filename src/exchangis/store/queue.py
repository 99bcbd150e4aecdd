"""The work queue: generation and task claims, leases and progress.

What ends things (outcomes, kills, time-outs, lost leases) is in `exchangis.store.settle`. Every
UPDATE names the states it may leave; every write of a runner carries its fencing number
(`attempt`), so that a stale one changes nothing. Lock order: execution, then task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from exchangis.domain.errors import InvalidRequest
from exchangis.domain.loglines import LogLine
from exchangis.domain.states import State, job_sources_of, task_sources_of
from exchangis.store import log_lines
from exchangis.store.database import Database
from exchangis.store.execution_rows import (
    ACTIVE,
    lock,
    lock_all,
    refresh_progress,
)
from exchangis.store.report_rows import Report, by_columns, moves_job, report_update
from exchangis.store.schema import executions, mutexes, tasks
from exchangis.store.values import check_values

_CANDIDATES = 200


@dataclass(frozen=True, slots=True)
class Generation:
    """A claimed execution whose tasks are to be made."""

    execution_id: str
    job_name: str
    engine: str
    content: str
    params: str | None
    execute_user: str
    strict: bool


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be stored; `spec` is the JSON of a `TaskSpec`. Times in milliseconds."""

    name: str
    engine: str
    source_type: str
    sink_type: str
    spec: str
    unknown_keys: tuple[str, ...]
    max_attempts: int
    timeout_ms: int | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A task attempt that this server owns until its lease ends; `attempt` is the fence."""

    task_id: int
    execution_id: str
    name: str
    engine: str
    spec: str
    unknown_keys: tuple[str, ...]
    attempt: int
    failures: int
    max_attempts: int
    deadline: int | None
    timeout_ms: int | None
    sessions: tuple[tuple[str, str], ...]
    external_id: str | None


@dataclass(frozen=True, slots=True)
class Stop:
    """A task that its owner must stop; `state` is what it becomes."""

    task_id: int
    attempt: int
    state: State


class Queue:
    """Claims and reports of one server, named `owner`."""

    def __init__(self, database: Database, owner: str) -> None:
        self._db = database
        self.owner = owner

    # --- generation -------------------------------------------------------------------------

    def claim_generation(self, *, now: int, lease_ms: int) -> Generation | None:
        """Take the oldest submitted execution that nobody is generating tasks for."""

        def work(connection: Connection) -> Generation | None:
            query = (
                select(executions)
                .where(
                    executions.c.state == State.INITED,
                    or_(executions.c.lease_until.is_(None), executions.c.lease_until < now),
                    executions.c.kill_requested_at.is_(None),
                )
                .order_by(executions.c.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            row = connection.execute(query).first()
            if row is None:
                return None
            connection.execute(
                update(executions)
                .where(executions.c.id == row.id)
                .values(owner=self.owner, lease_until=now + lease_ms)
            )
            return Generation(
                row.execution_id, row.job_name, row.engine, row.content, row.params,
                row.execute_user, bool(row.strict),
            )  # fmt: skip

        return self._db.transact(work)

    def generated(
        self, work: Generation, new_tasks: Sequence[NewTask], story: Sequence[LogLine], *, now: int
    ) -> bool:
        """Store the tasks and move the job to Scheduled; False when it is no longer ours.

        InvalidRequest when there is no task: nothing would ever end such a job.
        """
        if not new_tasks:
            raise InvalidRequest.field("content", [], "holds no sub job")
        for task in new_tasks:
            check_values(tasks, {"name": task.name, "spec": task.spec})

        def store(connection: Connection) -> bool:
            moved = connection.execute(
                update(executions)
                .where(
                    executions.c.execution_id == work.execution_id,
                    executions.c.owner == self.owner,
                    executions.c.kill_requested_at.is_(None),
                    executions.c.state.in_(job_sources_of(State.SCHEDULED)),
                )
                .values(
                    state=State.SCHEDULED,
                    total_tasks=len(new_tasks),
                    open_tasks=len(new_tasks),
                    owner=None,
                    lease_until=None,
                    updated_at=now,
                )
            )
            if moved.rowcount == 0:
                return False
            connection.execute(
                insert(tasks),
                [
                    {
                        "execution_id": work.execution_id,
                        "position": position,
                        "name": task.name,
                        "engine": task.engine,
                        "source_type": task.source_type,
                        "sink_type": task.sink_type,
                        "execute_user": work.execute_user,
                        "spec": task.spec,
                        "unknown_keys": json.dumps(task.unknown_keys),
                        "state": State.INITED,
                        "max_attempts": task.max_attempts,
                        "timeout_ms": task.timeout_ms,
                        "created_at": now,
                        "updated_at": now,
                    }
                    for position, task in enumerate(new_tasks)
                ],
            )
            made = connection.execute(
                select(tasks.c.id).where(tasks.c.execution_id == work.execution_id)
            ).scalars()
            log_lines.create(
                connection, [log_lines.task_stream(key) for key in made], work.execution_id
            )
            log_lines.append(connection, log_lines.job_stream(work.execution_id), story)
            return True

        return self._db.transact(store)

    # --- claims -----------------------------------------------------------------------------

    def claim_tasks(
        self,
        *,
        limit: int,
        now: int,
        lease_ms: int,
        max_total: int | None = None,
        max_per_user: int | None = None,
    ) -> list[Claim]:
        """Take up to `limit` tasks that wait, oldest first, each in state Scheduled with a lease.

        `max_total` and `max_per_user` bound the tasks under way over all servers.
        """
        if limit <= 0:
            return []

        def work(connection: Connection) -> list[Claim]:
            busy: dict[str, int] = {}
            room = limit
            if max_total is not None or max_per_user is not None:
                # Counting and claiming must not interleave with another server's.
                connection.execute(
                    select(mutexes.c.name).where(mutexes.c.name == "claim").with_for_update()
                )
                counted = connection.execute(
                    select(tasks.c.execute_user, func.count())
                    .where(tasks.c.state.in_(ACTIVE))
                    .group_by(tasks.c.execute_user)
                )
                busy = dict(counted.all())
                if max_total is not None:
                    room = min(room, max_total - sum(busy.values()))
            full = [u for u, n in busy.items() if max_per_user is not None and n >= max_per_user]
            if room <= 0:
                return []
            query = (
                select(tasks)
                .where(
                    tasks.c.stop_requested_at.is_(None),
                    or_(
                        tasks.c.state == State.INITED,
                        and_(tasks.c.state == State.WAIT_FOR_RETRY, tasks.c.next_attempt_at <= now),
                    ),
                )
                .order_by(tasks.c.id)
                .limit(room if max_per_user is None else _CANDIDATES)
                .with_for_update(skip_locked=True)
            )
            if full:
                query = query.where(tasks.c.execute_user.not_in(full))
            claims: list[Claim] = []
            for row in connection.execute(query).all():
                if len(claims) == room:
                    break
                mine = busy.get(row.execute_user, 0)
                if max_per_user is not None and mine >= max_per_user:
                    continue
                busy[row.execute_user] = mine + 1
                connection.execute(
                    update(tasks)
                    .where(tasks.c.id == row.id)
                    .values(
                        state=State.SCHEDULED,
                        attempt=row.attempt + 1,
                        owner=self.owner,
                        lease_until=now + lease_ms,
                        next_attempt_at=None,
                        progress=0.0,
                        updated_at=now,
                    )
                )
                claims.append(_claim(row, row.attempt + 1))
            return claims

        return self._db.transact(work)

    def mark_running(
        self, claims: Sequence[tuple[Claim, Sequence[LogLine]]], *, now: int
    ) -> set[int]:
        """Scheduled -> Running for started runners, their jobs with them; ids of those moved.

        A task that is missing from the answer is no longer ours and its runner must go.
        """

        def work(connection: Connection) -> set[int]:
            moved = set()
            for claim, story in sorted(claims, key=lambda item: item[0].execution_id):
                lock(connection, claim.execution_id)
                changed = connection.execute(
                    update(tasks)
                    .where(
                        tasks.c.id == claim.task_id,
                        tasks.c.attempt == claim.attempt,
                        tasks.c.owner == self.owner,
                        tasks.c.state.in_(task_sources_of(State.RUNNING)),
                    )
                    .values(
                        state=State.RUNNING,
                        launched_at=func.coalesce(tasks.c.launched_at, now),
                        deadline=func.coalesce(tasks.c.deadline, now + tasks.c.timeout_ms),
                        updated_at=now,
                    )
                )
                if changed.rowcount == 0:
                    continue
                connection.execute(
                    update(executions)
                    .where(
                        executions.c.execution_id == claim.execution_id,
                        executions.c.state.in_(job_sources_of(State.RUNNING)),
                    )
                    .values(
                        state=State.RUNNING,
                        launched_at=func.coalesce(executions.c.launched_at, now),
                        updated_at=now,
                    )
                )
                moved.add(claim.task_id)
                log_lines.append(connection, log_lines.job_stream(claim.execution_id), story)
            return moved

        return self._db.transact(work)

    # --- cleaning up ------------------------------------------------------------------------

    def claim_cleanups(self, *, limit: int, now: int, lease_ms: int) -> list[Claim]:
        """Take final tasks whose attempts left something half-written behind.

        The claim only keeps two servers from doing the same at once: cleaning is idempotent.
        """

        def work(connection: Connection) -> list[Claim]:
            query = (
                select(tasks)
                .where(
                    tasks.c.cleanup.is_(True),
                    or_(tasks.c.next_attempt_at.is_(None), tasks.c.next_attempt_at <= now),
                )
                .order_by(tasks.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            rows = connection.execute(query).all()
            for row in rows:
                connection.execute(
                    update(tasks).where(tasks.c.id == row.id).values(next_attempt_at=now + lease_ms)
                )
            return [_claim(row, row.attempt) for row in rows]

        return self._db.transact(work) if limit > 0 else []

    def cleaned(self, task_id: int) -> None:
        """Nothing of the task is left to remove."""
        self._db.transact(
            lambda connection: connection.execute(
                update(tasks).where(tasks.c.id == task_id).values(cleanup=False)
            )
        )

    # --- leases and reports -----------------------------------------------------------------

    def renew(self, held: Sequence[tuple[int, int]], *, now: int, lease_ms: int) -> set[int]:
        """Extend the leases of (task id, attempt) pairs; ids of those that are still ours.

        A lease that has run out is not revived: another server may have counted on its end.
        """

        wanted = set(held)

        def work(connection: Connection) -> set[int]:
            # One statement for all, however many there are: with hundreds of runners and a busy
            # API each statement waits for its turn.
            connection.execute(
                update(tasks)
                .where(
                    tasks.c.id.in_(sorted(task_id for task_id, _ in wanted)),
                    tasks.c.owner == self.owner,
                    tasks.c.state.in_(ACTIVE),
                    tasks.c.lease_until >= now,
                )
                .values(lease_until=now + lease_ms)
            )
            return {
                task_id for task_id, attempt in self._held(connection, wanted, leased_at=now)
                if (task_id, attempt) in wanted
            }  # fmt: skip

        return self._db.transact(work) if held else set()

    def _held(
        self,
        connection: Connection,
        pairs: Iterable[tuple[int, int]],
        *,
        leased_at: int | None = None,
        lock_rows: bool = False,
    ) -> list[tuple[int, int]]:
        """Tasks under way that are ours, with the attempt that is; see `renew` and `record`."""
        query = select(tasks.c.id, tasks.c.attempt).where(
            tasks.c.id.in_(sorted({task_id for task_id, _ in pairs})),
            tasks.c.owner == self.owner,
            tasks.c.state.in_(ACTIVE),
        )
        if leased_at is not None:
            query = query.where(tasks.c.lease_until >= leased_at)
        if lock_rows:
            query = query.order_by(tasks.c.id).with_for_update()
        return [(task_id, attempt) for task_id, attempt in connection.execute(query)]

    def record(self, reports: Sequence[Report], *, now: int) -> set[int]:
        """Store progress, metrics and log lines; ids of tasks whose report was refused as stale."""

        def work(connection: Connection) -> set[int]:
            touched = sorted({r.execution_id for r in reports if moves_job(r)})
            lock_all(connection, touched)
            held = set(
                self._held(connection, ((r.task_id, r.attempt) for r in reports), lock_rows=True)
            )
            fresh = [r for r in reports if (r.task_id, r.attempt) in held]
            for names, rows in by_columns(fresh, now).items():
                connection.execute(report_update(names), rows)
            for report in sorted(fresh, key=lambda r: r.task_id):
                log_lines.append(connection, log_lines.task_stream(report.task_id), report.lines)
            refresh_progress(connection, touched, now=now)
            return {r.task_id for r in reports} - {r.task_id for r in fresh}

        return self._db.transact(work) if reports else set()

    def stops(self) -> list[Stop]:
        """Tasks of this server that somebody wants stopped."""
        query = select(tasks.c.id, tasks.c.attempt, tasks.c.stop_state).where(
            tasks.c.owner == self.owner,
            tasks.c.state.in_(ACTIVE),
            tasks.c.stop_requested_at.is_not(None),
        )
        with self._db.read() as connection:
            return [
                Stop(row.id, row.attempt, State(row.stop_state))
                for row in connection.execute(query)
            ]


def _claim(row: Any, attempt: int) -> Claim:
    sessions = json.loads(row.sessions) if row.sessions else []
    return Claim(
        task_id=row.id,
        execution_id=row.execution_id,
        name=row.name,
        engine=row.engine,
        spec=row.spec,
        unknown_keys=tuple(json.loads(row.unknown_keys)),
        attempt=attempt,
        failures=row.failures,
        max_attempts=row.max_attempts,
        deadline=row.deadline,
        timeout_ms=row.timeout_ms,
        sessions=tuple((side, session) for side, session in sessions),
        external_id=row.external_id,
    )
