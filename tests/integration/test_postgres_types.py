"""Values read from PostgreSQL are those that were stored, and written ones come back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import inf, isnan, nan
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from exchangis.connectors.base import Column, TableSchema
from exchangis.domain.errors import SourceError
from exchangis.domain.model import WriteMode
from tests.integration.postgres_kit import Kit, batch_of, new_kit, prepare, read, write
from tests.services import Service

_SERVER_BOUND = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def kit(postgres: Service, tmp_path: Path) -> Iterator[Kit]:
    yield from new_kit(postgres, tmp_path)


def _column(kit: Kit, declared: str, literals: list[str], **options: str) -> pa.ChunkedArray:
    kit.run(f"CREATE TABLE v (n int, x {declared})")
    for number, literal in enumerate(literals):
        kit.run(f"INSERT INTO v VALUES ({number}, {literal})")
    return read(kit.source("v", **options))["x"]


UUID = "00000000-0000-0000-0000-00000000000a"
NASTY = "tab\there\nline\r\nquote\" comma, back\\slash \\. \\N 'x' \U0001f600"

# type, literals, Arrow type, values
CASES = [
    ("smallint", ["-32768", "32767", "NULL"], pa.int16(), [-32768, 32767, None]),
    ("integer", ["-2147483648", "NULL"], pa.int32(), [-2147483648, None]),
    ("bigint", ["-9223372036854775808", "1"], pa.int64(), [-9223372036854775808, 1]),
    ("oid", ["4294967295"], pa.int64(), [4294967295]),
    ("boolean", ["true", "false", "NULL"], pa.bool_(), [True, False, None]),
    ("real", ["'3.4028235e38'", "'-Infinity'"], pa.float32(), [3.4028234663852886e38, -inf]),
    ("double precision", ["'Infinity'", "0.1", "5e-324"], pa.float64(), [inf, 0.1, 5e-324]),
    (
        "numeric(38,10)",
        ["9999999999999999999999999999.9999999999", "NULL"],
        pa.decimal128(38, 10),
        [Decimal("9999999999999999999999999999.9999999999"), None],
    ),
    (
        "numeric(76,30)",
        ["-1234567890123456789012345678901234567890123456.000000000000000000000000000001"],
        pa.decimal256(76, 30),
        [Decimal("-1234567890123456789012345678901234567890123456.000000000000000000000000000001")],
    ),
    ("numeric(3,-2)", ["12345"], pa.decimal128(5, 0), [Decimal("12300")]),
    ("numeric(2,4)", ["0.0012"], pa.decimal128(4, 4), [Decimal("0.0012")]),
    ("numeric", ["1.50", "'NaN'", "1e40"], pa.string(), ["1.50", "NaN", "1" + "0" * 40]),
    ("numeric(1000,0)", ["7"], pa.string(), ["7"]),
    ("text", ["''", "NULL", "' '", "'NULL'"], pa.string(), ["", None, " ", "NULL"]),
    ("char(3)", ["'a'"], pa.string(), ["a  "]),
    ("varchar(5)", ["'\u00e9\U0001f600'"], pa.string(), ["\u00e9\U0001f600"]),
    ("name", ["'n'"], pa.string(), ["n"]),
    ("bytea", ["'\\x'", "NULL", "'\\x00ff5c22'"], pa.binary(), [b"", None, b"\0\xff\\\""]),
    ("date", ["'0001-01-01'", "'9999-12-31'"], pa.date32(), [date(1, 1, 1), date(9999, 12, 31)]),
    ("time", ["'23:59:59.999999'", "'00:00'"], pa.time64("us"), [time(23, 59, 59, 999999), time()]),
    (
        "timestamp",
        ["'0001-01-01 00:00:00.000001'", "'2024-02-29 12:00'"],
        pa.timestamp("us"),
        [datetime(1, 1, 1, 0, 0, 0, 1), datetime(2024, 2, 29, 12)],
    ),
    (
        "timestamptz",
        [  # both sides of the autumn change in Paris, and a zone that had seconds
            "'2024-10-27 02:30:00 Europe/Paris'::timestamptz",
            "'2024-10-27 00:30:00+00'",
            "'2024-10-27 01:30:00.000001+00'",
            "'1900-01-01 00:00:00 Europe/Paris'::timestamptz",
        ],
        pa.timestamp("us", "UTC"),
        [
            datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
            datetime(2024, 10, 27, 0, 30, tzinfo=UTC),
            datetime(2024, 10, 27, 1, 30, 0, 1, tzinfo=UTC),
            datetime(1899, 12, 31, 23, 50, 39, tzinfo=UTC),
        ],
    ),
    ("timetz", ["'12:00:00.5+05:30'"], pa.string(), ["12:00:00.5+05:30"]),
    ("interval", ["'1 mon -2 days 03:04:05.5'"], pa.string(), ["P1M-2DT3H4M5.5S"]),
    ("uuid", [f"'{UUID.upper()}'"], pa.string(), [UUID]),
    ("json", ["'{\"b\": 1,  \"a\": \"x\"}'"], pa.string(), ['{"b": 1,  "a": "x"}']),
    ("jsonb", ["'{\"b\": 1.50}'", "'null'", "NULL"], pa.string(), ['{"b": 1.50}', "null", None]),
    ("inet", ["'10.0.0.1/8'"], pa.string(), ["10.0.0.1/8"]),
    ("cidr", ["'2001:db8::/32'"], pa.string(), ["2001:db8::/32"]),
    ("macaddr", ["'08:00:2b:01:02:03'"], pa.string(), ["08:00:2b:01:02:03"]),
    ("xml", ["'<a>b</a>'"], pa.string(), ["<a>b</a>"]),
    ("money", ["12.5::numeric::money"], pa.string(), ["12.50"]),
    ("bit(3)", ["B'101'"], pa.string(), ["101"]),
    ("int4range", ["'[1,5)'"], pa.string(), ["[1,5)"]),
    ("tsvector", ["'a:1 b:2'"], pa.string(), ["'a':1 'b':2"]),
    ("int[]", ["'{{1,NULL},{2,3}}'", "'{}'"], pa.string(), ["[[1,null],[2,3]]", "[]"]),
    ("text[]", ["ARRAY['a\"b','', NULL]"], pa.string(), ['["a\\"b","",null]']),
    ("jsonb[]", ["ARRAY['{\"a\": 1}'::jsonb]"], pa.string(), ['{"{\\"a\\": 1}"}']),
]  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "literals", "arrow", "values"), CASES, ids=[case[0] for case in CASES]
)
def test_every_type_is_read_exactly(
    kit: Kit, declared: str, literals: list[str], arrow: pa.DataType, values: list[object]
) -> None:
    column = _column(kit, declared, literals)
    assert column.type == arrow
    assert column.to_pylist() == values


@pytest.mark.parametrize(
    ("declared", "literals"), [c[:2] for c in CASES], ids=[case[0] for case in CASES]
)
def test_every_type_comes_back_through_the_sink(
    kit: Kit, declared: str, literals: list[str]
) -> None:
    _column(kit, declared, literals)
    kit.run("CREATE TABLE w (LIKE v)")
    sink = kit.sink("w")
    schema = sink.schema()
    assert schema is not None
    prepare(sink, schema)
    assert write(sink, batch_of(read(kit.source("v")))) == []
    assert kit.run("SELECT n, x::text FROM w ORDER BY n") == kit.run(
        "SELECT n, x::text FROM v ORDER BY n"
    )


def test_not_a_number_survives_in_floats(kit: Kit) -> None:
    values = _column(kit, "double precision", ["'NaN'", "NULL"]).to_pylist()
    assert isnan(values[0])
    assert values[1] is None


def test_user_defined_types_travel_as_text(kit: Kit) -> None:
    kit.run("CREATE TYPE mood AS ENUM ('so so', 'fine')")
    kit.run("CREATE TYPE pair AS (a int, b text)")
    kit.run("CREATE DOMAIN cents AS numeric(10,2)")
    kit.run("CREATE DOMAIN price AS cents CHECK (VALUE > 0)")
    kit.run("CREATE TABLE u (m mood, p pair, d price, a mood[])")
    kit.run("INSERT INTO u VALUES ('so so', ROW(1, 'x,\"y'), 1.5, '{fine}')")
    table = read(kit.source("u"))
    assert table.schema.types == [pa.string(), pa.string(), pa.decimal128(10, 2), pa.string()]
    assert table.to_pylist() == [
        {"m": "so so", "p": '(1,"x,""y")', "d": Decimal("1.50"), "a": "{fine}"}
    ]


@pytest.mark.parametrize("declared", ["date", "timestamp", "timestamptz"])
@pytest.mark.parametrize("literal", ["'infinity'", "'-infinity'", "'0044-03-15 BC'"])
def test_dates_without_a_place_in_other_systems_are_refused_by_name(
    kit: Kit, declared: str, literal: str
) -> None:
    with pytest.raises(SourceError, match=r"Column x holds .*infinite_dates"):
        _column(kit, declared, ["'2024-01-01'", literal])


def test_odd_values_become_null_on_request_and_spare_the_others(kit: Kit) -> None:
    kit.run("CREATE TABLE o (n int, d date, t timestamptz, h time, q numeric(60,2))")
    kit.run("INSERT INTO o VALUES (1, 'infinity', '-infinity', '24:00', 'NaN')")
    kit.run("INSERT INTO o VALUES (2, '20000-02-29', '12345-06-07 08:09:10.5+00', '01:02', 1)")
    kit.run("INSERT INTO o VALUES (3, NULL, '2024-01-01', NULL, NULL)")
    table = read(kit.source("o", infinite_dates="null", nan_numerics="null"))
    days = kit.run("SELECT d - '1970-01-01' FROM o WHERE n = 2")[0][0]
    assert table["d"].cast(pa.int32()).to_pylist() == [None, days, None]
    epoch = kit.run("SELECT (extract(epoch from t) * 1000000)::bigint FROM o WHERE n = 2")[0][0]
    assert table["t"].cast(pa.int64()).to_pylist()[:2] == [None, epoch]
    assert table["h"].to_pylist() == [None, time(1, 2), None]
    assert table["q"].to_pylist() == [None, Decimal("1.00"), None]


def test_not_a_number_in_a_decimal_column_is_refused_by_name(kit: Kit) -> None:
    with pytest.raises(SourceError, match=r"Column x holds NaN.*nan_numerics"):
        _column(kit, "numeric(10,2)", ["1", "'NaN'"])


# Arrow values, the type of the column made for them, and what the server then holds as text.
CREATED = [
    (pa.array([255, None], pa.uint8()), "smallint", ["255", None]),
    (pa.array([65535], pa.uint16()), "integer", ["65535"]),
    (pa.array([4294967295], pa.uint32()), "bigint", ["4294967295"]),
    (pa.array([18446744073709551615], pa.uint64()), "numeric(20,0)", ["18446744073709551615"]),
    (pa.array([Decimal("0.00000001")]), "numeric(8,8)", ["0.00000001"]),
    (pa.array([nan, inf, -inf]), "double precision", ["NaN", "Infinity", "-Infinity"]),
    (pa.array([True, None]), "boolean", ["true", None]),
    (pa.array([b"", b"\0\\\xff", None]), "bytea", ["\\x", "\\x005cff", None]),
    (pa.array([b"ab"], pa.binary(2)), "bytea", ["\\x6162"]),
    (pa.array(["", None, NASTY]), "text", ["", None, NASTY]),
    (pa.array(["a", None, "a"]).dictionary_encode(), "text", ["a", None, "a"]),
    (pa.array([None, None]), "text", [None, None]),
    (pa.array([date(2024, 2, 29)]), "date", ["2024-02-29"]),
    (pa.array([-719163], pa.date32()), "date", ["0001-12-31 BC"]),
    (pa.array([time(1, 2, 3, 4)]), "time(6) without time zone", ["01:02:03.000004"]),
    (
        pa.array([datetime(2024, 1, 1, 0, 0, 0, 1)]),
        "timestamp(6) without time zone",
        ["2024-01-01 00:00:00.000001"],
    ),
    (
        pa.array([-2208989361000000], pa.timestamp("us", "Europe/Paris")),
        "timestamp(6) with time zone",
        ["1899-12-31 23:50:39+00"],
    ),
    (
        pa.array([timedelta(days=-1, microseconds=1)]),
        "interval",
        ["-23:59:59.999999"],
    ),
    (pa.array([[1, None], None]), "jsonb", ["[1, null]", None]),
    (pa.array([{"a": "x"}]), "jsonb", ['{"a": "x"}']),
]


@pytest.mark.parametrize(
    ("values", "declared", "texts"), CREATED, ids=[str(case[0].type) for case in CREATED]
)
def test_a_new_table_holds_arrow_values_without_loss(
    kit: Kit, values: pa.Array, declared: str, texts: list[str | None]
) -> None:
    sink = kit.sink("made")
    wanted = TableSchema((Column("n", pa.int32()), Column("x", values.type)), ("n",))
    proposed = sink.proposed(wanted)
    prepare(sink, proposed)
    made = kit.sink("made").schema()
    assert made is not None
    assert (made.columns[1].native_type, made.primary_key) == (declared, ("n",))
    assert made.arrow.types == proposed.arrow.types
    batch = pa.record_batch([pa.array(range(len(values)), pa.int32()), values], ["n", "x"])
    assert write(sink, batch) == []
    kit.run("SET TimeZone = 'UTC'")
    assert [row[0] for row in kit.run("SELECT x::text FROM made ORDER BY n")] == texts


def test_every_byte_survives_also_in_a_slice_of_a_batch(kit: Kit) -> None:
    values = pa.array([bytes([n]) * n if n % 7 else None for n in range(256)], pa.binary())
    sink = kit.sink("bytes")
    numbers = pa.array(range(256), pa.int32())
    prepare(sink, TableSchema((Column("n", pa.int32()), Column("x", pa.binary()))))
    batch = pa.record_batch([numbers, values], ["n", "x"])
    assert write(sink, batch.slice(100), batch.slice(0, 100)) == []
    table = read(kit.source("bytes"), batch_rows=37).sort_by("n")
    assert table["x"].combine_chunks() == values


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(texts=st.lists(st.none() | _TEXT))
@_SERVER_BOUND
def test_any_text_comes_back(kit: Kit, texts: list[str | None]) -> None:
    kit.run("DROP TABLE IF EXISTS anytext, exchangis_commits; CREATE TABLE anytext (x text)")
    sink = kit.sink("anytext")
    prepare(sink, TableSchema((Column("x", pa.string()),)))
    assert write(sink, pa.record_batch([pa.array(texts, pa.string())], ["x"])) == []
    sink.close()
    source = kit.source("anytext")
    assert read(source)["x"].to_pylist() == texts
    source.close()


_IDENTIFIERS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15
)


@given(table=_IDENTIFIERS, names=st.lists(_IDENTIFIERS, min_size=1, max_size=4, unique=True))
@_SERVER_BOUND
def test_any_identifier_names_what_it_says(kit: Kit, table: str, names: list[str]) -> None:
    reserved = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
    names = [n for n in names if n not in reserved] or ["a"]
    sink = kit.sink(table)
    prepare(sink, TableSchema(tuple(Column(n, pa.int64()) for n in names)), WriteMode.OVERWRITE)
    write(sink, pa.record_batch([pa.array([7])] * len(names), names))
    sink.publish()
    sink.discard()
    sink.close()
    source = kit.source(table)
    assert read(source).to_pylist() == [dict.fromkeys(names, 7)]
    source.close()
    kit.admin.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(kit.schema, table)))


def test_reserved_words_and_capitals_are_names_like_any_other(kit: Kit) -> None:
    kit.run('CREATE TABLE "Select" ("from" int, "A b" int, "q""q" int, "user" int)')
    kit.run('INSERT INTO "Select" VALUES (1, 2, 3, 4)')
    assert read(kit.source("Select")).to_pylist() == [{"from": 1, "A b": 2, 'q"q': 3, "user": 4}]


def test_an_empty_table_gives_its_columns_and_no_batch(kit: Kit) -> None:
    kit.run("CREATE TABLE e (a int, b bytea, c numeric(50,1))")
    table = read(kit.source("e"))
    assert table.num_rows == 0
    assert table.column_names == ["a", "b", "c"]


def test_a_thousand_columns_pass(kit: Kit) -> None:
    names = [f"c{n}" for n in range(1000)]
    kit.run(f"CREATE TABLE wide ({', '.join(f'{n} int' for n in names)})")
    kit.run(f"INSERT INTO wide SELECT {', '.join('g' for _ in names)} FROM generate_series(1,3) g")
    table = read(kit.source("wide"))
    assert table.num_columns == 1000
    kit.run("CREATE TABLE wide2 (LIKE wide)")
    sink = kit.sink("wide2")
    schema = sink.schema()
    assert schema is not None
    prepare(sink, schema)
    assert write(sink, batch_of(table)) == []
    assert kit.rows("wide2") == kit.rows("wide")


def test_a_single_column_of_nulls_and_empty_texts_keeps_its_rows(kit: Kit) -> None:
    kit.run("CREATE TABLE one (x text)")
    kit.run("INSERT INTO one VALUES (NULL), (''), (NULL), (E'\\n'), (NULL)")
    table = read(kit.source("one"))
    assert table["x"].to_pylist() == [None, "", None, "\n", None]
    kit.run("CREATE TABLE one2 (x text)")
    sink = kit.sink("one2")
    prepare(sink, TableSchema((Column("x", pa.string()),)))
    assert write(sink, batch_of(table)) == []
    assert read(kit.source("one2")) == table
