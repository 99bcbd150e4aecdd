"""What the DuckDB sink promises, on real files and with processes killed for real."""

from __future__ import annotations

import contextlib
import math
import os
import signal
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

import duckdb
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
from exchangis.connectors.duckdb import DuckDB
from exchangis.connectors.duckdb.database import _FILES
from exchangis.connectors.duckdb.sink import DuckDBSink
from exchangis.domain.errors import ConnectionFailed, InvalidRequest, SinkError, TaskCancelled
from exchangis.domain.model import Connection, DataSet, Publish, WriteMode
from tests.integration.test_duckdb_source import build, held_by_another_process, read, source_of
from tests.integration.test_sqlite_sink import CRASH, IDS, ids

CONNECTOR = DuckDB()


@contextlib.contextmanager
def sink_of(
    path: Path,
    table: str = "t",
    *,
    attempt: int = 1,
    key: str = "task",
    log: list[str] | None = None,
    **options: str,
) -> Iterator[DuckDBSink]:
    lines = [] if log is None else log
    sink = CONNECTOR.sink(
        Connection(type="DUCKDB", params={"path": str(path)}),
        DataSet(type="DUCKDB", table=table, options=options),
        Context(key, attempt, path.parent, lambda _level, text: lines.append(text)),
    )
    assert isinstance(sink, DuckDBSink)
    try:
        yield sink
    finally:
        sink.close()


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path)) as connection:
        return connection.execute(sql).fetchall()


def load(
    sink: DuckDBSink,
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


def read_back(path: Path) -> pa.Table:
    with source_of(path) as source:
        request = ReadRequest(source.schema().names)
        batches = [b for split in source.plan(request) for b in source.read(split, request)]
        return pa.Table.from_batches(batches, source.schema().arrow)


VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    (pa.int8(), [-128, 127]),
    (pa.uint8(), [0, 255]),
    (pa.uint32(), [0, 2**32 - 1]),
    (pa.int64(), [-(2**63), 2**63 - 1]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.float32(), [1.5, -math.inf]),
    (pa.float64(), [1e-308, 1.7976931348623157e308, math.inf]),
    (pa.decimal128(10, 2), [Decimal("1.10"), Decimal("-99999999.99")]),
    (pa.decimal128(38, 38), [Decimal("0." + "9" * 38)]),
    (pa.decimal256(76, 30), [Decimal("9" * 46 + "." + "9" * 30)]),
    (pa.decimal256(20, 3), [Decimal("-1.125")]),
    (pa.string(), ["", "007", " nul \x00 🦆 ' \" \\ \n", "NULL"]),
    (pa.large_string(), ["a", ""]),
    (pa.binary(), [b"", b"\x00\xff'"]),
    (pa.binary(3), [b"abc", b"\x00\x00\x00"]),
    (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)]),
    (pa.timestamp("us"), [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    (pa.timestamp("s"), [datetime(1969, 12, 31, 23, 59, 59), datetime(2024, 2, 29)]),
    (pa.timestamp("us", tz="UTC"), [datetime(2024, 1, 1, tzinfo=UTC)]),
    (pa.timestamp("ns"), [pa.scalar(1_700_000_000_123_456_789, pa.timestamp("ns")).value]),
    (pa.time64("us"), [clock(0), clock(23, 59, 59, 999999)]),
    (pa.time32("s"), [clock(1, 2, 3)]),
    (pa.time64("ns"), [86_399_999_999_999]),
]


@pytest.mark.parametrize(("type_", "values"), VALUES, ids=[str(t) for t, _ in VALUES])
def test_created_column_gives_every_value_back(
    tmp_path: Path, type_: pa.DataType, values: list[Any]
) -> None:
    path = tmp_path / "t.db"
    array: Any = pa.array([*values, None], type_)
    with sink_of(path) as sink:
        proposed = sink.proposed(TableSchema((Column("x", type_),)))
        carried = proposed.columns[0].type
        batch = pa.record_batch([array.cast(carried)], names=["x"])
        [written] = load(sink, [batch], schema=proposed)
        assert written == Written(len(array))
        after = sink.schema()
        assert after is not None and after.columns[0].type == carried
    column: Any = read_back(path).column("x").combine_chunks()
    assert column.cast(type_).equals(array)


NATIVE: list[tuple[str, pa.DataType, list[Any], list[Any]]] = [
    ("UUID", pa.string(), ["123e4567-e89b-12d3-a456-426614174000"], ["zz"]),
    ("ENUM('a', 'b')", pa.string(), ["b"], ["c", ""]),
    ("JSON", pa.string(), ['{"a":[1,null]}', "null"], ["{", ""]),
    ("TINYINT[]", pa.string(), ["[1,null]", "[]"], ["[300]", "{", '["x"]']),
    ("STRUCT(a INTEGER, b VARCHAR)", pa.string(), ['{"a":1,"b":"x"}'], ['{"a":"x","b":"x"}']),
    ("MAP(VARCHAR, INTEGER)", pa.string(), ['{"k":1}'], ["[1]"]),
    ("HUGEINT", pa.decimal128(38, 0), [Decimal("9" * 38)], []),
    ("UHUGEINT", pa.decimal128(38, 0), [Decimal(5)], [Decimal(-1)]),
    ("TIMESTAMP_S", pa.timestamp("us"), [datetime(2024, 1, 1, 0, 0, 1)],
     [datetime(2024, 1, 1, 0, 0, 0, 500000)]),
    ("TIMESTAMP_MS", pa.timestamp("us"), [datetime(2024, 1, 1, 0, 0, 0, 1000)],
     [datetime(2024, 1, 1, 0, 0, 0, 1)]),
    ("BIT", pa.string(), ["0101"], ["012"]),
    ("INTERVAL", pa.string(), ["1 month 2 days", "00:00:00.000001"],
     ["soon", "00:00:00.0000019"]),
    ("TIME WITH TIME ZONE", pa.string(), ["12:00:00+02"], ["noon"]),
    ("BIGNUM", pa.string(), ["9" * 50], ["1x"]),
]  # fmt: skip


@pytest.mark.parametrize(("native", "type_", "good", "bad"), NATIVE, ids=[n[0] for n in NATIVE])
def test_value_that_does_not_fit_a_native_type_is_a_rejected_row(
    tmp_path: Path, native: str, type_: pa.DataType, good: list[Any], bad: list[Any]
) -> None:
    path = build(tmp_path / "t.db", f"CREATE TABLE t (x {native})")
    with sink_of(path) as sink:
        schema = sink.schema()
        assert schema is not None and schema.columns[0].type == type_
        batch = pa.record_batch([pa.array([*bad, *good, None], type_)], names=["x"])
        [written] = load(sink, [batch], schema=schema)
    assert [r.index for r in written.rejected] == list(range(len(bad)))
    assert all("column x: does not fit" in r.reason for r in written.rejected)
    with source_of(path) as source:
        assert [row["x"] for row in read(source)] == [*good, None]


def test_append_keeps_and_overwrite_replaces_also_with_the_same_keys(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR NOT NULL, d INT DEFAULT 7)",
        "INSERT INTO t SELECT i, 'old', 1 FROM range(200000) r(i)",
    )
    with sink_of(path, key="a") as sink:
        load(sink, [ids((-1, "a"))])
    assert query(path, "SELECT count(*) FROM t") == [(200_001,)]
    with sink_of(path, key="b") as sink:
        batches = [
            ids(*((n, "new") for n in range(start, start + 5000)))
            for start in range(0, 30_000, 5000)
        ]
        assert [w.rejected for w in load(sink, batches, WriteMode.OVERWRITE)] == [()] * 6
    assert query(path, "SELECT count(*), min(v), min(d), max(id) FROM t") == [
        (30_000, "new", 7, 29_999)
    ]
    with pytest.raises(duckdb.ConstraintException):
        query(path, "INSERT INTO t VALUES (5, 'dup', 0)")
    with pytest.raises(duckdb.ConstraintException):
        query(path, "INSERT INTO t VALUES (-5, NULL, 0)")


def test_overwrite_by_nothing_empties_the_table(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t AS SELECT 1::BIGINT AS id, 'v' AS v")
    with sink_of(path) as sink:
        load(sink, [], WriteMode.OVERWRITE)
    assert query(path, "SELECT * FROM t") == []


def test_rolled_back_overwrite_leaves_the_old_rows(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t AS SELECT 1::BIGINT AS id, 'old' AS v")
    with sink_of(path) as sink:
        sink.prepare(WriteRequest(IDS, WriteMode.OVERWRITE), "{}")
        writer = sink.open_writer()
        writer.write(ids((2, "new")))
        with source_of(path) as reader:
            assert read(reader) == [{"id": 1, "v": "old"}]
        writer.rollback()
    assert query(path, "SELECT * FROM t") == [(1, "old")]


def test_upsert_changes_by_key_and_the_last_row_wins(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR, kept VARCHAR DEFAULT 'd')",
        "INSERT INTO t VALUES (1, 'a', 'k'), (2, 'b', 'k')",
    )
    with sink_of(path) as sink:
        batches = [ids((2, "x"), (3, "y"), (3, "z"), (None, "no")), ids((3, "end"), (4, "w"))]
        first, second = load(sink, batches, WriteMode.UPSERT)
    assert first.rows == 3 and [r.index for r in first.rejected] == [3]
    assert second == Written(2)
    assert query(path, "SELECT * FROM t ORDER BY id") == [
        (1, "a", "k"), (2, "x", "k"), (3, "end", "d"), (4, "w", "d"),
    ]  # fmt: skip


def test_upsert_that_clashes_with_another_key_is_a_rejected_row(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR UNIQUE)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    with sink_of(path) as sink:
        [written] = load(
            sink, [ids((1, "a"), (3, "b"), (4, "c"), (5, "c"), (6, None))], WriteMode.UPSERT
        )
    assert [r.index for r in written.rejected] == [1, 3]
    assert query(path, "SELECT * FROM t ORDER BY id") == [
        (1, "a"), (2, "b"), (4, "c"), (6, None),
    ]  # fmt: skip


def test_upsert_without_a_unique_key_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (id BIGINT, v VARCHAR)")
    for keys in ((), ("id",), ("nope",)):
        with sink_of(path) as sink, pytest.raises(InvalidRequest, match="key_columns"):
            sink.prepare(WriteRequest(IDS, WriteMode.UPSERT, key_columns=keys), "{}")
    build(path, "CREATE UNIQUE INDEX u ON t (id)")
    with sink_of(path) as sink:
        load(sink, [ids((1, "x"), (1, "y")), ids((1, "z"))], WriteMode.UPSERT, keys=("id",))
    assert query(path, "SELECT * FROM t") == [(1, "z")]


def test_created_table_keeps_the_primary_key(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with sink_of(path) as sink:
        load(sink, [ids((1, "x"))], schema=sink.proposed(IDS))
        after = sink.schema()
    assert after is not None and after.primary_key == ("id",)
    assert [(c.native_type, c.nullable) for c in after.columns] == [
        ("BIGINT", False), ("VARCHAR", True),
    ]  # fmt: skip


WIDE = TableSchema((*IDS.columns, Column("w", pa.string()), Column("p", pa.int64())))


def test_bad_rows_are_rejected_with_reasons_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE parent (id BIGINT PRIMARY KEY)",
        "INSERT INTO parent VALUES (1)",
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR NOT NULL CHECK (length(v) < 5),"
        " w VARCHAR UNIQUE, p BIGINT REFERENCES parent (id), n INT DEFAULT 3,"
        " CHECK (n > 2 AND (w IS NULL OR w <> 'bad')), CHECK (10 // (id - 33) IS NOT NULL))",
        "INSERT INTO t VALUES (50, 'old', 'taken', NULL, 3)",
    )
    rows: list[tuple[Any, ...]] = [(n, "ok", None, None) for n in range(100)]
    rows[0] = (0, "ok", "a", 1)
    rows[7] = (7, None, None, None)
    rows[8] = (8, "much too long", None, None)
    rows[9] = (9, "ok", "bad", None)
    rows[10] = (10, "ok", None, 99)
    rows[50] = (50, "dup", None, None)
    rows[60] = (61, "1st", None, None)
    rows[61] = (61, "dup", None, None)
    rows[98] = (98, "ok", "a", None)
    rows[99] = (99, "ok", "taken", None)
    columns = [
        pa.array(c, t) for c, t in zip(zip(*rows, strict=True), WIDE.arrow.types, strict=True)
    ]
    with sink_of(path) as sink:
        [written] = load(sink, [pa.record_batch(columns, names=list(WIDE.names))], schema=WIDE)
    reasons = {r.index: r.reason for r in written.rejected}
    assert sorted(reasons) == [7, 8, 9, 10, 33, 50, 61, 98, 99]
    assert "column v: must not be NULL" in reasons[7]
    assert all("CHECK" in reasons[n] for n in (8, 9, 33))
    assert "foreign key (p)" in reasons[10]
    assert all("duplicate key" in reasons[n] for n in (50, 61, 98, 99))
    assert written.rows == 91
    assert query(path, "SELECT count(*) FROM t") == [(92,)]
    assert query(path, "SELECT v FROM t WHERE id IN (50, 61) ORDER BY id") == [("old",), ("1st",)]


def test_rows_after_a_rejected_batch_are_in_the_same_transaction(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR)")
    with sink_of(path) as sink:
        results = load(sink, [ids((1, "a")), ids((1, "b"), (2, "c")), ids((3, "d"), (2, "e"))])
    assert [(w.rows, [r.index for r in w.rejected]) for w in results] == [
        (1, []), (1, [0]), (1, [1]),
    ]  # fmt: skip
    assert query(path, "SELECT * FROM t ORDER BY id") == [(1, "a"), (2, "c"), (3, "d")]


def test_keys_are_compared_as_the_table_compares_them(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (x UUID, y INT, UNIQUE (x, y))")
    one = "123e4567-e89b-12d3-a456-426614174000"
    batch = pa.record_batch(
        [pa.array([one, one.upper(), one, None, None]), pa.array([1, 1, None, 1, 1], pa.int32())],
        names=["x", "y"],
    )
    with sink_of(path) as sink:
        schema = sink.schema()
        assert schema is not None
        [written] = load(sink, [batch], schema=schema)
    assert [r.index for r in written.rejected] == [1]


def test_null_in_a_unique_key_is_no_duplicate(tmp_path: Path) -> None:
    """Holds down duckdb/duckdb#26066: ON CONFLICT DO NOTHING drops all NULL keys but one."""
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (exchangis_row BIGINT PRIMARY KEY, a INT UNIQUE, b INT UNIQUE,"
        " pattern INT)",
        "INSERT INTO t VALUES (100, 7, 8, 0)",
    )
    schema = TableSchema(
        tuple(
            Column(name, type_)
            for name, type_ in (
                ("exchangis_row", pa.int64()), ("a", pa.int32()), ("b", pa.int32()),
                ("pattern", pa.int32()),
            )
        )
    )  # fmt: skip
    rows = [
        (1, None, None), (2, None, None), (100, None, None), (3, 7, None), (4, 1, None),
        (5, 1, None), (6, None, 8), (7, None, 9), (8, 7, 8), (9, 2, 3), (10, None, 3),
    ]  # fmt: skip
    columns = [
        pa.array(c, t) for c, t in zip(zip(*rows, strict=True), schema.arrow.types, strict=False)
    ]
    batch = pa.record_batch([*columns, pa.nulls(len(rows), pa.int32())], names=list(schema.names))
    with sink_of(path) as sink:
        [written] = load(sink, [batch], schema=schema)
    assert [r.index for r in written.rejected] == [2, 3, 5, 6, 8, 10]
    assert [row[0] for row in query(path, "SELECT exchangis_row FROM t ORDER BY 1")] == [
        1, 2, 4, 7, 9, 100,
    ]  # fmt: skip
    build(path, "CREATE TABLE u (id BIGINT UNIQUE, v VARCHAR)", "INSERT INTO u VALUES (1, 'old')")
    with sink_of(path, "u") as sink:
        keyless = [ids((None, "a"), (1, "new"), (None, "b"), (2, "c"))]
        assert load(sink, keyless, WriteMode.UPSERT, keys=("id",), split="u") == [Written(4)]
    assert query(path, "SELECT * FROM u ORDER BY v") == [
        (None, "a"), (None, "b"), (2, "c"), (1, "new"),
    ]  # fmt: skip


def test_unforeseen_error_fails_the_task_and_keeps_nothing(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (id BIGINT, v VARCHAR, CHECK (random() < 2 AND id < 100))",
    )
    log: list[str] = []
    with sink_of(path, log=log) as sink:
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        writer = sink.open_writer()
        writer.write(ids((1, "a")))
        with pytest.raises(SinkError, match="CHECK"):
            writer.write(ids((100, "b")))
        with pytest.raises(SinkError, match="rolled back"):
            writer.commit()
        writer.rollback()
    assert any("CHECK" in line for line in log)
    assert query(path, "SELECT * FROM t") == []


def test_unfilled_required_columns_generated_ones_and_views_are_told_apart(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (id BIGINT, v VARCHAR, g INT GENERATED ALWAYS AS (id + 1))",
        "CREATE TABLE n (id BIGINT, v VARCHAR, must INT NOT NULL)",
        "CREATE VIEW w AS SELECT * FROM t",
        "CREATE TABLE e (id BIGINT, v VARCHAR)",
        "CREATE UNIQUE INDEX e_lower ON e (lower(v))",
    )
    with sink_of(path) as sink:
        schema = sink.schema()
        assert schema is not None and schema.names == ("id", "v")
        load(sink, [ids((1, "a"))])
    with sink_of(path, "n") as sink, pytest.raises(SinkError, match="must"):
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
    with sink_of(path, "w") as sink, pytest.raises(SinkError, match="view"):
        sink.schema()
    with sink_of(path, "none") as sink, pytest.raises(SinkError, match="none"):
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND, create=False), "{}")
    with sink_of(path, "e") as sink:
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        with pytest.raises(SinkError, match="expression"):
            sink.open_writer()


# ---------------------------------------------------------------------- crashes and fences


@pytest.mark.parametrize(
    ("mode", "publish", "step"),
    [
        (WriteMode.APPEND, "task", "prepared"),
        (WriteMode.APPEND, "task", "marked 1"),
        (WriteMode.APPEND, "split", "committed 0"),
        (WriteMode.OVERWRITE, "task", "committed"),
        (WriteMode.OVERWRITE, "split", "written 1"),
        (WriteMode.UPSERT, "task", "written 1"),
        (WriteMode.UPSERT, "split", "marked 1"),
    ],
)
def test_killed_writer_is_resumed_without_a_row_lost_or_doubled(
    tmp_path: Path, mode: WriteMode, publish: str, step: str
) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR)",
        "INSERT INTO t VALUES (-1, 'old'), (-2, 'old')",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH.format(module="duckdb", name="DuckDB"),
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
            written = writer.write(
                ids(*((n, "new") for n in range(split * 1000, split * 1000 + 1000)))
            )
            assert written == Written(1000)
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
    assert query(path, "SELECT * FROM t") == [(1, "b")]


def test_older_attempt_cannot_write_after_a_newer_one_has_prepared(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with sink_of(path, attempt=1) as stale, sink_of(path, attempt=2) as newer:
        stale.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        newer.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        writer = stale.open_writer()
        with pytest.raises(SinkError, match="taken over"):
            writer.write(ids((1, "stale")))
        with pytest.raises(SinkError, match="taken over"):
            stale.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
    assert query(path, "SELECT * FROM t") == []


# ---------------------------------------------------------------------- files and cancelling


def test_one_task_reads_and_writes_the_same_file(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db", "CREATE TABLE src AS SELECT i AS id, 'v' || i AS v FROM range(5000) r(i)"
    )
    with source_of(path, "src") as source, sink_of(path) as sink:
        proposed = sink.proposed(source.schema())
        assert sink.schema() is None
        request = ReadRequest(("id", "v"), batch_rows=1000)
        [split] = source.plan(request)
        sink.prepare(WriteRequest(proposed, WriteMode.OVERWRITE), "{}")
        writer = sink.open_writer()
        for batch in source.read(split, request):
            writer.write(batch)
        writer.mark(split, 5000)
        writer.commit()
    assert path not in _FILES._open
    assert query(path, "SELECT count(*), sum(id) FROM t") == [(5000, sum(range(5000)))]


def test_missing_file_is_created_and_a_missing_folder_is_named(tmp_path: Path) -> None:
    with sink_of(tmp_path / "new.db") as sink:
        assert sink.schema() is None
        load(sink, [ids((1, "a"))])
    assert query(tmp_path / "new.db", "SELECT * FROM t") == [(1, "a")]
    with (
        sink_of(tmp_path / "no folder" / "t.db") as sink,
        pytest.raises(ConnectionFailed, match="no folder") as caught,
    ):
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
    assert not caught.value.retryable


def test_file_held_by_another_process_is_a_retryable_error_and_cancel_ends_the_wait(
    tmp_path: Path,
) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (id BIGINT, v VARCHAR)")
    with held_by_another_process(path):
        with sink_of(path) as sink:
            sink.handle.lock_wait = 0.2
            with pytest.raises(ConnectionFailed) as caught:
                sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
            assert caught.value.retryable
        with sink_of(path) as sink:
            timer = threading.Timer(0.2, sink.cancel)
            timer.start()
            started = time.monotonic()
            with pytest.raises(TaskCancelled):
                sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
            assert time.monotonic() - started < 2
            timer.join()


def test_cancel_ends_a_statement_that_runs(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (id BIGINT, v VARCHAR)")
    with sink_of(path) as sink:
        sink.prepare(WriteRequest(IDS, WriteMode.APPEND), "{}")
        writer = sink.open_writer()
        slow = "(SELECT count(*) FROM range(10000000) a, range(1000000) b WHERE a.range*b.range=3)"
        writer._rows.values = f"id, {slow}::VARCHAR AS v"  # type: ignore[attr-defined]
        timer = threading.Timer(0.3, sink.cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(TaskCancelled):
            writer.write(ids((1, "a")))
        assert time.monotonic() - started < 2
        timer.join()
    assert query(path, "SELECT * FROM t") == []
