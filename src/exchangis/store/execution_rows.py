"""What queue and settling share: locking an execution's row, and its progress."""

from __future__ import annotations

from collections.abc import Sequence
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


def lock_all(connection: Connection, execution_ids: Sequence[str]) -> None:
    """Lock the rows of several executions, in the order of their ids; see `lock`."""
    connection.execute(
        select(executions.c.id)
        .where(executions.c.execution_id.in_(execution_ids))
        .order_by(executions.c.execution_id)
        .with_for_update()
    ).all()


def refresh_progress(connection: Connection, execution_ids: Sequence[str], *, now: int) -> None:
    """The jobs' progress and flow from their tasks', weighted by size; progress never falls.

    Tasks whose size is not known yet weigh as much as the mean of the others. A final job keeps
    what it ended with: its flow is the average then.
    """
    if not execution_ids:
        return
    own = tasks.c.execution_id == executions.c.execution_id
    # With w known weights of sum W over n tasks, an unknown one weighs W / w: each sum is one look
    # at the tasks, however many there are.
    known = func.count(tasks.c.weight)
    done = func.coalesce(func.sum(tasks.c.weight * tasks.c.progress), 0.0)
    unknown = case((tasks.c.weight.is_(None), tasks.c.progress), else_=0.0)
    mean = func.coalesce(func.avg(tasks.c.weight), 1.0)
    share = (done + mean * func.sum(unknown)) / (
        func.coalesce(func.sum(tasks.c.weight), 0.0) + mean * (func.count() - known)
    )
    reached = select(func.coalesce(share, 0.0)).where(own).correlate(executions).scalar_subquery()
    flowing = case((tasks.c.state == State.RUNNING, tasks.c.flow), else_=0.0)
    flow = (
        select(func.coalesce(func.sum(flowing), 0.0))
        .where(own)
        .correlate(executions)
        .scalar_subquery()
    )
    connection.execute(
        update(executions)
        .where(executions.c.execution_id.in_(execution_ids), executions.c.state.in_(UNFINISHED))
        .values(
            progress=case(
                (reached > MAX_OPEN_PROGRESS, MAX_OPEN_PROGRESS),
                (executions.c.progress < reached, reached),
                else_=executions.c.progress,
            ),
            flow=flow,
            updated_at=now,
        )
    )
