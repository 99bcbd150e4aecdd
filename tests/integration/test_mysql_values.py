"""Every value of every MySQL type comes out as it went in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.connectors.mysql.session import quote
from exchangis.domain.errors import SourceError
from exchangis.domain.model import WriteMode
from tests.integration.mysql_harness import Server, server_of
from tests.services import Service, mariadb

_SLOW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
UTC = dt.UTC
NAIVE, INSTANT = pa.timestamp("us"), pa.timestamp("us", "UTC")
NASTY = 'tab\tnew\nline\rquote\'"double""back\\slash\\N\0nul 😀 中文 é , ; \x1a end '


@pytest.fixture
def db(mariadb: Service) -> Iterator[Server]:
    with server_of(mariadb) as server:
        yield server


def _both_ways(db: Server, declaration: str, values: list[Any], kind: pa.DataType) -> None:
    """Values written by plain SQL are read right, and written back by each way in are equal."""
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY, v {declaration} NULL) CHARSET utf8mb4")
    for number, value in enumerate([*values, None]):
        db.run(f"INSERT INTO {table} VALUES (%s, %s)", number, value)
    data = db.read(table)
    assert data.schema.field("v").type == kind
    assert data.num_rows == len(values) + 1
    assert data["v"].null_count == 1
    for copies in (1, 70):  # INSERT for a few rows, LOAD DATA for many
        many = pa.concat_tables(
            [
                data.set_column(0, "id", pa.array(_ids(data, copy), pa.int32()))
                for copy in range(copies)
            ]
        )
        target = db.name()
        db.run(f"CREATE TABLE {target} LIKE {table}")
        assert db.write(target, many) == []
        found = db.run(
            f"SELECT COUNT(*), SUM(a.v <=> b.v) FROM {target} b JOIN {table} a "
            f"ON a.id = b.id MOD {data.num_rows}"
        )
        assert found == [(many.num_rows, many.num_rows)]
        assert db.read(target).equals(many)


def _ids(data: pa.Table, copy: int) -> list[int]:
    return [copy * data.num_rows + number for number in range(data.num_rows)]


@pytest.mark.parametrize(
    ("declaration", "values", "kind"),
    [
        ("TINYINT(1)", [0, 1, 2, -128, 127], pa.int8()),
        ("TINYINT UNSIGNED", [0, 255], pa.uint8()),
        ("SMALLINT", [-32768, 32767], pa.int16()),
        ("SMALLINT UNSIGNED", [0, 65535], pa.uint16()),
        ("MEDIUMINT", [-8388608, 8388607], pa.int32()),
        ("MEDIUMINT UNSIGNED", [16777215], pa.uint32()),
        ("INT", [-2147483648, 2147483647], pa.int32()),
        ("INT(6) ZEROFILL", [42, 4294967295], pa.uint32()),
        ("BIGINT", [-9223372036854775808, 9223372036854775807], pa.int64()),
        ("BIGINT UNSIGNED", [0, 18446744073709551615], pa.uint64()),
        ("DECIMAL(10,2)", ["-12345678.90", "0.01"], pa.decimal128(10, 2)),
        ("DECIMAL(38,0)", ["9" * 38, "-" + "9" * 38], pa.decimal128(38, 0)),
        ("DECIMAL(30,30)", ["0." + "0" * 29 + "1"], pa.decimal128(30, 30)),
        ("DECIMAL(65,30)", ["9" * 35 + "." + "9" * 30, "-1e-30"], pa.decimal256(65, 30)),
        ("DECIMAL(8,2) ZEROFILL", ["1.50"], pa.decimal128(8, 2)),
        ("FLOAT", [0.1, 3.4e38, -1.17549435e-38, 16777217], pa.float32()),
        ("DOUBLE", [0.1, -2.2250738585072014e-308, 5e-324, 1.7976931348623157e308], pa.float64()),
        ("DATE", ["0001-01-01", "9999-12-31", "1969-12-31"], pa.date32()),
        ("DATETIME", ["0001-01-01 00:00:00", "9999-12-31 23:59:59"], pa.timestamp("us")),
        ("DATETIME(6)", ["1969-12-31 23:59:59.999999", "2020-02-29 00:00:00.000001"], NAIVE),
        ("DATETIME(3)", ["2020-02-29 00:00:00.123"], pa.timestamp("us")),
        ("TIMESTAMP(6)", ["1970-01-01 00:00:01", "2038-01-19 03:14:07.999999"], INSTANT),
        ("TIME", ["-838:59:59", "838:59:59", "-00:00:01", "00:00:00"], pa.duration("us")),
        ("TIME(6)", ["-00:00:00.000001", "100:00:00.5", "838:59:58.999999"], pa.duration("us")),
        ("YEAR", ["0000", 1901, 2155], pa.int16()),
        ("BIT(1)", [b"\0", b"\1"], pa.uint64()),
        ("BIT(64)", [b"\xff" * 8, b"\0" * 7 + b"1"], pa.uint64()),
        ("CHAR(80) COLLATE utf8mb4_bin", ["", "x", "🦄" * 80, "  lead"], pa.string()),
        ("VARCHAR(99) COLLATE utf8mb4_bin", ["", NASTY, '"', '""', "\\N", "NULL"], pa.string()),
        ("VARCHAR(99) COLLATE utf8mb4_bin", [",", "\1", "\1\1", "a\1,\1b", "\1\n"], pa.string()),
        ("VARCHAR(100) CHARACTER SET latin1", ["", "é€\"\\\t", "NULL"], pa.string()),
        ("VARCHAR(100) CHARACTER SET gbk", ["", "中\"文\\", "誠\\"], pa.string()),
        ("LONGTEXT", ["", NASTY * 50], pa.string()),
        ("ENUM('a','it''s','\"q\"','')", ["a", "it's", '"q"', ""], pa.string()),
        ("SET('a','b c','d')", ["", "a,b c,d"], pa.string()),
        ("JSON", ['{"a": [1, "\\u00e9\\n", null]}', "null", '"x"'], pa.string()),
        ("BINARY(4)", [b"\0\0\0\0", b"ab\0\xff"], pa.binary()),
        ("VARBINARY(300)", [b"", bytes(range(256)), b"\\N"], pa.binary()),
        ("LONGBLOB", [b"", bytes(range(256)) * 300], pa.binary()),
        ("UUID", ["123e4567-e89b-12d3-a456-426655440000"], pa.string()),
        ("INET6", ["::1", "2001:db8::ff00:42:8329"], pa.string()),
    ],
)  # fmt: skip
def test_values_survive_both_ways(
    db: Server, declaration: str, values: list[Any], kind: pa.DataType
) -> None:
    db.run("SET time_zone = '+00:00'")
    _both_ways(db, declaration, values, kind)


def test_float_keeps_each_digit(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (v FLOAT)")
    db.run(f"INSERT INTO {table} VALUES (16777215), (0.1)")
    assert db.read(table)["v"].to_pylist() == [16777215.0, pa.scalar(0.1, pa.float32()).as_py()]


def test_geometry_travels_as_wkb(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY, g GEOMETRY NULL)")
    db.run(f"INSERT INTO {table} VALUES (1, ST_GeomFromText('POINT(1 2)')), (2, NULL)")
    data = db.read(table)
    assert data["g"].to_pylist()[0] == bytes.fromhex("0101000000000000000000F03F0000000000000040")
    for copies in (1, 70):
        many = pa.concat_tables([data.drop_columns("id")] * copies)
        target = db.name()
        db.run(f"CREATE TABLE {target} (g GEOMETRY NULL)")
        assert db.write(target, many) == []
        assert db.run(f"SELECT DISTINCT ST_AsText(g) FROM {target} WHERE g IS NOT NULL") == [
            ("POINT(1 2)",)
        ]
        assert db.run(f"SELECT COUNT(*), COUNT(g) FROM {target}") == [(2 * copies, copies)]


def test_timestamp_is_the_same_instant_whatever_the_session_zone(db: Server) -> None:
    table, target = db.name(), db.name()
    db.run("SET time_zone = '+00:00'")
    db.run(f"CREATE TABLE {table} (v TIMESTAMP(6) NULL, d DATETIME(6))")
    db.run(f"INSERT INTO {table} VALUES ('2024-06-01 12:00:00.5', '2024-06-01 12:00:00.5')")
    utc = db.read(table)
    assert utc["v"].to_pylist() == [dt.datetime(2024, 6, 1, 12, 0, 0, 500000, UTC)]
    assert db.read(table, time_zone="+08:00").equals(utc)
    db.run(f"CREATE TABLE {target} LIKE {table}")
    db.write(target, utc, time_zone="-03:30")
    assert db.run(f"SELECT v, d FROM {target}") == db.run(f"SELECT v, d FROM {table}")


def test_names_with_every_kind_of_sign(db: Server) -> None:
    table = "sélect `from` \"x\" 'y' 中文%s"
    columns = ["a b", "se`lect", 'd"q', "it's", "select", "é,中", "%s"]
    db.run(
        f"DROP TABLE IF EXISTS {quote(table).replace('%', '%%')}"
        if False
        else f"DROP TABLE IF EXISTS {quote(table)}"
    )
    data = pa.table({name: [1, 2] for name in columns})
    assert db.write(table, data, primary_key=["a b"]) == []
    assert db.read(table).equals(data)
    db.write(table, data, WriteMode.UPSERT)
    db.write(table, data, WriteMode.OVERWRITE)
    assert db.read(table).equals(data)
    db.run(f"DROP TABLE {quote(table)}")


@_SLOW
@given(
    name=st.text(
        st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]),
        min_size=1,
        max_size=64,
    ).filter(lambda name: name.rstrip() == name)
)
def test_any_name_stays_one_name(db: Server, name: str) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} ({quote(name)} INT)")
    try:
        assert db.run(f"SHOW COLUMNS FROM {table}")[0][0] == name
    finally:
        db.run(f"DROP TABLE {table}")


@_SLOW
@given(
    values=st.lists(
        st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))),
        min_size=1,
        max_size=70,
    )
)
def test_any_text_survives(db: Server, values: list[str | None]) -> None:
    table = db.name()
    data = pa.table(
        {"id": pa.array(range(len(values)), pa.int64()), "v": pa.array(values, pa.string())}
    )
    assert db.write(table, data, primary_key=["id"]) == []
    assert db.read(table).equals(data)
    db.run(f"DROP TABLE {table}")


def test_empty_table_has_its_columns(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (a INT, b VARCHAR(3))")
    data = db.read(table)
    assert data.num_rows == 0
    assert data.schema.names == ["a", "b"]


def test_one_nullable_column_loses_no_row(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (a VARCHAR(3))")
    db.run(f"INSERT INTO {table} VALUES (NULL), (''), ('x'), (NULL)")
    assert db.read(table)["a"].to_pylist() == [None, "", "x", None]


def test_zero_dates_are_an_error_that_names_the_column_and_the_way_out(db: Server) -> None:
    table = db.name()
    db.run("SET sql_mode = 'ALLOW_INVALID_DATES'")
    db.run(
        f"CREATE TABLE {table} (id INT PRIMARY KEY, d DATE NOT NULL, t DATETIME(3) NULL, "
        "s TIMESTAMP NOT NULL)"
    )
    db.run(
        f"INSERT INTO {table} VALUES (1, '0000-00-00', '2020-00-10', '0000-00-00'), "
        "(2, '2020-02-31', '0000-00-00', '2020-01-01'), (3, '0000-01-01', NULL, '2020-01-02')"
    )
    with pytest.raises(SourceError, match=r"Column d .*'0000-00-00'.*zero_dates"):
        db.read(table)
    data = db.read(table, options={"zero_dates": "null"})
    assert data["d"].cast(pa.int32()).to_pylist() == [None, None, -719528]
    assert data["t"].to_pylist() == [None, None, None]
    assert data["s"].null_count == 1


@pytest.fixture(scope="module")
def tight() -> Iterator[Service]:
    """A server whose rows can be longer than its packets."""
    with mariadb("--max-allowed-packet=1M") as service:
        yield service


def test_rows_beyond_max_allowed_packet_are_read_and_refused_by_name(tight: Service) -> None:
    with server_of(tight) as db:
        table, copy = db.name(), db.name()
        db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY, a LONGTEXT, b LONGBLOB, c VARCHAR(9))")
        for number in range(5):
            db.run(f"INSERT INTO {table} VALUES ({number}, REPEAT('\"', 1048000), NULL, 'x\"')")
        db.run(f"UPDATE {table} SET a = 'short' WHERE id IN (0, 3)")
        db.run(f"UPDATE {table} SET a = REPEAT('q', 900000), b = REPEAT('z', 900000) WHERE id = 4")
        data = db.read(table).sort_by("id")
        assert data["id"].to_pylist() == [0, 1, 2, 3, 4]
        assert data["a"].to_pylist() == [
            "short",
            '"' * 1048000,
            '"' * 1048000,
            "short",
            "q" * 900000,
        ]
        assert data["b"].to_pylist() == [None, None, None, None, b"z" * 900000]
        assert data["c"].to_pylist() == ['x"'] * 5
        db.run(f"CREATE TABLE {copy} LIKE {table}")
        rejected = db.write(copy, data)
        assert [r.index for r in rejected] == [4]
        assert "max_allowed_packet" in rejected[0].reason
        assert db.run(f"SELECT COUNT(*) FROM {copy} JOIN {table} USING (id, a)") == [(4,)]


def test_rows_beyond_sixteen_megabytes_come_whole(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY, a LONGTEXT)")
    db.run(
        f"INSERT INTO {table} VALUES (1, REPEAT('a', 16777215)), (2, 'b'), "
        "(3, REPEAT('c', 34000000))"
    )
    data = db.read(table)
    assert [len(text) for text in data["a"].to_pylist()] == [16777215, 1, 34000000]
    db.run(f"DROP TABLE {table}")


def test_batches_stay_within_rows_and_bytes(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY, v TEXT)")
    db.run(f"INSERT INTO {table} SELECT seq, REPEAT('x', seq MOD 500) FROM seq_1_to_3000")
    from exchangis.connectors.base import ReadRequest

    source = db.source(table)
    request = ReadRequest(("id", "v"), batch_rows=1000, batch_bytes=64_000)
    batches = list(source.read(source.plan(request)[0], request))
    source.close()
    assert sum(batch.num_rows for batch in batches) == 3000
    assert max(batch.num_rows for batch in batches) <= 1000
    assert max(batch.nbytes for batch in batches) <= 64_000


def test_created_table_gives_back_what_arrow_held(db: Server) -> None:
    data = pa.table(
        {
            "k": pa.array(["a", "A", "a ", "ä"]),
            "flag": pa.array([True, False, None, True]),
            "u": pa.array([0, 2**64 - 1, None, 1], pa.uint64()),
            "d": pa.array(
                [Decimal("1.50"), None, Decimal("-0.01"), Decimal(0)], pa.decimal128(20, 2)
            ),
            "w": pa.array([Decimal(1), None, None, None], pa.decimal256(76, 40)),
            "ts": pa.array([0, 1, None, -1], pa.timestamp("us")),
            "tz": pa.array([0, 1, None, 4102444800000000], pa.timestamp("us", "UTC")),
            "t": pa.array([0, 86399999999, None, 1], pa.time64("us")),
            "l": pa.array([[1, None], [], None, [3]], pa.list_(pa.int32())),
            "s": pa.array([{"a": "é"}, None, {"a": None}, {"a": "x"}]),
            "n": pa.nulls(4),
            "b": pa.array([b"", b"\0", None, b"x"]),
        }
    )
    table = db.name()
    sink = db.sink(table)
    proposed = sink.proposed(_schema(data, "k"))
    sink.close()
    writable = pa.table(
        {
            c.name: data[c.name].cast(pa.string()) if c.name == "w" else data[c.name].cast(c.type)
            for c in proposed.columns
        }
    )
    assert db.write(table, writable, primary_key=["k"]) == []
    rows = db.run(f"SELECT * FROM {quote(table)} ORDER BY FIELD(k, 'a', 'A', 'a ', 'ä'), HEX(k)")
    assert len(rows) == 4
    by_key = {row[0]: row for row in rows}
    assert set(by_key) == {"a", "A", "a ", "ä"}
    assert by_key["A"][2] == 2**64 - 1
    assert by_key["ä"][6] == dt.datetime(2100, 1, 1)
    assert by_key["A"][7] == dt.timedelta(hours=23, minutes=59, seconds=59, microseconds=999999)
    assert by_key["a"][8:10] == ("[1, null]", '{"a": "é"}')


def _schema(data: pa.Table, *keys: str) -> Any:
    from exchangis.connectors.base import Column, TableSchema

    return TableSchema(tuple(Column(f.name, f.type) for f in data.schema), keys)
