"""Limits on records and bytes per second over all lanes of a task."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.2
"""Time that may be made up for: what a lane spent working while it might have been sending."""


class Rate:
    """At most `per_second` units in the long run, shared by all lanes.

    Units are paid for in advance: `acquire(n)` returns when n / per_second seconds have passed
    since the units before, so that after t seconds no more than (t + BURST_SECONDS) * per_second
    have been let through.
    """

    def __init__(
        self,
        per_second: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool],
    ) -> None:
        """`wait(seconds)` pauses and returns True as soon as the task is stopped."""
        self.per_second = per_second
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._paid_until = clock()

    def acquire(self, units: int) -> bool:
        """Let `units` through when their time has come; False when the task was stopped."""
        with self._lock:
            start = max(self._paid_until, self._clock() - BURST_SECONDS)
            self._paid_until = start + units / self.per_second
            due = self._paid_until
        while (delay := due - self._clock()) > 0:
            if self._wait(delay):
                return False
        return True


def rows_per_step(per_second: int | None, batch_rows: int) -> int:
    """How many rows to let through at once: a tenth of a second's worth, so that flow is even."""
    if per_second is None:
        return batch_rows
    return max(1, min(batch_rows, per_second // 10))
