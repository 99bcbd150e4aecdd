"""What the DuckDB source promises, on real files."""

from __future__ import annotations

import contextlib
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
from hypothesis import given, settings
from hypothesis import strategies as st

from exchangis.connectors.base import Context, ReadRequest
from exchangis.connectors.duckdb import DuckDB
from exchangis.connectors.duckdb import source as duckdb_source
from exchangis.connectors.duckdb.database import _FILES
from exchangis.connectors.duckdb.source import DuckDBSource
from exchangis.connectors.duckdb.types import literal, quote
from exchangis.domain.errors import (
    ConnectionFailed,
    InvalidRequest,
    SourceError,
    TaskCancelled,
)
from exchangis.domain.model import Connection, DataSet

CONNECTOR = DuckDB()


def build(path: Path, *statements: str) -> Path:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()
    return path


@contextlib.contextmanager
def source_of(
    path: Path,
    table: str = "t",
    *,
    schema: str | None = None,
    roots: tuple[Path, ...] = (),
    log: list[str] | None = None,
    **options: str,
) -> Iterator[DuckDBSource]:
    lines = [] if log is None else log
    context = Context("task", 1, path.parent, lambda _level, text: lines.append(text), roots=roots)
    source = CONNECTOR.source(
        Connection(type="DUCKDB", params={"path": str(path)}),
        DataSet(type="DUCKDB", database=schema, table=table, options=options),
        context,
    )
    assert isinstance(source, DuckDBSource)
    try:
        yield source
    finally:
        source.close()


def read(source: DuckDBSource, *columns: str, **wanted: Any) -> list[dict[str, Any]]:
    request = ReadRequest(columns or source.schema().names, **wanted)
    rows: list[dict[str, Any]] = []
    for split in source.plan(request):
        for batch in source.read(split, request):
            assert batch.schema.types == [
                column.type
                for name in request.columns
                if (column := source.schema().column(name)) is not None
            ]
            rows += batch.to_pylist()
    return rows


@pytest.mark.parametrize(
    ("native", "text", "type_", "expected"),
    [
        ("UBIGINT", "18446744073709551615", "uint64", 2**64 - 1),
        ("HUGEINT", "-" + "9" * 38, "decimal128(38, 0)", Decimal("-" + "9" * 38)),
        ("UHUGEINT", "5", "decimal128(38, 0)", Decimal(5)),
        ("DECIMAL(38,10)", "0.0000000001", "decimal128(38, 10)", Decimal("0.0000000001")),
        ("DECIMAL(4,1)", "-1.5", "decimal128(4, 1)", Decimal("-1.5")),
        ("FLOAT", "1.5", "float", 1.5),
        ("VARCHAR", "'🦆 '' \\'", "string", "🦆 ' \\"),
        ("BLOB", "'\\x00\\xFF'::BLOB", "binary", b"\x00\xff"),
        ("UUID", "'123E4567-e89b-12d3-a456-426614174000'", "string",
         "123e4567-e89b-12d3-a456-426614174000"),
        ("DATE", "'0001-01-01'", "date32[day]", date(1, 1, 1)),
        ("TIMESTAMP", "'9999-12-31 23:59:59.999999'", "timestamp[us]",
         datetime(9999, 12, 31, 23, 59, 59, 999999)),
        ("TIMESTAMP_S", "'1969-12-31 23:59:59'", "timestamp[us]",
         datetime(1969, 12, 31, 23, 59, 59)),
        ("TIMESTAMP_MS", "'2024-01-01 00:00:00.125'", "timestamp[us]",
         datetime(2024, 1, 1, 0, 0, 0, 125000)),
        ("TIMESTAMPTZ", "'2024-01-01 05:30:00+05:30'", "timestamp[us, tz=UTC]",
         datetime(2024, 1, 1, tzinfo=UTC)),
        ("TIME", "'23:59:59.999999'", "time64[us]", clock(23, 59, 59, 999999)),
        ("TIMETZ", "'12:00:00+02'", "string", "12:00:00+02"),
        ("INTERVAL", "INTERVAL '1 month 2 days'", "string", "1 month 2 days"),
        ("ENUM('b', 'a')", "'a'", "string", "a"),
        ("JSON", """'{"a": 1}'""", "string", '{"a": 1}'),
        ("INTEGER[]", "[1, NULL]", "string", "[1,null]"),
        ("STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': 'x\"'}", "string", '{"a":1,"b":"x\\""}'),
        ("MAP(VARCHAR, INTEGER)", "MAP {'k': 1}", "string", '{"k":1}'),
        ("BIT", "'0101'", "string", "0101"),
        ("BIGNUM", "'" + "9" * 50 + "'", "string", "9" * 50),
    ],
)  # fmt: skip
def test_native_type_gives_exact_values_in_its_arrow_type(
    tmp_path: Path, native: str, text: str, type_: str, expected: Any
) -> None:
    path = build(
        tmp_path / "t.db",
        f"CREATE TABLE t (x {native})",
        f"INSERT INTO t VALUES (CAST({text} AS {native})), (NULL)",
    )
    with source_of(path) as source:
        assert [str(column.type) for column in source.schema().columns] == [type_]
        assert read(source) == [{"x": expected}, {"x": None}]


def test_nanoseconds_stay(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t AS SELECT '2024-01-01 00:00:00.123456789'::TIMESTAMP_NS x",
    )
    with source_of(path) as source:
        request = ReadRequest(("x",))
        [batch] = [b for split in source.plan(request) for b in source.read(split, request)]
    assert batch.column(0).cast(pa.int64()).to_pylist() == [1_704_067_200_123_456_789]


def test_integer_of_39_digits_names_its_column(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        'CREATE TABLE t AS SELECT 170141183460469231731687303715884105727 AS "it\'s"',
    )
    with source_of(path) as source, pytest.raises(SourceError, match="column it's"):
        read(source)


@pytest.mark.parametrize(
    "native", ["DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_NS", "TIMESTAMP_S"]
)
@pytest.mark.parametrize("text", ["infinity", "-infinity"])
def test_infinity_is_an_error_unless_the_task_says_null(
    tmp_path: Path, native: str, text: str
) -> None:
    path = build(
        tmp_path / "t.db",
        f"CREATE TABLE t (x {native})",
        f"INSERT INTO t VALUES ('{text}'), ('2024-01-01')",
    )
    with source_of(path) as source, pytest.raises(SourceError, match=f"column x.*{text}"):
        read(source)
    with source_of(path, infinity="null") as source:
        assert [row["x"] is None for row in read(source)] == [True, False]


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_splits_hold_each_row_exactly_once(tmp_path: Path, lanes: int) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t AS SELECT i, i % 7 AS m FROM range(500000) r(i)",
        "DELETE FROM t WHERE i BETWEEN 100000 AND 150000 OR i > 480000",
    )
    with source_of(path) as source:
        request = ReadRequest(("i",), parallelism=lanes)
        splits = source.plan(request)
        seen = [
            value
            for split in splits
            for batch in source.read(split, request)
            for value in batch.column(0).to_pylist()
        ]
        assert [s.id for s in source.plan(request)] == [s.id for s in splits]
    assert sorted(seen) == [*range(100_000), *range(150_001, 480_001)]
    assert len(splits) <= lanes
    assert lanes == 1 or len(splits) > 1


@settings(max_examples=30, deadline=None)
@given(gone=st.sets(st.integers(0, 40)), lanes=st.integers(2, 9), group=st.integers(1, 9))
def test_row_ranges_cover_whatever_rows_are_left(gone: set[int], lanes: int, group: int) -> None:
    info_rows = [i for i in range(41) if i not in gone]
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("CREATE TABLE t AS SELECT i FROM range(41) r(i)").fetchall()
        for number in gone:
            connection.execute(f"DELETE FROM t WHERE i = {number}").fetchall()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duckdb_source, "ROW_GROUP", group)
            ranges = duckdb_source.row_ranges(
                (connection.execute("SELECT max(rowid) FROM t").fetchall()[0][0] or 0), lanes
            )
        seen = []
        for low, high in ranges:
            parts = [f"rowid >= {low}"] * (low is not None) + [f"rowid < {high}"] * (
                high is not None
            )
            seen += connection.execute(
                f"SELECT i FROM t WHERE {' AND '.join(parts) or 'true'}"
            ).fetchall()
    finally:
        connection.close()
    assert sorted(value for (value,) in seen) == info_rows
    assert len(ranges) <= lanes


def test_views_are_read_in_one_split(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE base AS SELECT i FROM range(500000) r(i)",
        "CREATE VIEW t AS SELECT count(*) AS n FROM base",
    )
    with source_of(path) as source:
        assert read(source, parallelism=4) == [{"n": 500_000}]


def test_schemas_and_odd_names_are_found(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        'CREATE SCHEMA "Über x"',
        'CREATE TABLE "Über x"."a""b;" ("from" INT PRIMARY KEY, "x y" VARCHAR NOT NULL)',
        """INSERT INTO "Über x"."a""b;" VALUES (1, 'v')""",
    )
    with source_of(path, 'A"b;', schema="über x") as source:
        schema = source.schema()
        assert schema.primary_key == ("from",)
        assert [column.nullable for column in schema.columns] == [False, False]
        assert read(source, "x y", "from") == [{"x y": "v", "from": 1}]


def test_batches_are_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db", "CREATE TABLE t AS SELECT repeat('x', 20000) AS s FROM range(2000)"
    )
    with source_of(path) as source:
        request = ReadRequest(("s",), batch_rows=1000, batch_bytes=1 << 20)
        batches = [b for split in source.plan(request) for b in source.read(split, request)]
    assert sum(batch.num_rows for batch in batches) == 2000
    assert max(batch.nbytes for batch in batches) <= 1 << 20
    with source_of(path) as source:
        request = ReadRequest((), batch_rows=300)
        batches = [b for split in source.plan(request) for b in source.read(split, request)]
        assert sum(batch.num_rows for batch in batches) == 2000


def test_filter_sees_native_values_and_hostile_ones_are_refused(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE t (a INT, u INTEGER[])",
        "INSERT INTO t VALUES (1, [1]), (2, [2]), (3, NULL)",
    )
    with source_of(path) as source:
        assert read(source, "a", "u", where="a > 1 AND u[1] = 2") == [{"a": 2, "u": "[2]"}]
        for hostile in ("1; DROP TABLE t", "a IN (SELECT 1)", "1) UNION SELECT 1 --"):
            with pytest.raises(InvalidRequest):
                read(source, where=hostile)


def test_files_and_settings_are_out_of_reach(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    path = build(
        tmp_path / "t.db",
        "CREATE TABLE base (a INT)",
        f"CREATE VIEW t AS SELECT * FROM read_csv('{secret}')",
    )
    with source_of(path) as source, pytest.raises(SourceError, match=r"(?i)disabled"):
        read(source, "a")
    with source_of(path, "base") as source, source.handle.cursor() as cursor:
        for statement in (
            "SET enable_external_access = true", "INSERT INTO base VALUES (1)",
            f"SELECT * FROM '{secret}'", f"ATTACH '{tmp_path / 'x.db'}'", "INSTALL httpfs",
        ):  # fmt: skip
            with pytest.raises(duckdb.Error):
                cursor.execute(statement)


def test_cancel_ends_a_long_query(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE VIEW t AS SELECT count(*) AS n FROM range(10000000) a, range(1000000) b"
        " WHERE (a.range * b.range) % 7 = 3",
    )
    with source_of(path) as source:
        request = ReadRequest(("n",))
        [split] = source.plan(request)
        timer = threading.Timer(0.3, source.cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(TaskCancelled):
            next(source.read(split, request))
        timer.join()
        assert time.monotonic() - started < 2
        with pytest.raises(TaskCancelled):
            next(source.read(split, request))


def test_iterator_that_is_closed_early_reads_no_further(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t.db",
        "CREATE VIEW t AS SELECT a.range AS n FROM range(10000000) a, range(100000) b",
    )
    with source_of(path) as source:
        request = ReadRequest(("n",), batch_rows=1000)
        [split] = source.plan(request)
        batches = source.read(split, request)
        assert next(batches).num_rows == 1000
        started = time.monotonic()
        batches.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 2


HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
connection.close()
"""


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def test_file_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t AS SELECT 1 AS a")
    waiting = threading.Event()
    lines: list[str] = []

    def log(_level: str, text: str) -> None:
        lines.append(text)
        waiting.set()

    source = CONNECTOR.source(
        Connection(type="DUCKDB", params={"path": str(path)}),
        DataSet(type="DUCKDB", table="t"),
        Context("task", 1, tmp_path, log),
    )
    found: list[Any] = []
    worker = threading.Thread(target=lambda: found.append(source.schema().names))
    with held_by_another_process(path):
        worker.start()
        assert waiting.wait(10)
    worker.join(10)
    source.close()
    assert found == [("a",)]
    assert str(path) in lines[0]


def test_file_that_stays_held_is_a_retryable_error_and_cancel_ends_the_wait(
    tmp_path: Path,
) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t AS SELECT 1 AS a")
    with held_by_another_process(path):
        with source_of(path) as source:
            source.handle.lock_wait = 0.2
            with pytest.raises(ConnectionFailed, match=r"t\.db") as caught:
                source.schema()
            assert caught.value.retryable
        with source_of(path) as source:
            timer = threading.Timer(0.2, source.cancel)
            timer.start()
            started = time.monotonic()
            with pytest.raises(TaskCancelled):
                source.schema()
            assert time.monotonic() - started < 2
            timer.join()


def test_missing_file_and_table_are_named(tmp_path: Path) -> None:
    with source_of(tmp_path / "none.db") as source:
        with pytest.raises(ConnectionFailed, match=r"none\.db") as caught:
            source.schema()
        assert not caught.value.retryable
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT)")
    with source_of(path, "absent") as source, pytest.raises(SourceError, match="absent"):
        source.schema()
    with source_of(path) as source, pytest.raises(SourceError, match="no column b"):
        read(source, "b")


def test_path_outside_of_the_roots_is_refused_also_through_a_link(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT)")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.db").symlink_to(path)
    for hostile in (path, root / "link.db", root / ".." / "t.db"):
        with pytest.raises(InvalidRequest, match="path"), source_of(hostile, roots=(root,)):
            pass


def test_connection_test_opens_for_real(tmp_path: Path) -> None:
    context = Context("k", 1, tmp_path, lambda *_: None)
    build(
        tmp_path / "t.db", "CREATE TABLE b (x INT)", "CREATE VIEW a AS SELECT 1", "CREATE SCHEMA s"
    )

    def of(name: str) -> Connection:
        return Connection(type="DUCKDB", params={"path": str(tmp_path / name)})

    assert CONNECTOR.test(of("t.db"), context) == f"DuckDB {duckdb.__version__}"
    assert CONNECTOR.databases(of("t.db"), context) == ["main", "s"]
    assert CONNECTOR.tables(of("t.db"), None, context) == ["a", "b"]
    (tmp_path / "text.db").write_text("no database " * 1000)
    for wrong in ("none.db", "text.db"):
        with pytest.raises(ConnectionFailed, match=wrong) as caught:
            CONNECTOR.test(of(wrong), context)
        assert not caught.value.retryable


def test_nothing_stays_open_after_close(tmp_path: Path) -> None:
    path = build(tmp_path / "t.db", "CREATE TABLE t (a INT)")
    with source_of(path) as source:
        read(source)
        assert path in _FILES._open
    assert path not in _FILES._open


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=25, deadline=None)
@given(TEXT)
def test_any_identifier_and_literal_survives_quoting(name: str) -> None:
    with duckdb.connect(":memory:") as connection:
        sql = f"SELECT {literal(name)} AS {quote(name)}"
        assert connection.execute(sql).fetchall() == [(name,)]
        connection.execute(f"CREATE TABLE {quote(name)} ({quote(name)} INT)").fetchall()
        assert connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns()"
            " WHERE database_name = 'memory' AND NOT internal"
        ).fetchall() == [(name, name)]
