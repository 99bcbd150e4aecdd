"""Progress as plain lines, for pipes and log files."""

from __future__ import annotations

import time
from datetime import datetime

from exchangis.cli.progress import Snapshot, TaskProgress
from exchangis.cli.terminal import count, one_line, say
from exchangis.domain.states import State

_PACE = 2.0
"""Seconds between two reports of tasks whose state stays."""
_MOST = 10
"""Running tasks that a report names."""


class LinesFace:
    """A line per change of state, and every two seconds one per running task."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._since: dict[str, float] = {}
        self._next = time.monotonic() + _PACE

    def show(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        for task in snapshot.tasks:
            if self._states.get(task.key) is task.state:
                continue
            if task.key in self._states or task.state is not State.INITED:
                self._print(task, now)
            self._states[task.key] = task.state
            if task.state is State.RUNNING:
                self._since[task.key] = now
        if now < self._next:
            return
        self._next = now + _PACE
        running = [task for task in snapshot.tasks if task.state is State.RUNNING]
        for task in running[:_MOST]:
            self._print(task, now)
        if running[_MOST:]:
            done = sum(task.state.is_final for task in snapshot.tasks)
            self.tell("INFO", f"{done}/{len(snapshot.tasks)} tasks done, {len(running)} running")

    def _print(self, task: TaskProgress, now: float) -> None:
        parts = [f"{task.name}: {task.state.value}"]
        if task.state is State.RUNNING:
            parts.append(f"{task.fraction:.0%}")
        if task.rows:
            parts.append(f"{count(task.rows)} rows")
        if task.rate >= 1:
            parts.append(f"{count(task.rate)} rows/s")
        if task.errors:
            parts.append(f"{count(task.errors)} dirty")
        spent = now - self._since.get(task.key, now)
        if task.state is State.RUNNING and spent > 1 and task.fraction > 0.01:
            parts.append(f"ETA {spent * (1 - task.fraction) / task.fraction:.0f} s")
        self.tell("INFO", ", ".join(parts))

    def tell(self, level: str, text: str) -> None:
        word = "" if level == "INFO" else f"{level} "
        say(f"{datetime.now():%H:%M:%S} {word}{one_line(text)}")

    def close(self) -> None:
        """Nothing is held back."""
