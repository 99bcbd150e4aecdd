"""What queue and settling share: locking an execution's row, and its progress."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, case, func, select, update

from exchangis.domain.states import UNFINISHED, State
from exchangis.store.schema import executions, tasks

ACTIVE = (State.SCHEDULED, State.RUNNING)
"""Task states that have an owner and a lease."""
MAX_OPEN_PROGRESS = 0.999
"""Progress of what is not Success: 1.0 is Success alone (contract, "States")."""

_JOB = (
    executions.c.id,
    executions.c.execution_id,
    executions.c.state,
    executions.c.permit_partial,
    executions.c.timeout_ms,
    executions.c.kill_requested_at,
    executions.c.kill_user,
)


def lock(connection: Connection, execution_id: str) -> Any:
    """Lock an execution's row; what settling needs of it, or None when there is none.

    Several are locked in the order of their ids, and before any of their tasks, so that no two
    servers wait for each other.
    """
    return connection.execute(
        select(*_JOB).where(executions.c.execution_id == execution_id).with_for_update()
    ).first()


def refresh_progress(connection: Connection, execution_id: str, *, now: int) -> None:
    """The job's progress and flow from its tasks', weighted by size; it never falls.

    A final job keeps what it ended with: its flow is the average then.
    """
    total = func.coalesce(func.sum(tasks.c.weight * tasks.c.progress), 0.0)
    whole = func.coalesce(func.nullif(func.sum(tasks.c.weight), 0.0), 1.0)
    running = func.coalesce(
        func.sum(case((tasks.c.state == State.RUNNING, tasks.c.flow), else_=0.0)), 0.0
    )
    row = connection.execute(
        select((total / whole).label("progress"), running.label("flow")).where(
            tasks.c.execution_id == execution_id
        )
    ).one()
    progress = min(float(row.progress), MAX_OPEN_PROGRESS)
    connection.execute(
        update(executions)
        .where(
            executions.c.execution_id == execution_id,
            executions.c.state.in_(UNFINISHED),
        )
        .values(
            progress=case(
                (executions.c.progress < progress, progress), else_=executions.c.progress
            ),
            flow=float(row.flow),
            updated_at=now,
        )
    )
