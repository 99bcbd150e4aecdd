"""JSON Lines: exact numbers, nested values as JSON, and errors that name line and column."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.connectors import jsonl
from exchangis.connectors.base import ReadRequest
from exchangis.connectors.jsonl import JsonLines
from exchangis.domain.errors import InvalidRequest, SourceError, TaskCancelled
from exchangis.domain.model import WriteMode
from tests.integration.files_kit import (
    DECLARED,
    leftovers,
    nasty,
    open_source,
    raises,
    read,
    write,
)

JSONL = JsonLines()
SCHEMA = (
    DECLARED + ', "i64": "int64", "u64": "uint64", "dec": "decimal(38,10)", "f64": "double",'
    ' "yes": "bool", "text": "string", "wide": "string", "zoned": "timestamptz"}'
)


@pytest.mark.parametrize("uri", ["t.jsonl", "t.json.gz", "t.ndjson.zst", "folder/"])
def test_nasty_values_survive_a_round_trip(tmp_path: Path, uri: str) -> None:
    assert write(JSONL, tmp_path, uri, nasty()) == []
    found = read(JSONL, tmp_path, uri, columns=tuple(nasty().schema.names), schema=SCHEMA)
    assert found.to_pylist() == nasty().to_pylist()
    assert found.schema.equals(nasty().schema)
    assert leftovers(tmp_path) == []


def test_pythons_own_reader_sees_the_same_values(tmp_path: Path) -> None:
    write(JSONL, tmp_path, "t.jsonl", nasty())
    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    first, second, third = (json.loads(line, parse_float=Decimal) for line in lines)
    assert first["u64"] == 2**64 - 1
    assert first["dec"] == Decimal("-1234567890123456789012345678.0123456789")
    assert first["text"] == '"q",\n\r\n\t\x00;\\'
    assert first["zoned"] == "2024-02-29T01:02:03.000004Z"
    assert second["text"] == ""
    assert set(third.values()) == {None}


def test_duckdb_sees_the_same_values(tmp_path: Path) -> None:
    table = nasty().select(["i64", "u64", "text", "wide", "yes", "at"])
    write(JSONL, tmp_path, "t.jsonl", table)
    with duckdb.connect() as db:
        found = db.execute(
            "select * from read_json(?, format='newline_delimited', columns={'i64':'BIGINT',"
            "'u64':'UBIGINT','text':'VARCHAR','wide':'VARCHAR','yes':'BOOLEAN','at':'TIMESTAMP'})",
            [str(tmp_path / "t.jsonl")],
        ).fetchall()
    assert found == [tuple(row.values()) for row in table.to_pylist()]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
            st.none() | st.decimals(-(10**20), 10**20, places=6),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=8,
    )
)
def test_any_row_survives(tmp_path: Path, rows: list[tuple[object, ...]]) -> None:
    schema = pa.schema(
        [
            ('"t"', pa.string()),
            ("d", pa.decimal128(38, 6)),
            ("i", pa.int64()),
            ("f", pa.float64()),
        ]
    )
    columns = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(schema)]
    table = pa.Table.from_arrays(columns, schema=schema)
    write(JSONL, tmp_path, "t.jsonl", table, mode=WriteMode.OVERWRITE, key=str(hash(str(rows))))
    declared = '{"\\"t\\"": "string", "d": "decimal(38,6)", "i": "int64", "f": "double"}'
    assert read(JSONL, tmp_path, "t.jsonl", schema=declared).to_pylist() == table.to_pylist()


def test_nested_values_are_written_as_json_and_read_as_its_text(tmp_path: Path) -> None:
    kind = pa.struct({"n": pa.list_(pa.decimal128(20, 2)), "m": pa.map_(pa.string(), pa.int64())})
    value = {"n": [Decimal("1.50"), None], "m": [("k", 2**60)]}
    write(JSONL, tmp_path, "t.jsonl", pa.table({"v": pa.array([value, None], kind)}))
    text = '{"n":[1.50,null],"m":{"k":1152921504606846976}}'
    assert (tmp_path / "t.jsonl").read_text() == f'{{"v":{text}}}\n{{"v":null}}\n'
    assert read(JSONL, tmp_path, "t.jsonl")["v"].to_pylist() == [text, None]


def test_numbers_in_nested_values_keep_their_digits(tmp_path: Path) -> None:
    text = '{"x":1.10,"y":[1e5,123456789012345678901234567890],"z":"é"}'
    (tmp_path / "t.jsonl").write_text(f'{{"v": {text}}}\n')
    assert read(JSONL, tmp_path, "t.jsonl")["v"].to_pylist() == [text]


def test_what_json_cannot_say_is_a_dirty_row(tmp_path: Path) -> None:
    table = pa.table({"f": [1.5, float("nan"), float("-inf"), 2.5]})
    rejected = write(JSONL, tmp_path, "t.jsonl", table, splits=1)
    assert [r.index for r in rejected] == [1, 2]
    assert "NaN" in rejected[0].reason
    assert (tmp_path / "t.jsonl").read_text() == '{"f":1.5}\n{"f":2.5}\n'


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("1", "-2", "null"), pa.int64()),
        (("18446744073709551615", "1"), pa.uint64()),
        (("1.50", "2.25"), pa.decimal128(38, 2)),
        (("1.5", "2", "1e-3"), pa.float64()),
        (("0.12345678901234567891", "1"), pa.string()),
        (("true", "false"), pa.bool_()),
        (("1", '"x"'), pa.string()),
        (('"2024-01-01"',), pa.string()),
        (('"1"',), pa.string()),
        (("null",), pa.string()),
    ],
)
def test_types_are_inferred_only_where_no_value_is_bent(
    tmp_path: Path, values: tuple[str, ...], kind: pa.DataType
) -> None:
    (tmp_path / "t.jsonl").write_text("".join(f'{{"v":{value}}}\n' for value in values))
    found = read(JSONL, tmp_path, "t.jsonl")
    assert found.schema.field("v").type == kind
    if pa.types.is_string(kind):
        expected = [None if value == "null" else value.strip('"') for value in values]
        assert found["v"].to_pylist() == expected


def test_keys_may_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a":1}\n\n{"b":"x"}\r\n{"a":null,"c":true}')
    assert read(JSONL, tmp_path, "t.jsonl").to_pylist() == [
        {"a": 1, "b": None, "c": None},
        {"a": None, "b": "x", "c": None},
        {"a": None, "b": None, "c": True},
    ]
    assert read(JSONL, tmp_path, "t.jsonl", schema='{"b": "string"}')["b"].to_pylist() == [
        None,
        "x",
        None,
    ]


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ('{"a":1.5,"f":1.5}', "column a: '1.5'"),
        ('{"a":"x","f":1.5}', "column a: 'x'"),
        ('{"a":1,"f":0.12345678901234567891}', "column f: '0.12345678901234567891'"),
        ('{"a":1,"f":1.5,"new":1}', "a key that no row of the sample had: new"),
    ],
)
def test_what_a_sample_did_not_show_is_refused_and_never_bent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str, expected: str
) -> None:
    monkeypatch.setattr(jsonl, "WHOLE_SCAN", 10)
    monkeypatch.setattr(jsonl, "SAMPLE_ROWS", 20)
    monkeypatch.setattr(jsonl, "BLOCK", 500)
    (tmp_path / "t.jsonl").write_text('{"a":1,"f":2.5}\n{"a":1,"f":2}\n' * 50 + late + "\n")
    error = raises(lambda: read(JSONL, tmp_path, "t.jsonl"), SourceError)
    assert "t.jsonl: line 101" in error
    assert expected in error


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"a":2', "is no JSON"),
        (b"[1]", "is no JSON object"),
        (b'{"a":1}{"a":2}', "is no JSON: Extra data"),
        (b'{"a":"\xff"}', "is no UTF-8 text"),
        (b'{"a":"\\ud800"}', "cannot be read"),
        (b'{"a":' + b"[" * 200_000, "cannot be read"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"schema": '{"a": "string"}'}])
def test_broken_lines_are_refused_by_number(
    tmp_path: Path, line: bytes, expected: str, options: dict[str, str]
) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'{"a":"1"}\n\n' + line + b"\n")
    error = raises(lambda: read(JSONL, tmp_path, "t.jsonl", **options), SourceError)
    assert "t.jsonl: line 3" in error
    assert expected in error


def test_an_empty_file_needs_declared_columns(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n")
    assert "schema" in raises(lambda: read(JSONL, tmp_path, "t.jsonl"), SourceError)
    assert read(JSONL, tmp_path, "t.jsonl", schema='{"a": "int64"}').num_rows == 0


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=80),
    lanes=st.integers(2, 5),
    size=st.integers(20, 400),
    block=st.integers(1, 300),
    last=st.booleans(),
)
def test_ranges_of_a_file_hold_each_row_exactly_once(
    tmp_path: Path, lengths: list[int], lanes: int, size: int, block: int, last: bool
) -> None:
    rows = [f'{{"id":{number},"t":"{"x" * length}"}}' for number, length in enumerate(lengths)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows) + ("\n" if last else ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "SPLIT_BYTES", size)
        patch.setattr(jsonl, "BLOCK", block)
        found = read(JSONL, tmp_path, "t.jsonl", parallelism=lanes)
    assert found["id"].to_pylist() == list(range(len(lengths)))


def test_errors_in_a_range_name_the_files_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", 100)
    (tmp_path / "t.jsonl").write_text('{"a":1}\n' * 200 + '{"a":"x"}\n')
    error = raises(lambda: read(JSONL, tmp_path, "t.jsonl", schema='{"a": "int64"}'), SourceError)
    assert "line 201, column a: 'x'" in error


def test_appending_adds_lines(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"z":1}'))
    write(JSONL, tmp_path, "t.jsonl.gz", pa.table({"a": [1, 2, 3]}))
    with gzip.open(tmp_path / "t.jsonl.gz") as file:
        assert file.read() == b'{"z":1}\n{"a":1}\n{"a":2}\n{"a":3}\n'


def test_wrong_options_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a":1}\n')
    error = raises(lambda: read(JSONL, tmp_path, "t.jsonl", schema="[]"), InvalidRequest)
    assert "options.schema" in error
    table = pa.table({"a": [1]})
    error = raises(lambda: write(JSONL, tmp_path, "x.json", table, encoding="gbk"), InvalidRequest)
    assert "options.encoding" in error


def test_cancel_ends_a_read_under_way(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a":1}\n' * 150_000)
    source = open_source(JSONL, tmp_path, "t.jsonl")
    request = ReadRequest(source.schema().names)
    batches = source.read(source.plan(request)[0], request)
    next(batches)
    source.cancel()
    with pytest.raises(TaskCancelled):
        list(batches)
