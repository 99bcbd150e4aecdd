"""A connector in memory whose every step can be made to fail, and what runs a task with it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exchangis.connectors.base import (
    Capabilities,
    Column,
    Connector,
    Context,
    ReadRequest,
    Rejected,
    Resume,
    Sink,
    Source,
    Split,
    TableSchema,
    Writer,
    WriteRequest,
    Written,
)
from exchangis.domain.errors import SinkError, SourceError
from exchangis.domain.model import Connection, DataSet, Publish, TaskSpec, WriteMode
from exchangis.engine.base import Counters, TaskRequest, TaskResult
from exchangis.engine.native import NativeEngine


@dataclass
class Store:
    """What the fake system holds, and what is to happen at each step (`hook`)."""

    source: pa.Table
    splits: int = 3
    batch: int = 10
    schema: TableSchema | None = None
    target: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    created: TableSchema | None = None
    staging: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    marks: dict[str, dict[str, int]] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)
    hook: Callable[[str], None] = lambda _step: None
    refuse: Callable[[dict[str, Any]], str | None] = lambda _row: None
    lose: bool = False
    open_writers: int = 0
    most_writers: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    keys: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        return self.target.get("t", [])


class FakeSource(Source):
    def __init__(self, store: Store) -> None:
        self.store = store

    def schema(self) -> TableSchema:
        return TableSchema(
            tuple(Column(f.name, f.type, nullable=f.nullable) for f in self.store.source.schema),
            self.store.keys,
        )

    def plan(self, request: ReadRequest) -> list[Split]:
        total, parts = self.store.source.num_rows, self.store.splits
        bounds = [total * i // parts for i in range(parts + 1)]
        return [
            Split(f"s{i}", f"part {i}", {"from": low, "to": high}, high - low)
            for i, (low, high) in enumerate(itertools.pairwise(bounds))
        ]

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        part = self.store.source.slice(split.data["from"], split.data["to"] - split.data["from"])
        size = min(self.store.batch, request.batch_rows)
        for batch in part.select(list(request.columns)).to_batches(max_chunksize=size):
            self.store.hook("read")
            if self.store.cancelled.is_set():
                raise SourceError("ended")
            yield batch

    def cancel(self) -> None:
        self.store.cancelled.set()

    def close(self) -> None:
        self.store.hook("close source")


class FakeWriter(Writer):
    """Keeps rows and marks until `commit` hands both over in one step."""

    def __init__(self, sink: FakeSink) -> None:
        self.sink = sink
        self.rows: list[dict[str, Any]] = []
        self.marks: dict[str, int] = {}
        self.thread = threading.get_ident()

    def _step(self, name: str) -> None:
        assert threading.get_ident() == self.thread, "a writer belongs to its lane's thread"
        self.sink.store.hook(name)

    def write(self, batch: pa.RecordBatch) -> Written:
        self._step("write")
        assert self.sink.request is not None
        assert batch.schema == self.sink.request.schema.arrow
        rejected = []
        taken = 0
        for index, row in enumerate(batch.to_pylist()):
            reason = self.sink.store.refuse(row)
            if reason is not None:
                rejected.append(Rejected(index, reason))
                continue
            taken += 1
            self.rows.append(row)
        if self.sink.store.lose:
            taken -= 1
            self.rows.pop()
        return Written(taken, tuple(rejected))

    def mark(self, split: Split, rows: int) -> None:
        self._step("mark")
        self.marks[split.id] = rows

    def commit(self) -> None:
        self._step("before commit")
        self.sink.take(self.rows, self.marks)
        self.rows, self.marks = [], {}
        self._step("after commit")

    def rollback(self) -> None:
        self._step("rollback")
        self.rows, self.marks = [], {}

    def close(self) -> None:
        self._step("close writer")
        with self.sink.store.lock:
            self.sink.store.open_writers -= 1


class FakeSink(Sink):
    def __init__(self, store: Store, context: Context, *, staged: bool) -> None:
        self.store = store
        self.key = context.task_key
        self.staged = staged
        self.request: WriteRequest | None = None

    def schema(self) -> TableSchema | None:
        return self.store.schema

    def proposed(self, wanted: TableSchema) -> TableSchema:
        return wanted

    def prepare(self, request: WriteRequest, plan: str) -> Resume:
        self.store.hook("prepare")
        self.request = request
        self.store.created = request.schema
        stored = self.store.plans.setdefault(self.key, plan)
        return Resume(
            stored, dict(self.store.marks.get(self.key, {})), self.key in self.store.published
        )

    def open_writer(self) -> Writer:
        with self.store.lock:
            self.store.open_writers += 1
            self.store.most_writers = max(self.store.most_writers, self.store.open_writers)
        return FakeWriter(self)

    def take(self, rows: list[dict[str, Any]], marks: dict[str, int]) -> None:
        assert self.request is not None
        with self.store.lock:
            mine = self.store.marks.setdefault(self.key, {})
            if marks.keys() & mine.keys():
                raise SinkError("committed twice")
            if self.request.mode is WriteMode.APPEND:
                self.store.target.setdefault("t", []).extend(rows)
            elif self.staged:
                self.store.staging.setdefault(self.key, []).extend(rows)
            else:
                self.store.target["t"] = list(rows)
            mine.update(marks)

    def publish(self) -> None:
        self.store.hook("before publish")
        assert self.request is not None
        if self.staged and self.request.mode is not WriteMode.APPEND:
            self.store.target["t"] = self.store.staging.pop(self.key, [])
        self.store.published.add(self.key)
        self.store.hook("after publish")

    def discard(self) -> None:
        self.store.hook("discard")
        self.store.staging.pop(self.key, None)

    def cancel(self) -> None:
        self.store.hook("cancel sink")
        self.store.cancelled.set()

    def close(self) -> None:
        self.store.hook("close sink")


class FakeConnector(Connector):
    """Serves one `Store` as both ends."""

    name = "FAKE"
    title = "Fake"
    type_id = 9999
    params = ()
    options = ()
    capabilities = Capabilities(
        write_modes=frozenset(WriteMode), publish=frozenset(Publish), databases=False, staged=True
    )

    def __init__(self, store: Store, **capabilities: Any) -> None:
        self.store = store
        self.capabilities = replace(self.capabilities, **capabilities)  # type: ignore[misc]

    def test(self, connection: Connection, context: Context) -> str:
        return "fake"

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> Source:
        return FakeSource(self.store)

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> Sink:
        return FakeSink(self.store, context, staged=self.capabilities.staged)


@dataclass
class Recorder:
    """Events kept for assertions."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    counts: list[Counters] = field(default_factory=list)

    def log(self, level: str, text: str) -> None:
        self.lines.append((level, text))

    def planned(self, rows: int) -> None:
        pass

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def counters(self, counters: Counters) -> None:
        self.counts.append(counters)

    def session(self, side: str, session_id: str) -> None:
        pass

    def external(self, external_id: str, info: str) -> None:
        pass

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.lines)


class Bench:
    """A store with an engine around it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self.events = Recorder()
        self.engine = NativeEngine()

    def use(self, store: Store, **capabilities: Any) -> Store:
        self._store = store
        made = FakeConnector(store, **capabilities)
        self._monkeypatch.setattr("exchangis.engine.checks.connector", lambda _name: made)
        return store

    def spec(self, **fields: Any) -> TaskSpec:
        return TaskSpec.model_validate(
            {
                "name": "task",
                "source": {"type": "FAKE", "table": "s"},
                "sink": {"type": "FAKE", "table": "t"},
                **fields,
            }
        )

    def request(self, key: str = "k", attempt: int = 1, **fields: Any) -> TaskRequest:
        empty = Connection(type="FAKE")
        return TaskRequest(
            task_key=key,
            attempt=attempt,
            spec=self.spec(**fields),
            source=empty,
            sink=empty,
            workdir=self.folder,
            dirty_file=self.folder / "dirty.jsonl",
            unknown_keys=("odd.key",),
        )

    def run(self, key: str = "k", attempt: int = 1, **fields: Any) -> TaskResult:
        self.events = Recorder()
        self.engine = NativeEngine()
        self._store.cancelled.clear()
        return self.engine.run(self.request(key, attempt, **fields), self.events)


def numbers(count: int) -> pa.Table:
    """Rows `id` 0..count-1 with a text."""
    return pa.table(
        {"id": pa.array(range(count), pa.int64()), "name": [f"n{i}" for i in range(count)]}
    )


def lane_threads() -> list[str]:
    """Threads of lanes that are alive."""
    return [t.name for t in threading.enumerate() if t.name.startswith("lane-")]
