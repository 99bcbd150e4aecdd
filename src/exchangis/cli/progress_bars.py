"""Progress as live bars on a terminal."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from exchangis.cli.progress import Snapshot, TaskProgress
from exchangis.cli.terminal import console, count, one_line, state_style
from exchangis.domain.states import State

_NAME_WIDTH = 28
_SPARE_LINES = 6
"""Lines of the terminal that are left to others: the shell's, the overall bar, messages."""


class _Remaining(ProgressColumn):
    """Time left, while there is something to reckon it from."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        if task.finished or left is None or not task.completed or task.fields["over"]:
            return Text("")
        minutes, seconds = divmod(int(left), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"ETA {hours}:{minutes:02}:{seconds:02}" if hours
                    else f"ETA {minutes}:{seconds:02}", style="dim")  # fmt: skip


class _State(ProgressColumn):
    def render(self, task: Task) -> Text:
        word = task.fields["state"]
        return Text(word, style=state_style(word))


class BarsFace:
    """A bar per task, and one over all when there are several.

    More tasks than lines: those that run are shown, the others are in the bar over all.
    """

    def __init__(self) -> None:
        self._console = console()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[percent]:>3}%", markup=False),
            TextColumn("{task.fields[rows]:>12}", markup=False, justify="right"),
            TextColumn("{task.fields[rate]:>14}", markup=False, justify="right"),
            _Remaining(),
            _State(),
            console=self._console,
            transient=False,
            speed_estimate_period=10.0,
        )
        self._bars: dict[str, TaskID] = {}
        self._overall: TaskID | None = None
        self._started = False

    def show(self, snapshot: Snapshot) -> None:
        if not self._started:
            self._started = True
            self._progress.start()
        if len(snapshot.tasks) > 1:
            self._show_overall(snapshot)
        room = max(self._console.height - _SPARE_LINES, 4)
        crowded = len(snapshot.tasks) > room
        for task in snapshot.tasks:
            visible = not crowded or (task.state is State.RUNNING and room > 0)
            room -= visible and crowded
            self._show_task(task, visible=visible)

    def _show_overall(self, snapshot: Snapshot) -> None:
        done = sum(task.state.is_final for task in snapshot.tasks)
        name = f"{done}/{len(snapshot.tasks)} tasks"
        self._overall = self._show_bar(
            self._overall, name, snapshot.fraction, snapshot.state,
            rows=sum(task.rows for task in snapshot.tasks),
            rate=sum(t.rate for t in snapshot.tasks if t.state is State.RUNNING),
            visible=True,
        )  # fmt: skip

    def _show_task(self, task: TaskProgress, *, visible: bool) -> None:
        self._bars[task.key] = self._show_bar(
            self._bars.get(task.key), task.name, task.fraction, task.state,
            rows=task.rows, rate=task.rate, visible=visible,
        )  # fmt: skip

    def _show_bar(
        self, bar: TaskID | None, name: str, fraction: float, state: State, *,
        rows: int, rate: float, visible: bool,
    ) -> TaskID:  # fmt: skip
        short = one_line(name)
        if len(short) > _NAME_WIDTH:
            short = f"{short[: _NAME_WIDTH - 1]}…"
        fields: dict[str, Any] = {
            "percent": int(fraction * 100),  # 100 % is said of what is done alone
            "rows": f"{count(rows)} rows" if rows else "",
            "rate": f"{count(rate)} rows/s" if rate >= 1 else "",
            "state": state.value,
            "over": state.is_final,
        }
        if bar is None:
            bar = self._progress.add_task(short, total=1.0, visible=visible, **fields)
        self._progress.update(
            bar, description=short, completed=min(fraction, 1.0), visible=visible, **fields
        )
        return bar

    def tell(self, level: str, text: str) -> None:
        style = {"ERROR": "red", "WARN": "yellow"}.get(level, "")
        self._progress.console.print(Text(one_line(text), style=style))

    def close(self) -> None:
        if self._started:
            self._progress.stop()
