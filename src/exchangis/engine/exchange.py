"""One attempt of one task from beginning to end: open, map, plan, move, verify, publish."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from exchangis.connectors.base import (
    Capabilities,
    Context,
    Level,
    ReadRequest,
    Resume,
    Sink,
    Source,
    Split,
    TableSchema,
    WriteRequest,
)
from exchangis.domain.errors import SinkError, TaskCancelled
from exchangis.domain.model import Publish, WriteMode
from exchangis.engine import describe
from exchangis.engine.base import Events, Explanation, TaskRequest, TaskResult
from exchangis.engine.checks import connector_of
from exchangis.engine.crew import Crew
from exchangis.engine.dirty import DirtyFile, DirtyLimit, shown_path
from exchangis.engine.filtering import BatchFilter, filter_columns
from exchangis.engine.lanes import Work
from exchangis.engine.mapping import Mapping, map_columns, wanted_schema
from exchangis.engine.pipeline import Pipeline
from exchangis.engine.planning import (
    check_splits,
    dump_plan,
    fingerprint,
    load_plan,
    planned_rows,
)
from exchangis.engine.progress import Reporter, Tally
from exchangis.engine.rate import Rate

QUEUE_BYTES = 16 << 20
"""What one lane's reader may be ahead of its writer."""
BATCH_ROWS = 16_384
BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Memory:
    """How many bytes a lane's queue and one batch may have."""

    queue: int
    batch: int

    @classmethod
    def of(cls, memory_mb: int | None, lanes: int) -> _Memory:
        """An eighth of the task's memory for all queues together, within 1 and 16 MiB each."""
        if memory_mb is None:
            return cls(QUEUE_BYTES, BATCH_BYTES)
        queue = min(max((memory_mb << 20) // (8 * lanes), 1 << 20), QUEUE_BYTES)
        return cls(queue, min(queue // 2, BATCH_BYTES))


class Exchange:
    """Holds the two open ends of a task. `cancel` may come from any thread at any time."""

    def __init__(self, request: TaskRequest, events: Events, cancelled: threading.Event) -> None:
        spec = request.spec
        self._request = request
        self._spec = spec
        self._events = events
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._committing = False
        source = connector_of(spec.source, "source")
        sink = connector_of(spec.sink, "sink")
        self._able: Capabilities = sink.capabilities
        self._source_filters = source.capabilities.filters
        self._source: Source = source.source(request.source, spec.source, self._context("source"))
        self._sink: Sink = sink.sink(request.sink, spec.sink, self._context("sink"))

    def _context(self, side: str) -> Context:
        request = self._request

        def log(level: Level, text: str) -> None:
            self._log(level, f"{side}: {text}")

        return Context(
            task_key=request.task_key,
            attempt=request.attempt,
            workdir=request.workdir,
            log=log,
            session=self._events.session,
            roots=request.roots,
        )

    def _log(self, level: Level, text: str) -> None:
        self._events.log(level, text)

    def cancel(self) -> None:
        """End what blocks. Once lanes commit the task is past the point of no return."""
        with self._lock:
            if self._committing:
                return
        try:
            self._source.cancel()
        finally:
            self._sink.cancel()

    def close(self) -> None:
        """Free both ends; idempotent."""
        try:
            self._source.close()
        finally:
            self._sink.close()

    def discard(self) -> None:
        """Remove staging and leftovers."""
        self._sink.discard()
        self._log("INFO", f"removed what the task left unfinished in {self._spec.sink.label}")

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise TaskCancelled

    # ------------------------------------------------------------------ planning

    @property
    def _parallelism(self) -> int:
        return self._spec.limits.parallelism or self._request.default_parallelism

    @property
    def _engine_where(self) -> str | None:
        """The filter when the engine evaluates it."""
        return None if self._source_filters else self._spec.where

    def _map(self) -> tuple[Mapping, TableSchema]:
        """The mapping onto the sink, as it is or would be created; and the source's schema."""
        spec = self._spec
        source = self._source.schema()
        self._check_cancelled()
        anew = self._able.redefines and spec.write_mode is WriteMode.OVERWRITE
        existing = None if anew else self._sink.schema()
        self._check_cancelled()
        if existing is not None:
            return map_columns(spec, source, existing, creates=False), source
        if not spec.create_table and not self._able.redefines:
            raise SinkError(
                f"{spec.sink.label} does not exist.",
                guidance="Create it, or let the task create it (create_table).",
            )
        wanted = wanted_schema(spec, source)
        return map_columns(spec, source, self._sink.proposed(wanted), creates=True), source

    def _read_request(self, mapping: Mapping, source: TableSchema, memory: _Memory) -> ReadRequest:
        names = mapping.source_names
        if self._engine_where is not None:
            names += tuple(n for n in filter_columns(self._engine_where, source) if n not in names)
        rows = self._spec.limits.batch_rows or BATCH_ROWS
        return ReadRequest(
            columns=names,
            where=self._spec.where if self._source_filters else None,
            parallelism=self._parallelism,
            resumable=self._commit_per_split,
            batch_rows=rows,
            batch_bytes=memory.batch,
        )

    def explain(self) -> Explanation:
        """What the task would do; reads schemas and plans splits, writes nothing."""
        mapping, source = self._map()
        request = self._read_request(mapping, source, self._memory(self._parallelism))
        if self._engine_where is not None:
            BatchFilter(self._engine_where, source).close()
        splits = self._source.plan(request)
        check_splits(splits)
        rows = planned_rows(splits)
        return Explanation(
            columns=tuple(describe.planned(column) for column in mapping.columns),
            splits=tuple(split.label for split in splits),
            rows=source.rows if rows is None else rows,
            creates_table=mapping.creates,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        notes = [
            "Splits are committed one by one."
            if self._commit_per_split
            else "All splits are committed together at the end."
        ]
        if self._engine_where is not None:
            notes.append("The filter is evaluated here; the source is read whole.")
        notes.extend(describe.unknown_key(key) for key in self._request.unknown_keys)
        return tuple(notes)

    @property
    def _commit_per_split(self) -> bool:
        """A staged sink shows nothing before `publish`; others must show all at once or be asked.

        Design, decision 5.
        """
        return self._spec.publish is Publish.SPLIT or self._switch_follows

    @property
    def _switch_follows(self) -> bool:
        """Whether nothing is shown before `publish`, so that the task can end without a trace."""
        return self._spec.write_mode is not WriteMode.APPEND and self._able.staged

    def _memory(self, lanes: int) -> _Memory:
        return _Memory.of(self._spec.limits.memory_mb, lanes)

    # ------------------------------------------------------------------ running

    def run(self) -> TaskResult:
        """Carry the task out. Raises the first error; nothing of ours runs on afterwards."""
        started = time.monotonic()
        self._check_cancelled()
        spec = self._spec
        self._log("INFO", f"{spec.name}: {spec.source.label} -> {spec.sink.label}")
        for key in self._request.unknown_keys:
            self._log("WARN", describe.unknown_key(key))
        mapping, source = self._map()
        self._log("INFO", describe.mapping(spec, mapping))
        request = self._read_request(mapping, source, self._memory(self._parallelism))
        planned = self._source.plan(request)
        check_splits(planned)
        self._check_cancelled()
        mark = fingerprint(spec, mapping)
        resume = self._sink.prepare(
            WriteRequest(
                schema=mapping.target,
                mode=spec.write_mode,
                publish=spec.publish,
                key_columns=spec.key_columns,
                create=spec.create_table,
            ),
            dump_plan(planned, mark),
        )
        splits = load_plan(resume.plan, mark)
        return self._move(splits, resume, mapping, source, request, started)

    def _move(
        self,
        splits: list[Split],
        resume: Resume,
        mapping: Mapping,
        source: TableSchema,
        request: ReadRequest,
        started: float,
    ) -> TaskResult:
        done = {split.id: resume.done[split.id] for split in splits if split.id in resume.done}
        left = [split for split in splits if split.id not in done]
        tally = Tally(splits)
        dirty = DirtyFile(self._request.dirty_file)
        everything = {split.id for split in splits} if resume.published else done.keys()
        tally.resume(done, dirty.resume(everything))
        reporter = Reporter(tally, self._events)
        if (rows := planned_rows(splits)) is not None:
            self._events.planned(rows)
        work = self._work(left, mapping, source, request, tally, dirty)
        for line in describe.plan(len(splits), done, resume.published, self._commit_per_split):
            self._log("INFO", line)
        if not resume.published:
            lanes = min(self._parallelism, len(left), self._able.max_writers or len(left))
            try:
                try:
                    self._run_lanes(work, lanes, reporter)
                finally:
                    dirty.close()
                if self._switch_follows:
                    self._check_cancelled()
                self._sink.publish()
            except BaseException:
                # What was handed over and not committed is not exchanged after all.
                self._events.counters(tally.failed(shown=not self._switch_follows))
                raise
            if self._switch_follows:
                self._log("INFO", f"published {self._spec.sink.label}")
        reporter.now()
        counters = tally.counters
        seconds = time.monotonic() - started
        self._log("INFO", describe.summary(counters, seconds))
        if counters.errors:
            self._log("WARN", f"the dirty records are kept in {shown_path(dirty.path)}")
        return TaskResult(
            counters=counters,
            seconds=seconds,
            dirty_file=str(dirty.path) if counters.errors and dirty.path.exists() else None,
            details={"splits": len(splits), "resumed_splits": len(done)},
        )

    def _run_lanes(self, work: Work, lanes: int, reporter: Reporter) -> None:
        crew = Crew(work, lanes, self._cancelled.is_set, reporter.tick)
        try:
            crew.write()
            work.verify(finished=True)
            # Reading is over: let go of the source before tables are switched or files locked.
            self._source.close()
            with self._lock:
                self._check_cancelled()
                self._committing = True
            crew.commit()
        finally:
            crew.close()
        if self._switch_follows:
            with self._lock:
                self._committing = False

    def _work(
        self,
        left: list[Split],
        mapping: Mapping,
        source: TableSchema,
        request: ReadRequest,
        tally: Tally,
        dirty: DirtyFile,
    ) -> Work:
        limits = self._spec.limits
        where = self._engine_where
        stop = threading.Event()

        def pipeline() -> Pipeline:
            return Pipeline(mapping, None if where is None else BatchFilter(where, source))

        def rate(per_second: int | None) -> Rate | None:
            return None if per_second is None else Rate(per_second, wait=stop.wait)

        return Work(
            source=self._source,
            sink=self._sink,
            request=request,
            splits=deque(left),
            pipeline=pipeline,
            commit_per_split=self._commit_per_split,
            tally=tally,
            dirty=dirty,
            limit=DirtyLimit(limits, dirty.path),
            records=rate(limits.records_per_second),
            bytes=rate(limits.bytes_per_second),
            queue_bytes=self._memory(self._parallelism).queue,
            log=self._log,
            stop=stop,
        )
