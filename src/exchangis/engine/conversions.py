"""Turning an array of one Arrow type into another without ever changing a value silently.

`converter(source, target)` gives a function over whole arrays that raises `pa.ArrowInvalid` when
any value cannot be held. It is stricter than Arrow's own cast where that one bends values: decimals
wrap around when scaled up, `timestamp -> date` drops the time, `double -> decimal` rounds,
`decimal -> double` is off by one in the last place, integers turn into `true`, `0x1A` into 26.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from exchangis.engine import timecasts
from exchangis.engine.kinds import kind, pc

Convert = Callable[[Any], Any]
Make = Callable[[Any, Any], Convert]

_WIDE = Context(prec=200, Emin=-999_999, Emax=999_999)


def refuse(good: Any, why: str) -> None:
    """Raise ArrowInvalid unless every verdict is true (a null verdict counts as true)."""
    if pc.any(pc.invert(good)).as_py():
        raise pa.ArrowInvalid(why)


def each(function: Callable[[Any], Any], target: Any) -> Convert:
    """A converter from a function over Python values; its ValueErrors become ArrowInvalid."""

    def convert(array: Any) -> Any:
        try:
            values = [None if v is None else function(v) for v in array.to_pylist()]
        except (ValueError, ArithmeticError) as error:
            raise pa.ArrowInvalid(str(error)) from error
        return pa.array(values, target)

    return convert


def _chain(*steps: Convert) -> Convert:
    def convert(array: Any) -> Any:
        for step in steps:
            array = step(array)
        return array

    return convert


def _plain(_source: Any, target: Any) -> Convert:
    return lambda array: pc.cast(array, target)


def _via(middle: Any) -> Make:
    def make(source: Any, target: Any) -> Convert:
        first, second = converter(source, middle), converter(middle, target)
        if first is None or second is None:
            raise pa.ArrowNotImplementedError(f"{source} to {target}")
        return _chain(first, second)

    return make


def _trimmed(inner: Make) -> Make:
    """Text may stand between spaces when it is read as something else."""

    def make(source: Any, target: Any) -> Convert:
        convert = inner(source, target)
        return lambda array: convert(pc.utf8_trim_whitespace(array))

    return make


# Numbers ------------------------------------------------------------------------------------------


def _int_to_float(source: Any, target: Any) -> Convert:
    def convert(array: Any) -> Any:
        try:
            return pc.cast(array, target)
        except pa.ArrowInvalid:
            # Arrow refuses all integers above 2 ** 53; many of them are exact nevertheless.
            result = pc.cast(array, target, safe=False)
            refuse(pc.equal(pc.cast(result, source), array), "not exact as a float")
            return result

    return convert


def _float_to_float(source: Any, target: Any) -> Convert:
    if target.bit_width >= source.bit_width:
        return lambda array: pc.cast(array, target)

    def convert(array: Any) -> Any:
        result = pc.cast(array, target)
        if target == pa.float16():
            same = pc.equal(pc.cast(result, source), array)
        else:
            # 0.1 is held by a float as well as by a double: both print as 0.1.
            same = pc.equal(pc.cast(result, pa.string()), pc.cast(array, pa.string()))
        refuse(pc.or_(same, pc.is_nan(array)), "has more digits than the float")
        return result

    return convert


def _decimal_to_float(source: Any, target: Any) -> Convert:
    back = _text_to_decimal(pa.string(), source)

    def convert(array: Any) -> Any:
        result = pc.cast(pc.cast(array, pa.string()), target)
        refuse(pc.is_finite(result), "too large")
        refuse(pc.equal(back(pc.cast(result, pa.string())), array), "has more digits")
        return result

    return convert


def _exact_decimal(target: Any) -> Callable[[Any], Decimal]:
    step = Decimal((0, (1,), -target.scale))

    def convert(value: Any) -> Decimal:
        number = Decimal(value)
        if not number.is_finite():
            raise ValueError("not a finite number")
        if number and number.adjusted() >= target.precision - target.scale:
            raise ValueError("too many digits before the point")
        try:
            fitted = number.quantize(step, context=_WIDE)
        except InvalidOperation:
            raise ValueError("too many digits") from None
        if fitted != number:
            raise ValueError("too many digits after the point")
        return fitted

    return convert


def _decimal_to_decimal(source: Any, target: Any) -> Convert:
    whole, wanted = source.precision - source.scale, target.precision - target.scale
    if source.scale < 0 or target.scale < 0:
        return each(_exact_decimal(target), target)
    if wanted >= whole or target.scale <= source.scale:
        return lambda array: pc.cast(array, target)
    if max(source.precision, target.precision) <= 38:
        # Arrow scales up without looking for overflow; 76 digits have room for both.
        middle = pa.decimal256(76, target.scale)
        return lambda array: pc.cast(pc.cast(array, middle), target)
    return each(_exact_decimal(target), target)


def _int_to_decimal(_source: Any, target: Any) -> Convert:
    middle = pa.decimal128(20, 0)
    rescale = _decimal_to_decimal(middle, target)
    return lambda array: rescale(pc.cast(array, middle))


def _text_to_int(_source: Any, target: Any) -> Convert:
    def convert(array: Any) -> Any:
        if pc.any(pc.match_substring_regex(array, "[xX+]")).as_py():
            refuse(pc.match_substring_regex(array, "^[+-]?[0-9]+$"), "not a whole number")
            array = pc.utf8_ltrim(array, "+")
        return pc.cast(array, target)

    return convert


def _text_to_float(_source: Any, target: Any) -> Convert:
    def convert(array: Any) -> Any:
        result = pc.cast(array, target)
        worded = pc.match_substring_regex(array, "(?i)^[+-]?(nan|inf)")
        refuse(pc.or_(pc.is_finite(result), worded), "too large")
        nothing = pc.invert(pc.match_substring_regex(array, "^[^eE]*[1-9]"))
        refuse(pc.or_(pc.or_(pc.not_equal(result, 0), nothing), worded), "too small")
        return result

    return convert


def _text_to_decimal(_source: Any, target: Any) -> Convert:
    slow = each(_exact_decimal(target), target)
    if target.precision > 38 or target.scale < 0:
        return slow
    middle = pa.decimal256(76, target.scale)

    def convert(array: Any) -> Any:
        longest = pc.max(pc.utf8_length(array)).as_py() or 0
        if longest > 38 or pc.any(pc.match_substring_regex(array, "[^0-9.+-]")).as_py():
            return slow(array)
        return pc.cast(pc.cast(array, middle), target)

    return convert


def _float_to_decimal(_source: Any, target: Any) -> Convert:
    parse = _text_to_decimal(pa.string(), target)
    return lambda array: parse(pc.cast(array, pa.string()))


# Booleans -----------------------------------------------------------------------------------------

_TRUE = pa.array(["true", "t", "1", "yes", "y", "on"])
_FALSE = pa.array(["false", "f", "0", "no", "n", "off"])


def _int_to_bool(_source: Any, target: Any) -> Convert:
    def convert(array: Any) -> Any:
        refuse(pc.is_in(array, pa.array([0, 1, None], array.type)), "neither 0 nor 1")
        return pc.cast(array, target)

    return convert


def _text_to_bool(_source: Any, _target: Any) -> Convert:
    def convert(array: Any) -> Any:
        words = pc.utf8_lower(array)
        yes, no = pc.is_in(words, _TRUE), pc.is_in(words, _FALSE)
        refuse(pc.or_(pc.or_(yes, no), pc.is_null(array)), "neither true nor false")
        return pc.if_else(pc.is_valid(array), yes, pa.scalar(None, pa.bool_()))

    return convert


# Text ---------------------------------------------------------------------------------------------


def _decimal_to_text(_source: Any, _target: Any) -> Convert:
    slow = each(lambda value: format(value, "f"), pa.string())

    def convert(array: Any) -> Any:
        text = pc.cast(array, pa.string())
        # Arrow writes small values with an exponent.
        return slow(array) if pc.any(pc.match_substring(text, "E")).as_py() else text

    return convert


def _half_to_text(_source: Any, _target: Any) -> Convert:
    return lambda array: pc.cast(pc.cast(array, pa.float32()), pa.string())


def _float_to_text(source: Any, target: Any) -> Convert:
    return _half_to_text(source, target) if source == pa.float16() else _plain(source, target)


def _nested_to_text(_source: Any, _target: Any) -> Convert:
    return each(
        lambda value: json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":")),
        pa.string(),
    )


def _uuid_to_text(array: Any) -> Any:
    return pc.replace_substring_regex(
        pa.array([None if v is None else v.hex() for v in array.to_pylist()], pa.string()),
        "^(.{8})(.{4})(.{4})(.{4})(.{12})$",
        r"\1-\2-\3-\4-\5",
    )


_MAKERS: dict[tuple[str, str], Make] = {
    ("int", "int"): _plain,
    ("int", "float"): _int_to_float,
    ("int", "decimal"): _int_to_decimal,
    ("int", "bool"): _int_to_bool,
    ("int", "text"): _plain,
    ("float", "float"): _float_to_float,
    ("float", "int"): _plain,
    ("float", "decimal"): _float_to_decimal,
    ("float", "bool"): _via(pa.int64()),
    ("float", "text"): _float_to_text,
    ("decimal", "decimal"): _decimal_to_decimal,
    ("decimal", "int"): _plain,
    ("decimal", "float"): _decimal_to_float,
    ("decimal", "bool"): _via(pa.int64()),
    ("decimal", "text"): _decimal_to_text,
    ("bool", "int"): _plain,
    ("bool", "float"): _via(pa.int8()),
    ("bool", "decimal"): _via(pa.int8()),
    ("bool", "text"): _plain,
    ("text", "int"): _trimmed(_text_to_int),
    ("text", "float"): _trimmed(_text_to_float),
    ("text", "decimal"): _trimmed(_text_to_decimal),
    ("text", "bool"): _trimmed(_text_to_bool),
    ("text", "date"): _trimmed(timecasts.text_to_date),
    ("text", "timestamp"): _trimmed(timecasts.text_to_timestamp),
    ("text", "time"): _trimmed(timecasts.text_to_time),
    ("text", "duration"): _trimmed(timecasts.text_to_duration),
    ("text", "text"): _plain,
    ("text", "binary"): _plain,
    ("binary", "binary"): _plain,
    ("binary", "text"): _plain,
    ("date", "date"): _plain,
    ("date", "timestamp"): _plain,
    ("date", "text"): _plain,
    ("timestamp", "timestamp"): _plain,
    ("timestamp", "date"): timecasts.timestamp_to_date,
    ("timestamp", "text"): timecasts.timestamp_to_text,
    ("time", "time"): _plain,
    ("time", "duration"): timecasts.time_to_duration,
    ("time", "text"): timecasts.time_to_text,
    ("duration", "duration"): _plain,
    ("duration", "time"): timecasts.duration_to_time,
    ("duration", "text"): timecasts.duration_to_text,
    ("nested", "text"): _nested_to_text,
    ("interval", "text"): lambda _source, _target: each(str, pa.string()),
}
_WHOLE = {"text": pa.string(), "binary": pa.binary()}


def _guard(convert: Convert) -> Convert:
    """No conversion may turn a value into NULL or NULL into a value."""

    def guarded(array: Any) -> Any:
        result = convert(array)
        if result.null_count != array.null_count:
            raise pa.ArrowInvalid("the value would become NULL")
        return result

    return guarded


def unwrapped(source: Any) -> tuple[Any, Convert]:
    """The plain type behind dictionaries, extensions, views and large types, and the way there."""
    if pa.types.is_dictionary(source):
        inner, further = unwrapped(source.value_type)
        return inner, lambda array: further(pc.cast(array, source.value_type))
    if isinstance(source, pa.BaseExtensionType):
        if source.extension_name == "arrow.uuid":
            return pa.string(), lambda array: _uuid_to_text(array.storage)
        inner, further = unwrapped(source.storage_type)
        return inner, lambda array: further(array.storage)
    whole = _WHOLE.get(kind(source))
    if whole is not None and source != whole:
        return whole, lambda array: pc.cast(array, whole)
    return source, lambda array: array


def converter(source: Any, target: Any) -> Convert | None:
    """The converter from `source` to `target`, or None where no lossless reading exists."""
    if source == target:
        return lambda array: array
    if pa.types.is_null(source):
        return lambda array: pa.nulls(len(array), target)
    plain, unwrap = unwrapped(source)
    final = _WHOLE.get(kind(target), target)
    make = _MAKERS.get((kind(plain), kind(target)))
    if plain == final:
        steps = [unwrap]
    elif make is None:
        return None
    else:
        try:
            steps = [unwrap, make(plain, final)]
        except pa.ArrowNotImplementedError:
            return None
    if final != target:
        steps.append(lambda array: pc.cast(array, target))
    convert = _guard(_chain(*steps))
    try:
        convert(pa.array([], source))
    except (pa.ArrowNotImplementedError, pa.ArrowKeyError):
        return None
    return convert
