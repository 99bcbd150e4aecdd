"""Types of Parquet files as connectors exchange them, and the values converted to them.

dictionary                        its value type
large_string, string_view         string
(large_)binary, binary_view, fixed_size_binary   binary
half_float                        float
date64                            date32
time32                            time64[us]
timestamp[s], timestamp[ms]       timestamp[us]; nanoseconds stay
list, struct, map                 string: JSON text
null                              string
an extension (uuid, json)         what it is stored as
"""

from __future__ import annotations

import pyarrow as pa

from exchangis.connectors.files import json as files_json
from exchangis.connectors.files.arrow import Array


def plain_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 - one branch per kind of type
    """The type that values of `kind` travel in."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if isinstance(kind, pa.DictionaryType):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if (
        pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return pa.binary()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_time32(kind):
        return pa.time64("us")
    if isinstance(kind, pa.TimestampType) and kind.unit in {"s", "ms"}:
        return pa.timestamp("us", kind.tz)
    if pa.types.is_nested(kind) or pa.types.is_null(kind):
        return pa.string()
    return kind


def plain_values(values: Array, kind: pa.DataType) -> Array:
    """The values in their plain type; ValueError for nested ones that JSON cannot say (NaN)."""
    if values.type == kind:
        return values
    if isinstance(values, pa.ExtensionArray):
        return plain_values(values.storage, kind)
    if isinstance(values, pa.DictionaryArray):
        return plain_values(values.dictionary_decode(), kind)
    if pa.types.is_nested(values.type):
        texts = [None if v is None else files_json.encode(v) for v in values.to_pylist()]
        return pa.array(texts, pa.string())
    return values.cast(kind)
