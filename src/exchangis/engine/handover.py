"""The queue between a lane's reader and its writer, bounded in bytes."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The task was stopped while waiting."""


class Handover(Generic[T]):
    """A queue that holds at most `capacity` bytes, or a single larger item.

    One side puts, the other takes; `stop` wakes both. Items of no bytes (marks between batches)
    always fit.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._items: deque[tuple[T, int]] = deque()
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, item: T, size: int) -> None:
        """Wait until the item fits, then hand it over; Stopped when the task ends first."""
        with self._changed:
            while not self._stopped and size and self.held and self.held + size > self.capacity:
                self._changed.wait()
            if self._stopped:
                raise Stopped
            self._items.append((item, size))
            self.held += size
            self._changed.notify_all()

    def take(self) -> T:
        """Wait for the next item; Stopped when the task ends first."""
        with self._changed:
            while not self._stopped and not self._items:
                self._changed.wait()
            if self._stopped:
                raise Stopped
            item, size = self._items.popleft()
            self.held -= size
            self._changed.notify_all()
            return item

    def stop(self) -> None:
        """Wake both sides for good and let go of what is held."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self.held = 0
            self._changed.notify_all()
