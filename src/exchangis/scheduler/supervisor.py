"""The scheduler's one thread: claims tasks, runs them, listens to them, and settles their ends.

Nothing here waits for a notification that is sent once: `wake` only makes the next look at the
store come sooner than `settings.poll`.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from contextlib import suppress
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from exchangis.config import Settings
from exchangis.domain.clock import now_ms
from exchangis.domain.content_sides import Catalog
from exchangis.domain.errors import ExchangisError
from exchangis.domain.loglines import LogLevel, LogLine, make_lines
from exchangis.domain.masking import Masker
from exchangis.domain.model import Connection, DataSet, TaskSpec
from exchangis.domain.states import State
from exchangis.engine.base import TaskRequest
from exchangis.runner.pool import RunnerPool
from exchangis.runner.protocol import Order, encode
from exchangis.scheduler.attempt import Attempt
from exchangis.scheduler.generation import generate
from exchangis.scheduler.housekeeping import Housekeeping
from exchangis.scheduler.identity import server_name
from exchangis.scheduler.measure import Meter
from exchangis.store import settle
from exchangis.store.opening import Store
from exchangis.store.queue import Claim, Queue

_LOG = logging.getLogger("exchangis.scheduler")
_FLUSH = 0.25
"""Seconds between two writes of running tasks' reports."""
_MEASURE = 1.0
_CLEAN_SECONDS = 10.0
_OUTAGE_PAUSE = 1.0


class Supervisor:
    """Runs this server's share of the work; `start`, then `stop`."""

    def __init__(self, settings: Settings, store: Store, catalog: Catalog) -> None:
        self._settings = settings
        self._store = store
        self._catalog = catalog
        self.name = server_name()
        self._queue = Queue(store.database, self.name)
        self._settler = settle.Settler(store.database, self._story)
        self._housekeeping = Housekeeping(settings, store, self._settler, self.name)
        self._pool = RunnerPool()
        self._meter = Meter()
        self._attempts: dict[int, Attempt] = {}
        """By runner pid."""
        self._outcomes: list[settle.Outcome] = []
        """Ends of attempts that are not stored yet."""
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._due: dict[str, float] = {}
        self._nursery_fd: int | None = None

    # --- from other threads -----------------------------------------------------------------

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the store now: something was submitted or killed."""
        with suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_writer, b"!")

    def stop(self) -> None:
        """End all runners, give their tasks back to the queue, and return."""
        self._stopping.set()
        self.wake()
        self._thread.join()

    @property
    def running(self) -> bool:
        """Whether the scheduler's thread is alive."""
        return self._thread.is_alive()

    # --- the loop ---------------------------------------------------------------------------

    def _run(self) -> None:
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._drain_wakeups)
        try:
            while not self._stopping.is_set():
                try:
                    self._turn()
                except SQLAlchemyError as error:
                    # The work goes on meanwhile; what it said is kept until the store is back.
                    _LOG.error("The store does not answer: %s", type(error).__name__)
                    self._stopping.wait(_OUTAGE_PAUSE)
                except Exception:  # noqa: BLE001 - told in full; work under way must not stop
                    _LOG.exception("The scheduler met an error of its own; it goes on.")
                    self._stopping.wait(_OUTAGE_PAUSE)
        finally:
            self._leave()

    def _turn(self) -> None:
        self._watch_nursery()
        for key, _ in self._selector.select(self._patience()):
            key.data()
        for attempt in list(self._attempts.values()):
            self._enforce(attempt)
        self._announce()
        if self._is_due("flush", _FLUSH):
            self._flush()
        settled = self._settle()
        if self._is_due("measure", _MEASURE):
            self._measure()
        if self._is_due("renew", self._settings.heartbeat):
            self._renew()
        if self._is_due("poll", self._settings.poll) or settled:
            self._heed_stops()
            self._generate()
            self._claim()
        if self._is_due("housekeeping", min(self._settings.lease / 3, 5.0)):
            if self._housekeeping.tick():
                self._due["poll"] = 0.0
            self._clean_up()

    def _is_due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if self._due.get(what, 0.0) > now:
            return False
        self._due[what] = now + every
        return True

    def _patience(self) -> float:
        due = dict(self._due)
        if not self._attempts:
            due.pop("flush", None)
            due.pop("measure", None)
        kills = [a.kill_at for a in self._attempts.values() if a.kill_at is not None]
        return max(min([*due.values(), *kills], default=0.0) - time.monotonic(), 0.0)

    def _drain_wakeups(self) -> None:
        os.read(self._wake_reader, 4096)
        self._due["poll"] = 0.0

    def _watch_nursery(self) -> None:
        """Listen to the present nursery, which is another one after a loss."""
        fd = self._pool.start().fileno()
        if fd != self._nursery_fd or fd not in self._selector.get_map():
            if self._nursery_fd is not None and self._nursery_fd in self._selector.get_map():
                self._selector.unregister(self._nursery_fd)
            self._selector.register(fd, selectors.EVENT_READ, self._hear_exits)
            self._nursery_fd = fd

    def _hear_exits(self) -> None:
        for ended in self._pool.exits():
            if (attempt := self._attempts.get(ended.pid)) is not None:
                attempt.exit_code = ended.code
                attempt.hear()
                attempt.open_channel = False  # whoever else may hold it has nothing to say
                self._forget_channel(attempt)

    # --- making and claiming tasks ----------------------------------------------------------

    def _story(self, level: LogLevel, text: str) -> list[LogLine]:
        return make_lines(level, text, at_ms=now_ms(), zone=self._settings.zone, mask=Masker())

    def _generate(self) -> None:
        lease_ms = int(self._settings.lease * 1000)
        while work := self._queue.claim_generation(now=now_ms(), lease_ms=lease_ms):
            try:
                made = generate(work, self._settings, self._catalog)
            except ExchangisError as error:
                self._settler.refuse_generation(work.execution_id, str(error), now=now_ms())
                continue
            names = ", ".join(task.name for task in made[:10]) + (", ..." if made[10:] else "")
            story = self._story("INFO", f"{len(made)} task(s) made: {names}")
            self._queue.generated(work, made, story, now=now_ms())

    def _claim(self) -> None:
        room = self._settings.max_running - sum(
            1 for attempt in self._attempts.values() if attempt.cleans is None
        )
        if self._stopping.is_set() or room <= 0:
            return
        claims = self._queue.claim_tasks(
            limit=room,
            now=now_ms(),
            lease_ms=int(self._settings.lease * 1000),
            max_total=self._settings.max_running_total,
            max_per_user=self._settings.max_running_per_user,
        )
        for claim in claims:
            self._launch(claim)

    def _launch(self, claim: Claim, *, cleans: Attempt | None = None, clean: bool = False) -> None:
        """Start a runner for the claim; an attempt that cannot even start is settled as failed."""
        try:
            order = self._order(claim, clean=clean)
            runner = self._pool.spawn()
        except ExchangisError as error:
            if clean:
                _LOG.warning("Cleaning up task %s must wait: %s", claim.task_id, error)
                if cleans is not None:
                    self._outcomes.append(cleans.settled(self._settings.retry))
            else:
                self._refuse(claim, error)
            return
        spec = order.request.spec
        limit = spec.limits.memory_mb or self._settings.task_memory_mb
        secrets = [
            value.get_secret_value()
            for connection in (order.request.source, order.request.sink)
            for value in connection.secrets.values()
        ]
        attempt = Attempt(
            claim, order, runner, Masker(secrets), self._settings.zone,
            memory_limit=None if limit is None else limit << 20, cleans=cleans,
        )  # fmt: skip
        if clean:
            attempt.kill_at = time.monotonic() + _CLEAN_SECONDS
        self._attempts[runner.pid] = attempt
        self._selector.register(runner.channel, selectors.EVENT_READ, attempt.hear)
        self._selector.register(runner.output, selectors.EVENT_READ, attempt.hear_output)
        runner.send(order.encode())

    def _refuse(self, claim: Claim, error: ExchangisError) -> None:
        policy = replace(self._settings.retry, attempts=claim.max_attempts)
        delay = policy.delay_after(claim.failures + 1, retryable=error.retryable)
        outcome = settle.Outcome(
            claim.task_id, claim.execution_id, claim.attempt, State.FAILED, error.code, str(error),
            retry_in_ms=None if delay is None else int(delay * 1000),
            lines=tuple(self._story("ERROR", str(error))),
        )  # fmt: skip
        self._outcomes.append(outcome)

    def _order(self, claim: Claim, *, clean: bool) -> Order:
        spec = TaskSpec.model_validate_json(claim.spec)
        folder = self._settings.runs_folder / claim.execution_id / str(claim.task_id)
        request = TaskRequest(
            task_key=f"{claim.execution_id}/{claim.task_id}",
            attempt=claim.attempt,
            spec=spec,
            source=self._connection(spec.source),
            sink=self._connection(spec.sink),
            workdir=folder / f"attempt-{claim.attempt}",
            dirty_file=folder / "dirty.jsonl",
            roots=self._settings.file_roots,
            default_parallelism=self._settings.task_parallelism,
            unknown_keys=claim.unknown_keys,
        )
        return Order(
            "clean" if clean else "run",
            request,
            last_attempt=clean or claim.failures + 1 >= claim.max_attempts,
            lease_seconds=self._settings.lease * 2 / 3,
            sessions=claim.sessions,
        )

    def _connection(self, dataset: DataSet) -> Connection:
        assert dataset.data_source is not None, "tasks of a server name stored data sources"
        return self._store.data_sources.connection(dataset.data_source)

    # --- running attempts -------------------------------------------------------------------

    def _forget_channel(self, attempt: Attempt) -> None:
        for descriptor in (attempt.runner.channel, attempt.runner.output):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)

    def _enforce(self, attempt: Attempt) -> None:
        """Kill what does not end by itself; mend the registration of closed channels."""
        if not attempt.open_channel:
            self._forget_channel(attempt)
        now = time.monotonic()
        silent = now - attempt.heard_at > self._settings.lease
        late = attempt.kill_at is not None and now >= attempt.kill_at
        if (silent or late) and not attempt.killed:
            attempt.killed = True
            attempt.kill_at = None
            if silent and not attempt.stopping:
                attempt.say("ERROR", f"The runner was silent for {self._settings.lease:g} s.")
            self._pool.kill(attempt.runner.pid)

    def _own_attempts(self) -> list[Attempt]:
        return [a for a in self._attempts.values() if a.cleans is None and a.order.mode == "run"]

    def _attempts_by_task(self) -> set[int]:
        return {attempt.claim.task_id for attempt in self._attempts.values()}

    def _announce(self) -> None:
        """Store as Running what has begun."""
        fresh = [a for a in self._own_attempts() if a.started and not a.announced]
        if not fresh:
            return
        told: list[tuple[Claim, list[LogLine]]] = []
        for attempt in fresh:
            claim = attempt.claim
            text = f"Task {claim.task_id} ({claim.name}): Running, attempt {claim.attempt}."
            told.append((claim, self._story("INFO", text)))
        moved = self._queue.mark_running(told, now=now_ms())
        for attempt in fresh:
            attempt.announced = True
            if attempt.claim.task_id not in moved:
                self._abandon(attempt)

    def _abandon(self, attempt: Attempt) -> None:
        """The task is no longer ours: its runner must go, and nothing of it is stored."""
        _LOG.warning("Task %s is no longer this server's.", attempt.claim.task_id)
        attempt.stopping = True
        self._pool.kill(attempt.runner.pid)

    def _flush(self) -> None:
        waiting = [(a, report) for a in self._own_attempts() if (report := a.take_report())]
        if not waiting:
            return
        try:
            refused = self._queue.record([report for _, report in waiting], now=now_ms())
        except SQLAlchemyError:
            for attempt, report in waiting:
                attempt.restore(report)
            raise
        for attempt, _ in waiting:
            if attempt.claim.task_id in refused and not attempt.killed:
                self._abandon(attempt)

    def _measure(self) -> None:
        attempts = {a.runner.pid: a for a in self._own_attempts() if a.announced}
        for pid, (cpu, memory) in self._meter.read(list(attempts)).items():
            attempt = attempts[pid]
            attempt.values |= {"cpu": cpu, "memory": memory}
            limit = attempt.memory_limit
            if limit is not None and memory > limit and not attempt.killed:
                attempt.memory_used = memory
                attempt.killed = True
                self._pool.kill(pid)

    def _renew(self) -> None:
        lease = self._settings.lease
        held = [
            (a.claim.task_id, a.claim.attempt)
            for a in self._own_attempts()
            if time.monotonic() - a.heard_at < lease
        ]
        kept = self._queue.renew(held, now=now_ms(), lease_ms=int(lease * 1000))
        line = encode({"kind": "lease", "seconds": lease * 2 / 3})
        for attempt in self._own_attempts():
            if attempt.claim.task_id in kept:
                attempt.runner.send(line)

    def _heed_stops(self) -> None:
        if not self._own_attempts():
            return
        wanted = {(stop.task_id, stop.attempt) for stop in self._queue.stops()}
        for attempt in self._own_attempts():
            key = (attempt.claim.task_id, attempt.claim.attempt)
            if key in wanted and not attempt.stopping:
                attempt.stopping = True
                attempt.kill_at = time.monotonic() + self._settings.kill_grace
                attempt.runner.send(encode({"kind": "stop"}))

    # --- ends -------------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Settle attempts whose processes have ended; whether there were any."""
        ended = [attempt for attempt in self._attempts.values() if attempt.ended]
        for attempt in ended:
            del self._attempts[attempt.runner.pid]
            self._forget_channel(attempt)
            attempt.hear_output()
            attempt.runner.close()
            if attempt.cleans is not None:
                attempt.cleans.cleaned_by(attempt)
                self._outcomes.append(attempt.cleans.settled(self._settings.retry))
            elif attempt.order.mode == "clean":
                self._cleaned(attempt)
            elif attempt.needs_cleaning:
                claim = replace(attempt.claim, sessions=tuple(attempt.sessions))
                self._launch(claim, cleans=attempt, clean=True)
            else:
                self._outcomes.append(attempt.settled(self._settings.retry))
        self._finish()
        return bool(ended)

    def _cleaned(self, cleaner: Attempt) -> None:
        if cleaner.outcome is not None and cleaner.outcome.discarded:
            self._queue.cleaned(cleaner.claim.task_id)

    def _finish(self) -> None:
        """Store the outcomes; those that the store does not take now are kept for the next turn."""
        if not self._outcomes:
            return
        refused = self._settler.finish(self.name, self._outcomes, now=now_ms())
        self._outcomes.clear()
        for task_id in refused:
            _LOG.warning("The outcome of task %s came too late: it has another owner.", task_id)

    def _clean_up(self) -> None:
        busy = self._attempts_by_task()
        lease_ms = int(_CLEAN_SECONDS * 3000)
        for claim in self._queue.claim_cleanups(limit=4, now=now_ms(), lease_ms=lease_ms):
            if claim.task_id not in busy:
                self._launch(claim, clean=True)

    def _leave(self) -> None:
        """End the runners; their tasks wait for the next server that looks."""
        self._pool.close()
        for attempt in self._attempts.values():
            self._forget_channel(attempt)
            attempt.runner.close()
        self._attempts.clear()
        try:
            self._settler.expire_leases(now=now_ms(), dead_owners=[self.name])
            self._store.servers.forget(self.name)
        except SQLAlchemyError as error:
            _LOG.error("The store does not answer: %s", type(error).__name__)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
