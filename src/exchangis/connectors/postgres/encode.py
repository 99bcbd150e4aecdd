"""From Arrow to COPY's CSV, column by column in C++ wherever the types allow it.

Text is always quoted and NULL is the bare empty field, so that '' stays ''. Nested values become
JSON; JSON text for an array column becomes PostgreSQL's array literal.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute
from pyarrow import csv

from exchangis.connectors.postgres.catalog import Attribute
from exchangis.connectors.postgres.types import Values, is_binary

pc: Any = pyarrow.compute

_YEAR_ONE = {"s": -62_135_596_800, "ms": -62_135_596_800_000, "us": -62_135_596_800_000_000}
_YEAR_ONE_DAY = -719_162


class _Number(str):
    """A JSON number's own digits, kept as written."""

    __slots__ = ()


def _binary_to_hex(column: Values) -> Values:
    r"""Bytes to `\x...` text, a whole column at once."""
    if column.type != pa.binary():
        column = column.cast(pa.binary())
    _, offsets, data = column.buffers()
    bounds = pa.Array.from_buffers(
        pa.int64() if pa.types.is_large_binary(column.type) else pa.int32(),
        len(column) + 1,
        [None, offsets],
        offset=column.offset,
    )
    first, last = bounds[0].as_py(), bounds[-1].as_py()
    digits = binascii.hexlify(memoryview(data)[first:last]) if last > first else b""
    wide = pc.subtract(bounds.cast(pa.int64()), pa.scalar(first, pa.int64()))
    doubled = pc.multiply(wide, pa.scalar(2, pa.int64()))
    valid = column.is_valid().buffers()[1] if column.null_count else None
    text = pa.Array.from_buffers(
        pa.large_string(), len(column), [valid, doubled.buffers()[1], pa.py_buffer(digits)]
    )
    return pc.binary_join_element_wise(
        pa.scalar("\\x", pa.large_string()), text, pa.scalar("", pa.large_string())
    )


def _json_text(value: Any) -> str:
    """JSON with every number as it was written."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k, ensure_ascii=False)}: {_json_text(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _literal(value: Any) -> str:
    """A JSON list as the text of a PostgreSQL array."""
    parts = []
    for item in value:
        if item is None:
            parts.append("NULL")
        elif isinstance(item, list):
            parts.append(_literal(item))
        elif isinstance(item, bool):
            parts.append("true" if item else "false")
        elif isinstance(item, _Number):
            parts.append(item)
        else:
            text = item if isinstance(item, str) else _json_text(item)
            parts.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return "{" + ",".join(parts) + "}"


def array_literal(text: str | None) -> str | None:
    """PostgreSQL's array literal for a JSON list; other text unchanged: the server judges it.

    `[0:2]={1,2,3}` is PostgreSQL's own form too and no JSON.
    """
    if text is None or not text.lstrip().startswith("["):
        return text
    try:
        value = json.loads(text, parse_int=_Number, parse_float=_Number)
    except ValueError:
        return text
    return _literal(value)


def _json(column: Values) -> Values:
    cells = (
        None if cell is None else orjson.dumps(cell, default=str).decode()
        for cell in column.to_pylist(maps_as_pydicts="lossy")
    )
    return pa.array(list(cells), pa.large_string())


def _ancient(column: Values) -> Values:
    """Dates before our era in PostgreSQL's words: `0044-03-15 BC`."""
    # Arrow counts years through zero: 0 is 1 BC, -43 is 44 BC.
    text = column.cast(pa.string()).to_pylist()
    cells = []
    for cell in text:
        if cell is None or not cell.startswith(("-", "0000-")):
            cells.append(cell)
            continue
        year, rest = cell[1:].split("-", 1) if cell[0] == "-" else ("0", cell[5:])
        cells.append(f"{int(year) + 1:04d}-{rest} BC")
    return pa.array(cells, pa.large_string())


def _moment(column: Values) -> Values:
    kind = column.type
    if pa.types.is_timestamp(kind):
        if kind.tz is not None and kind.tz != "UTC":
            # Printed in local time, an old offset such as +00:09:21 would lose its seconds.
            column = column.cast(pa.timestamp(kind.unit, "UTC"))
        oldest = pc.min(column.cast(pa.int64())).as_py()
        limit = _YEAR_ONE.get(kind.unit)
        return _ancient(column) if limit and oldest is not None and oldest < limit else column
    column = column.cast(pa.date32())
    oldest = pc.min(column.cast(pa.int32())).as_py()
    return _ancient(column) if oldest is not None and oldest < _YEAR_ONE_DAY else column


def _interval(column: Values) -> Values:
    if pa.types.is_duration(column.type):
        unit = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}.get(column.type.unit)
        if unit is None:
            column, unit = column.cast(pa.duration("us")), "microseconds"
        number = column.cast(pa.int64()).cast(pa.string())
        return pc.binary_join_element_wise(number, unit, " ")
    cells = [
        None if cell is None
        else f"{cell.months} mons {cell.days} days"
        f" {timedelta(microseconds=cell.nanoseconds // 1000) // timedelta(microseconds=1)}"
        " microseconds"
        for cell in column.to_pylist()
    ]  # fmt: skip
    return pa.array(cells, pa.string())


def _printable(column: Values, attribute: Attribute) -> Values:  # noqa: PLR0911
    """The column in a type whose CSV form PostgreSQL reads as the same value."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _printable(column.dictionary_decode(), attribute)
    if is_binary(kind):
        return _binary_to_hex(column)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _moment(column)
    if pa.types.is_duration(kind) or kind == pa.month_day_nano_interval():
        return _interval(column)
    if pa.types.is_nested(kind):
        column = _json(column)
        kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if attribute.type.array and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return pa.array([array_literal(cell) for cell in column.to_pylist()], kind)
    return column


def encode(batch: pa.RecordBatch, attributes: Sequence[Attribute]) -> memoryview:
    """The batch's columns, which are those of `attributes` in order, as CSV rows."""
    columns = [
        _printable(column, attribute)
        for column, attribute in zip(batch.columns, attributes, strict=True)
    ]
    output = pa.BufferOutputStream()
    csv.write_csv(
        pa.RecordBatch.from_arrays(columns, names=[f"c{i}" for i in range(len(columns))]),
        output,
        csv.WriteOptions(include_header=False, quoting_style="needed", batch_size=8_192),
    )
    return memoryview(output.getvalue())
