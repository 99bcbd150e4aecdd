"""One task of a local run: its attempts, and what it tells while it works."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path

from exchangis.cli.local_job import LocalTask
from exchangis.cli.progress import TaskProgress
from exchangis.config import Settings
from exchangis.connectors.base import Level
from exchangis.domain.errors import ExchangisError, TaskCancelled
from exchangis.domain.retry import RetryPolicy
from exchangis.domain.states import State
from exchangis.engine.base import Counters, Engine, TaskRequest, engine_class

_RATE_WINDOW = 3.0

Teller = Callable[[Level, str], None]


class TaskRun:
    """Carries out one task in the thread that calls `run`; implements `engine.base.Events`.

    `message` says why the task ended badly. `dirty_file` is where its refused rows are, if any.
    """

    def __init__(
        self, key: int, task: LocalTask, settings: Settings, *,
        run_id: str, workdir: Path, dirty_folder: Path, tell: Teller,
    ) -> None:  # fmt: skip
        self.key = key
        self.task = task
        self.message = ""
        self.code = ""
        self.details: dict[str, object] = {}
        self.seconds = 0.0
        self._settings = settings
        self._name = f"{run_id}/{key}"
        self._workdir = workdir / str(key)
        self.dirty_file = dirty_folder / f"task-{key}.jsonl"
        self._tell = tell
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._engine: Engine | None = None
        self._timed_out = False
        self._state = State.INITED
        self._fraction = 0.0
        self._counters = Counters()
        self._window: deque[tuple[float, int]] = deque()

    # --- engine.base.Events -----------------------------------------------------------------

    def log(self, level: Level, text: str) -> None:
        self._tell(level, f"{self.task.spec.name}: {text}")

    def planned(self, rows: int) -> None:
        """Each task has a bar of its own: nothing is weighed."""

    def progress(self, fraction: float) -> None:
        with self._lock:
            self._fraction = max(self._fraction, min(fraction, 0.999))

    def counters(self, counters: Counters) -> None:
        with self._lock:
            self._counters = counters

    def session(self, side: str, session_id: str) -> None:
        """Sessions end with this process's connections; nobody else has to end them."""

    def external(self, external_id: str, info: str) -> None:
        self.log("INFO", f"runs as {external_id} {info}".rstrip())

    # --- from other threads -----------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    def snapshot(self) -> TaskProgress:
        """The task now."""
        with self._lock:
            counters, fraction, state = self._counters, self._fraction, self._state
            rate = self._rate(counters)
        return TaskProgress(
            str(self.key), self.task.spec.name, state, fraction,
            counters.exchanged, counters.errors, counters.ignored, rate,
        )  # fmt: skip

    def _rate(self, counters: Counters) -> float:
        if self._state.is_final:
            return counters.exchanged / self.seconds if self.seconds else 0.0
        now = time.monotonic()
        self._window.append((now, counters.read))
        while len(self._window) > 2 and self._window[0][0] < now - _RATE_WINDOW:
            self._window.popleft()
        since, before = self._window[0]
        return (counters.read - before) / max(now - since, 0.001)

    def cancel(self) -> None:
        """Make the task end soon as `Cancelled`; one that has not begun never does."""
        self._stop.set()
        with self._lock:
            engine = self._engine
            if self._state is State.INITED:
                self._state = State.CANCELLED
        if engine is not None:
            engine.cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self.cancel()

    # --- the work ---------------------------------------------------------------------------

    def run(self) -> None:
        """Attempt the task until it ends; the outcome is in `state` and `message`."""
        with self._lock:
            if self._state is not State.INITED:
                return
            self._state = State.RUNNING
        started = time.monotonic()
        limits = self.task.spec.limits
        for name in self.task.unknown_keys:
            self.log("WARN", f"the key {name} means nothing and is ignored")
        if limits.memory_mb is not None:
            self.log("WARN", "the memory limit is not enforced here; servers do so")
        seconds = limits.timeout_seconds or self._settings.task_timeout
        timer = threading.Timer(seconds, self._time_out) if seconds is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            state = self._attempts(
                RetryPolicy(
                    limits.max_attempts or self._settings.retry_attempts,
                    self._settings.retry_base,
                    self._settings.retry_ceiling,
                )
            )
        finally:
            if timer is not None:
                timer.cancel()
        with self._lock:
            self.seconds = self.seconds or time.monotonic() - started
            self._state = state
            if state is State.SUCCESS:
                self._fraction = 1.0
        if self.message:
            self.log("ERROR" if state is not State.CANCELLED else "WARN", self.message)

    def _attempts(self, policy: RetryPolicy) -> State:
        attempt = 1
        while True:
            request = self._request(attempt)
            try:
                self._attempt(request)
            except TaskCancelled:
                return self._ended_early(request)
            except ExchangisError as error:
                if self._stop.is_set():
                    return self._ended_early(request)
                delay = policy.delay_after(attempt, retryable=error.retryable)
                if delay is None:
                    return self._failed(request, error.code, str(error))
                self.log("WARN", f"{error} Attempt {attempt} failed; again in {delay:.1f} s.")
                with self._lock:
                    self._state = State.WAIT_FOR_RETRY
                    self._fraction = 0.0
                if self._stop.wait(delay):
                    return self._ended_early(request)
                attempt += 1
                with self._lock:
                    self._state = State.RUNNING
            except Exception as error:  # noqa: BLE001 - the boundary: a bug ends one task, told in full
                self.log("DEBUG", traceback.format_exc())
                text = f"Unexpected {type(error).__name__}: {error}"
                return self._failed(request, "internal", text)
            else:
                return State.SUCCESS
            finally:
                shutil.rmtree(request.workdir, ignore_errors=True)

    def _request(self, attempt: int) -> TaskRequest:
        workdir = self._workdir / f"attempt-{attempt}"
        workdir.mkdir(parents=True, exist_ok=True)
        return TaskRequest(
            task_key=self._name,
            attempt=attempt,
            spec=self.task.spec,
            source=self.task.source,
            sink=self.task.sink,
            workdir=workdir,
            dirty_file=self.dirty_file,
            roots=self._settings.file_roots,
            default_parallelism=self._settings.task_parallelism,
        )

    def _attempt(self, request: TaskRequest) -> None:
        engine = engine_class(request.spec.engine)()
        engine.check(request.spec)
        with self._lock:
            self._engine = engine
        try:
            if self._stop.is_set():
                raise TaskCancelled
            result = engine.run(request, self)
        finally:
            with self._lock:
                self._engine = None
        with self._lock:
            self._counters = result.counters
            self.seconds = result.seconds
        self.details = dict(result.details)

    def _ended_early(self, request: TaskRequest) -> State:
        self._discard(request)
        if self._timed_out:
            self.code = "time_limit_exceeded"
            self.message = "The task outran its time limit and was stopped."
            return State.TIMEOUT
        self.code, self.message = "cancelled", "The task was cancelled."
        return State.CANCELLED

    def _failed(self, request: TaskRequest, code: str, message: str) -> State:
        self._discard(request)
        self.code, self.message = code, message
        return State.FAILED

    def _discard(self, request: TaskRequest) -> None:
        """Remove what is half-written; a failure here is told beside the task's own."""
        try:
            engine_class(request.spec.engine)().discard(request, self)
        except Exception as error:  # noqa: BLE001 - told; the task's own end matters more
            self.log("ERROR", f"Cleaning up failed: {type(error).__name__}: {error}")
