"""Progress as JSON lines, for programs."""

from __future__ import annotations

import time
from typing import Any

from exchangis.cli.progress import Snapshot
from exchangis.cli.terminal import print_json

_PACE = 1.0


class JsonFace:
    """`{"event": "progress", ...}` when a state changes, else at most once a second."""

    def __init__(self) -> None:
        self._next = 0.0
        self._last: dict[str, Any] = {}
        self._states: list[Any] = []

    def show(self, snapshot: Snapshot) -> None:
        states = [snapshot.state, *(task.state for task in snapshot.tasks)]
        if states == self._states and time.monotonic() < self._next:
            return
        shown = snapshot.as_dict()
        if shown != self._last:
            print_json({"event": "progress", **shown}, indent=None)
        self._states, self._last = states, shown
        self._next = time.monotonic() + _PACE

    def tell(self, level: str, text: str) -> None:
        print_json({"event": "log", "level": level, "text": text}, indent=None)

    def close(self) -> None:
        """Nothing is held back."""
