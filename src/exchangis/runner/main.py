"""What runs in a runner process: one order, carried out to its outcome."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import orjson

from exchangis.connectors.base import Context
from exchangis.connectors.registry import connector
from exchangis.domain.errors import ExchangisError, TaskCancelled
from exchangis.domain.states import State
from exchangis.engine.base import Engine, engine_class
from exchangis.runner.protocol import Order, Outcome
from exchangis.runner.reporter import Reporter

SERVER_GONE = 75
LEASE_LOST = 76
"""Exit codes of a runner that ends itself, for whoever looks at the process list."""


def _lines(channel: socket.socket) -> Iterator[bytes]:
    pending = b""
    while data := channel.recv(65536):
        *complete, pending = (pending + data).split(b"\n")
        yield from complete


class _Control:
    """Listens to the server while the engine works.

    End of the stream means that the server is gone: so is this process then, at once, since
    another server may start the next attempt when the lease ends.
    """

    def __init__(self, lines: Iterator[bytes], engine: Engine, lease_seconds: float) -> None:
        self._lines = lines
        self._engine = engine
        self._lease_ends = time.monotonic() + lease_seconds
        self.stopped = threading.Event()

    def start(self) -> None:
        for target in (self._listen, self._watch_lease):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()

    def _listen(self) -> None:
        try:
            for line in self._lines:
                message = orjson.loads(line)
                if message["kind"] == "stop":
                    self.stopped.set()
                    self._engine.cancel()
                elif message["kind"] == "lease":
                    self._lease_ends = time.monotonic() + message["seconds"]
        finally:
            os._exit(SERVER_GONE)

    def _watch_lease(self) -> None:
        while (left := self._lease_ends - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        os._exit(LEASE_LOST)


def _end_sessions(order: Order, reporter: Reporter) -> None:
    """End what earlier attempts left running in the databases, before anything else."""
    request = order.request
    request.workdir.mkdir(parents=True, exist_ok=True)
    for side, connection in (("source", request.source), ("sink", request.sink)):
        ids = [session for at, session in order.sessions if at == side]
        if ids:
            context = Context(
                task_key=request.task_key,
                attempt=request.attempt,
                workdir=request.workdir,
                log=reporter.log,
                roots=request.roots,
            )
            connector(connection.type).end_sessions(connection, ids, context)


def _describe(error: Exception) -> tuple[str, str, bool]:
    """Code, message and whether to retry; an error that is no ExchangisError is a bug of ours."""
    if isinstance(error, ExchangisError):
        return error.code, str(error), error.retryable
    return "internal", f"Unexpected {type(error).__name__}: {error}", False


def _discard(order: Order, reporter: Reporter) -> bool:
    """Remove leftovers for good; a failure is told and left to a later cleaning."""
    try:
        engine_class(order.request.spec.engine)().discard(order.request, reporter)
    except Exception as error:  # noqa: BLE001 - reported, and `discarded` stays False
        reporter.log("WARN", f"Cleaning up failed, it will be tried again: {_describe(error)[1]}")
        return False
    return True


def _attempt(order: Order, engine: Engine, control: _Control, reporter: Reporter) -> Outcome:
    request = order.request
    try:
        _end_sessions(order, reporter)
        if control.stopped.is_set():
            raise TaskCancelled
        result = engine.run(request, reporter)
    except Exception as error:  # noqa: BLE001 - the boundary: every error becomes an outcome
        code, message, retryable = _describe(error)
        if control.stopped.is_set() or isinstance(error, TaskCancelled):
            reporter.log("WARN", "The task was stopped.")
            state = State.CANCELLED
        else:
            detail = "" if isinstance(error, ExchangisError) else f"\n{traceback.format_exc()}"
            reporter.log("ERROR", message + detail)
            state = State.FAILED
        over = state is State.CANCELLED or order.last_attempt or not retryable
        return Outcome(
            state, code, message, retryable,
            discarded=over and _discard(order, reporter),
            dirty_file=str(request.dirty_file) if request.dirty_file.exists() else None,
        )  # fmt: skip
    return Outcome(
        State.SUCCESS, discarded=True, dirty_file=result.dirty_file, result=result.as_dict()
    )


def _clean(order: Order, reporter: Reporter) -> Outcome:
    try:
        _end_sessions(order, reporter)
    except Exception as error:  # noqa: BLE001 - the boundary: every error becomes an outcome
        code, message, retryable = _describe(error)
        reporter.log("WARN", f"Ending old sessions failed, it will be tried again: {message}")
        return Outcome(State.FAILED, code, message, retryable)
    done = order.last_attempt and _discard(order, reporter)
    return Outcome(State.SUCCESS, discarded=done)


def carry_out(channel: socket.socket) -> None:
    """Read the order from `channel`, carry it out, say how it ended."""
    lines = _lines(channel)
    order = Order.decode(next(lines))
    reporter = Reporter(channel)
    engine: Any = engine_class(order.request.spec.engine)()
    control = _Control(lines, engine, order.lease_seconds)
    control.start()
    reporter.start()
    try:
        if order.mode == "clean":
            outcome = _clean(order, reporter)
        else:
            outcome = _attempt(order, engine, control, reporter)
    finally:
        shutil.rmtree(order.request.workdir, ignore_errors=True)
    reporter.finish(outcome)
