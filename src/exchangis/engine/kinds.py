"""Families of Arrow types that convert, compare and print alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute
"""Arrow's compute functions, untyped: the stubs know only some of their forms."""

_t = pa.types
_KINDS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("bool", _t.is_boolean),
    ("int", _t.is_integer),
    ("float", _t.is_floating),
    ("decimal", _t.is_decimal),
    ("text", lambda t: _t.is_string(t) or _t.is_large_string(t) or _t.is_string_view(t)),
    (
        "binary",
        lambda t: (
            _t.is_binary(t)
            or _t.is_large_binary(t)
            or _t.is_binary_view(t)
            or _t.is_fixed_size_binary(t)
        ),
    ),
    ("date", _t.is_date),
    ("timestamp", _t.is_timestamp),
    ("time", _t.is_time),
    ("duration", _t.is_duration),
    ("interval", _t.is_interval),
    ("nested", _t.is_nested),
    ("null", _t.is_null),
)


def kind(data_type: Any) -> str:
    """bool, int, float, decimal, text, binary, date, timestamp, time, duration ... else other."""
    if isinstance(data_type, pa.BaseExtensionType):
        return "other"
    return next((name for name, matches in _KINDS if matches(data_type)), "other")
