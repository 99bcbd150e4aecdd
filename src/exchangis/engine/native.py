"""The native engine: rows move as Arrow batches from a source connector to a sink connector."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import ClassVar

from exchangis.domain.errors import (
    EngineError,
    ExchangisError,
    InvalidRequest,
    MemoryLimitExceeded,
    TaskCancelled,
)
from exchangis.domain.model import TaskSpec
from exchangis.engine.base import Engine, Events, Explanation, TaskRequest, TaskResult
from exchangis.engine.checks import check_task
from exchangis.engine.exchange import Exchange


class NativeEngine(Engine):
    """One attempt of one task, in this process."""

    name: ClassVar[str] = "native"
    title: ClassVar[str] = "Native (Arrow)"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._exchange: Exchange | None = None

    def check(self, spec: TaskSpec) -> None:
        if spec.engine.lower() != self.name:
            raise InvalidRequest.field("engine", spec.engine, f"this is the engine {self.name}")
        check_task(spec)

    def explain(self, request: TaskRequest, events: Events) -> Explanation:
        self.check(request.spec)
        with self._open(request, events) as exchange:
            return exchange.explain()

    def run(self, request: TaskRequest, events: Events) -> TaskResult:
        try:
            check_task(request.spec)
            with self._open(request, events) as exchange:
                return exchange.run()
        except InvalidRequest as error:
            raise EngineError(
                error.message, guidance=error.guidance, errors=error.errors
            ) from error

    def cancel(self) -> None:
        with self._lock:
            self._cancelled.set()
            exchange = self._exchange
        if exchange is not None:
            exchange.cancel()

    def discard(self, request: TaskRequest, events: Events) -> None:
        with self._open(request, events) as exchange:
            exchange.discard()

    @contextlib.contextmanager
    def _open(self, request: TaskRequest, events: Events) -> Iterator[Exchange]:
        """The exchange, closed at the end; whatever goes wrong leaves as an ExchangisError."""
        try:
            with contextlib.closing(Exchange(request, events, self._cancelled)) as exchange:
                with self._lock:
                    self._exchange = exchange
                yield exchange
        except TaskCancelled:
            raise
        except Exception as error:
            meant = self._as_task_error(error)
            if meant is error:
                raise
            raise meant from error
        finally:
            with self._lock:
                self._exchange = None

    def _as_task_error(self, error: Exception) -> Exception:
        if self._cancelled.is_set():
            # Ending statements by force makes them fail in many ways; all of them mean this.
            return TaskCancelled()
        if isinstance(error, ExchangisError):
            return error
        if isinstance(error, MemoryError):
            return MemoryLimitExceeded("The task ran out of memory.")
        return EngineError(f"Unexpected {type(error).__name__}: {error}")
