"""Conversions of dates, times, timestamps and durations; see `conversions` for the rules.

Canonical texts: `YYYY-MM-DD`, `HH:MM:SS[.ffffff]`, `YYYY-MM-DD HH:MM:SS[.ffffff][+00:00]`, and for
durations `[-]HH:MM:SS[.ffffff]` with as many hours as it takes (MySQL's TIME). Fractions are left
out when zero and have nine digits only where six cannot hold them. A time with a zone becomes one
without, and back, by way of UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from exchangis.domain.durations import duration_text
from exchangis.engine.kinds import pc

Convert = Callable[[Any], Any]

_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_NANOS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_ZONE = r":\d\d(\.\d+)? ?(Z|[+-]\d\d(:?\d\d)?)$"
_DAY = 86_400
_DURATION = re.compile(
    r"^(?P<sign>[+-]?)(?P<h>\d+):(?P<m>[0-5]\d):(?P<s>[0-5]\d)(?:\.(?P<f>\d+))?$"
)


def _refuse_unless(good: Any, why: str) -> None:
    if pc.any(pc.invert(good)).as_py():
        raise pa.ArrowInvalid(why)


def _without_spare_zeros(array: Any, unit: str) -> Any:
    """Texts whose fraction has zeros beyond the unit's digits, without these zeros."""
    digits = _DIGITS[unit]
    if digits == 0:
        return pc.replace_substring_regex(array, r"\.0+([^0-9].*)?$", r"\1")
    return pc.replace_substring_regex(array, rf"(\.\d{{{digits}}})0+([^0-9].*)?$", r"\1\2")


def text_to_timestamp(_source: Any, target: Any) -> Convert:
    """ISO dates and times; those with an offset and those without meet in UTC."""
    zoned = pa.timestamp(target.unit, "UTC")
    naive = pa.timestamp(target.unit)

    def convert(array: Any) -> Any:
        array = _without_spare_zeros(array, target.unit)
        offsets = pc.match_substring_regex(array, _ZONE)
        if not pc.any(offsets).as_py():
            return pc.cast(pc.cast(array, naive), target)
        _refuse_unless(offsets, "some have an offset and some have none")
        return pc.cast(pc.cast(array, zoned), target)

    return convert


def text_to_date(_source: Any, target: Any) -> Convert:
    """ISO dates; a time of midnight may follow."""
    parse = text_to_timestamp(pa.string(), pa.timestamp("us"))
    cut = timestamp_to_date(pa.timestamp("us"), target)

    def convert(array: Any) -> Any:
        try:
            return pc.cast(pc.cast(array, pa.date32()), target)
        except pa.ArrowInvalid:
            return cut(parse(array))

    return convert


def text_to_time(_source: Any, target: Any) -> Convert:
    """`HH:MM[:SS[.ffffff]]` below 24 hours."""
    stamp = pa.timestamp(target.unit)

    def convert(array: Any) -> Any:
        dated = pc.binary_join_element_wise("1970-01-01", array, " ")
        return pc.cast(pc.cast(_without_spare_zeros(dated, target.unit), stamp), target)

    return convert


def text_to_duration(_source: Any, target: Any) -> Convert:
    """`[-]HH:MM:SS[.ffffff]`, any number of hours."""
    step = _NANOS[target.unit]

    def parse(text: str) -> int:
        match = _DURATION.match(text)
        if match is None or len(match["f"] or "") > 9 or len(match["h"]) > 12:
            raise pa.ArrowInvalid("not HH:MM:SS")
        seconds = int(match["h"]) * 3600 + int(match["m"]) * 60 + int(match["s"])
        nanos = seconds * 1_000_000_000 + int((match["f"] or "0").ljust(9, "0"))
        whole, rest = divmod(nanos, step)
        if rest:
            raise pa.ArrowInvalid("the fraction has too many digits")
        return -whole if match["sign"] == "-" else whole

    def convert(array: Any) -> Any:
        try:
            counts = pa.array(
                [None if text is None else parse(text) for text in array.to_pylist()], pa.int64()
            )
        except OverflowError as error:
            raise pa.ArrowInvalid("out of range") from error
        return pc.cast(counts, target)

    return convert


def timestamp_to_date(source: Any, target: Any) -> Convert:
    """Only midnights are dates; a zone is left by way of UTC."""
    naive = pa.timestamp(source.unit)

    def convert(array: Any) -> Any:
        stamps = pc.cast(array, naive)
        days = pc.cast(stamps, pa.date32())
        _refuse_unless(pc.equal(pc.cast(days, naive), stamps), "has a time of day")
        return pc.cast(days, target)

    return convert


def _short_fraction(texts: Any) -> Any:
    texts = pc.replace_substring_regex(texts, r"\.0+(Z?)$", r"\1")
    return pc.replace_substring_regex(texts, r"(\.\d{6})000(Z?)$", r"\1\2")


def timestamp_to_text(source: Any, _target: Any) -> Convert:
    unit: Any = "us" if source.unit == "ms" else source.unit
    zone: Any = "UTC" if source.tz else None
    shown = pa.timestamp(unit, zone)

    def convert(array: Any) -> Any:
        texts = _short_fraction(pc.cast(pc.cast(array, shown), pa.string()))
        return pc.replace_substring_regex(texts, "Z$", "+00:00") if source.tz else texts

    return convert


def time_to_text(source: Any, _target: Any) -> Convert:
    shown = pa.time64("us") if source.unit == "ms" else source

    def convert(array: Any) -> Any:
        return _short_fraction(pc.cast(pc.cast(array, shown), pa.string()))

    return convert


def time_to_duration(source: Any, target: Any) -> Convert:
    fine = pa.time64("ns" if source.unit == "ns" else "us")

    def convert(array: Any) -> Any:
        counts = pc.cast(pc.cast(array, fine), pa.int64())
        return pc.cast(pc.cast(counts, pa.duration(fine.unit)), target)

    return convert


def duration_to_time(source: Any, target: Any) -> Convert:
    """Durations from 0 up to, not including, 24 hours are times of day."""
    unit: Any = "ns" if source.unit == "ns" else "us"
    day = _DAY * 1_000_000_000 // _NANOS[unit]

    def convert(array: Any) -> Any:
        counts = pc.cast(pc.cast(array, pa.duration(unit)), pa.int64())
        inside = pc.and_(pc.greater_equal(counts, 0), pc.less(counts, day))
        _refuse_unless(inside, "not within a day")
        return pc.cast(pc.cast(counts, pa.time64(unit)), target)

    return convert


def duration_to_text(source: Any, _target: Any) -> Convert:
    def convert(array: Any) -> Any:
        counts = pc.cast(array, pa.int64()).to_pylist()
        texts = [None if c is None else duration_text(c, source.unit) for c in counts]
        return pa.array(texts, pa.string())

    return convert
