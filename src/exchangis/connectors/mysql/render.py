"""Arrow columns as the text that LOAD DATA and INSERT take, whole columns at a time.

Python sees a cell only where there is no other way: lists, structs and maps become JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute

from exchangis.connectors.mysql.session import quote
from exchangis.connectors.mysql.types import DATETIME, DURATION, GEOMETRY, TIMESTAMP, NativeColumn

pc: Any = pyarrow.compute
Array = Any
"""`pyarrow.Array`; the stubs know neither its buffers nor scalars beside it."""
_SECOND = 1_000_000
_FRACTION = re.compile(r"\((\d)\)")


@dataclass(frozen=True, slots=True)
class Target:
    """A column to fill, as the server declares it."""

    name: str
    native: NativeColumn

    @property
    def is_bit(self) -> bool:
        return self.native.type == "bit"

    @property
    def fraction(self) -> int | None:
        """Digits of a second that a DATETIME, TIMESTAMP or TIME column keeps; None for others."""
        if self.native.type not in ("datetime", "timestamp", "time"):
            return None
        found = _FRACTION.search(self.native.full_type)
        return int(found[1]) if found else 0

    @property
    def is_geometry(self) -> bool:
        return self.native.type in GEOMETRY


def _hexed(column: Array) -> Array:
    """Hexadecimal text of binary values, all at once over the buffer that holds them."""
    column = column.cast(pa.binary())
    _validity, offsets, data = column.buffers()
    ends: Array = pa.Array.from_buffers(
        pa.int32(), len(column) + 1, [None, offsets], offset=column.offset
    )
    first, last = ends[0].as_py(), ends[-1].as_py()
    text = binascii.hexlify(memoryview(data)[first:last]) if last > first else b""
    doubled = pc.multiply(pc.subtract(ends, ends[0]), pa.scalar(2, pa.int32()))
    hexed = pa.Array.from_buffers(
        pa.string(), len(column), [None, doubled.buffers()[1], pa.py_buffer(text)]
    )
    return pc.if_else(column.is_valid(), hexed, pa.scalar(None, pa.string()))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _json(column: Array) -> Array:
    return pa.array(
        [
            None if value is None else json.dumps(value, ensure_ascii=False, default=_plain)
            for value in column.to_pylist()
        ],
        pa.string(),
    )


def _padded(number: Array, width: int) -> Array:
    return pc.utf8_lpad(number.cast(pa.string()), width, "0")


def _duration(column: Array) -> Array:
    """`-838:59:59.000000`: hours may pass 24."""
    micros = column.cast(DURATION).cast(pa.int64())
    size = pc.abs(micros)
    seconds = pc.divide(size, _SECOND)
    fraction = pc.subtract(size, pc.multiply(seconds, _SECOND))
    minutes = pc.divide(seconds, 60)
    hours = pc.divide(minutes, 60)
    clock = pc.binary_join_element_wise(
        _padded(hours, 2),
        _padded(pc.subtract(minutes, pc.multiply(hours, 60)), 2),
        _padded(pc.subtract(seconds, pc.multiply(minutes, 60)), 2),
        ":",
    )
    sign = pc.if_else(pc.less(micros, 0), "-", "")
    return pc.binary_join_element_wise(
        pc.binary_join_element_wise(sign, clock, ""), _padded(fraction, 6), "."
    )


def _timestamp(column: Array, offset: int) -> Array:
    if column.type.tz is None:
        return column.cast(DATETIME).cast(pa.string())
    instants = column.cast(TIMESTAMP)
    if offset:
        instants = pc.add(instants, pa.scalar(offset, DURATION))
    return instants.cast(DATETIME).cast(pa.string())


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def text_of(  # noqa: PLR0911 - one line per family of types
    column: Array, target: Target, offset: int
) -> Array:
    """The column's values as text (binary ones as hexadecimal); NULLs stay.

    `offset` (microseconds) is the session's zone, in which a TIMESTAMP column is written; a
    DATETIME column gets UTC.
    """
    kind = column.type
    if _is_binary(kind):
        return _hexed(column)
    if pa.types.is_nested(kind):
        return _json(column)
    if pa.types.is_timestamp(kind):
        return _timestamp(column, offset if target.native.type == "timestamp" else 0)
    if pa.types.is_duration(kind):
        return _duration(column)
    if pa.types.is_time(kind):
        return column.cast(pa.time64("us")).cast(pa.string())
    if pa.types.is_date(kind):
        return column.cast(pa.date32()).cast(pa.string())
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.string())
    if target.native.type == "year":
        return _padded(column, 4)  # the text '0' would be 2000
    return column.cast(pa.string())


def loses_fraction(column: Array, target: Target) -> bool:
    """Whether the server would round times of the column: it does so without a warning."""
    kept = target.fraction
    kind = column.type
    if kept is None or kept >= 6 or not pa.types.is_temporal(kind) or pa.types.is_date(kind):
        return False
    if pa.types.is_time(kind):
        micros = column.cast(pa.time64("us")).cast(pa.int64())
    elif pa.types.is_duration(kind):
        micros = column.cast(DURATION).cast(pa.int64())
    else:
        micros = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    unit = pa.scalar(10 ** (6 - kept), pa.int64())
    rest = pc.subtract(micros, pc.multiply(pc.divide(micros, unit), unit))
    return bool(pc.any(pc.not_equal(rest, 0)).as_py())


def _holds_text(kind: pa.DataType) -> bool:
    """Whether values may hold any character; all others are digits and punctuation."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_nested(kind)
    )


def _escaped(text: Array, *signs: tuple[str, str]) -> Array:
    for sign, replacement in signs:
        text = pc.replace_substring(text, sign, replacement)
    return text


def load_columns(targets: tuple[Target, ...], schema: pa.Schema) -> str:
    """The column list of LOAD DATA, with SET for what its text does not say by itself."""
    columns, settings = [], []
    for number, (target, field) in enumerate(zip(targets, schema, strict=True)):
        variable = f"@v{number}"
        if target.is_geometry:
            settings.append(f"{quote(target.name)} = ST_GeomFromWKB(UNHEX({variable}))")
        elif _is_binary(field.type):
            settings.append(f"{quote(target.name)} = UNHEX({variable})")
        elif target.is_bit:
            settings.append(f"{quote(target.name)} = CAST({variable} AS UNSIGNED)")
        else:
            variable = quote(target.name)
        columns.append(variable)
    return f"({', '.join(columns)})" + (f" SET {', '.join(settings)}" if settings else "")


def load_lines(batch: pa.RecordBatch, targets: tuple[Target, ...], offset: int) -> memoryview:
    r"""The batch as lines for LOAD DATA: tabs between fields, \N for NULL, backslash escapes."""
    fields = []
    for column, target in zip(batch.columns, targets, strict=True):
        text = text_of(column, target, offset)
        if _holds_text(column.type):
            text = _escaped(text, ("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"))
        fields.append(text)
    rows = pc.binary_join_element_wise(
        *fields, "\t", null_handling="replace", null_replacement="\\N"
    )
    lines = pc.binary_join_element_wise(rows, "", "\n")
    return _content(lines)


def insert_rows(
    batch: pa.RecordBatch, targets: tuple[Target, ...], offset: int
) -> tuple[memoryview, list[int]]:
    """`(...),(...),` for INSERT, and where each row ends in it (the first number is 0)."""
    fields = []
    for column, target in zip(batch.columns, targets, strict=True):
        text = text_of(column, target, offset)
        if _is_binary(column.type):
            opening, closing = "X'", "'"
            if target.is_geometry:
                opening, closing = "ST_GeomFromWKB(X'", "')"
        elif target.is_bit:
            opening, closing = "", ""  # a quoted number would be its digits' bytes
        else:
            opening, closing = "'", "'"
            if _holds_text(column.type):
                text = _escaped(text, ("\\", "\\\\"), ("'", "\\'"))
        fields.append(pc.binary_join_element_wise(opening, text, closing, ""))
    values = pc.binary_join_element_wise(
        *fields, ",", null_handling="replace", null_replacement="NULL"
    )
    rows = pc.binary_join_element_wise("(", values, "),", "")
    ends: Array = pa.Array.from_buffers(pa.int32(), len(rows) + 1, [None, rows.buffers()[1]])
    return _content(rows), ends.to_pylist()


def _content(lines: Array) -> memoryview:
    """The bytes of all values, end to end."""
    ends = pa.Array.from_buffers(pa.int32(), len(lines) + 1, [None, lines.buffers()[1]])
    data = lines.buffers()[2]
    return memoryview(data)[: ends[-1].as_py()] if data is not None else memoryview(b"")
