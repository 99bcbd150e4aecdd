"""Comparing a column with constants, in the column's own type.

A number is compared as a number (integers with decimals exactly), a date as a date, text by its
Unicode code points. Comparisons with NULL are NULL, as in SQL.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from exchangis.engine.cast import parse_constant, to_text
from exchangis.engine.kinds import kind, pc

Predicate = Callable[[Any], Any]
"""From an array to a boolean array with NULL where the answer is unknown."""

_WIDE = Context(prec=200)
"""The default context keeps 28 digits; decimals have up to 76."""
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "<": pc.less,
    "<=": pc.less_equal,
}
COMPARISONS = frozenset(_COMPARE)
# What each comparison says when the constant lies above / below all values of the column's type.
_ABOVE = {"=": False, "!=": True, ">": False, ">=": False, "<": True, "<=": True}
_BELOW = {"=": False, "!=": True, ">": True, ">=": True, "<": False, "<=": False}


def _always(verdict: bool) -> Predicate:
    def predicate(array: Any) -> Any:
        return pc.if_else(pc.is_valid(array), verdict, pa.scalar(None, pa.bool_()))

    return predicate


def _number(text: str, data_type: Any) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is no {data_type}") from None
    if not number.is_finite():
        raise ValueError(f"{text!r} is no {data_type}")
    return number


def _compare_exact(operator: str, text: str, data_type: Any) -> Predicate:
    """Integers and decimals against a decimal constant of any size, without rounding either."""
    number = _number(text, data_type)
    shift = 0 if kind(data_type) == "int" else data_type.scale
    digits = 20 if kind(data_type) == "int" else data_type.precision
    if number and number.adjusted() > digits - shift:
        return _always((_ABOVE if number > 0 else _BELOW)[operator])
    whole = number.scaleb(shift, _WIDE).to_integral_value("ROUND_FLOOR", _WIDE)
    floor = whole.scaleb(-shift, _WIDE)
    wide = pa.decimal256(76, max(shift, 0))
    if floor != number:
        # Between two neighbouring values of the type: nothing equals it, > x is > floor(x).
        if operator in ("=", "!="):
            return _always(operator == "!=")
        operator = ">" if operator in (">", ">=") else "<="
    limit = pa.scalar(floor, wide)
    compare = _COMPARE[operator]
    if kind(data_type) == "int":
        return lambda array: compare(pc.cast(pc.cast(array, pa.decimal128(20, 0)), wide), limit)
    return lambda array: compare(pc.cast(array, wide), limit)


def _compare_int(operator: str, text: str, data_type: Any) -> Predicate | None:
    """The common case without widening: an integer constant within the column's type."""
    try:
        constant = parse_constant(text, data_type)
    except ValueError:
        return None
    compare = _COMPARE[operator]
    return lambda array: compare(array, constant)


def compare(operator: str, text: str, data_type: Any) -> Predicate:
    """`column operator text` in the column's type; ValueError when the text is no such value."""
    family = kind(data_type)
    if family == "int":
        return _compare_int(operator, text, data_type) or _compare_exact(operator, text, data_type)
    if family == "decimal":
        return _compare_exact(operator, text, data_type)
    function = _COMPARE[operator]
    if family == "date":
        # A date against a date with time: both as timestamps.
        stamp = pa.timestamp("us")
        moment = parse_constant(text, stamp)
        return lambda array: function(pc.cast(array, stamp), moment)
    if family in ("nested", "interval", "other"):
        return _on_text(lambda array: function(array, text), data_type)
    constant = parse_constant(text, pa.string() if family == "text" else data_type)
    if family == "text":
        return lambda array: function(pc.cast(array, pa.string()), constant)
    return lambda array: function(array, constant)


def _on_text(predicate: Predicate, data_type: Any) -> Predicate:
    if kind(data_type) == "binary":
        raise ValueError(f"a column of type {data_type} has no text to match")
    return lambda array: predicate(to_text(array))


def like(pattern: str, data_type: Any) -> Predicate:
    """SQL LIKE on the value's text: `%` any characters, `_` one, backslash escapes them."""
    return _on_text(lambda array: pc.match_like(array, pattern), data_type)


def matches(pattern: str, data_type: Any) -> Predicate:
    """Whether the RE2 pattern is found anywhere in the value's text."""
    check_pattern(pattern)
    return _on_text(lambda array: pc.match_substring_regex(array, pattern), data_type)


def check_pattern(pattern: str) -> None:
    """ValueError unless the text is a regular expression of the RE2 syntax."""
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise ValueError(str(error)) from None


def is_null(array: Any) -> Any:
    """Never NULL itself."""
    return pc.is_null(array)


def is_not_null(array: Any) -> Any:
    """Never NULL itself."""
    return pc.is_valid(array)


def negate(predicate: Predicate) -> Predicate:
    """NOT, leaving NULL."""
    return lambda array: pc.invert(predicate(array))


def either(predicates: list[Predicate]) -> Predicate:
    """OR with SQL's three values."""

    def predicate(array: Any) -> Any:
        result = predicates[0](array)
        for further in predicates[1:]:
            result = pc.or_kleene(result, further(array))
        return result

    return predicate


def both(first: Predicate, second: Predicate) -> Predicate:
    """AND with SQL's three values."""
    return lambda array: pc.and_kleene(first(array), second(array))
