"""Columns of Python values as SQLite gives and takes them, to and from Arrow arrays.

Both directions work on whole columns in native code; single cells are looked at only where a
column holds what its declared type does not promise. What dates and times may look like
(https://sqlite.org/lang_datefunc.html): ISO text with a blank or a `T`, with or without an offset
(an offset is applied: the value is then UTC, as in SQLite's own functions); INTEGER as seconds
since 1970 (or the unit that the option `epoch_unit` names); REAL as a Julian day number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.compute

from exchangis.connectors.sqlite.types import Affinity

pc: Any = pyarrow.compute  # the stubs know too few of its overloads
_NONE = type(None)
_ARROW_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)
_FRACTION = re.compile(r"(?<=:\d\d)\.(\d+)")
_EPOCH = datetime(1970, 1, 1)
_WIDE = Context(prec=120)
EPOCH_NS = {
    "seconds": 1_000_000_000,
    "milliseconds": 1_000_000,
    "microseconds": 1_000,
}
_UNIT_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_DAY_NS = 86_400_000_000_000


def arrow_column(
    values: Sequence[Any],
    target: Any,
    *,
    epoch_unit: str,
    mismatch: Callable[[int, Any], None],
) -> Any:
    """`values` as an array of `target`; `mismatch(index, value)` raises, or lets it become NULL."""
    kinds = set(map(type, values))
    kinds.discard(_NONE)
    try:
        array = _whole_column(values, kinds, target)
    except _ARROW_ERRORS:
        array = None
    if array is not None:
        return array
    converted: list[Any] = []
    for index, value in enumerate(values):
        try:
            converted.append(None if value is None else _cell(value, target, epoch_unit))
        except (ValueError, TypeError, OverflowError, InvalidOperation):
            mismatch(index, value)
            converted.append(None)
    if pa.types.is_temporal(target) and not pa.types.is_date(target):
        return pa.array(converted, pa.int64()).cast(target)
    return pa.array(converted, target)


def _whole_column(  # noqa: PLR0911 one per type
    values: Sequence[Any], kinds: set[type], target: Any
) -> Any:
    """The array where every value has the expected storage class, else None."""
    t = pa.types
    if not kinds:
        return pa.nulls(len(values), target)
    if t.is_string(target):
        return pa.array(values, target) if kinds == {str} else None
    if t.is_int64(target):
        return pa.array(values, target) if kinds == {int} else None
    if t.is_float64(target):
        return pa.array(values, target) if kinds <= {int, float} else None
    if t.is_binary(target):
        return pa.array(values, target) if kinds <= {bytes, str} else None
    if t.is_boolean(target):
        if kinds != {int}:
            return None
        numbers = pa.array(values, pa.int64())
        ends = pc.min_max(numbers).as_py()
        return numbers.cast(target) if ends["min"] >= 0 and ends["max"] <= 1 else None
    if t.is_duration(target):
        return pa.array(values, pa.int64()).cast(target) if kinds == {int} else None
    if t.is_decimal(target) and kinds == {int}:
        return pa.array([None if v is None else str(v) for v in values], pa.string()).cast(target)
    if kinds != {str}:
        return None
    texts = pa.array(values, pa.string())
    if t.is_time(target):  # Arrow parses times of day only as a part of timestamps
        moments = pc.binary_join_element_wise("1970-01-01 ", texts, "")
        return moments.cast(pa.timestamp(target.unit)).cast(target)
    return texts.cast(target)


def _cell(value: Any, target: Any, epoch_unit: str) -> Any:  # noqa: PLR0911, PLR0912 one per type
    """One value of an unexpected storage class; ValueError where it does not fit."""
    t = pa.types
    if t.is_string(target):
        if isinstance(value, bytes):
            raise ValueError("binary")
        return value if isinstance(value, str) else repr(value)
    if t.is_binary(target) and isinstance(value, bytes | str):
        return value.encode() if isinstance(value, str) else value
    if t.is_int64(target) and isinstance(value, int):
        return value
    if t.is_float64(target) and isinstance(value, int | float):
        if float(value) != value:
            raise ValueError("more digits than a double holds")
        return float(value)
    if t.is_boolean(target):
        return _boolean(value)
    if t.is_decimal(target) and isinstance(value, int | float | str):
        return _decimal(value, target)
    if t.is_duration(target) and isinstance(value, int):
        return value
    if t.is_timestamp(target):
        return _scaled(_timestamp_ns(value, epoch_unit), target.unit)
    if t.is_time(target) and isinstance(value, str):
        return _scaled(_time_ns(value), target.unit)
    if t.is_date(target):
        days, rest = divmod(_timestamp_ns(value, epoch_unit), _DAY_NS)
        if rest:
            raise ValueError("has a time of day")
        return pa.scalar(days, pa.int32()).cast(pa.date32())
    raise ValueError("another storage class")


def _boolean(value: Any) -> bool:
    words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("neither true nor false")


def _decimal(value: float | int | str, target: Any) -> Decimal:
    exact = Decimal(repr(value) if isinstance(value, float) else value)
    rounded = exact.quantize(Decimal(1).scaleb(-target.scale), context=_WIDE)
    if rounded != exact or len(rounded.as_tuple().digits) > target.precision:
        raise ValueError("more digits than declared")
    return rounded


def _scaled(nanoseconds: int, unit: str) -> int:
    count, rest = divmod(nanoseconds, _UNIT_NS[unit])
    if rest:
        raise ValueError("finer than the column's unit")
    return count


def _fraction_ns(text: str) -> tuple[str, int]:
    """The text without its fraction of a second, and that fraction in nanoseconds."""
    found = _FRACTION.search(text)
    if found is None:
        return text, 0
    digits = found.group(1)
    if digits[9:].strip("0"):
        raise ValueError("finer than a nanosecond")
    return text[: found.start()] + text[found.end() :], int(digits[:9].ljust(9, "0"))


def _timestamp_ns(value: Any, epoch_unit: str) -> int:
    if isinstance(value, int):
        return value * EPOCH_NS[epoch_unit]
    if isinstance(value, float):
        return round((value - 2_440_587.5) * 86_400_000) * 1_000_000
    if not isinstance(value, str):
        raise ValueError("binary")
    text, fraction = _fraction_ns(value.strip())
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + fraction


def _time_ns(value: str) -> int:
    text, fraction = _fraction_ns(value.strip())
    clock = time.fromisoformat(text)
    if clock.tzinfo is not None:
        raise ValueError("has an offset")
    return (clock.hour * 3600 + clock.minute * 60 + clock.second) * 1_000_000_000 + fraction


# ------------------------------------------------------------------------------ towards SQLite

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_FIRST_DAY, _LAST_DAY = (day.toordinal() - 719_163 for day in (date(1, 1, 1), date(9999, 12, 31)))


def python_column(  # noqa: PLR0911 one per type
    array: Any,
    kind: Affinity,
    *,
    nan_as_null: bool,
    refuse: Callable[[int, str], None],
) -> Any:
    """An array as the values to bind for a column of that affinity.

    `refuse(index, reason)` is told of each value that SQLite would change silently: NaN, which it
    stores as NULL; digits that its REAL cannot hold; text that a numeric affinity turns into
    another number; and times outside of the years 1 to 9999, which ISO text has no place for.
    """
    t = pa.types
    target = array.type
    if t.is_boolean(target):
        return array.cast(pa.int8()).to_pylist()
    if t.is_floating(target):
        return _floats(array, nan_as_null, refuse)
    if t.is_decimal(target):
        return _decimals(array, kind, refuse)
    if t.is_string(target) and kind not in ("TEXT", "BLOB"):
        return _texts(array, kind, refuse)
    if t.is_duration(target):
        return array.cast(pa.int64()).to_pylist()
    if t.is_date(target) or t.is_timestamp(target):
        return _moments(array, refuse)
    if t.is_time(target):
        return array.cast(pa.string()).to_pylist()
    return array.to_pylist()


def _floats(array: Any, nan_as_null: bool, refuse: Callable[[int, str], None]) -> Any:
    values = array.to_pylist()
    if not nan_as_null and pc.any(pc.is_nan(array)).as_py():
        for index, value in enumerate(values):
            if value is not None and math.isnan(value):
                refuse(index, "SQLite has no NaN (it would become NULL)")
    return values


def _decimals(array: Any, kind: Affinity, refuse: Callable[[int, str], None]) -> Any:
    texts: list[Any]
    if 0 <= array.type.scale <= 6:  # beyond, Arrow writes small numbers as 1E-10
        texts = array.cast(pa.string()).to_pylist()
    else:
        texts = [None if value is None else format(value, "f") for value in array.to_pylist()]
    # Up to 15 significant digits survive the way through a double and back.
    if kind in ("TEXT", "BLOB") or array.type.precision <= 15:
        return texts
    for index, text in enumerate(texts):
        if text is None:
            continue
        exact = Decimal(text)
        if exact == exact.to_integral_value() and abs(exact) < 2**63:
            texts[index] = int(exact)
        elif Decimal(repr(float(text))) != exact:
            refuse(index, f"{text} has more digits than SQLite's REAL keeps in this column")
    return texts


def _texts(array: Any, kind: Affinity, refuse: Callable[[int, str], None]) -> Any:
    values = array.to_pylist()
    numeric = pc.match_substring_regex(array, _NUMBER)
    if pc.any(numeric).as_py():
        for index, (value, suspect) in enumerate(zip(values, numeric.to_pylist(), strict=True)):
            if suspect and not _prints_alike(value, kind):
                refuse(index, f"SQLite would turn the text {value!r} into another number")
    return values


def _prints_alike(text: str, kind: Affinity) -> bool:
    """Whether a number made of the text by affinity reads back as the same text."""
    if kind == "REAL":
        return repr(float(text)) == text
    number = float(text)
    if text.strip("+-0123456789") == "" and abs(int(text)) < 2**63:
        return str(int(text)) == text
    return number != int(number) and repr(number) == text if abs(number) < 1e300 else False


def _moments(array: Any, refuse: Callable[[int, str], None]) -> Any:
    target = array.type
    if pa.types.is_date(target):
        numbers, low, high = array.cast(pa.date32()).cast(pa.int32()), _FIRST_DAY, _LAST_DAY
    else:
        per_day = _DAY_NS // _UNIT_NS[target.unit]
        numbers, low = array.cast(pa.int64()), max(_FIRST_DAY * per_day, -(2**63) + 1)
        high = min((_LAST_DAY + 1) * per_day - 1, 2**63 - 1)
    ends = pc.min_max(numbers).as_py()
    if ends["min"] is not None and (ends["min"] < low or ends["max"] > high):
        keep = pc.and_(pc.greater_equal(numbers, low), pc.less_equal(numbers, high))
        for index, fits in enumerate(keep.to_pylist()):
            if fits is False:
                refuse(index, "the year is outside of 1 to 9999")
        array = pc.if_else(keep, array, pa.scalar(None, target))
    if pa.types.is_timestamp(target) and target.tz is not None:
        plain = array.cast(pa.timestamp(target.unit, tz="UTC")).cast(pa.timestamp(target.unit))
        return pc.binary_join_element_wise(plain.cast(pa.string()), "+00:00", "").to_pylist()
    return array.cast(pa.string()).to_pylist()
