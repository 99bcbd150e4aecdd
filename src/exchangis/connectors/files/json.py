"""JSON values with their numbers untouched, and any value as JSON text."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import re
from decimal import Decimal
from typing import Any


class Number(str):
    """A JSON number by its own digits: exact, whatever its size."""

    __slots__ = ()


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=Number)


def decode(text: str) -> Any:
    """One JSON value, numbers as `Number`; ValueError says what is wrong."""
    value = _DECODER.decode(text)
    if _SURROGATE.search(text):
        encode(value).encode()  # half of a pair is no character: refused here, with its line
    return value


def encode(value: Any) -> str:  # noqa: PLR0911, PLR0912 - one branch per kind of value
    """JSON text of a value as Arrow gives it; ValueError for what JSON cannot say (NaN).

    Decimals and integers keep their digits, times are ISO 8601, binary is base64.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Number():
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            return str(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"JSON has no number {value!r}")
            return repr(value)
        case Decimal():
            return format(value, "f")
        case bytes():
            return json.dumps(base64.b64encode(value).decode())
        case dt.datetime() if value.tzinfo is not None:
            utc = value.astimezone(dt.UTC).replace(tzinfo=None)
            return f'"{utc.isoformat(timespec="microseconds")}Z"'
        case dt.datetime():
            return f'"{value.isoformat(timespec="microseconds")}"'
        case dt.date() | dt.time():
            return f'"{value.isoformat()}"'
        case dict():
            return _object(value.items())
        case list() if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return _object(value) if _keyed(value) else _array(value)
        case list() | tuple():
            return _array(value)
    return json.dumps(str(value), ensure_ascii=False)


def _keyed(pairs: list[Any]) -> bool:
    """Whether a map's pairs can be an object: text keys, none of them twice."""
    keys = [key for key, _ in pairs]
    return all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys)


def _object(pairs: Any) -> str:
    return "{" + ",".join(f"{encode(str(key))}:{encode(item)}" for key, item in pairs) + "}"


def _array(items: Any) -> str:
    return "[" + ",".join(encode(item) for item in items) + "]"
