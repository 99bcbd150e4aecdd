"""Lanes: what moves rows. Each is a reader thread and a writer thread with a bounded queue between.

Every lane begins with a split of its own and takes further ones from the common list until none is
left; its reader is at most one split ahead of its writer, so that no lane hoards them. Where splits
are not committed one by one, a lane that has written all it found waits, its transaction open, for
the verdict on the whole task. All calls on a writer come from its lane's writer thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

from exchangis.connectors.base import Level, ReadRequest, Sink, Source, Split, Writer
from exchangis.domain.errors import ExchangisError, VerificationFailed
from exchangis.engine.dirty import DirtyFile, DirtyLimit, DirtyRecord
from exchangis.engine.handover import Handover, Stopped
from exchangis.engine.pipeline import Pipeline, Prepared
from exchangis.engine.progress import Tally
from exchangis.engine.rate import Rate, rows_per_step

_BATCH_OVERHEAD = 4096
"""Bytes that a batch takes beside its values, roughly: tiny ones must not pile up unseen."""


class Stage(StrEnum):
    """How far a lane is."""

    MOVING = "moving"
    WRITTEN = "written"
    DONE = "done"
    FAILED = "failed"


@dataclass
class Work:
    """What the lanes of a task share; the splits that are left are taken from `splits`."""

    source: Source
    sink: Sink
    request: ReadRequest
    splits: deque[Split]
    pipeline: Callable[[], Pipeline]
    commit_per_split: bool
    tally: Tally
    dirty: DirtyFile
    limit: DirtyLimit
    records: Rate | None
    bytes: Rate | None
    queue_bytes: int
    log: Callable[[Level, str], None]
    stop: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    errors: list[BaseException] = field(default_factory=list)
    """What lanes failed with, the first one first."""

    def next_split(self) -> Split | None:
        """The next split to read, or None."""
        try:
            return self.splits.popleft()
        except IndexError:
            return None

    def verify(self, *, finished: bool) -> None:
        """Raise when the dirty limit is passed or, at the end, when rows are missing."""
        counters = self.tally.counters
        self.limit.check(counters.errors, counters.read, finished=finished)
        accounted = counters.exchanged + counters.errors + counters.ignored
        if finished and counters.read != accounted:
            raise VerificationFailed(
                f"{counters.read} rows were read, but {accounted} accounted for: "
                f"{counters.exchanged} exchanged, {counters.errors} dirty, "
                f"{counters.ignored} ignored."
            )


@dataclass(frozen=True, slots=True)
class _Rows:
    split: Split
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class _End:
    split: Split


@dataclass(slots=True)
class _Written:
    """The split that a lane is writing: rows come so far, and those taken by the sink."""

    scanned: int = 0
    rows: int = 0
    started: float = field(default_factory=time.monotonic)


class Lane:
    """One reader and one writer."""

    def __init__(self, number: int, work: Work) -> None:
        """Takes the lane's first split."""
        self.number = number
        self._first = work.next_split()
        self._ahead = threading.Semaphore(2)
        self.stage = Stage.MOVING
        self._work = work
        self._queue: Handover[_Rows | _End | None] = Handover(work.queue_bytes)
        self._verdict = threading.Event()
        self._splits = 0
        self._rows = 0
        self._threads = [
            threading.Thread(target=target, name=f"lane-{number}-{name}", daemon=True)
            for name, target in (("read", self._read), ("write", self._write))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def commit(self) -> None:
        """The whole task is well: commit what was written."""
        self._verdict.set()

    def stop(self) -> None:
        """Wake whatever waits; `work.stop` must be set before."""
        self._queue.stop()
        self._ahead.release(2)
        self._verdict.set()

    def join(self, until: float) -> bool:
        """Wait for both threads up to that moment (monotonic seconds); whether they ended."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(until - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    def _reached(self, stage: Stage) -> None:
        with self._work.changed:
            self.stage = stage
            self._work.changed.notify_all()

    def _failed(self, error: BaseException) -> None:
        with self._work.changed:
            self._work.errors.append(error)
            self.stage = Stage.FAILED
            self._work.changed.notify_all()
        self._queue.stop()

    # ------------------------------------------------------------------ reading

    def _read(self) -> None:
        try:
            for split in self._own_splits():
                self._read_split(split)
            self._queue.put(None, 0)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self._failed(error)

    def _own_splits(self) -> Iterator[Split]:
        self._ahead.acquire()
        if self._first is not None:
            yield self._first
        while True:
            self._ahead.acquire()
            split = self._work.next_split()
            if split is None or self._work.stop.is_set():
                return
            yield split

    def _read_split(self, split: Split) -> None:
        with _closing(self._work.source.read(split, self._work.request)) as batches:
            for batch in batches:
                if batch.num_rows:
                    self._queue.put(_Rows(split, batch), batch.nbytes + _BATCH_OVERHEAD)
        self._queue.put(_End(split), 0)

    # ------------------------------------------------------------------ writing

    def _write(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                pipeline = self._work.pipeline()
                stack.callback(pipeline.close)
                writer = self._work.sink.open_writer()
                stack.callback(writer.close)
                stack.push(lambda _kind, error, _trace: self._roll_back(writer, error))
                self._write_all(writer, pipeline)
            self._reached(Stage.DONE)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self._failed(error)

    def _roll_back(self, writer: Writer, error: BaseException | None) -> bool:
        """Undo what is open when the lane fails; the failure itself goes on, told first."""
        if error is None:
            return False
        if not isinstance(error, Stopped):
            self._failed(error)
        try:
            writer.rollback()
        except ExchangisError as second:
            # Closing the connection undoes it as well.
            self._work.log("WARN", f"lane {self.number}: rollback failed: {second}")
        return False

    def _write_all(self, writer: Writer, pipeline: Pipeline) -> None:
        progress = _Written()
        while (item := self._queue.take()) is not None:
            if isinstance(item, _Rows):
                self._write_batch(writer, pipeline, item, progress)
            else:
                self._end_split(writer, item.split, progress)
                self._ahead.release()
                progress = _Written()
        if not self._work.commit_per_split and self._splits:
            self._reached(Stage.WRITTEN)
            self._verdict.wait()
            if self._work.stop.is_set():
                raise Stopped
            writer.commit()
            self._work.tally.commit(self._rows)
            splits = "1 split" if self._splits == 1 else f"{self._splits} splits"
            self._work.log("INFO", f"lane {self.number}: {splits} committed")

    def _end_split(self, writer: Writer, split: Split, progress: _Written) -> None:
        if self._work.stop.is_set():
            raise Stopped
        writer.mark(split, progress.rows)
        if self._work.commit_per_split:
            writer.commit()
            self._work.tally.commit(progress.rows)
        self._splits += 1
        self._rows += progress.rows
        self._work.tally.finish(split.id)
        seconds = max(time.monotonic() - progress.started, 1e-6)
        self._work.log(
            "INFO",
            f"split {split.label}: {progress.rows:,} rows "
            f"{'committed' if self._work.commit_per_split else 'written'}, "
            f"{progress.rows / seconds:,.0f} rows/s",
        )

    def _write_batch(
        self, writer: Writer, pipeline: Pipeline, item: _Rows, progress: _Written
    ) -> None:
        for start, length in self._steps(item.batch):
            chunk = item.batch.slice(start, length)
            for rate, units in (
                (self._work.records, chunk.num_rows),
                (self._work.bytes, chunk.nbytes),
            ):
                if rate is not None and not rate.acquire(units):
                    raise Stopped
            if self._work.stop.is_set():
                raise Stopped
            self._write_chunk(writer, pipeline.apply(chunk), item.split, chunk, progress)

    def _steps(self, batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
        """Pieces of the batch (start, length) small enough for rates and for memory."""
        rows, size = batch.num_rows, max(batch.nbytes, 1)
        step = min(rows, self._work.request.batch_rows)
        if size > 2 * self._work.request.batch_bytes:
            step = min(step, rows * self._work.request.batch_bytes // size)
        if self._work.records is not None:
            step = rows_per_step(self._work.records.per_second, step)
        if self._work.bytes is not None:
            step = min(step, rows * (self._work.bytes.per_second // 10) // size)
        step = max(step, 1)
        for start in range(0, rows, step):
            yield start, min(step, rows - start)

    def _write_chunk(
        self,
        writer: Writer,
        prepared: Prepared,
        split: Split,
        chunk: pa.RecordBatch,
        progress: _Written,
    ) -> None:
        work = self._work
        records = [
            DirtyRecord(progress.scanned + row.index + 1, row.column, row.reason, row.index)
            for row in prepared.bad
        ]
        taken = 0
        if prepared.batch.num_rows:
            written = writer.write(prepared.batch)
            taken = written.rows
            if taken + len(written.rejected) != prepared.batch.num_rows:
                raise VerificationFailed(
                    f"The sink was given {prepared.batch.num_rows} rows of split {split.label} "
                    f"and accounts for {taken} taken and {len(written.rejected)} refused."
                )
            for rejected in written.rejected:
                index = prepared.source_index(rejected.index)
                records.append(
                    DirtyRecord(progress.scanned + index + 1, None, rejected.reason, index)
                )
        if records:
            work.limit.note([record.reason for record in records])
            work.dirty.write(split.id, chunk, records)
        progress.scanned += chunk.num_rows
        progress.rows += taken
        work.tally.add(
            split.id,
            scanned=chunk.num_rows,
            read=prepared.rows,
            exchanged=taken,
            errors=len(records),
            ignored=prepared.ignored,
            size=chunk.nbytes,
        )
        if records:
            work.verify(finished=False)


@contextlib.contextmanager
def _closing(batches: Iterator[pa.RecordBatch]) -> Iterator[Iterator[pa.RecordBatch]]:
    """Close a generator when its reading ends early, so that the source lets go at once."""
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
