"""CSV files: values survive, wrong ones are named by file, line and column, nothing is bent."""

from __future__ import annotations

import bz2
import csv
import gzip
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.connectors import csv as csv_connector
from exchangis.connectors.base import ReadRequest
from exchangis.connectors.csv import Csv
from exchangis.domain.errors import InvalidRequest, SinkError, SourceError, TaskCancelled
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

CSV = Csv()
SCHEMA = DECLARED + "}"


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("t.csv", {}),
        ("t.csv.gz", {}),
        ("t.csv.zst", {}),
        ("t.csv.bz2", {}),
        ("folder/", {}),
        ("folder/", {"compression": "zstd"}),
        ("t.tsv", {"delimiter": "tab", "null_text": "\\N"}),
        ("t.csv", {"delimiter": ";", "escape": "\\"}),
        ("t.csv", {"encoding": "gb18030"}),
    ],
)
def test_nasty_values_survive_a_round_trip(
    tmp_path: Path, uri: str, options: dict[str, str]
) -> None:
    assert write(CSV, tmp_path, uri, nasty(), **options) == []
    found = read(CSV, tmp_path, uri, schema=SCHEMA, **options)
    assert found.to_pylist() == nasty().to_pylist()
    assert found.schema.equals(nasty().schema)
    assert leftovers(tmp_path) == []


def test_pythons_own_reader_sees_the_same_fields(tmp_path: Path) -> None:
    write(CSV, tmp_path, "t.csv", nasty())
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == nasty().schema.names
    assert len(rows) == 4
    first = dict(zip(rows[0], rows[1], strict=True))
    assert first["u64"] == "18446744073709551615"
    assert first["dec"] == "-1234567890123456789012345678.0123456789"
    assert first["text"] == '"q",\n\r\n\t\x00;\\'
    assert rows[2][rows[0].index("dec")] == "0.0000000001"


def test_duckdb_sees_the_same_values(tmp_path: Path) -> None:
    table = nasty().select(["i64", "u64", "dec", "wide", "day", "at", "yes"])
    write(CSV, tmp_path, "t.csv", table)
    with duckdb.connect() as db:
        found = db.execute(
            "select * from read_csv(?, header=true, columns={'i64':'BIGINT','u64':'UBIGINT',"
            "'dec':'DECIMAL(38,10)','wide':'VARCHAR','day':'DATE','at':'TIMESTAMP',"
            "'yes':'BOOLEAN'})",
            [str(tmp_path / "t.csv")],
        ).fetchall()
    assert found == [tuple(row.values()) for row in table.to_pylist()]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            st.none() | st.text('ab",\n\r\\\0\t ', max_size=8),
        ),
        max_size=8,
    ),
    delimiter=st.sampled_from([",", "tab", ";", "|"]),
    escape=st.sampled_from(["none", "\\"]),
)
def test_any_text_survives(
    tmp_path: Path, rows: list[tuple[str | None, str | None]], delimiter: str, escape: str
) -> None:
    table = pa.table(
        {
            "a": pa.array([a for a, _ in rows], pa.string()),
            "b,\n": pa.array([b for _, b in rows], pa.string()),
        }
    )
    options = {"delimiter": delimiter, "escape": escape}
    # A key of its own per example: the same task would know that it is done.
    write(
        CSV,
        tmp_path,
        "t.csv",
        table,
        mode=WriteMode.OVERWRITE,
        key=str(hash(str(rows))) + delimiter + escape,
        **options,
    )
    found = read(CSV, tmp_path, "t.csv", types="text", **options)
    assert found.to_pylist() == table.to_pylist()


def test_null_and_empty_text_differ_also_alone_on_a_line(tmp_path: Path) -> None:
    table = pa.table({"only": ["a", None, "", None]})
    write(CSV, tmp_path, "t.csv", table)
    assert (tmp_path / "t.csv").read_bytes() == b'only\n"a"\n\n""\n\n'
    assert read(CSV, tmp_path, "t.csv").to_pylist() == table.to_pylist()


def infer(tmp_path: Path, *values: str) -> pa.Table:
    (tmp_path / "t.csv").write_text("v,w\n" + "".join(f"{value},x\n" for value in values))
    return read(CSV, tmp_path, "t.csv", columns=("v",))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("1", "-2", ""), pa.int64()),
        (("18446744073709551615", "0"), pa.uint64()),
        (("99999999999999999999999999999999999999", "-1"), pa.decimal128(38, 0)),
        (("007", "8"), pa.string()),
        (("+1",), pa.string()),
        (("0x1F",), pa.string()),
        ((" 1",), pa.string()),
        (("1.50", "22.25"), pa.decimal128(38, 2)),
        (("1.5", "2"), pa.float64()),
        (("1.5", "1e-7", "0.25"), pa.float64()),
        (("0.1234567890123456789", "1"), pa.string()),
        (("123456789012345678", "1.5"), pa.string()),
        (("1e400", "1"), pa.string()),
        (("true", "FALSE"), pa.bool_()),
        (("2024-02-29", "0001-01-01"), pa.date32()),
        (("2024-02-30",), pa.string()),
        (("2024-01-01 10:00", "2024-01-01T10:00:00.123456"), pa.timestamp("us")),
        (("2024-01-01T10:00:00.1234567",), pa.string()),
        (("2024-01-01T10:00:00Z", "2024-01-01 10:00:00+08:00"), pa.timestamp("us", "UTC")),
        (("", ""), pa.string()),
        (("NaN",), pa.string()),
    ],
)
def test_types_are_inferred_only_where_no_value_is_bent(
    tmp_path: Path, values: tuple[str, ...], kind: pa.DataType
) -> None:
    found = infer(tmp_path, *values)
    assert found.schema.field("v").type == kind
    if pa.types.is_string(kind):
        assert found["v"].to_pylist() == [value or None for value in values]


def test_quotes_tell_text_from_numbers_where_the_writer_makes_the_difference(
    tmp_path: Path,
) -> None:
    (tmp_path / "some.csv").write_text('a,b\n"1",2\n"3",4\n')
    (tmp_path / "all.csv").write_text('"a","b"\n"1","2"\n"3","4"\n')
    assert read(CSV, tmp_path, "some.csv").schema.types == [pa.string(), pa.int64()]
    assert read(CSV, tmp_path, "all.csv").schema.types == [pa.int64(), pa.int64()]


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    (tmp_path / "excel.csv").write_bytes(
        b'\xef\xbb\xbfid;name\r\n1;"5"" pipe"\r\n2;6" x 4"\r\n\r\n'
    )
    assert read(CSV, tmp_path, "excel.csv", delimiter=";").to_pylist() == [
        {"id": 1, "name": '5" pipe'},
        {"id": 2, "name": '6" x 4"'},
    ]
    (tmp_path / "mysql.txt").write_bytes(b"1\t\\N\n2\ta b\n")
    assert read(
        CSV, tmp_path, "mysql.txt", header="false", delimiter="\\t", null_text="\\N"
    ).to_pylist() == [{"c1": 1, "c2": None}, {"c1": 2, "c2": "a b"}]


@pytest.mark.parametrize("encoding", ["gbk", "big5", "utf-16", "latin1"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    word = "é" if encoding == "latin1" else "中文"
    (tmp_path / "t.csv").write_bytes(f"名,v\n{word},1\n".encode(encoding, "replace"))
    assert read(CSV, tmp_path, "t.csv", encoding=encoding)["v"].to_pylist() == [1]
    assert read(CSV, tmp_path, "t.csv", encoding=encoding).column(0).to_pylist() == [word]


def test_what_an_encoding_cannot_say_is_a_dirty_row(tmp_path: Path) -> None:
    rejected = write(
        CSV, tmp_path, "t.csv", pa.table({"a": ["x", "😀", "中"]}), splits=1, encoding="gbk"
    )
    assert [(r.index, r.reason) for r in rejected] == [(1, "U+1F600 does not exist in gbk")]
    assert (tmp_path / "t.csv").read_bytes() == 'a\n"x"\n"中"\n'.encode("gbk")


def test_text_of_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a,b\n1,x\n2,中\n".encode("gbk"))
    error = raises(lambda: read(CSV, tmp_path, "t.csv"), SourceError)
    assert "t.csv: line 3, column b" in error
    assert "`encoding`" in error


def test_a_wrong_value_is_named_by_file_line_column_and_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n"x\ny",2\n\nz,oops\n')
    error = raises(lambda: read(CSV, tmp_path, "t.csv", schema='{"b": "int64"}'), SourceError)
    assert "t.csv: line 5, column b: 'oops' is no int64" in error
    assert "types to text" in error
    assert read(CSV, tmp_path, "t.csv", types="text")["b"].to_pylist() == ["2", "oops"]


def test_a_wrong_value_far_down_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 600_000 + "1,oops\n" + "1,2\n" * 9)
    error = raises(lambda: read(CSV, tmp_path, "t.csv", schema='{"b": "int64"}'), SourceError)
    assert "t.csv: line 600002, column b: 'oops'" in error


@pytest.mark.parametrize("late", ["007", "1.5", "x", "99999999999999999999"])
def test_what_a_sample_did_not_show_is_refused_and_never_bent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    monkeypatch.setattr(csv_connector, "WHOLE_SCAN", 10)
    monkeypatch.setattr(csv_connector, "SAMPLE_ROWS", 20)
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 100 + f"1,{late}\n")
    error = raises(lambda: read(CSV, tmp_path, "t.csv"), SourceError)
    assert f"t.csv: line 102, column b: {late!r}" in error


def test_a_sample_of_fractions_never_rounds_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_connector, "WHOLE_SCAN", 10)
    monkeypatch.setattr(csv_connector, "SAMPLE_ROWS", 20)
    (tmp_path / "t.csv").write_text("a\n" + "1.5\n2\n" * 100 + "0.12345678901234567891\n")
    assert "line 202" in raises(lambda: read(CSV, tmp_path, "t.csv"), SourceError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n3\n", "line 3 has 1 field instead of 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 fields instead of 2"),
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3 opens a quote that is never closed"),
        ("a,a\n1,2\n", "names a more than once"),
        ("", "is empty"),
    ],
)
def test_broken_files_are_refused_with_their_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert expected in raises(lambda: read(CSV, tmp_path, "t.csv"), SourceError)


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n")
    assert read(CSV, tmp_path, "t.csv").num_rows == 0
    write(CSV, tmp_path, "none.csv", pa.table({"a": pa.array([], pa.int64())}))
    assert (tmp_path / "none.csv").read_text() == "a\n"


def test_values_larger_than_a_block_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = "x\n" * 700_000
    table = pa.table({"a": [1, 2, 3], "b": ["small", large, "small"]})
    monkeypatch.setattr("exchangis.connectors.files.csv.BLOCK", 1 << 16)
    write(CSV, tmp_path, "t.csv", table)
    assert read(CSV, tmp_path, "t.csv").to_pylist() == table.to_pylist()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=80),
    lanes=st.integers(2, 5),
    size=st.integers(20, 400),
    ending=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    header=st.booleans(),
)
def test_ranges_of_a_file_hold_each_row_exactly_once(
    tmp_path: Path,
    lengths: list[int],
    lanes: int,
    size: int,
    ending: str,
    last: bool,
    header: bool,
) -> None:
    rows = [f"{number},{'x' * length}" for number, length in enumerate(lengths)]
    text = ending.join([*(["id,t"] if header else []), *rows]) + (ending if last else "")
    (tmp_path / "t.csv").write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_connector, "SPLIT_BYTES", size)
        found = read(CSV, tmp_path, "t.csv", parallelism=lanes, header=str(header).lower())
    assert found.column(0).to_pylist() == list(range(len(lengths)))


def test_only_files_without_quotes_are_cut_into_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_connector, "SPLIT_BYTES", 100)
    (tmp_path / "bare.csv").write_text("a,b\n" + "1,2\n" * 500)
    (tmp_path / "quoted.csv").write_text("a,b\n" + '1,"2\n3"\n' * 300)

    def splits(uri: str, **options: str) -> int:
        source = open_source(CSV, tmp_path, uri, **options)
        return len(source.plan(ReadRequest(source.schema().names, parallelism=2)))

    assert splits("bare.csv") == 8
    assert splits("quoted.csv") == 1
    assert splits("quoted.csv", newlines_in_values="false") > 1
    assert read(CSV, tmp_path, "quoted.csv").num_rows == 300


def test_a_folder_is_read_by_column_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "d" / "2.csv.gz").write_bytes(
        gzip.compress(b"b,a\ny,2\n") + gzip.compress(b"z,3\n")
    )
    (tmp_path / "d" / "3.csv.bz2").write_bytes(bz2.compress(b"a,b\n4,v\n"))
    (tmp_path / "d" / "_SUCCESS").write_text("")
    (tmp_path / "d" / ".hidden.csv").write_text("q\n1\n")
    assert read(CSV, tmp_path, "d")["a"].to_pylist() == [1, 2, 3, 4]
    assert read(CSV, tmp_path, "d/[12]*")["b"].to_pylist() == ["x", "y", "z"]
    (tmp_path / "d" / "4.csv").write_text("a,c\n1,2\n")
    error = raises(lambda: read(CSV, tmp_path, "d/"), SourceError)
    assert "d/4.csv" in error
    assert "b, c" in error


def test_appending_follows_the_columns_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("b,a,c\n1,2,3")
    write(CSV, tmp_path, "t.csv", pa.table({"a": [5, None], "b": [4, 7]}))
    assert (tmp_path / "t.csv").read_text() == "b,a,c\n1,2,3\n4,5,\n7,,\n"
    error = raises(
        lambda: write(CSV, tmp_path, "t.csv", pa.table({"x": [1]}), key="other"), SinkError
    )
    assert "no column x" in error
    assert (tmp_path / "t.csv").read_text().count("\n") == 4


def test_appending_to_a_compressed_file_adds_to_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a\n1"))
    write(CSV, tmp_path, "t.csv.gz", pa.table({"a": [2, 3, 4]}), splits=3)
    with gzip.open(tmp_path / "t.csv.gz") as file:
        assert file.read() == b"a\n1\n2\n3\n4\n"


def test_overwriting_brings_new_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("old\n1\n")
    (tmp_path / "t.csv").chmod(0o640)
    write(CSV, tmp_path, "t.csv", pa.table({"new": [1, 2, 3]}), mode=WriteMode.OVERWRITE)
    assert (tmp_path / "t.csv").read_text() == "new\n1\n2\n3\n"
    assert (tmp_path / "t.csv").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"delimiter": "ab"}, "options.delimiter"),
        ({"delimiter": "1"}, "options.delimiter"),
        ({"quote": ","}, "options.quote"),
        ({"null_text": ","}, "options.null_text"),
        ({"schema": "{"}, "options.schema"),
        ({"schema": '{"a": "money"}'}, "options.schema"),
        ({"schema": '{"nope": "int64"}'}, "options.schema"),
        ({"encoding": "klingon"}, "options.encoding"),
        ({"colour": "red"}, "options.colour"),
    ],
)
def test_wrong_options_are_refused_by_name(
    tmp_path: Path, options: dict[str, str], field: str
) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    assert field in raises(lambda: read(CSV, tmp_path, "t.csv", **options), InvalidRequest)


def test_cancel_ends_a_read_under_way(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 2_000_000)
    source = open_source(CSV, tmp_path, "t.csv")
    request = ReadRequest(source.schema().names)
    batches = source.read(source.plan(request)[0], request)
    next(batches)
    source.cancel()
    with pytest.raises(TaskCancelled):
        list(batches)


def test_an_early_close_reads_no_further(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 2_000_000)
    source = open_source(CSV, tmp_path, "t.csv")
    request = ReadRequest(source.schema().names)
    batches = source.read(source.plan(request)[0], request)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert list(batches) == []


def test_a_file_that_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    source = open_source(CSV, tmp_path, "t.csv")
    request = ReadRequest(source.schema().names)
    split = source.plan(request)[0]
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    again = open_source(CSV, tmp_path, "t.csv")
    with pytest.raises(SourceError, match="changed after"):
        list(again.read(split, request))
