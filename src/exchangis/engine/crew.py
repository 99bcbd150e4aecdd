"""All lanes of a task together: one failing stops the others, none commits before all are well."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from exchangis.domain.errors import ExchangisError, TaskCancelled, VerificationFailed
from exchangis.engine.lanes import Lane, Stage, Work
from exchangis.engine.progress import REPORT_SECONDS

_GRACE = 1.0
"""Seconds that lanes get to end by themselves after another has failed, before the sink's
statements are ended too: a rollback is kinder to a database than a broken connection."""
_PATIENCE = 60.0
"""Seconds after which a lane that does not end is given up; connectors promise one second."""


class Crew:
    """Runs the lanes from the calling thread; see `run`."""

    def __init__(
        self, work: Work, count: int, cancelled: Callable[[], bool], tick: Callable[[], None]
    ) -> None:
        """`cancelled` asks whether the user wants to end; `tick` is called every 0.2 s or so."""
        self._work = work
        self._lanes = [Lane(number, work) for number in range(1, count + 1)]
        self._cancelled = cancelled
        self._tick = tick

    def write(self) -> None:
        """Run all lanes until each has written what there is; raises the first error of any."""
        for lane in self._lanes:
            lane.start()
        self._until(lambda: all(lane.stage in (Stage.WRITTEN, Stage.DONE) for lane in self._lanes))
        if self._work.splits:
            raise VerificationFailed("The lanes ended before the last split was read.")

    def commit(self) -> None:
        """Commit lane after lane. A crash in between is completed by the marks (Resume.done)."""
        for lane in self._lanes:
            if lane.stage is Stage.WRITTEN:
                lane.commit()
                self._until(partial(_committed, lane), stoppable=False)

    def close(self) -> None:
        """Stop what still runs, roll back, and leave no thread behind."""
        work = self._work
        work.stop.set()
        for lane in self._lanes:
            lane.stop()
        started = time.monotonic()
        whole = all(lane.stage is Stage.DONE for lane in self._lanes)
        if not whole and not self._joined(started):
            self._ending(work.source.cancel)
            grace = 0.0 if self._cancelled() else _GRACE
            if not self._joined(started + grace):
                self._ending(work.sink.cancel)
        if not self._joined(started + _PATIENCE):
            work.log("ERROR", f"a lane did not end within {_PATIENCE:.0f} s; it is left behind")

    def _joined(self, until: float) -> bool:
        ended = [lane.join(until) for lane in self._lanes]
        return all(ended)

    def _ending(self, cancel: Callable[[], None]) -> None:
        try:
            cancel()
        except ExchangisError as error:
            # What matters is why the task ends, not that a side is gone already.
            self._work.log("WARN", f"cancelling: {error}")

    def _until(self, reached: Callable[[], bool], *, stoppable: bool = True) -> None:
        """Wait for a condition of the lanes; raise when one failed or the user cancels."""
        while True:
            with self._work.changed:
                if not self._settled(reached, stoppable=stoppable):
                    self._work.changed.wait(REPORT_SECONDS)
                failed = next(iter(self._work.errors), None)
                done = reached()
            self._tick()
            if stoppable and self._cancelled():
                raise TaskCancelled
            if failed is not None:
                raise failed
            if done:
                return

    def _settled(self, reached: Callable[[], bool], *, stoppable: bool) -> bool:
        return reached() or bool(self._work.errors) or (stoppable and self._cancelled())


def _committed(lane: Lane) -> bool:
    return lane.stage is Stage.DONE
