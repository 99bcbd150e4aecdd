"""SQLite's declared types and the Arrow types that their values travel in.

SQLite gives a column an *affinity* from the letters of its declared type and stores any value in
any column (https://sqlite.org/datatype3.html). What a sink creates is therefore declared so that no
affinity bends a value, and so that the reader finds the same Arrow type again:

    DECIMAL_TEXT(p,s)  TEXT affinity: all digits stay      TIMESTAMPTZ    text ending in +00:00
    TIMESTAMP_NS       text with nine fraction digits      TIME_NS        the same for times
    INTERVAL_US        INTEGER affinity: microseconds      JSON_TEXT      TEXT affinity
"""

from __future__ import annotations

import re
from typing import Any, Literal

import pyarrow as pa

Affinity = Literal["INTEGER", "TEXT", "BLOB", "REAL", "NUMERIC"]

_DECLARED = re.compile(r"\s*([^()]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)\s*(.*))?\s*", re.DOTALL)
_UTC = pa.timestamp("us", tz="UTC")
_EXACT: dict[str, pa.DataType] = {
    "BOOL": pa.bool_(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP WITHOUT TIME ZONE": pa.timestamp("us"),
    "TIMESTAMP WITH TIME ZONE": _UTC,
    "TIMESTAMPTZ": _UTC,
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "TIMESTAMPTZ_NS": pa.timestamp("ns", tz="UTC"),
    "TIME": pa.time64("us"),
    "TIME_NS": pa.time64("ns"),
    "INTERVAL_US": pa.duration("us"),
    "YEAR": pa.int64(),
}
_DECIMALS = frozenset({"DECIMAL", "NUMERIC", "DEC", "NUMBER", "DECIMAL_TEXT"})


def affinity(declared: str, *, strict: bool = False) -> Affinity:
    """The affinity of a declared type; in STRICT tables `ANY` converts nothing."""
    text = declared.upper()
    if strict and text == "ANY":
        return "BLOB"
    if "INT" in text:
        return "INTEGER"
    if any(word in text for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not text or "BLOB" in text:
        return "BLOB"
    if any(word in text for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def arrow_type(declared: str) -> pa.DataType:  # noqa: PLR0911 one per family of types
    """The Arrow type for a declared type.

    Integers of any declared width are int64, since SQLite enforces none. A DECIMAL without
    precision holds what its NUMERIC affinity makes of it, doubles and integers: float64. Columns
    without a type and types that say nothing (`GEOMETRY`) are text.
    """
    match = _DECLARED.fullmatch(declared.upper())
    name, precision, scale, tail = match.groups() if match else (declared.upper(), None, None, None)
    name = " ".join(f"{name} {tail or ''}".split())
    if name in _EXACT:
        return _EXACT[name]
    if name in _DECIMALS:
        return _decimal(precision, scale)
    if "INTERVAL" in name or "POINT" in name:
        return pa.string()
    kind = affinity(name)
    if kind == "INTEGER":
        return pa.int64()
    if kind == "REAL":
        return pa.float64()
    if any(word in name for word in ("BLOB", "BINARY", "BYTEA")):
        return pa.binary()
    return pa.string()


def _decimal(precision: str | None, scale: str | None) -> pa.DataType:
    if precision is None:
        return pa.float64()
    digits, after = int(precision), int(scale or 0)
    if not 1 <= digits <= 76 or after > digits:
        return pa.string()
    return pa.decimal128(digits, after) if digits <= 38 else pa.decimal256(digits, after)


def proposed_type(wanted: Any) -> tuple[str, pa.DataType]:  # noqa: PLR0911 one per type
    """What a new column is declared as, and the Arrow type that it reads back as, without loss.

    Unsigned 64-bit integers do not fit SQLite's INTEGER: they become exact decimals. Nested values
    travel as JSON text.
    """
    t = pa.types
    if t.is_dictionary(wanted):
        return proposed_type(wanted.value_type)
    if t.is_boolean(wanted):
        return "BOOLEAN", pa.bool_()
    if t.is_uint64(wanted):
        return "DECIMAL_TEXT(20,0)", pa.decimal128(20, 0)
    if t.is_integer(wanted):
        return "INTEGER", pa.int64()
    if t.is_floating(wanted):
        return "REAL", pa.float64()
    if t.is_decimal(wanted):
        digits = max(wanted.precision, wanted.precision - wanted.scale)
        after = max(wanted.scale, 0)
        declared = f"DECIMAL_TEXT({max(digits, after)},{after})"
        return declared, arrow_type(declared)
    if t.is_date(wanted):
        return "DATE", pa.date32()
    if t.is_timestamp(wanted):
        declared = ("TIMESTAMP" if wanted.tz is None else "TIMESTAMPTZ") + (
            "_NS" if wanted.unit == "ns" else ""
        )
        return declared, _EXACT[declared]
    if t.is_time(wanted):
        declared = "TIME_NS" if wanted.unit == "ns" else "TIME"
        return declared, _EXACT[declared]
    if t.is_duration(wanted):
        return "INTERVAL_US", pa.duration("us")
    if (
        t.is_binary(wanted)
        or t.is_large_binary(wanted)
        or t.is_fixed_size_binary(wanted)
        or t.is_binary_view(wanted)
    ):
        return "BLOB", pa.binary()
    return ("JSON_TEXT" if t.is_nested(wanted) else "TEXT"), pa.string()
