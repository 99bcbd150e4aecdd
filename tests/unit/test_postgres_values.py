"""PostgreSQL's value rules that need no server: arrays, decimals, intervals, proposals, splits."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchangis.connectors.base import Column, Split, TableSchema
from exchangis.connectors.postgres.catalog import Attribute
from exchangis.connectors.postgres.decode import BlockDecoder, Decoder, Policies
from exchangis.connectors.postgres.encode import array_literal, encode
from exchangis.connectors.postgres.split import predicate
from exchangis.connectors.postgres.types import NativeType, arrow_type, created


def _attribute(name: str, element: str | None = None) -> Attribute:
    return Attribute(
        "x", NativeType(name, name, element=element), nullable=True, generated=False,
        identity_always=False,
    )  # fmt: skip


def _encoded(values: pa.Array, attribute: Attribute | None = None) -> str:
    batch = pa.record_batch([values], ["x"])
    return bytes(encode(batch, [attribute or _attribute("text")])).decode()


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        (None, None),
        ("{1,2}", "{1,2}"),
        ("[0:1]={1,2}", "[0:1]={1,2}"),
        ("[]", "{}"),
        (" [1, -2.50, 1e3, null, true]", "{1,-2.50,1e3,NULL,true}"),
        ('[["a"], ["b"]]', '{{"a"},{"b"}}'),
        ('["null", "q\\"\\\\", ""]', '{"null","q\\"\\\\",""}'),
        ('[{"a": 1}]', '{"{\\"a\\": 1}"}'),
        ("[oops", "[oops"),
    ],
)
def test_json_lists_become_array_literals(text: str | None, literal: str | None) -> None:
    assert array_literal(text) == literal


def test_only_array_columns_take_their_json_as_a_list() -> None:
    values = pa.array(["[1]"])
    assert _encoded(values, _attribute("_int4", "int4")) == '"{1}"\n'
    assert _encoded(values, _attribute("jsonb")) == '"[1]"\n'


@pytest.mark.parametrize(
    ("modifier", "expected"),
    [
        (-1, pa.string()),
        (((10 << 16) | 2) + 4, pa.decimal128(10, 2)),
        (((38 << 16) | 0) + 4, pa.decimal128(38, 0)),
        (((76 << 16) | 30) + 4, pa.decimal256(76, 30)),
        (((77 << 16) | 0) + 4, pa.string()),
        (((3 << 16) | (-2 & 0x7FF)) + 4, pa.decimal128(5, 0)),
        (((2 << 16) | 4) + 4, pa.decimal128(4, 4)),
    ],
)
def test_numeric_modifiers_give_the_decimal_that_holds_them(
    modifier: int, expected: pa.DataType
) -> None:
    assert arrow_type(NativeType("numeric", "numeric", modifier=modifier)) == expected


def test_a_user_type_of_a_builtin_name_is_not_taken_for_it() -> None:
    assert arrow_type(NativeType("mine.date", "date", builtin=False)) == pa.string()


def test_proposals_are_stable_and_take_no_foreign_words() -> None:
    wanted = TableSchema(
        (
            Column("a", pa.duration("us")),
            Column("b", pa.list_(pa.int8())),
            Column("c", pa.string(), "text; DROP TABLE x"),
            Column("d", pa.int64(), "int(11) unsigned"),
            Column("e", pa.string(), "numeric(100,2)"),
        ),
        ("d",),
    )
    proposed = created(wanted)
    assert [c.native_type for c in proposed.columns] == [
        "interval", "jsonb", "text", "bigint", "numeric(100,2)"
    ]  # fmt: skip
    assert created(proposed) == proposed
    assert not proposed.columns[3].nullable


@given(st.integers(-(2**62), 2**62))
def test_durations_are_intervals_of_the_same_length(microseconds: int) -> None:
    text = _encoded(pa.array([microseconds], pa.duration("us")))
    assert text == f'"{microseconds} microseconds"\n'


@given(st.lists(st.none() | st.binary(max_size=20)), st.integers(0, 5), st.integers(0, 30))
def test_bytes_survive_both_ways_whatever_the_slice(
    values: list[bytes | None], start: int, length: int
) -> None:
    sliced = pa.array(values, pa.binary()).slice(start, length)
    text = _encoded(sliced, _attribute("bytea"))
    block = text.replace('"\\x', '"').encode()  # encode(..., 'hex') prints no prefix
    if block:
        decoded = BlockDecoder([Decoder(_attribute("bytea"), Policies())]).decode(block)
        assert decoded.column(0).to_pylist() == sliced.to_pylist()


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9)))
def test_nested_values_are_json(value: dict[str, int]) -> None:
    values = pa.array([list(value.items())], pa.map_(pa.string(), pa.int64()))
    quoted = _encoded(values).removesuffix("\n")
    assert json.loads(quoted[1:-1].replace('""', '"')) == value


def test_calendar_intervals_keep_their_parts() -> None:
    value = pa.MonthDayNano([1, -2, 3_000_000_001])
    text = _encoded(pa.array([value], pa.month_day_nano_interval()))
    assert text == '"1 mons -2 days 3000000 microseconds"\n'
    assert timedelta(microseconds=3_000_000) == timedelta(seconds=3)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, None),
        ({"pages": [0, 5]}, "(ctid >= '(0,0)'::pg_catalog.tid AND ctid < '(5,0)'::pg_catalog.tid)"),
        ({"pages": [5, None]}, "(ctid >= '(5,0)'::pg_catalog.tid)"),
        ({"key": 'a"b', "range": [None, -5]}, '("a""b" < \'-5\'::pg_catalog.int8)'),
    ],
)
def test_a_splits_condition_is_built_from_checked_parts(
    data: dict[str, Any], expected: str | None
) -> None:
    condition = predicate(Split("s", "s", data))
    assert (condition and condition.as_string(None)) == expected
