"""The type table: MySQL and MariaDB types to Arrow, and Arrow types to what we create.

Reading: integers keep their exact width and sign (TINYINT(1) is a number: it may hold 2);
DECIMAL(p,s) is decimal128 up to 38 digits, decimal256 above; FLOAT and DOUBLE are float32 and
float64; DATETIME is timestamp[us] without a zone, TIMESTAMP timestamp[us, UTC]; TIME is
duration[us], since it may be negative and longer than a day; YEAR is int16; BIT is uint64; text,
ENUM, SET, JSON, UUID and INET are string; BINARY, BLOB and GEOMETRY (as WKB, which has no SRID) are
binary.

Creating: a timestamp with a zone becomes DATETIME(6) holding UTC, because TIMESTAMP ends in 2038;
lists, structs and maps become JSON text; key columns need an indexable type, so text keys become
VARCHAR with a binary collation without padding, in which keys differ whenever their bytes do.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from exchangis.connectors.base import Column, TableSchema
from exchangis.domain.errors import InvalidRequest

INTEGERS = {
    "tinyint": (pa.int8(), pa.uint8()),
    "smallint": (pa.int16(), pa.uint16()),
    "mediumint": (pa.int32(), pa.uint32()),
    "int": (pa.int32(), pa.uint32()),
    "integer": (pa.int32(), pa.uint32()),
    "bigint": (pa.int64(), pa.uint64()),
}
BINARY = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"})
GEOMETRY = frozenset(
    {
        "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring",
        "multipolygon", "geometrycollection", "geomcollection",
    }
)  # fmt: skip
TEXT = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"})

TIMESTAMP = pa.timestamp("us", "UTC")
DATETIME = pa.timestamp("us")
DURATION = pa.duration("us")

_MAX_KEY_BYTES = 3072
"""InnoDB's limit for an index of DYNAMIC rows."""


@dataclass(frozen=True, slots=True)
class NativeColumn:
    """A column as information_schema declares it."""

    name: str
    type: str
    full_type: str
    nullable: bool = True
    precision: int | None = None
    scale: int | None = None
    charset: str | None = None
    generated: bool = False
    auto_increment: bool = False

    @property
    def arrow(self) -> pa.DataType:
        if self.type in INTEGERS:
            return INTEGERS[self.type]["unsigned" in self.full_type.lower()]
        if self.type == "decimal":
            precision, scale = self.precision or 10, self.scale or 0
            return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
        if self.type in _FIXED:
            return _FIXED[self.type]
        if self.type in BINARY or self.type in GEOMETRY:
            return pa.binary()
        return pa.string()

    @property
    def is_integer(self) -> bool:
        return self.type in INTEGERS


_FIXED: dict[str, pa.DataType] = {
    "float": pa.float32(),
    "double": pa.float64(),
    "datetime": DATETIME,
    "timestamp": TIMESTAMP,
    "date": pa.date32(),
    "time": DURATION,
    "year": pa.int16(),
    "bit": pa.uint64(),
}


def arrow_column(column: NativeColumn) -> Column:
    """The column with the Arrow type that its values travel in."""
    return Column(column.name, column.arrow, column.full_type, column.nullable)


def _native_decimal(precision: int, scale: int) -> str:
    if scale < 0:
        precision, scale = precision - scale, 0
    precision = max(precision, scale)
    if precision > 65 or scale > 30:
        return "LONGTEXT"  # wider than any DECIMAL here: kept digit by digit
    return f"DECIMAL({precision},{scale})"


_CREATED: list[tuple[object, str]] = [
    (pa.types.is_boolean, "TINYINT(1)"),
    (pa.types.is_int8, "TINYINT"),
    (pa.types.is_int16, "SMALLINT"),
    (pa.types.is_int32, "INT"),
    (pa.types.is_int64, "BIGINT"),
    (pa.types.is_uint8, "TINYINT UNSIGNED"),
    (pa.types.is_uint16, "SMALLINT UNSIGNED"),
    (pa.types.is_uint32, "INT UNSIGNED"),
    (pa.types.is_uint64, "BIGINT UNSIGNED"),
    (pa.types.is_float16, "FLOAT"),
    (pa.types.is_float32, "FLOAT"),
    (pa.types.is_float64, "DOUBLE"),
    (pa.types.is_timestamp, "DATETIME(6)"),
    (pa.types.is_date, "DATE"),
    (pa.types.is_time, "TIME(6)"),
    (pa.types.is_duration, "TIME(6)"),
    (pa.types.is_nested, "JSON"),
    (pa.types.is_null, "LONGTEXT"),
]


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _native(kind: pa.DataType, key_length: int | None, key_collation: str) -> str:
    if _is_text(kind):
        if key_length is None:
            return "LONGTEXT"
        return f"VARCHAR({key_length}) CHARACTER SET utf8mb4 COLLATE {key_collation}"
    if _is_binary(kind):
        return "LONGBLOB" if key_length is None else f"VARBINARY({key_length})"
    if pa.types.is_decimal(kind):
        return _native_decimal(kind.precision, kind.scale)
    for matches, native in _CREATED:
        if callable(matches) and matches(kind):
            return native
    raise InvalidRequest(
        f"There is no MySQL type for Arrow's {kind}.",
        guidance="Leave the column out, or create the table by hand with a type that fits.",
    )


def _travelling(kind: pa.DataType, native: str) -> pa.DataType:
    """The type that a created column's values come to the writer in."""
    if native == "LONGTEXT" or _is_text(kind):
        return pa.string()
    fixed: dict[str, pa.DataType] = {
        "TINYINT(1)": pa.int8(),
        "DATETIME(6)": DATETIME,
        "DATE": pa.date32(),
        "FLOAT": pa.float32(),
    }
    if native in fixed:
        return fixed[native]
    if pa.types.is_duration(kind):
        return DURATION
    if pa.types.is_time(kind):
        return pa.time64("us")
    if native.startswith("DECIMAL"):
        precision, scale = map(int, native[8:-1].split(","))
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    return pa.binary() if _is_binary(kind) else kind


def created_schema(
    wanted: TableSchema, key_columns: tuple[str, ...], key_collation: str
) -> TableSchema:
    """The table that we would make for `wanted`, with `key_columns` as its primary key."""
    keys = len(key_columns)
    columns = []
    for column in wanted.columns:
        kind = column.type
        if isinstance(kind, pa.DictionaryType):
            kind = kind.value_type
        key = column.name in key_columns
        length = min(255, _MAX_KEY_BYTES // 4 // keys) if key else None
        native = _native(kind, length, key_collation)
        columns.append(
            Column(column.name, _travelling(kind, native), native, column.nullable and not key)
        )
    return TableSchema(tuple(columns), key_columns, wanted.rows)
