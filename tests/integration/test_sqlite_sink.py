"""What the SQLite sink promises, on real files and with processes killed for real."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exchangis.connectors.base import (
    Column,
    Context,
    ReadRequest,
    Split,
    TableSchema,
    WriteRequest,
    Written,
)
from exchangis.connectors.sqlite import SQLite
from exchangis.connectors.sqlite.sink import SQLiteSink
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    SinkError,
    TaskCancelled,
)
from exchangis.domain.model import Connection, DataSet, Publish, WriteMode

CONNECTOR = SQLite()
IDS = TableSchema((Column("id", pa.int64()), Column("v", pa.string())), ("id",))


@contextlib.contextmanager
def sink_of(
    path: Path, table: str = "t", *, attempt: int = 1, key: str = "task", **options: str
) -> Iterator[SQLiteSink]:
    context = Context(key, attempt, path.parent, lambda *_: None)
    sink = CONNECTOR.sink(
        Connection(type="SQLITE", params={"path": str(path)}),
        DataSet(type="SQLITE", table=table, options=options),
        context,
    )
    assert isinstance(sink, SQLiteSink)
    try:
        yield sink
    finally:
        sink.close()


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(sql).fetchall()
        connection.commit()
        return rows
    finally:
        connection.close()


def script(path: Path, text: str) -> Path:
    connection = sqlite3.connect(path)
    try:
        connection.executescript(text)
    finally:
        connection.close()
    return path


def ids(*rows: tuple[int | None, str | None]) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array([r[0] for r in rows], pa.int64()), pa.array([r[1] for r in rows], pa.string())],
        names=["id", "v"],
    )


def load(
    sink: SQLiteSink,
    batches: list[pa.RecordBatch],
    mode: WriteMode = WriteMode.APPEND,
    *,
    schema: TableSchema = IDS,
    keys: tuple[str, ...] = (),
    split: str = "s1",
) -> list[Written]:
    sink.prepare(WriteRequest(schema, mode, key_columns=keys), "{}")
    writer = sink.open_writer()
    results = [writer.write(batch) for batch in batches]
    writer.mark(Split(split, split), sum(result.rows for result in results))
    writer.commit()
    writer.close()
    sink.publish()
    return results


def read_back(path: Path, table: str = "t") -> pa.Table:
    source = CONNECTOR.source(
        Connection(type="SQLITE", params={"path": str(path)}),
        DataSet(type="SQLITE", table=table),
        Context("r", 1, path.parent, lambda *_: None),
    )
    try:
        request = ReadRequest(source.schema().names)
        batches = [b for split in source.plan(request) for b in source.read(split, request)]
        return pa.Table.from_batches(batches, source.schema().arrow)
    finally:
        source.close()


VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    (pa.int8(), [-128, 127]),
    (pa.uint32(), [0, 2**32 - 1]),
    (pa.int64(), [-(2**63), 2**63 - 1]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.float32(), [1.5, -math.inf]),
    (pa.float64(), [1e-308, 1.7976931348623157e308]),
    (pa.decimal128(10, 2), [Decimal("1.10"), Decimal("-99999999.99")]),
    (pa.decimal128(38, 10), [Decimal("0.0000000001"), Decimal("9" * 28 + "." + "9" * 10)]),
    (pa.decimal256(76, 30), [Decimal("9" * 46 + "." + "9" * 30), Decimal("-0." + "0" * 29 + "1")]),
    (pa.string(), ["", "007", "1e5", " nul \x00 🦆 ' \" \\ \n", "NULL"]),
    (pa.large_string(), ["a", ""]),
    (pa.binary(), [b"", b"\x00\xff'"]),
    (pa.binary(3), [b"abc", b"\x00\x00\x00"]),
    (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)]),
    (pa.timestamp("us"), [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    (pa.timestamp("s"), [datetime(1969, 12, 31, 23, 59, 59), datetime(2024, 2, 29)]),
    (
        pa.timestamp("us", tz="UTC"),
        [datetime(2024, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)],
    ),
    (pa.timestamp("ns"), [pa.scalar(1_700_000_000_123_456_789, pa.timestamp("ns"))]),
    (pa.timestamp("ns", tz="UTC"), [pa.scalar(-1, pa.timestamp("ns", tz="UTC"))]),
    (pa.time64("us"), [clock(0), clock(23, 59, 59, 999999)]),
    (pa.time32("s"), [clock(1, 2, 3)]),
    (pa.time64("ns"), [pa.scalar(86_399_999_999_999, pa.time64("ns"))]),
    (pa.duration("us"), [pa.scalar(-5, pa.duration("us"))]),
]


@pytest.mark.parametrize(("type_", "values"), VALUES, ids=[str(t) for t, _ in VALUES])
def test_created_column_gives_every_value_back(
    tmp_path: Path, type_: pa.DataType, values: list[Any]
) -> None:
    path = tmp_path / "t.db"
    array = pa.array([v.as_py() if isinstance(v, pa.Scalar) and type_.bit_width == 0 else v
                      for v in values], type_)  # fmt: skip
    array = pa.concat_arrays([array, pa.nulls(1, type_)])
    with sink_of(path) as sink:
        proposed = sink.proposed(TableSchema((Column("x", type_),)))
        carried = proposed.columns[0].type
        batch = pa.record_batch([array.cast(carried)], names=["x"])
        [written] = load(sink, [batch], schema=proposed)
        assert written == Written(len(array))
        after = sink.schema()
        assert after is not None and after.columns[0].type == carried
    table = read_back(path)
    assert table.column("x").combine_chunks().cast(type_).equals(array)


def test_append_keeps_and_overwrite_replaces(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    for key, mode in (("a", WriteMode.APPEND), ("b", WriteMode.APPEND)):
        with sink_of(path, key=key) as sink:
            load(sink, [ids((1 if key == "a" else 2, key))], mode)
    assert query(path, "SELECT * FROM t") == [(1, "a"), (2, "b")]
    with sink_of(path, key="c") as sink:
        load(sink, [ids((1, "new")), ids((7, "new"))], WriteMode.OVERWRITE)
    assert query(path, "SELECT * FROM t") == [(1, "new"), (7, "new")]


def test_overwrite_by_nothing_empties_the_table(tmp_path: Path) -> None:
    path = script(tmp_path / "t.db", "CREATE TABLE t (id INTEGER, v); INSERT INTO t VALUES (1, 2)")
    with sink_of(path) as sink:
        load(sink, [], WriteMode.OVERWRITE)
    assert query(path, "SELECT * FROM t") == []


def test_old_rows_stay_visible_until_an_overwrite_commits(tmp_path: Path) -> None:
    path = script(
        tmp_path / "t.db",
        "PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER, v); INSERT INTO t VALUES (1, 'old')",
    )
    with sink_of(path) as sink:
        sink.prepare(WriteRequest(IDS, WriteMode.OVERWRITE), "{}")
        writer = sink.open_writer()
        writer.write(ids((2, "new")))
        assert query(path, "SELECT * FROM t") == [(1, "old")]
        writer.rollback()
        assert query(path, "SELECT * FROM t") == [(1, "old")]
        writer.write(ids((3, "new")))
        writer.commit()
    assert query(path, "SELECT * FROM t") == [(3, "new")]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]


def test_upsert_changes_by_key_and_the_last_row_wins(tmp_path: Path) -> None:
    path = script(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, kept TEXT DEFAULT 'd');"
        "INSERT INTO t VALUES (1, 'a', 'k'), (2, 'b', 'k')",
    )
    with sink_of(path) as sink:
        [written] = load(sink, [ids((2, "x"), (3, "y"), (3, "z"))], WriteMode.UPSERT)
    assert written == Written(3)
    assert query(path, "SELECT * FROM t") == [(1, "a", "k"), (2, "x", "k"), (3, "z", "d")]


def test_upsert_without_a_unique_key_is_refused(tmp_path: Path) -> None:
    path = script(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER, v TEXT); CREATE UNIQUE INDEX p ON t (id) WHERE v IS NULL",
    )
    for keys in ((), ("id",), ("nope",)):
        with sink_of(path) as sink, pytest.raises(InvalidRequest, match="key_columns"):
            sink.prepare(WriteRequest(IDS, WriteMode.UPSERT, key_columns=keys), "{}")
    script(path, "CREATE UNIQUE INDEX u ON t (id)")
    with sink_of(path) as sink:
        load(sink, [ids((1, "x"), (1, "y"))], WriteMode.UPSERT, keys=("id",))
    assert query(path, "SELECT * FROM t") == [(1, "y")]


def test_upsert_creates_the_table_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    plain = TableSchema(IDS.columns)
    with sink_of(path) as sink:
        load(sink, [ids((1, "x"), (1, "y"))], WriteMode.UPSERT, schema=plain, keys=("id",))
    assert query(path, "SELECT * FROM t") == [(1, "y")]


RULES = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL CHECK (length(v) < 5),"
    " w TEXT UNIQUE ON CONFLICT IGNORE) STRICT; INSERT INTO t VALUES (50, 'old', 'taken');"
)
WIDE = TableSchema((*IDS.columns, Column("w", pa.string())))


def test_bad_rows_are_rejected_with_reasons_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = script(tmp_path / "t.db", RULES)
    rows: list[tuple[Any, ...]] = [(n, "ok", None) for n in range(100)]
    rows[7] = (7, None, None)
    rows[8] = (8, "much too long", None)
    rows[50] = (50, "dup", None)
    rows[60] = (61, "dup", None)
    rows[99] = (99, "ok", "taken")
    columns = list(zip(*rows, strict=True))
    batch = pa.record_batch(
        [pa.array(columns[0]), pa.array(columns[1]), pa.array(columns[2], pa.string())],
        names=["id", "v", "w"],
    )
    with sink_of(path) as sink:
        [written] = load(sink, [batch], schema=WIDE)
    assert written.rows == 95
    reasons = {r.index: r.reason for r in written.rejected}
    assert sorted(reasons) == [7, 8, 50, 61, 99]
    assert "NOT NULL" in reasons[7] and "CHECK" in reasons[8] and "UNIQUE" in reasons[50]
    assert query(path, "SELECT count(*) FROM t") == [(96,)]
    assert query(path, "SELECT row_count FROM exchangis_commits WHERE split_id = 's1'") == [(95,)]


@pytest.mark.parametrize(
    ("declared", "array", "kept"),
    [
        ("STRING", pa.array(["007", "7", "x", "1.50", "1.5"]), ["7", "x", "1.5"]),
        ("JSON", pa.array(["12345678901234567890", "[1]"]), ["[1]"]),
        ("DECIMAL(38,10)", pa.array([Decimal("0.1"), Decimal("1.0000000000000000001")],
                                    pa.decimal128(38, 19)), [Decimal("0.1")]),
        ("NUMERIC(30,0)", pa.array([Decimal(2**63 - 1), Decimal(10**25 + 1)],
                                   pa.decimal128(30, 0)), [Decimal(2**63 - 1)]),
        ("REAL", pa.array([math.nan, 1.0]), [1.0]),
        ("DATE", pa.array([-800_000, 0], pa.int32()).cast(pa.date32()), [date(1970, 1, 1)]),
        ("TIMESTAMP", pa.array([2**62, 0], pa.int64()).cast(pa.timestamp("us")),
         [datetime(1970, 1, 1)]),
    ],
)  # fmt: skip
def test_value_that_sqlite_would_change_is_a_rejected_row(
    tmp_path: Path, declared: str, array: Any, kept: list[Any]
) -> None:
    path = script(tmp_path / "t.db", f"CREATE TABLE t (x {declared})")
    schema = TableSchema((Column("x", array.type),))
    with sink_of(path) as sink:
        [written] = load(sink, [pa.record_batch([array], names=["x"])], schema=schema)
    assert written.rows == len(kept)
    assert len(written.rejected) == len(array) - len(kept)
    assert all(r.reason.startswith("column x: ") for r in written.rejected)
    assert read_back(path).column("x").to_pylist() == kept


def test_nan_becomes_null_when_the_task_says_so(tmp_path: Path) -> None:
    path = script(tmp_path / "t.db", "CREATE TABLE t (x REAL)")
    with sink_of(path, nan="null") as sink:
        batch = pa.record_batch([pa.array([math.nan, 2.0])], names=["x"])
        load(sink, [batch], schema=TableSchema((Column("x", pa.float64()),)))
    assert query(path, "SELECT x FROM t") == [(None,), (2.0,)]


def test_trigger_that_rolls_back_fails_the_task_and_keeps_nothing(tmp_path: Path) -> None:
    path = script(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER, v TEXT); CREATE TRIGGER g BEFORE INSERT ON t"
        " WHEN new.id = 3 BEGIN SELECT RAISE(ROLLBACK, 'never'); END",
    )
    with sink_of(path) as sink, pytest.raises(SinkError, match="never"):
        load(sink, [ids((1, "a")), ids((2, "b"), (3, "c"), (4, "d"))])
    assert query(path, "SELECT * FROM t") == []


def test_generated_columns_and_views_are_not_written(tmp_path: Path) -> None:
    path = script(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER, v TEXT, g AS (id + 1)); CREATE VIEW w AS SELECT * FROM t",
    )
    with sink_of(path) as sink:
        schema = sink.schema()
        assert schema is not None and schema.names == ("id", "v")
    with sink_of(path, "w") as sink, pytest.raises(SinkError, match="view"):
        sink.schema()


def test_absent_table_and_columns_are_named(tmp_path: Path) -> None:
    path = script(tmp_path / "t.db", "CREATE TABLE t (id INTEGER)")
    with sink_of(path) as sink, pytest.raises(SinkError, match="no column v"):
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
    with sink_of(path, "none") as sink, pytest.raises(SinkError, match="none"):
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND, create=False), "{}")
    with sink_of(tmp_path / "no folder" / "t.db") as sink, pytest.raises(ConnectionFailed):
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")


# ---------------------------------------------------------------------- crashes and fences

CRASH = """
import sys
from pathlib import Path
import pyarrow as pa
from exchangis.connectors.base import *
from exchangis.domain.model import *
from exchangis.connectors.{module} import {name} as C
path, mode, publish, last = sys.argv[1:]
def reached(step):
    if step == last:
        print(step, flush=True)
        sys.stdin.read()
c = C()
sink = c.sink(Connection(type=c.name, params={{"path": path}}), DataSet(type=c.name, table="t"),
              Context("task", 1, Path(path).parent, lambda *_: None))
schema = TableSchema((Column("id", pa.int64()), Column("v", pa.string())), ("id",))
sink.prepare(WriteRequest(schema, WriteMode(mode), Publish(publish)), "first plan")
reached("prepared")
writer = sink.open_writer()
for split in (0, 1):
    ids = list(range(split * 1000, split * 1000 + 1000))
    writer.write(pa.record_batch({{"id": ids, "v": ["new"] * 1000}}))
    reached(f"written {{split}}")
    writer.mark(Split(str(split), ""), 1000)
    reached(f"marked {{split}}")
    if publish == "split":
        writer.commit()
        reached(f"committed {{split}}")
if publish == "task":
    writer.commit()
reached("committed")
sink.publish()
reached("published")
"""
STEPS = ["prepared", "written 0", "marked 0", "committed 0", "written 1", "marked 1", "committed"]


@pytest.mark.parametrize("mode", list(WriteMode))
@pytest.mark.parametrize(
    ("publish", "step"),
    [("task", "prepared"), ("task", "marked 1"), ("task", "committed"),
     *(("split", step) for step in STEPS[2:6])],
)  # fmt: skip
def test_killed_writer_is_resumed_without_a_row_lost_or_doubled(
    tmp_path: Path, mode: WriteMode, publish: str, step: str
) -> None:
    path = script(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);"
        "INSERT INTO t VALUES (-1, 'old'), (-2, 'old')",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH.format(module="sqlite", name="SQLite"),
         str(path), mode, publish, step],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == step
        os.kill(process.pid, signal.SIGKILL)
    with sink_of(path, attempt=2) as sink:
        resume = sink.prepare(WriteRequest(IDS, mode, Publish(publish)), "second plan")
        assert resume.plan == "first plan"
        writer = sink.open_writer()
        for split in (0, 1):
            if str(split) in resume.done:
                assert resume.done[str(split)] == 1000
                continue
            numbers = range(split * 1000, split * 1000 + 1000)
            writer.write(ids(*((n, "new") for n in numbers)))
            writer.mark(Split(str(split), ""), 1000)
            if publish == "split":
                writer.commit()
        writer.commit()
        writer.close()
        sink.publish()
    old = [] if mode is WriteMode.OVERWRITE else [-2, -1]
    assert [row[0] for row in query(path, "SELECT id FROM t ORDER BY id")] == [
        *old, *range(2000),
    ]  # fmt: skip


def test_split_is_committed_once_whoever_tries(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with sink_of(path) as first, sink_of(path) as second:
        first.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        load(second, [ids((1, "b"))])
        writer = first.open_writer()
        writer.write(ids((2, "a")))
        with pytest.raises(SinkError, match="committed already"):
            writer.mark(Split("s1", "s1"), 1)
        with pytest.raises(SinkError, match="rolled back"):
            writer.commit()
        writer.rollback()
        writer.commit()
    assert query(path, "SELECT * FROM t") == [(1, "b")]


def test_older_attempt_cannot_write_after_a_newer_one_has_prepared(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with sink_of(path, attempt=1) as stale, sink_of(path, attempt=2) as newer:
        stale.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        newer.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        writer = stale.open_writer()
        with pytest.raises(SinkError, match="taken over"):
            writer.write(ids((1, "stale")))
        writer.rollback()
        with pytest.raises(SinkError, match="taken over"):
            stale.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
    assert query(path, "SELECT * FROM t") == []


# ---------------------------------------------------------------------- locks and cancelling


def test_writer_waits_for_a_lock_and_goes_on(tmp_path: Path) -> None:
    path = script(tmp_path / "t.db", "CREATE TABLE t (id INTEGER, v TEXT)")
    lines: list[str] = []
    waiting = threading.Event()

    def log(_level: str, text: str) -> None:
        lines.append(text)
        waiting.set()

    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    sink = SQLiteSink(path, "t", Context("task", 1, tmp_path, log))
    worker = threading.Thread(target=load, args=(sink, [ids((1, "a"))]))
    worker.start()
    try:
        assert waiting.wait(10)
        holder.execute("ROLLBACK")
        worker.join(10)
    finally:
        holder.close()
        sink.close()
    assert not worker.is_alive()
    assert query(path, "SELECT * FROM t") == [(1, "a")]
    assert any("lock" in line and str(path) in line for line in lines)


def test_lock_that_stays_is_a_retryable_error(tmp_path: Path) -> None:
    path = script(tmp_path / "t.db", "CREATE TABLE t (id INTEGER, v TEXT)")
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        with sink_of(path) as sink:
            sink.lock_wait = 0.2
            with pytest.raises(SinkError, match="locked") as caught:
                sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        assert caught.value.retryable
    finally:
        holder.close()


def test_cancel_ends_a_lock_wait(tmp_path: Path) -> None:
    path = script(tmp_path / "t.db", "CREATE TABLE t (id INTEGER, v TEXT)")
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        with sink_of(path) as sink:
            timer = threading.Timer(0.2, sink.cancel)
            timer.start()
            started = time.monotonic()
            with pytest.raises(TaskCancelled):
                sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
            assert time.monotonic() - started < 2
            timer.join()
    finally:
        holder.close()


def test_cancel_ends_a_statement_that_runs(tmp_path: Path) -> None:
    path = script(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER, v TEXT); CREATE TABLE x (n); CREATE TRIGGER g AFTER INSERT"
        " ON t BEGIN INSERT INTO x SELECT count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION"
        " ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT i FROM n); END",
    )
    with sink_of(path) as sink:
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        writer = sink.open_writer()
        timer = threading.Timer(0.2, sink.cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(TaskCancelled):
            writer.write(ids((1, "a")))
        assert time.monotonic() - started < 2
        timer.join()
    assert query(path, "SELECT * FROM t") == []
