"""Exchangis's own functions, with the meaning that DataX gives them.

Where DataX counts UTF-16 units we count characters: only texts beyond the basic plane differ.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

import pyarrow as pa

from exchangis.engine import conditions
from exchangis.engine.kinds import kind, pc
from exchangis.engine.transformer import (
    Function,
    Outcome,
    Parameter,
    Transformer,
    on_text,
    refuse_unless,
)

_POSITION = Parameter("startIndex", "integer", maximum=2**31 - 1)
_LENGTH = Parameter("length", "integer", maximum=2**31 - 1)
_FILTERS = ("like", "not like", ">", "<", "=", "!=", ">=", "<=")
_EPOCH_MS = re.compile(r"^-?\d+$")


def _starts_within(text: Any, start: int) -> None:
    refuse_unless(pc.greater_equal(pc.utf8_length(text), start), "the start is beyond the value")


def _substr(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    start, length = arguments

    def kernel(text: Any) -> Any:
        _starts_within(text, start)
        return pc.utf8_slice_codeunits(text, start=start, stop=start + length)

    return on_text(kernel, data_type, "ex_substr")


def _padding(length: int, padding: str, missing: int) -> str:
    return (padding * (length // len(padding) + 1))[:missing]


def _pad(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    side, length, padding = arguments
    if not padding:
        raise ValueError("ex_pad: padChar must not be empty")

    def pad(value: str) -> str:
        more = _padding(length, padding, length - len(value))
        return more + value if side == "l" else value + more

    def kernel(text: Any) -> Any:
        text = pc.utf8_slice_codeunits(pc.fill_null(text, ""), start=0, stop=length)
        if len(padding) > 1:
            return pa.array([pad(value) for value in text.to_pylist()], pa.string())
        fill = pc.utf8_lpad if side == "l" else pc.utf8_rpad
        return fill(text, width=length, padding=padding)

    return on_text(kernel, data_type, "ex_pad")


def _replace(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    start, length, replacement = arguments

    def kernel(text: Any) -> Any:
        _starts_within(text, start)
        return pc.utf8_replace_slice(
            text, start=start, stop=start + length, replacement=replacement
        )

    return on_text(kernel, data_type, "ex_replace")


def _compared(operator: str, value: str, data_type: Any) -> conditions.Predicate:
    if kind(data_type) in ("date", "timestamp") and _EPOCH_MS.match(value.strip()):
        # DataX compares dates as milliseconds since the epoch.
        epoch = datetime.datetime(1970, 1, 1)
        try:
            value = str(epoch + datetime.timedelta(milliseconds=int(value)))
        except OverflowError:
            raise ValueError(f"{value} milliseconds are beyond the years 1 to 9999") from None
    return conditions.compare(operator, value, data_type)


def _filter(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    operator, value = arguments
    null_word = value.strip().lower() == "null" and operator in ("=", "!=")
    try:
        if operator in ("like", "not like"):
            found = conditions.matches(f"^(?:{value})$", data_type)
            found = conditions.negate(found) if operator == "not like" else found
        elif null_word:
            found = conditions.is_null if operator == "=" else conditions.is_not_null
        else:
            found = _compared(operator, value, data_type)
    except ValueError as error:
        raise ValueError(f"ex_filter: {error}") from None
    drops_null = operator in ("not like", "!=") and not null_word

    def apply(array: Any) -> Outcome:
        return Outcome(array, drop=pc.fill_null(found(array), drops_null))

    return Transformer(data_type, apply)


EXCHANGIS = (
    Function(
        "ex_substr",
        (_POSITION, _LENGTH),
        "The characters from startIndex (from 0), at most length of them; a start beyond the "
        "value makes the row dirty.",
        _substr,
        ("dx_substr",),
    ),
    Function(
        "ex_pad",
        (
            Parameter("padType", "choice", ("l", "r")),
            Parameter("length", "integer"),
            Parameter("padChar"),
        ),
        "Exactly length characters: shorter values padded left (l) or right (r), longer ones cut; "
        "NULL counts as the empty text.",
        _pad,
        ("dx_pad",),
    ),
    Function(
        "ex_replace",
        (_POSITION, _LENGTH, Parameter("replacement")),
        "The value with length characters from startIndex (from 0) replaced; a start beyond the "
        "value makes the row dirty.",
        _replace,
        ("dx_replace",),
    ),
    Function(
        "ex_filter",
        (Parameter("operator", "choice", _FILTERS), Parameter("value")),
        "Drops the rows that match and counts them as ignored. like is a regular expression over "
        "the whole value; not like and != drop NULL too; = null and != null test for NULL.",
        _filter,
        ("dx_filter",),
    ),
)
