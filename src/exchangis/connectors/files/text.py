"""Columns as text, exactly: what the CSV and JSON Lines sinks write.

integers, decimals   their digits, never an exponent for decimals
float, double        the shortest text that gives the same value again
timestamp            2024-01-31T12:00:00.000001, in UTC with a final Z when it has a zone
date, time           2024-01-31, 12:00:00.000001
duration             [-]HH:MM:SS[.ffffff], as many hours as it takes
binary               base64
list, struct, map    JSON
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from exchangis.connectors.files import json as files_json
from exchangis.connectors.files.arrow import Array
from exchangis.connectors.files.arrow import compute as pc
from exchangis.domain.durations import duration_text
from exchangis.domain.errors import SinkError


def is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def is_text(kind: pa.DataType) -> bool:
    """Types whose text is quoted: text itself and what is no number, truth value or time."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or is_binary(kind)
        or is_nested(kind)
    )


def is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def refuse_unknown(schema: pa.Schema, name: str) -> None:
    """SinkError naming the first column whose type has no text."""
    for field in schema:
        kind = field.type
        if not (
            is_text(kind)
            or pa.types.is_primitive(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_null(kind)
            or pa.types.is_boolean(kind)
        ) or pa.types.is_interval(kind):
            raise SinkError(f"{name}: column {field.name}: {kind} cannot be written as text.")


def to_text(values: Array) -> Array:  # noqa: PLR0911 - one branch per kind of value
    """The values' text as strings, nulls kept."""
    kind = values.type
    if pa.types.is_string(kind):
        return values
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.string())
    if is_binary(kind):
        return _each(values, lambda value: base64.b64encode(value).decode())
    if is_nested(kind):
        return _each(values, files_json.encode)
    if pa.types.is_decimal(kind):
        return _plain_decimals(values)
    if pa.types.is_timestamp(kind):
        if kind.tz is not None:
            values = values.cast(pa.timestamp(kind.unit, "UTC"))
        texts: Array = pc.replace_substring(values.cast(pa.string()), " ", "T")
        return texts
    if pa.types.is_duration(kind):
        unit = kind.unit
        return _each(values.cast(pa.int64()), lambda count: duration_text(count, unit))
    if pa.types.is_float16(kind):
        values = values.cast(pa.float32())
    return values.cast(pa.string())


def _each(values: Array, text: Callable[[Any], str]) -> Array:
    return pa.array(
        [None if value is None else text(value) for value in values.to_pylist()], pa.string()
    )


def _plain_decimals(values: Array) -> Array:
    """Arrow prints small decimals as `1E-8`; here they keep their zeros."""
    texts = values.cast(pa.string())
    with_exponent = pc.fill_null(pc.match_substring(texts, "E"), False)
    if not pc.any(with_exponent).as_py():
        return texts
    plain = [format(value, "f") for value in values.filter(with_exponent).to_pylist()]
    replaced: Array = pc.replace_with_mask(texts, with_exponent, pa.array(plain, pa.string()))
    return replaced


def lines(parts: list[Any]) -> bytes:
    """Row by row, the columns in `parts` (arrays without nulls, and fixed texts) joined."""
    joined = pc.binary_join_element_wise(*parts, "")
    if isinstance(joined, pa.ChunkedArray):
        return b"".join(_data(chunk) for chunk in joined.chunks)
    return _data(joined)


def _data(texts: Array) -> bytes:
    """The array's values one after the other, taken from its buffer as they lie there."""
    if len(texts) == 0:
        return b""
    _, places, data = texts.buffers()
    assert places is not None
    assert data is not None
    offsets = memoryview(places).cast("i")
    first, last = offsets[texts.offset], offsets[texts.offset + len(texts)]
    return memoryview(data)[first:last].tobytes()
