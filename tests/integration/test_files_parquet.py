"""Parquet: every type survives, files must agree, memory does not follow the row group."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.connectors.base import ReadRequest
from exchangis.connectors.parquet import Parquet
from exchangis.domain.errors import InvalidRequest, SinkError, SourceError, TaskCancelled
from exchangis.domain.model import WriteMode
from tests.integration.files_kit import (
    leftovers,
    nasty,
    open_sink,
    open_source,
    raises,
    read,
    write,
)

PARQUET = Parquet()


@pytest.mark.parametrize("uri", ["t.parquet", "t.pq", "folder/"])
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_nasty_values_survive_a_round_trip(tmp_path: Path, uri: str, compression: str) -> None:
    assert write(PARQUET, tmp_path, uri, nasty(), compression=compression) == []
    found = read(PARQUET, tmp_path, uri)
    assert found.to_pylist() == nasty().to_pylist()
    assert found.schema.equals(nasty().schema)
    assert leftovers(tmp_path) == []


def test_duckdb_sees_the_same_values(tmp_path: Path) -> None:
    table = nasty().drop_columns(["zoned"])
    write(PARQUET, tmp_path, "t.parquet", table)
    with duckdb.connect() as db:
        found = db.execute("select * from read_parquet(?)", [str(tmp_path / "t.parquet")])
        assert found.fetchall() == [tuple(row.values()) for row in table.to_pylist()]


def test_types_of_other_writers_come_as_plain_ones(tmp_path: Path) -> None:
    table = pa.table(
        {
            "dict": pa.array(["x", None, "x"]).dictionary_encode(),
            "large": pa.array(["x", None, "y"], pa.large_string()),
            "view": pa.array(["x", None, "y"], pa.string_view()),
            "fixed": pa.array([b"ab", None, b"cd"], pa.binary(2)),
            "ms": pa.array([dt.datetime(2024, 1, 1), None, None], pa.timestamp("ms")),
            "ns": pa.array([1, None, -1], pa.timestamp("ns")),
            "t32": pa.array([dt.time(1), None, None], pa.time32("ms")),
            "none": pa.nulls(3),
            "a.b": [1, 2, 3],
            "list": pa.array([[Decimal("1.50"), None], None, []], pa.list_(pa.decimal128(9, 2))),
            "wide": pa.array([Decimal(10) ** 60, None, None], pa.decimal256(70, 0)),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read(PARQUET, tmp_path, "t.parquet")
    assert [str(kind) for kind in found.schema.types] == [
        "string", "string", "string", "binary", "timestamp[us]", "timestamp[ns]", "time64[us]",
        "string", "int64", "string", "decimal256(70, 0)",
    ]  # fmt: skip
    assert found["list"].to_pylist() == ["[1.50,null]", None, "[]"]
    assert found["ns"].cast(pa.int64()).to_pylist() == [1, None, -1]
    assert read(PARQUET, tmp_path, "t.parquet", columns=("list", "a.b")).to_pylist() == [
        {"list": "[1.50,null]", "a.b": 1},
        {"list": None, "a.b": 2},
        {"list": "[]", "a.b": 3},
    ]


def test_files_that_differ_are_refused_by_file_and_column(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "d" / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": [2]}), tmp_path / "d" / "2.parquet")
    assert read(PARQUET, tmp_path, "d/").to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    pq.write_table(pa.table({"a": ["1"], "b": ["x"]}), tmp_path / "d" / "3.parquet")
    error = raises(lambda: read(PARQUET, tmp_path, "d/"), SourceError)
    assert "column a: int64 in d/1.parquet, string in d/3.parquet" in error


def test_what_is_no_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("no such thing at all")
    assert "t.parquet is no readable Parquet" in raises(
        lambda: read(PARQUET, tmp_path, "t.parquet"), SourceError
    )
    pq.write_table(pa.table({"a": list(range(10_000))}), tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:100] + b"\xff" * 4000 + whole[4100:])
    assert "cut.parquet" in raises(lambda: read(PARQUET, tmp_path, "cut.parquet"), SourceError)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=4),
    lanes=st.integers(1, 5),
    batch=st.integers(1, 50),
)
def test_splits_hold_each_row_exactly_once(
    tmp_path: Path, files: list[tuple[int, int]], lanes: int, batch: int
) -> None:
    folder = tmp_path / "d"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    start = 0
    for number, (rows, group) in enumerate(files):
        table = pa.table({"a": pa.array(range(start, start + rows), pa.int64())})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group)
        start += rows
    found = read(PARQUET, tmp_path, "d/", parallelism=lanes, batch_rows=batch)
    assert found["a"].to_pylist() == list(range(start))
    source = open_source(PARQUET, tmp_path, "d/")
    splits = source.plan(ReadRequest(("a",), parallelism=lanes))
    assert splits
    assert sum(split.rows or 0 for split in splits) == start


def test_batches_are_bounded_by_bytes_whatever_the_row_group(tmp_path: Path) -> None:
    text = ["x" * 1000] * 20_000
    pq.write_table(
        pa.table({"t": [f"{n}{value}" for n, value in enumerate(text)]}),
        tmp_path / "t.parquet",
        row_group_size=20_000,
        use_dictionary=False,
    )
    source = open_source(PARQUET, tmp_path, "t.parquet")
    request = ReadRequest(("t",), batch_bytes=200_000)
    sizes = [b.nbytes for s in source.plan(request) for b in source.read(s, request)]
    assert sum(sizes) > 20_000_000
    assert max(sizes) < 400_000


def test_appending_keeps_the_columns_of_the_file(tmp_path: Path) -> None:
    write(PARQUET, tmp_path, "t.parquet", pa.table({"a": [1, 2], "b": ["x", None]}))
    more = pa.table({"a": pa.array([3, 2**40], pa.int64())})
    write(PARQUET, tmp_path, "t.parquet", more, key="second")
    expected = [(1, "x"), (2, None), (3, None), (2**40, None)]
    assert [tuple(r.values()) for r in read(PARQUET, tmp_path, "t.parquet").to_pylist()] == expected
    table = pa.table({"c": [1]})
    error = raises(lambda: write(PARQUET, tmp_path, "t.parquet", table, key="third"), SinkError)
    assert "no column c" in error


def test_what_a_columns_type_cannot_hold_is_a_dirty_row(tmp_path: Path) -> None:
    write(PARQUET, tmp_path, "t.parquet", pa.table({"a": [1]}))
    table = pa.table({"a": ["2", "x", "3"]})
    rejected = write(PARQUET, tmp_path, "t.parquet", table, key="second", splits=1)
    assert [r.index for r in rejected] == [1]
    assert "'x'" in rejected[0].reason
    assert read(PARQUET, tmp_path, "t.parquet")["a"].to_pylist() == [1, 2, 3]


def test_overwriting_brings_new_columns_and_types(tmp_path: Path) -> None:
    for uri in ("t.parquet", "d/"):
        write(PARQUET, tmp_path, uri, pa.table({"a": [1]}))
        write(
            PARQUET, tmp_path, uri, pa.table({"z": ["x"]}), mode=WriteMode.OVERWRITE, key="second"
        )
        assert read(PARQUET, tmp_path, uri).to_pylist() == [{"z": "x"}]


def test_a_table_without_rows_still_tells_its_columns(tmp_path: Path) -> None:
    for uri in ("t.parquet", "d/"):
        write(PARQUET, tmp_path, uri, nasty().slice(0, 0))
        found = read(PARQUET, tmp_path, uri)
        assert found.num_rows == 0
        assert found.schema.equals(nasty().schema)


def test_row_groups_have_the_size_asked_for(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(1000))})
    write(PARQUET, tmp_path, "t.parquet", table, row_group_rows="300", splits=3)
    meta = pq.read_metadata(tmp_path / "t.parquet")
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [300, 300, 300, 100]


def test_the_sink_tells_the_schema_of_what_is_there(tmp_path: Path) -> None:
    sink = open_sink(PARQUET, tmp_path, "t.parquet")
    assert sink.schema() is None
    write(PARQUET, tmp_path, "t.parquet", nasty())
    schema = sink.schema()
    assert schema is not None
    assert schema.arrow.equals(nasty().schema)


def test_wrong_options_are_refused_by_name(tmp_path: Path) -> None:
    table = pa.table({"a": [1]})
    error = raises(
        lambda: write(PARQUET, tmp_path, "t.parquet", table, row_group_rows="0"), InvalidRequest
    )
    assert "options.row_group_rows" in error


def test_cancel_ends_a_read_under_way(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(100_000))}), tmp_path / "t.parquet")
    source = open_source(PARQUET, tmp_path, "t.parquet")
    request = ReadRequest(("a",), batch_rows=100)
    batches = source.read(source.plan(request)[0], request)
    next(batches)
    source.cancel()
    with pytest.raises(TaskCancelled):
        list(batches)
