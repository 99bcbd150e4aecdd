"""Which conversions hold every value of their source type: for dry runs and logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from exchangis.engine.conversions import unwrapped
from exchangis.engine.kinds import kind

_INT_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
_EXACT_INT_BITS = {16: 8, 32: 16, 64: 32}
"""Widest integers (in bits, by powers of two) that a float of so many bits holds exactly."""


def _int_in_int(source: Any, target: Any) -> bool:
    signs = pa.types.is_signed_integer(source), pa.types.is_signed_integer(target)
    if signs[0] == signs[1]:
        return bool(target.bit_width >= source.bit_width)
    return signs == (False, True) and bool(target.bit_width > source.bit_width)


def _decimal_in_decimal(source: Any, target: Any) -> bool:
    whole = target.precision - target.scale >= source.precision - source.scale
    return bool(whole and target.scale >= source.scale)


_RULES: dict[tuple[str, str], Callable[[Any, Any], bool]] = {
    ("int", "int"): _int_in_int,
    ("int", "decimal"): lambda s, t: bool(t.precision - t.scale >= _INT_DIGITS[s.bit_width]),
    ("int", "float"): lambda s, t: bool(s.bit_width <= _EXACT_INT_BITS[t.bit_width]),
    ("decimal", "decimal"): _decimal_in_decimal,
    ("float", "float"): lambda s, t: bool(t.bit_width >= s.bit_width),
    ("bool", "int"): lambda _s, _t: True,
    ("bool", "float"): lambda _s, _t: True,
    ("date", "date"): lambda _s, _t: True,
    ("text", "binary"): lambda _s, t: not pa.types.is_fixed_size_binary(t),
}


def always_fits(source: Any, target: Any) -> bool:
    """Whether each value of `source` has its place in `target`."""
    if source == target or pa.types.is_null(source):
        return True
    plain, _ = unwrapped(source)
    if kind(target) == "text":
        return kind(plain) != "binary"
    rule = _RULES.get((kind(plain), kind(target)))
    return rule is not None and rule(plain, target)
