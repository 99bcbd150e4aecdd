"""Runners' reports as rows: few UPDATEs for many tasks, since each statement waits for its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Double, Update, bindparam, case, update

from exchangis.domain.loglines import LogLine
from exchangis.store.execution_rows import MAX_OPEN_PROGRESS
from exchangis.store.schema import tasks
from exchangis.store.values import fit


@dataclass(frozen=True, slots=True)
class Report:
    """What a runner said of itself since the last report; None means nothing new."""

    task_id: int
    attempt: int
    execution_id: str
    progress: float | None = None
    values: tuple[tuple[str, Any], ...] = ()
    lines: tuple[LogLine, ...] = ()


@cache
def report_update(names: tuple[str, ...]) -> Update:
    """The UPDATE of these columns; progress never falls within an attempt."""
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    if "progress" in values:
        reached = bindparam("new_progress", type_=Double)
        values["progress"] = case((tasks.c.progress < reached, reached), else_=tasks.c.progress)
    return update(tasks).where(tasks.c.id == bindparam("task_id")).values(values)


def by_columns(reports: Sequence[Report], now: int) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Parameters of the updates, grouped by the columns that they set."""
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for report in sorted(reports, key=lambda r: r.task_id):
        values = {**fit(tasks, dict(report.values)), "updated_at": now}
        if report.progress is not None:
            # 1 is for Success alone.
            values["progress"] = max(0.0, min(report.progress, MAX_OPEN_PROGRESS))
        row = {f"new_{name}": value for name, value in values.items()}
        grouped.setdefault(tuple(sorted(values)), []).append({**row, "task_id": report.task_id})
    return grouped


def moves_job(report: Report) -> bool:
    """Whether the job's progress or flow changes with the report."""
    moving = ("flow", "weight")
    return report.progress is not None or any(name in moving for name, _ in report.values)
