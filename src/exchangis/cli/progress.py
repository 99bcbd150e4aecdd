"""One stream of progress, whatever makes it and whoever reads it.

A run in this process and a server that is polled both give `Snapshot`s; a `Face` shows them: bars
on a terminal, plain lines in a pipe, JSON lines for programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from exchangis.cli.terminal import count, is_terminal, print_table
from exchangis.domain.states import State


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """A task now. `rows` are those in the sink, `rate` is rows/s now, the average once final."""

    key: str
    name: str
    state: State
    fraction: float = 0.0
    rows: int = 0
    errors: int = 0
    ignored: int = 0
    rate: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, named as the contract names them where it does."""
        return {
            "taskId": self.key,
            "name": self.name,
            "status": self.state.value,
            "progress": round(self.fraction, 4),
            "exchangedRecords": self.rows,
            "errorRecords": self.errors,
            "ignoredRecords": self.ignored,
            "flow": round(self.rate, 1),
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job now."""

    state: State
    fraction: float
    tasks: tuple[TaskProgress, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "status": self.state.value,
            "progress": round(self.fraction, 4),
            "tasks": [task.as_dict() for task in self.tasks],
        }


class Face(Protocol):
    """Shows snapshots as they come; `close` before anything else is printed."""

    def show(self, snapshot: Snapshot) -> None:
        """The state of things now; may be called as often as one likes."""

    def tell(self, level: str, text: str) -> None:
        """A line to keep, e.g. a warning of a task."""

    def close(self) -> None:
        """Leave the last state visible and give the terminal back."""


def make_face(*, as_json: bool) -> Face:
    """The face that fits stdout."""
    if as_json:
        from exchangis.cli.progress_json import JsonFace

        return JsonFace()
    if is_terminal():
        from exchangis.cli.progress_bars import BarsFace

        return BarsFace()
    from exchangis.cli.progress_lines import LinesFace

    return LinesFace()


def print_summary(snapshot: Snapshot) -> None:
    """The table that a run ends with."""
    print_table(
        ("Task", "State", "Rows", "Rows/s", "Dirty", "Ignored"),
        [
            (task.name, task.state.value, count(task.rows), count(task.rate), count(task.errors),
             count(task.ignored))
            for task in snapshot.tasks
        ],
    )  # fmt: skip
