"""Every connector, as source and as sink, is held to the same promises over the native engine.

What a system itself cannot do is in the tables of exceptions, each with its reason. An exception is
asserted as firmly as a promise: one that no longer holds fails its test and has to go.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exchangis import exchange
from exchangis.domain.errors import ExchangisError, InvalidRequest, SinkError, SourceError
from tests.integration.conformance_kit import (
    DATABASES,
    SYSTEMS,
    Systems,
    changing,
    differences,
    original,
    others,
    own_databases,
    pairs,
    values_of,
    without_sign_of_zero,
)
from tests.services import Service

# Exceptions ---------------------------------------------------------------------------------------

NO_SIGN_OF_ZERO = {
    "MYSQL": "stores -0.0 as 0.0 in a DOUBLE, however it is written",
    "SQLITE": "stores a whole REAL as an integer on disk, which has no -0",
}
REFUSED_VALUES = {
    "MYSQL": {1: "Incorrect double", 2: "Incorrect double", 3: "Incorrect double"},
    "POSTGRESQL": {4: "0x00"},  # no NUL characters in its text
    "SQLITE": {1: "no NaN"},
    "JSONL": {1: "no NaN", 2: "no infinity", 3: "no infinity"},
}
"""Rows of `_extreme` that a system has no place for, with the reason that the dirty file gives."""
_MICROSECONDS = "counts microseconds: a row with more is dirty"
NO_NANOSECONDS = {
    "MYSQL": dict.fromkeys(("timestamp[ns]", "time64[ns]", "duration[ns]"), _MICROSECONDS),
    "POSTGRESQL": dict.fromkeys(("timestamp[ns]", "time64[ns]"), _MICROSECONDS),
    "SQLITE": {"duration[ns]": _MICROSECONDS},
}
NO_EMPTY_TABLE = {"JSONL": "names its columns in its rows alone: a file without rows has none"}
NO_SUPPLEMENTARY_NAMES = {"MYSQL": "identifiers hold the Basic Multilingual Plane alone"}
NO_TYPES = {
    "CSV": "keeps text of any kind: columns have no types that text could fail to fit",
    "JSONL": "keeps values of any kind: columns have no types that text could fail to fit",
}
WIDER_INTEGERS = {"SQLITE": "its INTEGER holds 64 bits whatever is declared"}
FILTERS_REFUSED = {"SQLITE": ("u > 9", "d = 0", "d < 0")}
"""Exact decimals are text there, and would be compared as text: the filter has to say how."""
FILTERS_OTHERWISE: dict[tuple[str, str], tuple[list[int], str]] = {
    ("MYSQL", "s = 'null'"): ([12, 13], "compares text without regard to case by default"),
}

# The suite's own data -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def systems(
    tmp_path_factory: pytest.TempPathFactory, mariadb: Service, postgres: Service
) -> Iterator[Systems]:
    """All systems, each holding the original table as `origin`, in databases of their own."""
    with own_databases(mariadb, postgres) as (here, there):
        yield _seeded(Systems(tmp_path_factory.mktemp("conformance"), here, there))


def _seeded(made: Systems) -> Systems:
    for system in SYSTEMS:
        result = made.put(original(), system, "origin")
        assert (result.exchanged, result.errors) == (original().num_rows, 0)
        made.put(others(), system, "others")
    return made


def _expected(*route: str) -> Any:
    rows = values_of(original())
    if NO_SIGN_OF_ZERO.keys() & set(route):
        rows = changing(rows, without_sign_of_zero, "f")
    return rows


def _assert_origin(table: pa.Table, *route: str) -> None:
    assert differences(_expected(*route), values_of(table)) == {}


def _dirty(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "sink"), pairs())
def test_every_value_arrives_as_it_was(systems: Systems, source: str, sink: str) -> None:
    name = f"from_{source.lower()}"
    result = exchange(systems.end(source, "origin"), systems.end(sink, name))
    assert (result.read, result.exchanged, result.errors) == (21, 21, 0)
    _assert_origin(systems.get(sink, name), source, sink)


@pytest.mark.parametrize(("source", "sink"), pairs())
def test_values_of_every_width_and_unit_arrive(systems: Systems, source: str, sink: str) -> None:
    name = f"others_from_{source.lower()}"
    exchange(systems.end(source, "others"), systems.end(sink, name))
    expected, schema = values_of(others(), others().schema), others().schema
    assert differences(expected, values_of(systems.get(sink, name), schema)) == {}


@pytest.mark.parametrize("sink", SYSTEMS)
@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.time64("ns"), pa.duration("ns")], ids=str)
def test_nanoseconds_are_kept_or_refused(
    systems: Systems, sink: str, kind: Any, tmp_path: Path
) -> None:
    table = pa.table({"v": pa.array([1001, 1000], pa.int64()).cast(kind)})
    name = f"nanos_{str(kind).split('[')[0]}"
    result = systems.put(
        table, sink, name, limits={"error_records": 1}, dirty_file=tmp_path / "dirty"
    )
    kept = NO_NANOSECONDS.get(sink, {}).get(str(kind)) is None
    assert (result.exchanged, result.errors) == ((2, 0) if kept else (1, 1))
    found: Any = systems.get(sink, name)["v"].combine_chunks()
    assert len(found) == result.exchanged
    if pa.types.is_string(found.type):
        assert all(re.search(r"\.00000100[01]Z?$|\.000001$", text) for text in found.to_pylist())
        assert found[0].as_py().endswith("001001")
    else:
        fine = pa.duration("ns") if pa.types.is_duration(found.type) else kind
        counts = found.cast(fine).cast(pa.int64()).to_pylist()
        assert counts == ([1001, 1000] if kept else [1000])


def _extreme() -> pa.Table:
    return pa.table(
        {
            "n": pa.array(range(6), pa.int32()),
            "f": [1.5, math.nan, math.inf, -math.inf, None, 2.5],
            "s": ["a", "b", "c", "d", "nul\0character", "e"],
        }
    )


@pytest.mark.parametrize("sink", SYSTEMS)
def test_a_value_that_a_system_has_no_place_for_is_dirty_and_never_bent(
    systems: Systems, sink: str, tmp_path: Path
) -> None:
    refused = REFUSED_VALUES.get(sink, {})
    result = systems.put(
        _extreme(), sink, "extreme", limits={"error_records": 6}, dirty_file=tmp_path / "dirty"
    )
    assert (result.exchanged, result.errors) == (6 - len(refused), len(refused))
    if refused:
        kept = {line["record"]["n"]: line["reason"] for line in _dirty(tmp_path / "dirty")}
        assert kept.keys() == refused.keys()
        assert all(refused[number] in reason for number, reason in kept.items())
    expected = values_of(_extreme(), _extreme().schema)
    for number in refused:
        del expected[number]
    found = values_of(systems.get(sink, "extreme"), _extreme().schema)
    assert differences(expected, found) == {}


@pytest.mark.parametrize("sink", SYSTEMS)
@pytest.mark.parametrize("values", [["x", None, "", None], [1, None, None, 3]], ids=["text", "int"])
def test_a_lone_column_keeps_its_nulls(systems: Systems, sink: str, values: list[Any]) -> None:
    name = f"lone_{type(values[0]).__name__}"
    systems.put(pa.table({"c": values}), sink, name)
    assert systems.get(sink, name)["c"].to_pylist() == values


# Writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", SYSTEMS)
def test_an_overwrite_replaces_what_was_there_however_often(systems: Systems, sink: str) -> None:
    systems.put(original().slice(3, 2), sink, "replaced")
    for _ in range(2):
        assert systems.put(original(), sink, "replaced", mode="overwrite").exchanged == 21
        _assert_origin(systems.get(sink, "replaced"), sink)


@pytest.mark.parametrize("sink", SYSTEMS)
def test_an_append_adds_to_what_was_there(systems: Systems, sink: str) -> None:
    for _ in range(2):
        assert systems.put(original(), sink, "doubled").exchanged == 21
    found = systems.get(sink, "doubled").sort_by("n")
    assert found.num_rows == 42
    for half in (found.take([*range(start, 42, 2)]) for start in (0, 1)):
        _assert_origin(half, sink)


@pytest.mark.parametrize("sink", DATABASES)
def test_an_upsert_updates_and_inserts(systems: Systems, sink: str) -> None:
    rows = original().slice(0, 20)
    where = rows.schema.get_field_index("s")
    older = rows.set_column(where, "s", pa.array(["old"] * 20))
    systems.put(older.slice(0, 10), sink, "upserted", mode="upsert", key_columns=["n"])
    systems.put(rows.slice(5), sink, "upserted", mode="upsert", key_columns=["n"])
    expected = _expected(sink)
    del expected[None]
    for number in range(5):
        expected[number]["s"] = "old"
    assert differences(expected, values_of(systems.get(sink, "upserted"))) == {}


@pytest.mark.parametrize("sink", DATABASES)
def test_text_keys_differ_when_their_characters_do(systems: Systems, sink: str) -> None:
    keys = ["a", "A", "ä", "a ", "", "\u0061\u0308", "😀", "😁", "a\t", "\\"]
    table = pa.table({"key": keys, "v": pa.array(range(len(keys)), pa.int32())})
    for _ in range(2):
        systems.put(table, sink, "text_keys", mode="upsert", key_columns=["key"])
    found = systems.get(sink, "text_keys")
    assert sorted(found.to_pylist(), key=lambda row: row["v"]) == table.to_pylist()


@pytest.mark.parametrize("sink", [system for system in SYSTEMS if system not in DATABASES])
def test_an_upsert_into_files_is_refused(systems: Systems, sink: str) -> None:
    with pytest.raises(InvalidRequest, match="upsert"):
        systems.put(original(), sink, "refused", mode="upsert", key_columns=["n"])


@pytest.mark.parametrize("sink", SYSTEMS)
def test_a_value_that_does_not_fit_the_table_is_dirty_and_the_rest_arrives(
    systems: Systems, sink: str, tmp_path: Path
) -> None:
    numbers = pa.table({"n": pa.array([0], pa.int32()), "v": pa.array([10], pa.int32())})
    texts = pa.table(
        {"n": pa.array(range(1, 6), pa.int32()), "v": ["5", "abc", "99999999999", None, "7"]}
    )
    systems.put(numbers, sink, "typed")
    result = systems.put(
        texts, sink, "typed", limits={"error_records": 5}, dirty_file=tmp_path / "dirty"
    )
    refused = {2: "abc", 3: "99999999999"}
    if sink in NO_TYPES:
        refused = {}
    elif sink in WIDER_INTEGERS:
        del refused[3]
    assert (result.exchanged, result.errors) == (5 - len(refused), len(refused))
    lines = _dirty(tmp_path / "dirty") if refused else []
    assert {line["record"]["n"]: line["record"]["v"] for line in lines} == refused
    assert all(line["column"] == "v" and line["record"]["v"] in line["reason"] for line in lines)
    arrived = {0: 10} | dict(zip(texts["n"].to_pylist(), texts["v"].to_pylist(), strict=True))
    found = {row["n"]: row["v"] for row in systems.get(sink, "typed").to_pylist()}
    assert {n: v if v is None else str(v) for n, v in found.items()} == {
        n: v if v is None else str(v) for n, v in arrived.items() if n not in refused
    }


@pytest.mark.parametrize("sink", SYSTEMS)
def test_no_rows_make_an_empty_table_and_empty_one(systems: Systems, sink: str) -> None:
    empty = original().slice(0, 0)
    assert systems.put(empty, sink, "empty").exchanged == 0
    systems.put(original(), sink, "emptied")
    systems.put(empty, sink, "emptied", mode="overwrite")
    for name in ("empty", "emptied"):
        if sink in NO_EMPTY_TABLE:
            with pytest.raises(SourceError, match="no row that would tell its columns"):
                systems.get(sink, name)
        else:
            found = systems.get(sink, name)
            assert (found.num_rows, found.schema.names) == (0, empty.schema.names)
    systems.put(original(), sink, "empty")
    _assert_origin(systems.get(sink, "empty"), sink)


# Names --------------------------------------------------------------------------------------------

_NAMES = [
    "select", 'Order "by"', "Mixed Case", "it's", "back`tick", "per%cent %s {x}", "back\\slash",
    "dot.ted", "a,b", "[bracket]", "名前", "-- dash", "a=b:c", "?", "$1",
]  # fmt: skip


@pytest.mark.parametrize("sink", SYSTEMS)
def test_columns_of_any_name_arrive_under_it(systems: Systems, sink: str) -> None:
    table = pa.table({name: [number, None] for number, name in enumerate(_NAMES)})
    for mode in ("append", "overwrite"):
        systems.put(table, sink, "names", mode=mode)
    assert systems.get(sink, "names").to_pylist() == table.to_pylist()


@pytest.mark.parametrize("sink", DATABASES)
def test_columns_of_any_name_are_keys_and_picked(systems: Systems, sink: str) -> None:
    table = pa.table({name: [number, number + 1] for number, name in enumerate(_NAMES)})
    for _ in range(2):
        systems.put(table, sink, "key_names", mode="upsert", key_columns=_NAMES[:3])
    picked = systems.get(sink, "key_names", columns=[(name, name) for name in _NAMES[3:]])
    assert sorted(picked.to_pylist(), key=str) == table.select(_NAMES[3:]).to_pylist()


@pytest.mark.parametrize("sink", DATABASES)
def test_a_table_of_any_name_is_written_and_read(systems: Systems, sink: str) -> None:
    name = 'Select "odd" it\'s `table` %s'
    for mode in ("append", "overwrite", "overwrite"):
        systems.put_as(original(), "odd", systems.end(sink, name), mode=mode)
    _assert_origin(systems.get_from(systems.end(sink, name), f"odd-{sink}"), sink)


@pytest.mark.parametrize("sink", SYSTEMS)
def test_a_name_that_a_system_cannot_have_is_refused(systems: Systems, sink: str) -> None:
    table = pa.table({"😀": [1]})
    if sink in NO_SUPPLEMENTARY_NAMES:
        with pytest.raises(SinkError, match="Invalid utf8mb4"):
            systems.put(table, sink, "smile")
    else:
        systems.put(table, sink, "smile")
        assert systems.get(sink, "smile").to_pylist() == [{"😀": 1}]


# Filters ------------------------------------------------------------------------------------------

FILTERS: dict[str, Any] = {
    "n < 10 AND s IS NOT NULL": lambda r: r["n"] < 10 and r["s"] is not None,
    "n BETWEEN 3 AND 5": lambda r: 3 <= r["n"] <= 5,
    "NOT (n > 2)": lambda r: not r["n"] > 2,
    "n > 2 AND (i IS NULL OR i = 0)": lambda r: r["n"] > 2 and r["i"] in (None, 0),
    "i <> 0": lambda r: r["i"] not in (None, 0),
    "k = 9223372036854775807": lambda r: r["k"] == 2**63 - 1,
    "n IN (1, 3) OR k = 0": lambda r: r["n"] in (1, 3) or r["k"] == 0,
    "u > 9": lambda r: r["u"] is not None and r["u"] > 9,
    "d = 0": lambda r: r["d"] == 0,
    "d < 0": lambda r: r["d"] is not None and r["d"] < 0,
    "f = 0.1": lambda r: r["f"] == 0.1,
    "f < 0": lambda r: r["f"] is not None and r["f"] < 0,
    "b = true": lambda r: r["b"] is True,
    "s = 'it''s'": lambda r: r["s"] == "it's",
    "s = ''": lambda r: r["s"] == "",
    "s = 'null'": lambda r: r["s"] == "null",
    "s = '😀 𝒳 näme 中文'": lambda r: r["s"] == "😀 𝒳 näme 中文",
    "s LIKE '%quotes%'": lambda r: "quotes" in (r["s"] or ""),
    "day >= '1970-01-01'": lambda r: r["day"] is not None and r["day"].year >= 1970,
    "stamp < '2000-01-01 00:00:00'": lambda r: r["stamp"] is not None and r["stamp"].year < 2000,
    "moment >= '2024-01-01 00:00:00'": lambda r: (
        r["moment"] is not None and r["moment"].year >= 2024
    ),
    "raw IS NULL": lambda r: r["raw"] is None,
    "n < 0": lambda r: r["n"] < 0,
}


@pytest.mark.parametrize("source", SYSTEMS)
def test_a_filter_picks_the_same_rows_everywhere(systems: Systems, source: str) -> None:
    wrong: dict[str, Any] = {}
    for where, picks in FILTERS.items():
        asked = where
        if where in FILTERS_REFUSED.get(source, ()):
            with pytest.raises(ExchangisError, match="compares as text"):
                systems.get(source, "origin", columns=["n"], where=where)
            column, _, rest = where.partition(" ")
            asked = f"CAST({column} AS REAL) {rest}"
        rows = original().to_pylist()
        expected = [r["n"] for r in rows if r["n"] is not None and picks(r)]
        if where == "raw IS NULL":
            expected.append(None)
        if (source, where) in FILTERS_OTHERWISE:
            assert FILTERS_OTHERWISE[source, where][0] != expected
            expected = FILTERS_OTHERWISE[source, where][0]
        found = systems.get(source, "origin", columns=["n"], where=asked)
        if sorted(found["n"].to_pylist(), key=str) != sorted(expected, key=str):
            wrong[where] = (expected, found["n"].to_pylist())
    assert wrong == {}


def test_every_exception_is_of_a_filter_that_is_asked() -> None:
    assert {where for _, where in FILTERS_OTHERWISE} <= FILTERS.keys()
    assert all(re.search("[a-z]", reason) for _, reason in FILTERS_OTHERWISE.values())
