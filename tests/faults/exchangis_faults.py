"""An engine that misbehaves as asked: a fake, for faults that real engines show too rarely.

It is also an outside plugin: found through its entry point alone, with this folder on the path.
The task's `where` says what to do; the sink's `uri` may name a file to write to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

from exchangis.domain.errors import SinkError, TaskCancelled
from exchangis.domain.model import TaskSpec
from exchangis.engine.base import Counters, Engine, Events, Explanation, TaskRequest, TaskResult


class FaultEngine(Engine):
    """`quick`, `wait`, `stubborn`, `deaf`, `hungry`, `crash`, `flaky N`, `fail`, `chatter N`."""

    name: ClassVar[str] = "fault"
    title: ClassVar[str] = "Faults on request (for tests)"

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def check(self, spec: TaskSpec) -> None:
        pass

    def explain(self, request: TaskRequest, events: Events) -> Explanation:
        return Explanation((), (), None, creates_table=False)

    def cancel(self) -> None:
        self._cancelled.set()

    def discard(self, request: TaskRequest, events: Events) -> None:
        if request.spec.sink.uri:
            with Path(request.spec.sink.uri).open("a") as file:
                file.write("discarded\n")

    def run(self, request: TaskRequest, events: Events) -> TaskResult:
        word, _, argument = (request.spec.where or "quick").partition(" ")
        events.log("INFO", f"fault engine: {word}, attempt {request.attempt}, pid {os.getpid()}")
        getattr(self, f"_{word}")(request, events, argument)
        counters = Counters(read=10, exchanged=10)
        events.counters(counters)
        return TaskResult(counters, 0.0)

    def _quick(self, request: TaskRequest, events: Events, argument: str) -> None:
        pass

    def _wait(self, request: TaskRequest, events: Events, argument: str) -> None:
        events.progress(0.5)
        events.counters(Counters(read=5, exchanged=4, errors=1))
        if self._cancelled.wait(float(argument or 60)):
            raise TaskCancelled

    def _stubborn(self, request: TaskRequest, events: Events, argument: str) -> None:
        """Ignores every signal that can be ignored, and has a child that does too."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        code = "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code])
        events.log("INFO", f"child {child.pid}")
        while True:
            time.sleep(1)

    def _deaf(self, request: TaskRequest, events: Events, argument: str) -> None:
        """Stops its own process, once its log line is out: no thread of it runs any more."""
        self._cancelled.wait(0.5)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _hungry(self, request: TaskRequest, events: Events, argument: str) -> None:
        held = []
        while not self._cancelled.is_set():
            held.append(os.urandom(1 << 20) * 16)
            self._cancelled.wait(0.02)

    def _crash(self, request: TaskRequest, events: Events, argument: str) -> None:
        print("a native library says good-bye", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)

    def _flaky(self, request: TaskRequest, events: Events, argument: str) -> None:
        """Fails with a retryable error until attempt number `argument`."""
        if request.attempt < int(argument):
            raise SinkError("The sink is having a moment.", retryable=True)

    def _fail(self, request: TaskRequest, events: Events, argument: str) -> None:
        raise SinkError(argument or "No such table.")

    def _bug(self, request: TaskRequest, events: Events, argument: str) -> None:
        raise ZeroDivisionError("password=hunter2 divided by zero")

    def _chatter(self, request: TaskRequest, events: Events, argument: str) -> None:
        for number in range(int(argument)):
            events.log("INFO", f"line {number}")
