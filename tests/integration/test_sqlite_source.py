"""What the SQLite source promises, on real files."""

from __future__ import annotations

import contextlib
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.connectors.base import Context, ReadRequest, Source
from exchangis.connectors.sqlite import SQLite
from exchangis.connectors.sqlite import source as sqlite_source
from exchangis.connectors.sqlite.database import quote
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    SourceError,
    TaskCancelled,
)
from exchangis.domain.model import Connection, DataSet

CONNECTOR = SQLite()


@contextlib.contextmanager
def database(path: Path, *, rows: str = "") -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        if rows:
            connection.executescript(rows)
        yield connection
    finally:
        connection.close()


def build(path: Path, script: str) -> Path:
    with database(path, rows=script):
        return path


@contextlib.contextmanager
def source_of(
    path: Path,
    table: str,
    roots: tuple[Path, ...] = (),
    log: list[str] | None = None,
    **options: str,
) -> Iterator[Source]:
    lines = [] if log is None else log
    context = Context("task", 1, path.parent, lambda _level, text: lines.append(text), roots=roots)
    connection = Connection(type="SQLITE", params={"path": str(path)})
    source = CONNECTOR.source(
        connection, DataSet(type="SQLITE", table=table, options=options), context
    )
    try:
        yield source
    finally:
        source.close()


def read(source: Source, *columns: str, **wanted: Any) -> list[dict[str, Any]]:
    request = ReadRequest(columns or source.schema().names, **wanted)
    rows: list[dict[str, Any]] = []
    for split in source.plan(request):
        for batch in source.read(split, request):
            rows += batch.to_pylist()
    return rows


def test_declared_types_become_arrow_types(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b INT, c UNSIGNED BIG INT, d DECIMAL(20,4),"
        " e NUMERIC(5), f REAL, g DOUBLE PRECISION, h VARCHAR(10) NOT NULL, i TEXT, j CLOB,"
        " k JSON, l UUID, m BLOB, n BOOLEAN, o DATE, p DATETIME, q TIMESTAMP(6), r TIME, s,"
        " u DECIMAL, v NVARCHAR(10), w TIMESTAMP WITH TIME ZONE, x GEOMETRY, y BINARY(4));",
    )
    with source_of(path, "T") as source:
        schema = source.schema()
    types = {column.name: str(column.type) for column in schema.columns}
    assert types == {
        "a": "int64", "b": "int64", "c": "int64", "d": "decimal128(20, 4)",
        "e": "decimal128(5, 0)", "f": "double", "g": "double", "h": "string", "i": "string",
        "j": "string", "k": "string", "l": "string", "m": "binary", "n": "bool",
        "o": "date32[day]", "p": "timestamp[us]", "q": "timestamp[us]", "r": "time64[us]",
        "s": "string", "u": "double", "v": "string", "w": "timestamp[us, tz=UTC]", "x": "string",
        "y": "binary",
    }  # fmt: skip
    assert schema.primary_key == ("a",)
    assert [c.name for c in schema.columns if not c.nullable] == ["h"]


def test_values_arrive_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "nasty name's ?#%41 é.db"
    with database(path) as connection:
        connection.execute(
            "CREATE TABLE t (i INTEGER, d DECIMAL(38,10), s TEXT, b BLOB, o BOOLEAN, a DATE,"
            " ts DATETIME, tz TIMESTAMPTZ, c TIME, f REAL)"
        )
        connection.executemany(
            f"INSERT INTO t VALUES ({','.join('?' * 10)})",
            [
                (2**63 - 1, 5, "emoji 🦆 \x00 nul", b"\x00\xff", 1, "0001-01-01",
                 "2024-02-29 23:59:59.999999", "2024-01-01 00:00:00+00:00", "23:59:59.5", 1e308),
                (-(2**63), "0.5", "", b"", 0, "9999-12-31", "1969-12-31T23:59:59",
                 "2024-01-01T05:30:00+05:30", "00:00:00", -0.0),
                (None,) * 10,
            ],
        )  # fmt: skip
    with source_of(path, "t") as source:
        rows = read(source)
    assert rows == [
        {"i": 2**63 - 1, "d": Decimal(5), "s": "emoji 🦆 \x00 nul", "b": b"\x00\xff", "o": True,
         "a": date(1, 1, 1), "ts": datetime(2024, 2, 29, 23, 59, 59, 999999),
         "tz": datetime(2024, 1, 1, tzinfo=UTC), "c": clock(23, 59, 59, 500000), "f": 1e308},
        {"i": -(2**63), "d": Decimal("0.5"), "s": "", "b": b"", "o": False,
         "a": date(9999, 12, 31), "ts": datetime(1969, 12, 31, 23, 59, 59),
         "tz": datetime(2024, 1, 1, tzinfo=UTC), "c": clock(0), "f": -0.0},
        dict.fromkeys(["i", "d", "s", "b", "o", "a", "ts", "tz", "c", "f"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "stored", "expected"),
    [
        ("DATETIME", 1_700_000_000, datetime(2023, 11, 14, 22, 13, 20)),
        ("DATETIME", 2_440_587.5, datetime(1970, 1, 1)),
        ("DATETIME", "2024-01-01T12:00:00.5Z", datetime(2024, 1, 1, 12, 0, 0, 500000)),
        ("DATETIME", "2024-01-01 12:00:00+02:00", datetime(2024, 1, 1, 10)),
        ("TIMESTAMPTZ", "2024-01-01 12:00:00", datetime(2024, 1, 1, 12, tzinfo=UTC)),
        ("DATE", 86_400, date(1970, 1, 2)),
        ("DATE", "2024-01-01 00:00:00", date(2024, 1, 1)),
        ("BOOLEAN", "true", True),
        ("DECIMAL(10,2)", 0.1, Decimal("0.10")),
        ("DECIMAL(10,2)", " 7.5 ", Decimal("7.50")),
        ("REAL", 5, 5.0),
        ("JSON", 12, "12"),
        ("", 1.5, "1.5"),
        ("BLOB", "text", b"text"),
    ],
)
def test_other_storage_classes_follow_the_documented_rule(
    tmp_path: Path, declared: str, stored: Any, expected: Any
) -> None:
    with database(tmp_path / "t.db", rows=f"CREATE TABLE t (x {declared})") as connection:
        connection.execute("INSERT INTO t VALUES (?)", (stored,))
    with source_of(tmp_path / "t.db", "t") as source:
        assert read(source) == [{"x": expected}]


def test_epoch_unit_says_how_integers_count(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (x DATETIME); INSERT INTO t VALUES (1500)")
    with source_of(path, "t", epoch_unit="milliseconds") as source:
        assert read(source) == [{"x": datetime(1970, 1, 1, 0, 0, 1, 500000)}]


@pytest.mark.parametrize(
    ("declared", "stored"),
    [
        ("INTEGER", "twelve"),
        ("INTEGER", 1.5),
        ("DECIMAL(5,2)", 1.234),
        ("DECIMAL(5,2)", 1234567),
        ("DECIMAL(5,2)", 0.30000000000000004),
        ("DATE", "0000-00-00"),
        ("DATE", "2024-01-01 10:00:00"),
        ("DATETIME", "2024-01-01 00:00:00.1234567"),
        ("BOOLEAN", 2),
        ("TEXT", b"\x00"),
        ("TIME", 5),
        ("DECIMAL", 2**53 + 1),
    ],
)
def test_value_that_does_not_fit_names_table_column_rowid_and_value(
    tmp_path: Path, declared: str, stored: Any
) -> None:
    with database(
        tmp_path / "t.db", rows=f"CREATE TABLE things (good INTEGER, x {declared})"
    ) as connection:
        connection.execute("INSERT INTO things (rowid, good) VALUES (1, 1)")
        connection.execute("INSERT INTO things (rowid, x) VALUES (77, ?)", (stored,))
    with (
        source_of(tmp_path / "t.db", "things") as source,
        pytest.raises(SourceError, match=r"things, column x, rowid 77") as caught,
    ):
        read(source)
    assert repr(stored) in str(caught.value)
    log: list[str] = []
    with source_of(tmp_path / "t.db", "things", mismatched="null", log=log) as source:
        assert [row["x"] for row in read(source)] == [None, None]
    assert any("x" in line and "NULL" in line for line in log)


def test_column_named_in_as_text_takes_any_value(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1), ('a')")
    with source_of(path, "t", as_text="x") as source:
        assert read(source) == [{"x": "1"}, {"x": "a"}]


def test_text_that_is_no_utf8_fails_naming_the_column(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db", "CREATE TABLE t (col TEXT); INSERT INTO t VALUES (CAST(x'ff' AS TEXT))"
    )
    with source_of(path, "t") as source, pytest.raises(SourceError, match="col"):
        read(source)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ids=st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(-50, 50), min_size=1, max_size=60),
    lanes=st.integers(2, 7),
    exact=st.booleans(),
)
def test_splits_hold_each_row_exactly_once(
    tmp_path: Path, ids: set[int], lanes: int, exact: bool
) -> None:
    path = tmp_path / f"{time.monotonic_ns()}.db"
    with database(path, rows="CREATE TABLE t (id INTEGER PRIMARY KEY)") as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in ids])
    with pytest.MonkeyPatch.context() as patch, source_of(path, "t") as source:
        patch.setattr(sqlite_source, "SPLIT_ROWS", 1)
        patch.setattr(sqlite_source, "_EXACT_BYTES", 1 << 30 if exact else 0)
        request = ReadRequest(("id",), parallelism=lanes)
        splits = source.plan(request)
        seen = [
            value
            for split in splits
            for batch in source.read(split, request)
            for value in batch.column(0).to_pylist()
        ]
        assert [s.id for s in source.plan(request)] == [s.id for s in splits]
    path.unlink()
    assert sorted(seen) == sorted(ids)
    assert len({split.id for split in splits}) == len(splits) <= lanes


def test_large_table_is_read_in_as_many_even_splits_as_lanes(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (x INTEGER); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1"
        " FROM n WHERE i < 120000) INSERT INTO t (rowid, x) SELECT i * i, i FROM n;",
    )
    with source_of(path, "t") as source:
        request = ReadRequest(("x",), parallelism=2)
        counts = [
            sum(batch.num_rows for batch in source.read(split, request))
            for split in source.plan(request)
        ]
    assert counts == [60_000, 60_000]


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE t (a TEXT PRIMARY KEY, b) WITHOUT ROWID; INSERT INTO t VALUES ('x', 1)",
        "CREATE VIEW t AS SELECT 'x' AS a, 1 AS b",
        "CREATE TABLE t (rowid TEXT, oid TEXT, _rowid_ TEXT, a, b);"
        "INSERT INTO t (a, b) VALUES ('x', 1)",
    ],
)
def test_tables_without_row_numbers_are_one_split(tmp_path: Path, script: str) -> None:
    path = build(tmp_path / "t.db", script)
    with source_of(path, "t") as source:
        request = ReadRequest(("a", "b"), parallelism=4)
        assert len(source.plan(request)) == 1
        assert read(source, "a", "b") == [{"a": "x", "b": "1"}]


def test_batches_are_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    with database(tmp_path / "t.db", rows="CREATE TABLE t (x BLOB)") as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t VALUES (?)", [(b"x" * 10,)] * 3000)
        connection.executemany("INSERT INTO t VALUES (zeroblob(100000))", [()] * 300)
        connection.execute("COMMIT")
    with source_of(tmp_path / "t.db", "t") as source:
        request = ReadRequest(("x",), batch_rows=1000, batch_bytes=1 << 20)
        batches = [b for split in source.plan(request) for b in source.read(split, request)]
    assert sum(batch.num_rows for batch in batches) == 3300
    assert max(batch.num_rows for batch in batches) <= 1000
    # One fetch of 256 rows may turn wide at once before its bytes are counted.
    assert max(batch.nbytes for batch in batches) <= (1 << 20) + 256 * 100_100


def test_generated_columns_are_read(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (a INTEGER, b INTEGER GENERATED ALWAYS AS (a * 2) VIRTUAL,"
        " c INTEGER AS (a + 1) STORED); INSERT INTO t (a) VALUES (4)",
    )
    with source_of(path, "t") as source:
        assert read(source) == [{"a": 4, "b": 8, "c": 5}]


def test_filter_selects_rows_and_hostile_ones_are_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2), (3)")
    with source_of(path, "t") as source:
        assert read(source, where="a > 1 OR a IS NULL") == [{"a": 2}, {"a": 3}]
        for hostile in ("1; DROP TABLE t", "a IN (SELECT 1)", "1) UNION SELECT 1 --"):
            with pytest.raises(InvalidRequest):
                read(source, where=hostile)


def test_source_cannot_write(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT)")
    before = path.read_bytes()
    with source_of(path, "t") as source:
        read(source)
        first = source._first  # type: ignore[attr-defined]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            first.execute("INSERT INTO t VALUES (1)")
    assert path.read_bytes() == before


def test_reader_sees_one_state_while_others_write(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "PRAGMA journal_mode=WAL; CREATE TABLE t (a INT);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO t SELECT i FROM n;",
    )
    log: list[str] = []
    with database(path) as writer, source_of(path, "t", log=log) as source:
        request = ReadRequest(("a",), batch_rows=100)
        [split] = source.plan(request)
        batches = source.read(split, request)
        count = next(batches).num_rows
        writer.execute("DELETE FROM t")
        count += sum(batch.num_rows for batch in batches)
    assert count == 5000
    assert any("changed by another program" in line for line in log)


KILLED = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=10")
connection.execute("BEGIN IMMEDIATE")
rows = ((i, "x" * 500) for i in range(5000))
connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
print("half", flush=True)
sys.stdin.read()
"""


def test_file_of_a_killed_writer_reads_as_before_its_transaction(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT, b TEXT); INSERT INTO t VALUES (-1, '')")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        process.kill()
    assert (tmp_path / "t.db-journal").stat().st_size > 0
    with source_of(path, "t") as source:
        assert read(source) == [{"a": -1, "b": ""}]


SLOW = (
    "CREATE VIEW t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
    " WHERE i < 1000000000) SELECT count(*) AS a FROM n"
)


def test_cancel_ends_a_long_query(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", SLOW)
    with source_of(path, "t") as source:
        request = ReadRequest(("a",))
        [split] = source.plan(request)
        timer = threading.Timer(0.2, source.cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(TaskCancelled):
            next(source.read(split, request))
        timer.join()
        assert time.monotonic() - started < 2
        with pytest.raises(TaskCancelled):
            next(source.read(split, request))


def test_missing_file_table_and_database_are_named(tmp_path: Path) -> None:
    with source_of(tmp_path / "none.db", "t") as source:
        with pytest.raises(ConnectionFailed, match=r"none\.db") as caught:
            source.schema()
        assert not caught.value.retryable
    assert not (tmp_path / "none.db").exists()
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT)")
    with source_of(path, "absent") as source, pytest.raises(SourceError, match="absent"):
        source.schema()
    with pytest.raises(InvalidRequest, match="database"):
        CONNECTOR.source(
            Connection(type="SQLITE", params={"path": str(path)}),
            DataSet(type="SQLITE", table="t", database="other"),
            Context("k", 1, tmp_path, lambda *_: None),
        )


def test_path_outside_of_the_roots_is_refused_also_through_a_link(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT)")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.db").symlink_to(path)
    for hostile in (path, root / "link.db", root / ".." / "t.db"):
        with pytest.raises(InvalidRequest, match="path"), source_of(hostile, "t", (root,)):
            pass


def test_connection_test_opens_for_real(tmp_path: Path) -> None:
    context = Context("k", 1, tmp_path, lambda *_: None)
    build(tmp_path / "t.db", "CREATE TABLE b (x); CREATE VIEW a AS SELECT 1")

    def of(name: str) -> Connection:
        return Connection(type="SQLITE", params={"path": str(tmp_path / name)})

    assert CONNECTOR.test(of("t.db"), context) == f"SQLite {sqlite3.sqlite_version}"
    assert CONNECTOR.databases(of("t.db"), context) == ["main"]
    assert CONNECTOR.tables(of("t.db"), None, context) == ["a", "b"]
    (tmp_path / "text.db").write_text("no database " * 100)
    for wrong in ("none.db", "text.db"):
        with pytest.raises(ConnectionFailed, match=wrong) as caught:
            CONNECTOR.test(of(wrong), context)
        assert not caught.value.retryable


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1))
def test_any_identifier_survives_quoting(name: str) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"CREATE TABLE {quote(name + 'x')} ({quote(name)} INT)")
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [(name + "x",)]
        cursor = connection.execute(f"SELECT * FROM {quote(name + 'x')}")
        assert [column[0] for column in cursor.description] == [name]
    finally:
        connection.close()


def test_arrow_types_of_batches_are_those_of_the_schema(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (a INT, b DECIMAL(50,5), c DATE, d TIMESTAMPTZ, e TIME_NS, f INTERVAL_US);"
        "INSERT INTO t VALUES (NULL, NULL, NULL, NULL, NULL, NULL);"
        "INSERT INTO t VALUES (1, '1.5', '2020-01-01', 0, '10:00:00.123456789', 5)",
    )
    with source_of(path, "t") as source:
        request = ReadRequest(source.schema().names, batch_rows=1)
        for split in source.plan(request):
            for batch in source.read(split, request):
                assert batch.schema.types == [c.type for c in source.schema().columns]
                assert isinstance(batch, pa.RecordBatch)
