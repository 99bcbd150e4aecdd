"""Validators, transformers and filters."""

from __future__ import annotations

import datetime as dt
import operator
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchangis.connectors.base import Column, TableSchema
from exchangis.domain.errors import InvalidRequest, SourceError
from exchangis.domain.model import FunctionCall
from exchangis.engine.filtering import BatchFilter
from exchangis.engine.functions import BadCall, functions, parse_call
from exchangis.engine.validators import parse, parse_all, validators

TEXTS = ["abc", "b", "", None]


def _judge(text: str, values: list[Any], data_type: Any) -> list[bool]:
    verdicts = parse(text).bind(data_type)(pa.array(values, data_type)).to_pylist()
    return [bool(verdict) for verdict in verdicts]


@pytest.mark.parametrize(
    ("text", "values", "data_type", "expected"),
    [
        ("> 1", [0, 1, 2, None], pa.int64(), [False, False, True, False]),
        ("> 1.5", [1, 2, -1], pa.int8(), [False, True, False]),
        (">= 300", [1], pa.int8(), [False]),
        ("<= 300", [1, None], pa.int8(), [True, False]),
        ("!= 1e30", [1, None], pa.int64(), [True, False]),
        ("= 18446744073709551615", [2**64 - 1], pa.uint64(), [True]),
        ("> 9", ["10", "9a"], pa.string(), [False, True]),
        ("= 1.0", [Decimal("1.00")], pa.decimal128(38, 2), [True]),
        ("> 1.005", [Decimal("1.00"), Decimal("1.01")], pa.decimal128(5, 2), [False, True]),
        (">= 2020-01-01", [dt.date(2020, 1, 1), dt.date(2019, 12, 31)], pa.date32(), [True, False]),
        ("like a%", TEXTS, pa.string(), [True, False, False, False]),
        ("not like a%", TEXTS, pa.string(), [False, True, True, False]),
        ("like 1%", [12, 2], pa.int64(), [True, False]),
        ("in (1, 2)", [1, 3, None], pa.int64(), [True, False, False]),
        ("not in (1, 2)", [1, 3, None], pa.int64(), [False, True, False]),
        ("in ('a,b', \"c\")", ["a,b", "c", "a"], pa.string(), [True, True, False]),
        ("between 1 and 5", [0, 1, 5, 6, None], pa.int64(), [False, True, True, False, False]),
        ("not between 1 and 5", [0, 3, None], pa.int64(), [True, False, False]),
        ("is not null", [1, None], pa.int64(), [True, False]),
        ("IS  NULL", [1, None], pa.int64(), [False, True]),
        ("regexp ^a", ["ab", "ba"], pa.string(), [True, False]),
        ("= true", [True, False, None], pa.bool_(), [True, False, False]),
        ("<> 3", [3, 4], pa.int64(), [False, True]),
        ("= ''", ["", None], pa.string(), [True, False]),
    ],
)
def test_conditions(text: str, values: list[Any], data_type: Any, expected: list[bool]) -> None:
    assert _judge(text, values, data_type) == expected


OPERATORS = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt,
    "<=": operator.le, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


@given(
    st.sampled_from(sorted(OPERATORS)),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)),
    st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.integers(-4, 4).map(Decimal),
)
@settings(deadline=None)
def test_integers_compare_exactly_with_any_number(op: str, values: list[int], limit: Any) -> None:
    expected = [OPERATORS[op](value, limit) for value in values]
    assert _judge(f"{op} {limit}", values, pa.int64()) == expected


@given(
    st.sampled_from(sorted(OPERATORS)),
    st.lists(st.decimals(-(10**33), 10**33, places=4)),
    st.decimals(allow_nan=False, allow_infinity=False) | st.integers(-4, 4).map(Decimal),
)
@settings(deadline=None)
def test_decimals_compare_exactly(op: str, values: list[Decimal], limit: Decimal) -> None:
    expected = [OPERATORS[op](value, limit) for value in values]
    assert _judge(f"{op} {limit}", values, pa.decimal128(38, 4)) == expected


def test_operator_and_operand_may_come_as_two_words() -> None:
    words = [(v.operator, v.operands) for v in parse_all(["like", "x%", "> 3", "is null"])]
    assert words == [("like", ("x%",)), (">", ("3",)), ("is null", ())]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~ 3", "unknown operator '~'; known: >"),
        ("contains x", "unknown operator 'contains'"),
        (">", "a value is missing"),
        ("in 1", "expected a list"),
        ("between 1", "expected LOW and HIGH"),
        ("regexp (", "missing"),
        ("is null x", "takes no value"),
    ],
)
def test_a_wrong_condition_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse(text)


# Transformers -------------------------------------------------------------------------------------


def _apply(name: str, params: list[str], values: list[Any], data_type: Any) -> Any:
    bound = parse_call(FunctionCall(name=name, params=tuple(params))).bind(data_type)
    outcome = bound.apply(pa.array(values, data_type))
    assert outcome.array.type == bound.result
    return outcome


@pytest.mark.parametrize(
    ("name", "params", "values", "expected", "bad"),
    [
        ("ex_substr", ["1", "2"], ["abcd", "a", "", None], ["bc", "", None, None], [2]),
        ("ex_pad", ["r", "3", "0"], ["a", "abcd", None], ["a00", "abc", "000"], []),
        ("ex_pad", ["l", "5", "xy"], ["a", None], ["xyxya", "xyxyx"], []),
        ("ex_replace", ["1", "2", "**"], ["abcd", "a", "", None], ["a**d", "a**", None, None], [2]),
        ("dx_substr", ["0", "1"], ["😀é"], ["😀"], []),
        ("trim", [], [" a ", None], ["a", None], []),
        ("ltrim", [], [" a "], ["a "], []),
        ("rtrim", [], [" a "], [" a"], []),
        ("upper", [], ["é"], ["É"], []),
        ("lower", [], ["É"], ["é"], []),
        ("substring", ["2", "2"], ["abcd", ""], ["bc", ""], []),
        ("replace_text", ["a", "b"], ["aXa"], ["bXb"], []),
        ("regexp_replace", ["(a)(b)", r"\2\1"], ["ab"], ["ba"], []),
        ("prefix", ["p-"], ["x", None], ["p-x", None], []),
        ("suffix", ["-s"], ["x", None], ["x-s", None], []),
        ("default", ["z"], [None, "a"], ["z", "a"], []),
        ("null_if", ["z"], ["z", "a", None], [None, "a", None], []),
        ("hash_md5", [], ["a"], ["0cc175b9c0f1b6a831c399e269772661"], []),
        ("mask", ["2"], ["abcd", "a", None], ["**cd", "a", None], []),
    ],
)
def test_text_functions(
    name: str, params: list[str], values: list[Any], expected: list[Any], bad: list[int]
) -> None:
    outcome = _apply(name, params, values, pa.string())
    assert outcome.array.to_pylist() == expected
    assert [failure.index for failure in outcome.failures] == bad


@pytest.mark.parametrize(
    ("params", "dropped"),
    [
        (["like", "a.*"], [True, False, False, False]),
        (["not like", "a.*"], [False, True, True, True]),
        (["=", "b"], [False, True, False, False]),
        (["!=", "b"], [True, False, True, True]),
        ([">", "b"], [False, False, False, False]),
        (["<=", "b"], [True, True, True, False]),
        (["=", "null"], [False, False, False, True]),
        (["!=", "null"], [True, True, True, False]),
    ],
)
def test_ex_filter_drops_what_matches_as_datax_does(params: list[str], dropped: list[bool]) -> None:
    assert _apply("ex_filter", params, TEXTS, pa.string()).drop.to_pylist() == dropped


def test_ex_filter_compares_dates_with_milliseconds() -> None:
    values = [dt.datetime(1970, 1, 1), dt.datetime(1970, 1, 3)]
    outcome = _apply("ex_filter", [">", "86400000"], values, pa.timestamp("us"))
    assert outcome.drop.to_pylist() == [False, True]


def test_numbers_are_rounded_without_wrapping_around() -> None:
    outcome = _apply("round", ["1"], [Decimal("9.99"), Decimal("-1.25")], pa.decimal128(3, 2))
    assert outcome.array.to_pylist() == [None, Decimal("-1.30")]
    assert [failure.index for failure in outcome.failures] == [0]
    assert _apply("abs", [], [-128, -5], pa.int8()).array.to_pylist() == [None, 5]


@pytest.mark.parametrize(
    ("name", "params", "part", "message"),
    [
        ("nope", [], "name", "no such function; known: abs"),
        ("ex_pad", ["r", "3"], "params", r"ex_pad\(padType, length, padChar\) takes 3.*got 2"),
        ("ex_pad", ["x", "3", "0"], "params", "padType must be one of l, r"),
        ("ex_pad", ["r", "99999999", "0"], "params", "length must be within"),
        ("ex_substr", ["a", "3"], "params", "startIndex must be a whole number"),
    ],
)
def test_a_wrong_call_is_refused_by_name(
    name: str, params: list[str], part: str, message: str
) -> None:
    with pytest.raises(BadCall, match=message) as failure:
        parse_call(FunctionCall(name=name, params=tuple(params)))
    assert failure.value.part == part


@pytest.mark.parametrize(
    ("name", "params", "data_type"),
    [
        ("round", ["1"], pa.string()),
        ("default", ["x"], pa.int64()),
        ("ex_filter", ["like", "("], pa.string()),
        ("regexp_replace", ["a", r"\9"], pa.string()),
        ("ex_pad", ["l", "3", ""], pa.string()),
    ],
)
def test_a_call_that_cannot_serve_the_column_is_refused(
    name: str, params: list[str], data_type: Any
) -> None:
    with pytest.raises(ValueError, match=name):
        parse_call(FunctionCall(name=name, params=tuple(params))).bind(data_type)


def test_functions_and_operators_are_listed() -> None:
    listed = {entry["funcName"]: entry["paramNames"] for entry in functions()}
    assert listed["ex_pad"] == ["padType", "length", "padChar"]
    assert listed["dx_filter"] == ["operator", "value"]
    assert {entry["name"] for entry in validators()} >= {"like", "is not null", "between"}


# Filters ------------------------------------------------------------------------------------------

SCHEMA = TableSchema(
    (Column("id", pa.int64()), Column("Name", pa.string()), Column("price", pa.float64()))
)
WHERES = [
    "id > 1", "id > 1 OR name = 'a'", "NOT (id = 1)", "name LIKE 'a%'", "id IN (1, 2, NULL)",
    "id NOT IN (1, NULL)", "id IS NULL", "name IS NOT NULL AND price < 2.5", "id BETWEEN 1 AND 2",
    "id = 1 AND NULL", "COALESCE(id, 0) = 0", "length(name) > 1", "WHERE id <> 2", "1 = 1",
    "CASE WHEN id > 1 THEN name = 'b' ELSE price > 1 END",
]  # fmt: skip
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 3),
        st.none() | st.sampled_from(["a", "ab", "b", "B"]),
        st.none() | st.sampled_from([0.5, 1.5, 2.5]),
    ),
    max_size=12,
)


@given(ROWS, st.sampled_from(WHERES))
@settings(max_examples=60, deadline=None)
def test_filters_keep_what_a_database_keeps(rows: list[tuple[Any, ...]], where: str) -> None:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    batch = pa.record_batch(
        [pa.array(c, t) for c, t in zip(columns, SCHEMA.arrow.types, strict=True)],
        schema=SCHEMA.arrow,
    )
    mine = BatchFilter(where, SCHEMA)
    try:
        indices = mine.keep(batch) if rows else pa.array([], pa.int64())
    finally:
        mine.close()
    kept = list(range(len(rows))) if indices is None else indices.to_pylist()
    database = sqlite3.connect(":memory:")
    try:
        database.execute("CREATE TABLE t (n, id, name, price)")
        database.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?)", [(n, *row) for n, row in enumerate(rows)]
        )
        database.execute("PRAGMA case_sensitive_like = ON")
        text = where.removeprefix("WHERE ")
        expected = [n for (n,) in database.execute(f"SELECT n FROM t WHERE {text} ORDER BY n")]
    finally:
        database.close()
    assert kept == expected


def test_a_filter_reaches_no_file_no_other_table_and_no_setting(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for where in (
        f"(SELECT count(*) FROM '{secret}') = 1",
        f"EXISTS (FROM read_csv('{secret}'))",
        "getenv('HOME') = 'x'",
        "id > 1; ATTACH 'x.db'",
        "id > 1 -- comment",
        "sum(id) > 1",
        "row_number() OVER () > 1",
        "id +",
    ):
        with pytest.raises(InvalidRequest, match="where"):
            BatchFilter(where, SCHEMA)


def test_a_filter_on_an_unknown_column_lists_the_known_ones() -> None:
    with pytest.raises(SourceError, match=r"no column nope.*id, Name, price"):
        BatchFilter("nope > 1", SCHEMA)


def test_a_row_that_the_filter_cannot_judge_fails_the_task() -> None:
    mine = BatchFilter("CAST(name AS INTEGER) = 1", SCHEMA)
    batch = pa.record_batch([[1], ["x"], [1.0]], schema=SCHEMA.arrow)
    try:
        with pytest.raises(SourceError, match="where: Conversion Error"):
            mine.keep(batch)
    finally:
        mine.close()
