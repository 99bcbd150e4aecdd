"""DuckDB's types, the Arrow types that their values travel in, and the SQL between the two."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_UTC = pa.timestamp("us", tz="UTC")
_PLAIN: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "TIMESTAMP WITH TIME ZONE": _UTC,
    "TIME": pa.time64("us"),
    "TIME_NS": pa.time64("ns"),
}
"""Types whose values pass between DuckDB and Arrow unchanged."""
_COARSE = frozenset({"TIMESTAMP_S", "TIMESTAMP_MS"})
_HUGE = frozenset({"HUGEINT", "UHUGEINT"})
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


def quote(name: str) -> str:
    """An identifier in DuckDB's quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal: DuckDB knows no backslash escapes in it."""
    return "'" + text.replace("'", "''") + "'"


def _is_nested(native: str) -> bool:
    return native.endswith("]") or native.startswith(("STRUCT(", "MAP(", "UNION("))


def arrow_type(native: str) -> pa.DataType:
    """The Arrow type for a DuckDB type as its catalog prints it.

    128-bit integers travel as decimal(38,0); nested values as JSON text; UUID, ENUM, INTERVAL, BIT,
    BIGNUM and TIME WITH TIME ZONE as the text that DuckDB prints.
    """
    if native in _PLAIN:
        return _PLAIN[native]
    if native in _HUGE:
        return pa.decimal128(38, 0)
    if native in _COARSE:
        return pa.timestamp("us")
    if (match := _DECIMAL.fullmatch(native)) is not None:
        return pa.decimal128(int(match[1]), int(match[2]))
    return pa.string()


def reading(name: str, native: str) -> str:
    """The select expression that gives a column in its Arrow type."""
    column = quote(name)
    if native in _PLAIN or _DECIMAL.fullmatch(native):
        return column
    if native in _HUGE:
        message = literal(f"column {name}: a value of more than 38 digits does not fit: ")
        return (
            f"coalesce(TRY_CAST({column} AS DECIMAL(38,0)), CASE WHEN {column} IS NOT NULL"
            f" THEN error({message} || CAST({column} AS VARCHAR)) END) AS {column}"
        )
    if native in _COARSE:
        return f"CAST({column} AS TIMESTAMP) AS {column}"
    if _is_nested(native):
        return f"CAST(to_json({column}) AS VARCHAR) AS {column}"
    return f"CAST({column} AS VARCHAR) AS {column}"


@dataclass(frozen=True, slots=True)
class Writing:
    """How a batch column becomes a table column.

    `value` is the SQL expression, NULL where the value does not fit; `unfit` is true for those
    rows, or None when every value fits.
    """

    value: str
    unfit: str | None = None


def writing(name: str, native: str) -> Writing:
    """The conversion of a batch column of that name, typed as `arrow_type(native)`."""
    column = quote(name)
    if native in _PLAIN or _DECIMAL.fullmatch(native):
        return Writing(column)
    if native in _COARSE:  # a cast would round
        value = f"TRY_CAST({column} AS {native})"
        return Writing(value, f"CAST({value} AS TIMESTAMP) IS DISTINCT FROM {column}")
    if _is_nested(native) and not native.startswith("UNION("):
        # The lenient cast turns elements that do not fit into NULL.
        value = f"TRY(from_json_strict({column}, {literal(_json_text(native))}))"
        return Writing(value, f"{column} IS NOT NULL AND {value} IS NULL AND {column} <> 'null'")
    value = f"TRY_CAST({column} AS {native})"
    unfit = f"{column} IS NOT NULL AND {value} IS NULL"
    if native == "INTERVAL":  # the cast cuts off what is finer than its microseconds
        unfit = f"({unfit}) OR regexp_matches({column}, '[.][0-9]{{6}}[0-9]*[1-9]')"
    return Writing(value, unfit)


def _json_text(native: str) -> str:
    return json.dumps(native, ensure_ascii=False)


def proposed_type(wanted: Any) -> tuple[str, pa.DataType]:  # noqa: PLR0911 one per type
    """What a new column is declared as, and the Arrow type that it reads back as, without loss.

    Durations become INTERVAL, which travels as text. Durations of nanoseconds, decimals of more
    than 38 digits and nested values become text (VARCHAR, JSON): DuckDB's own types could not hold
    them.
    """
    t = pa.types
    if t.is_dictionary(wanted):
        return proposed_type(wanted.value_type)
    for native, carried in _PLAIN.items():
        if wanted == carried:
            return native, carried
    if t.is_float16(wanted):
        return "FLOAT", pa.float32()
    if t.is_decimal(wanted):
        scale = max(wanted.scale, 0)
        digits = max(wanted.precision - min(wanted.scale, 0), scale)
        if digits > 38:
            return "VARCHAR", pa.string()
        return f"DECIMAL({digits},{scale})", pa.decimal128(digits, scale)
    if t.is_date(wanted):
        return "DATE", pa.date32()
    if t.is_timestamp(wanted) and wanted.tz is not None:
        return "TIMESTAMP WITH TIME ZONE", _UTC
    if t.is_timestamp(wanted):
        return "TIMESTAMP", pa.timestamp("us")
    if t.is_time(wanted):
        return "TIME", pa.time64("us")
    if t.is_duration(wanted):
        return ("VARCHAR" if wanted.unit == "ns" else "INTERVAL"), pa.string()
    if t.is_large_binary(wanted) or t.is_fixed_size_binary(wanted) or t.is_binary_view(wanted):
        return "BLOB", pa.binary()
    return ("JSON" if t.is_nested(wanted) else "VARCHAR"), pa.string()
