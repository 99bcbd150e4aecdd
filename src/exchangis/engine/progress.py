"""Counting what lanes do, and what fraction of the task that is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from exchangis.connectors.base import Split
from exchangis.engine.base import Counters, Events

REPORT_SECONDS = 0.2
_MOST = 0.999
"""Progress of a task that has written everything and is not published yet."""
_UNKNOWN_ROWS = 1_000_000
"""Rows at which a split of unknown size shows as half done: a sign of life, no promise."""


@dataclass(slots=True)
class _Share:
    """One split's part in the whole: `weight` of it, `rows` estimated, `scanned` so far."""

    weight: float
    rows: int | None
    scanned: int = 0
    done: bool = False

    @property
    def fraction(self) -> float:
        if self.done:
            return 1.0
        if self.rows:
            return min(self.scanned / self.rows, 0.99)
        return self.scanned / (self.scanned + _UNKNOWN_ROWS)


class Tally:
    """The task's counters; every method is thread-safe.

    Splits weigh what their row estimates say; a split without one weighs the mean of the others.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self._lock = threading.Lock()
        known = [split.rows for split in splits if split.rows]
        mean = sum(known) / len(known) if known else 1.0
        self._shares = {
            split.id: _Share(max(mean if split.rows is None else split.rows, 1), split.rows)
            for split in splits
        }
        self._read = self._exchanged = self._errors = self._ignored = self._bytes = 0
        self._committed = 0
        self._best = 0.0

    def resume(self, done: Mapping[str, int], errors: Mapping[str, int]) -> None:
        """Count the splits that earlier attempts committed, with their dirty records."""
        with self._lock:
            for split, rows in done.items():
                if (share := self._shares.get(split)) is not None:
                    share.done = True
                self._exchanged += rows
                self._committed += rows
                self._errors += errors.get(split, 0)
                self._read += rows + errors.get(split, 0)

    def add(
        self,
        split: str,
        *,
        scanned: int,
        read: int,
        exchanged: int,
        errors: int,
        ignored: int,
        size: int,
    ) -> None:
        """Count one batch: `scanned` rows came, `read` passed the filter, `size` is in bytes."""
        with self._lock:
            self._shares[split].scanned += scanned
            self._read += read
            self._exchanged += exchanged
            self._errors += errors
            self._ignored += ignored
            self._bytes += size

    def finish(self, split: str) -> None:
        """The split is written to its end."""
        with self._lock:
            self._shares[split].done = True

    def commit(self, rows: int) -> None:
        """The sink has made that many rows durable."""
        with self._lock:
            self._committed += rows

    def failed(self, *, shown: bool) -> Counters:
        """The counters of a task that does not succeed: only committed rows count as exchanged.

        `shown` is False where committed rows lie in a staging area that is not published.
        """
        counters = self.counters
        with self._lock:
            return replace(counters, exchanged=self._committed if shown else 0)

    @property
    def counters(self) -> Counters:
        with self._lock:
            return Counters(self._read, self._exchanged, self._errors, self._ignored, self._bytes)

    @property
    def fraction(self) -> float:
        """0 up to 0.999, never falling."""
        with self._lock:
            total = sum(share.weight for share in self._shares.values())
            done = sum(share.weight * share.fraction for share in self._shares.values())
            self._best = max(self._best, min(done / total if total else 0.0, _MOST))
            return self._best


class Reporter:
    """Passes the tally on to the events, at most every 0.2 seconds and only what changed."""

    def __init__(
        self, tally: Tally, events: Events, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tally = tally
        self._events = events
        self._clock = clock
        self._next = 0.0
        self._fraction = -1.0
        self._counters: Counters | None = None

    def tick(self) -> None:
        """Report when it is time."""
        if self._clock() >= self._next:
            self.now()

    def now(self) -> None:
        """Report at once."""
        self._next = self._clock() + REPORT_SECONDS
        counters, fraction = self._tally.counters, self._tally.fraction
        if counters != self._counters:
            self._counters = counters
            self._events.counters(counters)
        if fraction > self._fraction:
            self._fraction = fraction
            self._events.progress(fraction)
