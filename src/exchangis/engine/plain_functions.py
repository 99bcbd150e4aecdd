"""Functions named for what they do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from exchangis.engine import conditions
from exchangis.engine.cast import parse_constant
from exchangis.engine.kinds import kind, pc
from exchangis.engine.transformer import (
    Function,
    Parameter,
    Transformer,
    number_type,
    on_text,
    same_type,
)


def _text_function(name: str, description: str, kernel: Callable[[Any], Any]) -> Function:
    return Function(
        name, (), description, lambda _args, data_type: on_text(kernel, data_type, name)
    )


def _substring(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    start, length = arguments
    return on_text(
        lambda text: pc.utf8_slice_codeunits(text, start=start - 1, stop=start - 1 + length),
        data_type,
        "substring",
    )


def _replace_text(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    old, new = arguments
    if not old:
        raise ValueError("replace_text: from must not be empty")
    return on_text(
        lambda text: pc.replace_substring(text, pattern=old, replacement=new),
        data_type,
        "replace_text",
    )


def _regexp_replace(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    pattern, new = arguments
    try:
        conditions.check_pattern(pattern)
        pc.replace_substring_regex(pa.array(["a"]), pattern=pattern, replacement=new)
    except (ValueError, pa.ArrowInvalid) as error:
        raise ValueError(f"regexp_replace: {error}") from None
    return on_text(
        lambda text: pc.replace_substring_regex(text, pattern=pattern, replacement=new),
        data_type,
        "regexp_replace",
    )


def _prefix(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    return on_text(
        lambda text: pc.binary_join_element_wise(arguments[0], text, ""), data_type, "prefix"
    )


def _suffix(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    return on_text(
        lambda text: pc.binary_join_element_wise(text, arguments[0], ""), data_type, "suffix"
    )


def _default(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    try:
        constant = parse_constant(arguments[0], data_type)
    except ValueError as error:
        raise ValueError(f"default: {error}") from None
    return same_type(
        lambda array: pc.if_else(pc.is_valid(array), array, constant), data_type, "default"
    )


def _null_if(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    try:
        equals = conditions.compare("=", arguments[0], data_type)
    except ValueError as error:
        raise ValueError(f"null_if: {error}") from None
    nothing = pa.scalar(None, data_type)

    def kernel(array: Any) -> Any:
        return pc.if_else(pc.fill_null(equals(array), False), nothing, array)

    return same_type(kernel, data_type, "null_if")


def _with_room(data_type: Any) -> Any:
    if kind(data_type) == "int":
        return pa.decimal128(21, 0)
    if kind(data_type) == "decimal":
        digits = data_type.precision + 1
        wide = pa.decimal128 if digits <= 38 else pa.decimal256
        return wide(min(digits, 76), data_type.scale)
    return pa.float64()


def _round(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    number_type(data_type, "round")
    digits = arguments[0]
    # Arrow rounds within the type and wraps around where the result has one digit more.
    wide = _with_room(data_type)

    def kernel(array: Any) -> Any:
        rounded = pc.round(pc.cast(array, wide), ndigits=digits, round_mode="half_towards_infinity")
        return pc.cast(rounded, data_type)

    return same_type(kernel, data_type, "round")


def _abs(_arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    number_type(data_type, "abs")
    return same_type(pc.abs_checked, data_type, "abs")


def _hash(name: str) -> Callable[[tuple[Any, ...], Any], Transformer]:
    def digest(value: bytes | str) -> str:
        data = value.encode() if isinstance(value, str) else value
        return hashlib.new(name, data, usedforsecurity=False).hexdigest()

    def kernel(array: Any) -> Any:
        values = array.to_pylist()
        return pa.array([None if v is None else digest(v) for v in values], pa.string())

    def bind(_arguments: tuple[Any, ...], data_type: Any) -> Transformer:
        if kind(data_type) == "binary":
            text = on_text(lambda array: array, pa.string(), f"hash_{name}")
            return Transformer(pa.string(), lambda array: text.apply(kernel(array)))
        return on_text(kernel, data_type, f"hash_{name}")

    return bind


def _mask(arguments: tuple[Any, ...], data_type: Any) -> Transformer:
    keep = arguments[0]

    def kernel(text: Any) -> Any:
        values = text.to_pylist()
        shown = [None if v is None else v[max(len(v) - keep, 0) :] for v in values]
        return pa.array(
            [
                None if s is None else s.rjust(len(v), "*")
                for s, v in zip(shown, values, strict=True)
            ],
            pa.string(),
        )

    return on_text(kernel, data_type, "mask")


PLAIN = (
    _text_function("trim", "Without spaces at either end.", pc.utf8_trim_whitespace),
    _text_function("ltrim", "Without spaces at the beginning.", pc.utf8_ltrim_whitespace),
    _text_function("rtrim", "Without spaces at the end.", pc.utf8_rtrim_whitespace),
    _text_function("upper", "In upper case.", pc.utf8_upper),
    _text_function("lower", "In lower case.", pc.utf8_lower),
    Function(
        "substring",
        (
            Parameter("start", "integer", minimum=1, maximum=2**31 - 1),
            Parameter("length", "integer", maximum=2**31 - 1),
        ),
        "As in SQL: at most length characters from start (from 1); empty beyond the value.",
        _substring,
    ),
    Function(
        "replace_text",
        (Parameter("from"), Parameter("to")),
        "Every occurrence of from replaced by to.",
        _replace_text,
    ),
    Function(
        "regexp_replace",
        (Parameter("pattern"), Parameter("replacement")),
        r"Every match of the regular expression (RE2) replaced; \1 is its first group.",
        _regexp_replace,
    ),
    Function("prefix", (Parameter("text"),), "The text put before the value.", _prefix),
    Function("suffix", (Parameter("text"),), "The text put behind the value.", _suffix),
    Function("default", (Parameter("value"),), "The value where the column is NULL.", _default),
    Function("null_if", (Parameter("value"),), "NULL where the column equals value.", _null_if),
    Function(
        "round",
        (Parameter("digits", "integer", minimum=-38, maximum=76),),
        "Rounded to digits after the point, halves away from zero; the column keeps its type.",
        _round,
    ),
    Function("abs", (), "Without its sign.", _abs),
    Function("hash_md5", (), "MD5 of the text (UTF-8) or bytes, in hexadecimal.", _hash("md5")),
    Function("hash_sha256", (), "SHA-256 of the text (UTF-8) or bytes, in hex.", _hash("sha256")),
    Function(
        "mask",
        (Parameter("keep", "integer"),),
        "Every character but the last keep ones replaced by an asterisk.",
        _mask,
    ),
)
