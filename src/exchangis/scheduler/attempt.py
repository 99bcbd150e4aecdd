"""One attempt as its server sees it: the process, what it said, and what is to be stored of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from exchangis.domain.clock import now_ms
from exchangis.domain.errors import MemoryLimitExceeded, RunnerLost, TaskError
from exchangis.domain.loglines import LogLevel, LogLine, make_lines
from exchangis.domain.retry import RetryPolicy
from exchangis.domain.states import State
from exchangis.runner.main import LEASE_LOST, SERVER_GONE
from exchangis.runner.pool import Runner
from exchangis.runner.protocol import Order, Outcome, Report
from exchangis.store import report_rows, settle
from exchangis.store.queue import Claim

_KEPT_SESSIONS = 64
_COUNTER_COLUMNS = {
    "read": "read_records",
    "exchanged": "exchanged_records",
    "errors": "error_records",
    "ignored": "ignored_records",
    "bytes": "read_bytes",
}


@dataclass(eq=False)
class Attempt:
    """A claimed task and the runner that works on it (or that cleans up after it).

    `cleans` is the attempt whose leftovers this one removes before that one is settled.
    """

    claim: Claim
    order: Order
    runner: Runner
    mask: Callable[[str], str]
    zone: ZoneInfo
    memory_limit: int | None = None
    cleans: Attempt | None = None

    started: bool = False
    announced: bool = False
    """Stored as Running."""
    stopping: bool = False
    kill_at: float | None = None
    killed: bool = False
    memory_used: int | None = None
    """Bytes in use when the memory limit was passed."""
    outcome: Outcome | None = None
    exit_code: int | None = None
    open_channel: bool = True
    heard_at: float = field(default_factory=time.monotonic)

    progress: float | None = None
    values: dict[str, Any] = field(default_factory=dict)
    lines: list[LogLine] = field(default_factory=list)
    sessions: list[tuple[str, str]] = field(default_factory=list)
    _printed: bytes = b""

    def __post_init__(self) -> None:
        self.sessions = list(self.claim.sessions)

    @property
    def ended(self) -> bool:
        return self.exit_code is not None and not self.open_channel

    # --- what the runner says ---------------------------------------------------------------

    def hear(self) -> None:
        """Take in the messages that have come."""
        lines, self.open_channel = self.runner.read_lines()
        for line in lines:
            self.heard_at = time.monotonic()
            message = orjson.loads(line)
            if message["kind"] == "outcome":
                self.outcome = Outcome.decode(message)
            else:
                self._take(Report.decode(message))

    def _take(self, report: Report) -> None:
        self.started = True
        if report.progress is not None:
            self.progress = report.progress
        if report.planned is not None:
            self.values["weight"] = float(max(report.planned, 1))
        if report.counters is not None:
            for name, value in report.counters.items():
                self.values[_COUNTER_COLUMNS[name]] = value
        self.values["flow"] = report.flow
        for at, level, text in report.logs:
            self.say(level, text, at_ms=at)  # type: ignore[arg-type]
        if report.sessions:
            self.sessions = [*self.sessions, *report.sessions][-_KEPT_SESSIONS:]
            self.values["sessions"] = json.dumps(self.sessions)
        if report.external is not None:
            self.values["external_id"] = self.mask(report.external[0])[:255]
            self.values["external_info"] = self.mask(report.external[1])[:1024]

    def say(self, level: LogLevel, text: str, *, at_ms: int | None = None) -> None:
        """A line for the task log."""
        self.lines += make_lines(
            level, text, at_ms=at_ms or now_ms(), zone=self.zone, mask=self.mask
        )

    def hear_output(self) -> None:
        """What the process printed, most often a native library's complaint, goes to the log."""
        while data := self.runner.read_output():
            self._printed += data
            *complete, self._printed = self._printed.split(b"\n")
            for line in complete:
                if text := line.decode(errors="replace").rstrip():
                    self.say("WARN", f"stderr: {text}")
        if self._printed and self.ended:
            self.say("WARN", f"stderr: {self._printed.decode(errors='replace')}")
            self._printed = b""

    # --- what is to be stored ---------------------------------------------------------------

    def take_report(self) -> report_rows.Report | None:
        """News for the store since the last call."""
        if self.progress is None and not self.values and not self.lines:
            return None
        report = report_rows.Report(
            task_id=self.claim.task_id,
            attempt=self.claim.attempt,
            execution_id=self.claim.execution_id,
            progress=self.progress,
            values=tuple(self.values.items()),
            lines=tuple(self.lines),
        )
        self.progress, self.values, self.lines = None, {}, []
        return report

    def restore(self, report: report_rows.Report) -> None:
        """Take back a report that the store did not take; later news goes over it."""
        self.progress = report.progress if self.progress is None else self.progress
        self.values = {**dict(report.values), **self.values}
        self.lines = [*report.lines, *self.lines]

    def cleaned_by(self, cleaner: Attempt) -> None:
        """Take in what the runner that cleaned up after this attempt said."""
        self.lines += cleaner.lines
        done = cleaner.outcome is not None and cleaner.outcome.discarded
        self.outcome = Outcome(State.CANCELLED, discarded=done)

    @property
    def needs_cleaning(self) -> bool:
        """Whether a killed runner may have left statements running that a stop must end."""
        return self.stopping and self.outcome is None and self.cleans is None

    def _error(self) -> TaskError:
        if self.memory_used is not None and self.memory_limit is not None:
            return MemoryLimitExceeded(
                f"The task used {self.memory_used >> 20} MB of memory; its limit is "
                f"{self.memory_limit >> 20} MB.",
                guidance="Raise max.memory, or lower max.parallelism or batch_size.",
            )
        code = self.exit_code
        if code == LEASE_LOST:
            return RunnerLost("The runner ended itself: its claim on the task was not renewed.")
        if code == SERVER_GONE:
            return RunnerLost("The runner ended itself: its server was gone.")
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return RunnerLost(f"The runner process was killed by {name}.")
        return RunnerLost(f"The runner process ended without an outcome (exit code {code}).")

    def settled(self, policy: RetryPolicy) -> settle.Outcome:
        """How the attempt ended, for the store; call when `ended`."""
        self.hear_output()
        said = self.outcome
        if said is None and self.stopping:
            said = Outcome(State.CANCELLED)
        if said is None:
            error = self._error()
            self.say("ERROR", str(error))
            said = Outcome(State.FAILED, error.code, str(error), error.retryable)
        delay = None
        if said.state is State.FAILED and not self.stopping:
            attempts = RetryPolicy(
                self.claim.max_attempts, policy.base, policy.ceiling, policy.jitter
            )
            delay = attempts.delay_after(self.claim.failures + 1, retryable=said.retryable)
        return settle.Outcome(
            task_id=self.claim.task_id,
            execution_id=self.claim.execution_id,
            attempt=self.claim.attempt,
            state=said.state,
            error_code=said.code,
            error=self.mask(said.error) if said.error else None,
            retry_in_ms=None if delay is None else int(delay * 1000),
            discarded=said.discarded,
            values=(*self.values.items(), ("dirty_file", said.dirty_file)),
            lines=tuple(self.lines),
        )
