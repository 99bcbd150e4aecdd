"""Casts: a value arrives as it was, or its row is dirty; it never changes silently."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchangis.engine.cast import caster, parse_constant, shown
from exchangis.engine.fits import always_fits
from exchangis.engine.kinds import kind

INTS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64()]
DECIMALS = [
    pa.decimal128(5, 2), pa.decimal128(20, 0), pa.decimal128(38, 0), pa.decimal128(38, 30),
    pa.decimal128(38, 38), pa.decimal256(65, 30), pa.decimal256(76, 76), pa.decimal64(18, 4),
]  # fmt: skip
FLOATS = [pa.float32(), pa.float64()]
NUMBERS = [*INTS, *DECIMALS, *FLOATS, pa.bool_()]


def _convert(values: list[Any], source: Any, target: Any) -> tuple[list[Any], list[int]]:
    made = caster(source, target)
    assert made is not None, (source, target)
    array, failures = made.apply(pa.array(values, source))
    assert array.type == target
    assert len(array) == len(values)
    return array.to_pylist(), [failure.index for failure in failures]


def _values_of(data_type: Any) -> st.SearchStrategy[Any]:
    family = kind(data_type)
    if family == "bool":
        return st.booleans()
    if family == "int":
        bits = data_type.bit_width
        signed = pa.types.is_signed_integer(data_type)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return st.integers(low, high) | st.integers(max(low, -9), min(high, 9))
    if family == "decimal":
        limit = 10**data_type.precision - 1
        return st.integers(-limit, limit).map(
            lambda n: Decimal((0 if n >= 0 else 1, _digits(n), -data_type.scale))
        ) | st.integers(-9, 9).filter(lambda _: data_type.precision > data_type.scale).map(Decimal)
    return st.floats(width=data_type.bit_width) | st.integers(-99, 99).map(lambda n: n / 4)


def _digits(number: int) -> tuple[int, ...]:
    return tuple(int(digit) for digit in str(abs(number)))


def _printed(value: Any, data_type: Any) -> Fraction | str:
    """The number that a value stands for; a float stands for its shortest decimal text."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        text = pa.array([value], data_type).cast(pa.string())[0].as_py()
        return Fraction(text)
    return Fraction(value)


@given(data=st.data(), source=st.sampled_from(NUMBERS), target=st.sampled_from(NUMBERS))
@settings(max_examples=600, deadline=None)
def test_numbers_keep_their_value_or_are_dirty(data: Any, source: Any, target: Any) -> None:
    values = data.draw(st.lists(st.none() | _values_of(source), max_size=5))
    given_values = pa.array(values, source).to_pylist()
    result, bad = _convert(values, source, target)
    for index, (before, after) in enumerate(zip(given_values, result, strict=True)):
        if before is None or index in bad:
            assert after is None
        elif (kind(source), kind(target)) == ("int", "float"):
            assert int(after) == before
        elif (kind(source), kind(target)) == ("float", "int"):
            assert Fraction(before) == after
        elif target == pa.float64() and kind(source) == "float":
            assert after == before or math.isnan(after)
        else:
            assert _printed(after, target) == _printed(before, source)
    if always_fits(source, target):
        assert bad == []


@given(data=st.data(), source=st.sampled_from(NUMBERS))
@settings(max_examples=300, deadline=None)
def test_numbers_survive_the_way_through_text(data: Any, source: Any) -> None:
    values = data.draw(st.lists(st.none() | _values_of(source), max_size=5))
    texts, bad = _convert(values, source, pa.string())
    assert bad == []
    back, bad = _convert(texts, pa.string(), source)
    assert bad == []
    assert pa.array(back, source).equals(pa.array(values, source)) or any(
        isinstance(value, float) and math.isnan(value) for value in values
    )
    if kind(source) == "decimal":
        assert not any("E" in text for text in texts if text)


STAMPS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)


@given(st.lists(st.none() | STAMPS), st.sampled_from([None, "UTC", "Europe/Berlin"]))
@settings(deadline=None)
def test_timestamps_survive_the_way_through_text(counts: list[int | None], zone: Any) -> None:
    stamp: Any = pa.timestamp("us", zone)
    made, back = caster(stamp, pa.string()), caster(pa.string(), stamp)
    assert made is not None and back is not None
    array = pa.array(counts, stamp)
    texts, bad = made.apply(array)
    assert not bad
    again, bad = back.apply(texts)
    assert not bad
    assert again.equals(array)


@given(st.lists(st.none() | st.integers(-(2**62), 2**62)), st.sampled_from(["s", "ms", "us"]))
@settings(deadline=None)
def test_durations_survive_the_way_through_text(counts: list[int | None], unit: Any) -> None:
    limit = 2**62 if unit == "us" else 10**12
    array = pa.array([c for c in counts if c is None or abs(c) <= limit], pa.duration(unit))
    made, back = caster(array.type, pa.string()), caster(pa.string(), array.type)
    assert made is not None and back is not None
    again, bad = back.apply(made.apply(array)[0])
    assert not bad
    assert again.equals(array)


@given(st.lists(st.none() | st.integers(0, 86_399_999_999)))
@settings(deadline=None)
def test_times_survive_the_ways_through_text_and_duration(counts: list[int | None]) -> None:
    array = pa.array(counts, pa.time64("us"))
    for middle in (pa.string(), pa.duration("us")):
        there, back = caster(array.type, middle), caster(middle, array.type)
        assert there is not None and back is not None
        assert back.apply(there.apply(array)[0])[0].equals(array)


@given(st.lists(st.none() | STAMPS))
@settings(deadline=None)
def test_only_midnights_become_dates(counts: list[int | None]) -> None:
    day = 86_400_000_000
    array = pa.array([*counts, 0, day, day + 1], pa.timestamp("us"))
    made, back = caster(array.type, pa.date32()), caster(pa.date32(), array.type)
    assert made is not None and back is not None
    dates, failures = made.apply(array)
    bad = {failure.index for failure in failures}
    for index, value in enumerate(array.cast(pa.int64()).to_pylist()):
        assert (index in bad) == (value is not None and value % day != 0)
    again = back.apply(dates)[0]
    for index in set(range(len(array))) - bad:
        assert again[index].equals(array[index])


@given(st.lists(st.none() | st.binary(max_size=8)))
def test_binary_becomes_text_only_when_it_is_utf8(values: list[bytes | None]) -> None:
    texts, bad = _convert(values, pa.binary(), pa.string())
    for index, value in enumerate(values):
        if index in bad:
            assert value is not None
            with pytest.raises(UnicodeDecodeError):
                value.decode()
        else:
            assert texts[index] == (None if value is None else value.decode())


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (["1e3", " 7 ", "9" * 40, "x"], pa.string(), pa.decimal128(20, 2), [1000, 7, None, None]),
        (["0x1A", "+5", "1.0", ""], pa.string(), pa.int64(), [None, 5, None, None]),
        (["1e400", "1e-400", "0e-9", "inf"], pa.string(), pa.float64(), [None, None, 0, math.inf]),
        (["T", "no", "maybe"], pa.string(), pa.bool_(), [True, False, None]),
        ([0, 1, 2], pa.int8(), pa.bool_(), [False, True, None]),
        (["24:00:00", "23:59"], pa.string(), pa.time64("us"), [None, dt.time(23, 59)]),
        (["2020-02-30", "0000-00-00"], pa.string(), pa.date32(), [None, None]),
        (
            ["2020-01-01 00:00:00.1234567", "2020-01-01 00:00:00.123456000"],
            pa.string(),
            pa.timestamp("us"),
            [None, dt.datetime(2020, 1, 1, 0, 0, 0, 123456)],
        ),
        (
            ["2020-01-01T02:00:00+02:00", "2020-01-01 00:00:00"],
            pa.string(),
            pa.timestamp("us"),
            [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1)],
        ),
        ([b"abc"], pa.binary(), pa.binary(2), [None]),
        ([Decimal("0.0000001")], pa.decimal128(38, 7), pa.string(), ["0.0000001"]),
        ([{"a": 1}], pa.struct({"a": pa.int64()}), pa.large_string(), ['{"a":1}']),
        ([1], pa.timestamp("us"), pa.string(), ["1970-01-01 00:00:00.000001"]),
        ([0], pa.timestamp("ms", "UTC"), pa.string(), ["1970-01-01 00:00:00+00:00"]),
        ([-1], pa.duration("us"), pa.string(), ["-00:00:00.000001"]),
        ([None], pa.null(), pa.decimal128(5, 2), [None]),
    ],
)
def test_known_cases(value: list[Any], source: Any, target: Any, expected: list[Any]) -> None:
    assert _convert(value, source, target)[0] == expected


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (pa.int64(), pa.timestamp("us")),
        (pa.timestamp("us"), pa.time64("us")),
        (pa.binary(), pa.int64()),
        (pa.string(), pa.list_(pa.int8())),
    ],
)
def test_types_without_a_reading_have_no_cast(source: Any, target: Any) -> None:
    assert caster(source, target) is None


def test_many_bad_values_among_many_are_all_found() -> None:
    values = [str(n) if n % 7 else "bad" for n in range(1000)]
    result, bad = _convert(values, pa.string(), pa.int32())
    assert bad == [n for n in range(1000) if n % 7 == 0]
    assert [v for v in result if v is not None] == [n for n in range(1000) if n % 7]


def test_dictionaries_views_and_slices_are_read_through() -> None:
    encoded = pa.array(["1", "2", None, "1"]).dictionary_encode()
    made = caster(encoded.type, pa.int8())
    assert made is not None
    assert made.apply(encoded)[0].to_pylist() == [1, 2, None, 1]
    made = caster(pa.string_view(), pa.int8())
    assert made is not None
    assert made.apply(pa.array(["9", "x", "3"], pa.string_view()).slice(1))[0].to_pylist() == [
        None,
        3,
    ]


def test_constants_are_read_in_the_columns_type() -> None:
    assert parse_constant("1.50", pa.decimal128(5, 2)).as_py() == Decimal("1.50")
    with pytest.raises(ValueError, match="'x' is no int64"):
        parse_constant("x", pa.int64())


def test_shown_values_are_short() -> None:
    assert shown(pa.scalar("x" * 500)) == repr("x" * 77 + "...")
    assert shown(pa.scalar(b"secret")) == "6 bytes"
    assert shown(pa.scalar(None, pa.int8())) == "NULL"
