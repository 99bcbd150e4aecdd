"""The runner's voice: collects what the engine says and sends it in few messages."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from dataclasses import asdict

from exchangis.connectors.base import Level
from exchangis.domain.clock import now_ms
from exchangis.engine.base import Counters
from exchangis.runner.protocol import BEAT, Outcome, Report

_PACE = 0.15
"""Seconds between two reports while there is news."""
_MOST_LINES = 20_000
"""Log lines that may wait; a faster engine is made to wait, so that no line is lost."""
_FLOW_WINDOW = 3.0


class Reporter:
    """Implements `engine.base.Events`; a thread of its own does the sending.

    The thread's reports are the heartbeat too: they come every second, news or none.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._progress: float | None = None
        self._planned: int | None = None
        self._counters: Counters | None = None
        self._latest = Counters()
        self._logs: list[tuple[int, str, str]] = []
        self._sessions: list[tuple[str, str]] = []
        self._external: tuple[str, str] | None = None
        self._history: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._thread = threading.Thread(target=self._send_reports, name="reporter", daemon=True)

    def start(self) -> None:
        """Say that the work begins, and go on saying that it goes on."""
        self._channel.sendall(Report(progress=0.0).encode())
        self._thread.start()

    # --- engine.base.Events -----------------------------------------------------------------

    def log(self, level: Level, text: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._logs) < _MOST_LINES or self._closing.is_set())
            self._logs.append((now_ms(), level, text))
            self._changed.notify_all()

    def planned(self, rows: int) -> None:
        with self._changed:
            self._planned = rows
            self._changed.notify_all()

    def progress(self, fraction: float) -> None:
        with self._changed:
            self._progress = min(max(fraction, 0.0), 0.999)
            self._changed.notify_all()

    def counters(self, counters: Counters) -> None:
        with self._changed:
            self._counters = self._latest = counters
            self._changed.notify_all()

    def session(self, side: str, session_id: str) -> None:
        with self._changed:
            self._sessions.append((side, session_id))
            self._changed.notify_all()

    def external(self, external_id: str, info: str) -> None:
        with self._changed:
            self._external = (external_id, info)
            self._changed.notify_all()

    # --- sending ----------------------------------------------------------------------------

    def _has_news(self) -> bool:
        return bool(
            self._logs or self._sessions or self._external
            or self._counters is not None or self._progress is not None
            or self._planned is not None
        )  # fmt: skip

    def _take(self) -> Report:
        now = time.monotonic()
        self._history.append((now, self._latest.read))
        while len(self._history) > 2 and self._history[0][0] < now - _FLOW_WINDOW:
            self._history.popleft()
        since, before = self._history[0]
        flow = (self._latest.read - before) / max(now - since, 0.001)
        report = Report(
            progress=self._progress,
            planned=self._planned,
            counters=asdict(self._counters) if self._counters is not None else None,
            flow=round(flow, 1),
            logs=tuple(self._logs),
            sessions=tuple(self._sessions),
            external=self._external,
        )
        self._progress = self._planned = self._counters = self._external = None
        self._logs, self._sessions = [], []
        self._changed.notify_all()
        return report

    def _send_reports(self) -> None:
        # Idle, it wakes once a second; busy, once a pace, whatever the engine says in between.
        while not self._closing.wait(_PACE):
            with self._changed:
                self._changed.wait_for(lambda: self._has_news() or self._closing.is_set(), BEAT)
                if self._closing.is_set():
                    return
                report = self._take()
            self._channel.sendall(report.encode())

    def finish(self, outcome: Outcome) -> None:
        """Send what is left and the outcome; nothing may be said after it."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            rest = self._take()
        self._channel.sendall(rest.encode() + outcome.encode())
