"""PostgreSQL's types and Arrow's: which stands for which, and what a new column gets.

| PostgreSQL                              | Arrow                                              |
| --------------------------------------- | -------------------------------------------------- |
| smallint, integer, bigint, oid          | int16, int32, int64, int64                         |
| boolean                                 | bool                                               |
| real, double precision                  | float32, float64 (NaN and infinities too)          |
| numeric(p, s), p <= 38 / p <= 76        | decimal128(p, s) / decimal256(p, s)                |
| numeric without precision, or p > 76    | string: its digits, NaN and Infinity               |
| bytea                                   | binary                                             |
| date, time, timestamp, timestamptz      | date32, time64[us], timestamp[us], timestamp[us, UTC] |
| arrays of plain types                   | string: JSON text, `[[1, null], [2, 3]]`           |
| money                                   | string: its plain number, `12.50`                  |
| interval                                | string: ISO 8601, `P1DT2H3.5S`                     |
| everything else                         | string: PostgreSQL's own text form                 |

Everything else: text, uuid, json, enums, inet, ranges, composites, bit, timetz, other arrays, ...
Domains are what they are made from. Values that Arrow's type cannot hold (infinite dates and dates
before our era, 24:00:00, NaN in numeric(p, s)) are an error or null, as the data set's options say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from exchangis.connectors.base import Column, TableSchema

Values: TypeAlias = Any
"""A pyarrow Array, of a type that its stubs cannot know."""

UTC_TIMESTAMP = pa.timestamp("us", "UTC")
_PLAIN: dict[str, pa.DataType] = {
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "bool": pa.bool_(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": UTC_TIMESTAMP,
}
# Element types whose arrays JSON holds exactly; the others stay in PostgreSQL's text form.
_JSON_ELEMENTS = frozenset(
    {"int2", "int4", "int8", "bool", "float4", "float8", "numeric"}
    | {"text", "varchar", "bpchar", "uuid", "date"}
)


@dataclass(frozen=True, slots=True)
class NativeType:
    """A column's type. `text` is format_type's; the rest is of the type below any domain.

    `builtin`: it lives in pg_catalog, so its name can be relied upon. `kind` is pg_type.typtype;
    `modifier` atttypmod; `element` names the element type of a true array.
    """

    text: str
    name: str
    builtin: bool = True
    kind: str = "b"
    modifier: int = -1
    element: str | None = None

    @property
    def json_array(self) -> bool:
        return self.builtin and self.element in _JSON_ELEMENTS

    @property
    def array(self) -> bool:
        return self.element is not None


def _numeric(modifier: int) -> pa.DataType:
    if modifier < 4:
        return pa.string()
    precision = ((modifier - 4) >> 16) & 0xFFFF
    scale = (((modifier - 4) & 0x7FF) ^ 1024) - 1024
    # PostgreSQL 15 takes scales below zero or above the precision; Arrow's readers do not.
    precision, scale = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    return decimal_type(precision, scale) or pa.string()


def decimal_type(precision: int, scale: int) -> pa.DataType | None:
    """The narrowest Arrow decimal for it, or None beyond 76 digits."""
    if precision <= 38:
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale) if precision <= 76 else None


def arrow_type(native: NativeType) -> pa.DataType:
    """The Arrow type that the values of a column travel in."""
    if not native.builtin or native.array:
        return pa.string()
    if native.name == "numeric":
        return _numeric(native.modifier)
    return _PLAIN.get(native.name, pa.string())


def _decimal_column(precision: int, scale: int) -> tuple[str, pa.DataType]:
    if scale < 0:
        precision, scale = precision - scale, 0
    precision = max(precision, scale)
    return f"numeric({precision},{scale})", decimal_type(precision, scale) or pa.string()


def _created_type(wanted: pa.DataType) -> tuple[str, pa.DataType]:  # noqa: PLR0911, PLR0912
    """What a new column for these values is declared as, and the Arrow type it then has."""
    if pa.types.is_dictionary(wanted):
        return _created_type(wanted.value_type)
    if pa.types.is_boolean(wanted):
        return "boolean", pa.bool_()
    if wanted in (pa.int8(), pa.uint8(), pa.int16()):
        return "smallint", pa.int16()
    if wanted in (pa.uint16(), pa.int32()):
        return "integer", pa.int32()
    if wanted in (pa.uint32(), pa.int64()):
        return "bigint", pa.int64()
    if wanted == pa.uint64():
        return _decimal_column(20, 0)
    if wanted in (pa.float16(), pa.float32()):
        return "real", pa.float32()
    if wanted == pa.float64():
        return "double precision", pa.float64()
    if pa.types.is_decimal(wanted):
        return _decimal_column(wanted.precision, wanted.scale)
    if pa.types.is_date(wanted):
        return "date", pa.date32()
    if pa.types.is_time(wanted):
        return "time(6)", pa.time64("us")
    if pa.types.is_timestamp(wanted):
        zoned = wanted.tz is not None
        name = "timestamp(6) with time zone" if zoned else "timestamp(6) without time zone"
        return name, UTC_TIMESTAMP if zoned else pa.timestamp("us")
    if wanted == pa.duration("ns"):
        return "text", pa.string()  # an interval would round to microseconds
    if pa.types.is_duration(wanted) or wanted == pa.month_day_nano_interval():
        return "interval", pa.string()
    if is_binary(wanted):
        return "bytea", pa.binary()
    if pa.types.is_nested(wanted):
        return "jsonb", pa.string()
    return "text", pa.string()


def is_binary(wanted: pa.DataType) -> bool:
    """Whether values are bytes, of whatever Arrow layout."""
    return (
        pa.types.is_binary(wanted)
        or pa.types.is_large_binary(wanted)
        or pa.types.is_fixed_size_binary(wanted)
        or pa.types.is_binary_view(wanted)
    )


# What `created` itself declares: a native type that came from elsewhere is no text for our DDL.
_OURS = re.compile(
    r"boolean|smallint|integer|bigint|real|double precision|numeric\(\d{1,4},\d{1,4}\)|date"
    r"|time\(6\)|timestamp\(6\) with(?:out)? time zone|interval|bytea|jsonb|text"
)


def created(wanted: TableSchema) -> TableSchema:
    """The table that `prepare` makes for these columns: native types, and the types they read as.

    No value is narrowed: unsigned integers get the next wider type, and durations of nanoseconds,
    which PostgreSQL has not, stay text. Times and timestamps with nanoseconds get microseconds: the
    engine refuses the rows whose nanoseconds would be lost. A schema made here passes unchanged.
    """
    columns = []
    for column in wanted.columns:
        native, arrow = _created_type(column.type)
        if column.type == pa.string() and column.native_type in ("interval", "jsonb"):
            native = column.native_type
        elif (
            _OURS.fullmatch(column.native_type)
            and column.native_type.startswith("numeric")
            and arrow == pa.string()
        ):
            native = column.native_type  # more digits than Arrow's decimals hold
        nullable = column.nullable and column.name not in wanted.primary_key
        columns.append(Column(column.name, arrow, native, nullable))
    return TableSchema(tuple(columns), wanted.primary_key, wanted.rows)
