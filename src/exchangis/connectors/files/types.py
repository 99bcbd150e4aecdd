"""Types of text files: declared by name, or inferred from the text so that no value is bent.

Inference is conservative. A column gets a type only when every value that was looked at has that
type's one plain spelling, so that nothing is lost by parsing it: digits with a leading zero or a
plus sign stay text, and so do 17-digit fractions that a double cannot hold.

    int64, uint64, decimal(38,0)   whole numbers, by the size they need
    decimal(38,s)                  numbers that all have the same `s` digits after the point
    double                         other numbers, each the exact decimal form of a double
    bool                           true / false
    date, timestamp, timestamptz   ISO 8601, at most microseconds; with zone offsets the last
    string                         everything else, and columns without any value
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from exchangis.connectors.files.arrow import Array
from exchangis.connectors.files.arrow import compute as pc
from exchangis.domain.errors import InvalidRequest

_TYPES: dict[str, pa.DataType] = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int": pa.int64(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "text": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
_DECIMAL = re.compile(r"decimal\((\d{1,2})(?:,\s*(\d{1,2}))?\)")
_WHOLE = r"^(?:0|-?[1-9][0-9]{0,37})$"
_FIXED = r"^-?(?:0|[1-9][0-9]*)\.[0-9]+$"
_SPELLED = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?$"
# Longer whole numbers are identifiers rather than measures: a double would print them otherwise.
_NUMBER = r"^-?(?:0|[1-9][0-9]{0,20})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?$"
_BOOL = r"^(?:true|false|True|False|TRUE|FALSE)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_TIMESTAMP = _MOMENT + "$"
_TIMESTAMPTZ = _MOMENT + r"(?:Z|[-+][0-9]{2}(?::?[0-9]{2})?)$"


def parse_type(text: str) -> pa.DataType:
    """The Arrow type of a declared name such as `decimal(12,2)`; ValueError lists the names."""
    name = text.strip().lower()
    if name in _TYPES:
        return _TYPES[name]
    found = _DECIMAL.fullmatch(name)
    if found:
        precision, scale = int(found[1]), int(found[2] or 0)
        if 1 <= precision <= 38 and scale <= precision:
            return pa.decimal128(precision, scale)
        if 1 <= precision <= 76 and scale <= precision:
            return pa.decimal256(precision, scale)
    raise ValueError(f"unknown type {text!r}; known are decimal(p,s), {', '.join(sorted(_TYPES))}")


def parse_schema(text: str | None) -> dict[str, pa.DataType]:
    """The option `schema`, a JSON object of column names and types; InvalidRequest otherwise."""
    if not text:
        return {}
    try:
        declared = json.loads(text)
    except ValueError as error:
        raise InvalidRequest.field("options.schema", text, f"is no JSON: {error}") from error
    if not isinstance(declared, dict) or not all(isinstance(t, str) for t in declared.values()):
        raise InvalidRequest.field(
            "options.schema", text, 'expected an object such as {"id": "int64"}'
        )
    try:
        return {name: parse_type(kind) for name, kind in declared.items()}
    except ValueError as error:
        raise InvalidRequest.field("options.schema", text, str(error)) from None


def _all(mask: Any) -> bool:
    return pc.all(mask, min_count=0).as_py() is not False


def _matches(texts: Array, pattern: str) -> bool:
    return _all(pc.match_substring_regex(texts, pattern))


def _casts(texts: Array, kind: pa.DataType) -> bool:
    try:
        texts.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def double_keeps(text: str) -> bool:
    """Whether the nearest double, printed again, is the same number."""
    try:
        return Decimal(repr(float(text))) == Decimal(text)
    except (InvalidOperation, OverflowError):
        return False


def _doubles_keep(texts: Array) -> bool:
    # At most 15 significant digits always survive; only longer ones are looked at one by one.
    digits = pc.replace_substring_regex(texts, r"[eE].*$|[-.]|^-?0\.0*", "")
    long = pc.greater(pc.utf8_length(digits), 15)
    extreme = pc.match_substring_regex(texts, r"[eE][-+]?[0-9]{3}")
    doubtful = texts.filter(pc.or_(long, extreme))
    return all(double_keeps(text) for text in doubtful.to_pylist() if text)


class Inference:
    """Narrows down the type of one column while its text goes by, chunk by chunk."""

    def __init__(self) -> None:
        self._alive: dict[str, Callable[[Array], bool]] = {
            "int64": lambda texts: _matches(texts, _WHOLE) and _casts(texts, pa.int64()),
            "uint64": lambda texts: _matches(texts, _WHOLE) and _casts(texts, pa.uint64()),
            "whole": lambda texts: _matches(texts, _WHOLE),
            "fixed": self._is_fixed,
            "double": lambda texts: _matches(texts, _NUMBER) and _doubles_keep(texts),
            "bool": lambda texts: _matches(texts, _BOOL),
            "date": lambda texts: _matches(texts, _DATE) and _casts(texts, pa.date32()),
            "timestamp": lambda t: _matches(t, _TIMESTAMP) and _casts(t, _TYPES["timestamp"]),
            "timestamptz": lambda t: _matches(t, _TIMESTAMPTZ) and _casts(t, _TYPES["timestamptz"]),
        }
        self._scale: int | None = None
        self._seen = False

    def _is_fixed(self, texts: Array) -> bool:
        if not _matches(texts, _FIXED):
            return False
        lengths = pc.utf8_length(texts)
        scales = pc.subtract(pc.subtract(lengths, pc.find_substring(texts, ".")), 1)
        low, high = (pc.min_max(scales)[side].as_py() for side in ("min", "max"))
        if low != high or self._scale not in {None, high}:
            return False
        self._scale = high
        return high <= 18 and _casts(texts, pa.decimal128(38, high))

    def look(self, texts: Array) -> None:
        """Take the column's next values into account; nulls say nothing."""
        if not self._alive and self._seen:
            return
        texts = texts.drop_null()
        if len(texts) == 0:
            return
        self._seen = True
        known: set[str] = set()
        for name, takes in list(self._alive.items()):
            if name in known:
                continue
            if not takes(texts):
                del self._alive[name]
            elif name in {"int64", "fixed"}:
                known = self._wider_than(name, texts)

    @staticmethod
    def _wider_than(name: str, texts: Array) -> set[str]:
        """Types known to take values that took `name`, so that nothing is asked twice."""
        longest = pc.max(pc.utf8_length(texts)).as_py()
        known = {"double"} if longest <= 15 else set()
        if name == "int64":
            known.add("whole")
            if pc.min(texts.cast(pa.int64())).as_py() >= 0:
                known.add("uint64")
        return known

    def type(self) -> pa.DataType:
        """The narrowest type that took every value."""
        if not self._seen or not self._alive:
            return pa.string()
        kinds: dict[str, pa.DataType] = {
            "int64": pa.int64(),
            "uint64": pa.uint64(),
            "whole": pa.decimal128(38, 0),
            "fixed": pa.decimal128(38, self._scale or 0),
            "double": pa.float64(),
            "bool": pa.bool_(),
            "date": pa.date32(),
            "timestamp": pa.timestamp("us"),
            "timestamptz": pa.timestamp("us", "UTC"),
        }
        return next(kinds[name] for name in kinds if name in self._alive)


def plain_spelling(kind: pa.DataType) -> Callable[[Array], bool]:
    """A test for the text of a column whose type was inferred from a part of the data alone.

    It refuses what parsing would bend: `007` as an integer, 20 digits as a double.
    """
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return lambda texts: _matches(texts, _WHOLE)
    if pa.types.is_decimal(kind):
        return lambda texts: _matches(texts, _SPELLED)
    if pa.types.is_floating(kind):
        return lambda texts: _matches(texts, _NUMBER) and _doubles_keep(texts)
    return lambda _texts: True


def _to_time(text: str) -> dt.time:
    return dt.time.fromisoformat(text)


def _to_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def from_text(texts: Array, kind: pa.DataType) -> Array:
    """Text parsed as `kind`, exactly; pa.ArrowInvalid when a value does not fit.

    Binary values are base64, as the sinks write them.
    """
    if pa.types.is_string(kind):
        return texts
    if pa.types.is_time(kind) or pa.types.is_binary(kind):
        parse = _to_time if pa.types.is_time(kind) else _to_bytes
        try:
            values = [None if text is None else parse(text) for text in texts.to_pylist()]
        except (ValueError, binascii.Error) as error:
            raise pa.ArrowInvalid(str(error)) from error
        return pa.array(values, kind)
    parsed = texts.cast(kind)
    if pa.types.is_floating(kind):
        refuse_overflow(texts, parsed)
    return parsed


def refuse_overflow(texts: Array, parsed: Array) -> None:
    """pa.ArrowInvalid when a number too large for a double became infinite."""
    infinite = texts.filter(pc.fill_null(pc.is_inf(parsed), False))
    if len(infinite) and _matches_any(infinite, "[0-9]"):
        raise pa.ArrowInvalid("number too large for a double")


def _matches_any(texts: Array, pattern: str) -> bool:
    return pc.any(pc.match_substring_regex(texts, pattern)).as_py() is True


def first_misfit(texts: Array, fits: Callable[[Array], bool]) -> int:
    """Index of the first value that `fits` refuses, by halving; `fits` refuses `texts` whole."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(texts.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low


def parses(texts: Array, kind: pa.DataType) -> bool:
    """Whether every text is a value of `kind`."""
    try:
        from_text(texts, kind)
    except pa.ArrowInvalid:
        return False
    return True
