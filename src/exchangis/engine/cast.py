"""Casting a column to the sink's type: fast for whole columns, exact about the rows that fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from exchangis.engine.conversions import converter
from exchangis.engine.fits import always_fits
from exchangis.engine.kinds import kind

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Failure:
    """One value that a step cannot take: its index in the array and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Caster:
    """Converts arrays of `source` into arrays of `target`."""

    source: Any
    target: Any
    convert: Callable[[Any], Any]

    @property
    def lossy(self) -> bool:
        """Whether some values of the source type cannot be held by the target type."""
        return not always_fits(self.source, self.target)

    def apply(self, array: Any) -> tuple[Any, tuple[Failure, ...]]:
        """The converted array, NULL where a value cannot be held, and these values."""
        if self.source == self.target:
            return array, ()
        try:
            return self.convert(array), ()
        except pa.ArrowInvalid:
            parts, bad = convert_bisecting(array, self.convert, self.target)
        why = f"as {self.target}"
        failures = tuple(Failure(i, f"cannot hold {shown(array[i])} {why}") for i in bad)
        return pa.concat_arrays(parts), failures


def convert_bisecting(
    array: Any, convert: Callable[[Any], Any], target: Any
) -> tuple[list[Any], list[int]]:
    """Pieces of the converted array in order, and the indices of the values that `convert` refuses.

    Refused values are NULL in the pieces. One among n costs about 2 * log2(n) conversions.
    """
    parts: list[Any] = []
    bad: list[int] = []
    stack = [(0, len(array))]
    while stack:
        start, length = stack.pop()
        try:
            parts.append(convert(array.slice(start, length)))
        except pa.ArrowInvalid:
            if length == 1:
                bad.append(start)
                parts.append(pa.nulls(1, target))
            else:
                half = length // 2
                stack.append((start + half, length - half))
                stack.append((start, half))
    return parts, bad


def caster(source: Any, target: Any) -> Caster | None:
    """A caster, or None where the two types have no lossless reading of each other."""
    convert = converter(source, target)
    return None if convert is None else Caster(source, target, convert)


def to_text(array: Any) -> Any:
    """Any array in canonical text (see `conversions`); binary that is no UTF-8 raises."""
    made = caster(array.type, pa.string())
    if made is None:
        raise pa.ArrowInvalid(f"{array.type} has no text form")
    return made.convert(array)


def shown(scalar: Any, limit: int = _SHOWN) -> str:
    """A value for people: canonical text in quotes, shortened; binary as its length."""
    if not scalar.is_valid:
        return "NULL"
    if kind(scalar.type) == "binary":
        return f"{len(scalar.as_py())} bytes"
    try:
        text = str(to_text(pa.array([scalar], scalar.type))[0].as_py())
    except pa.ArrowInvalid:
        text = str(scalar)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return repr(text)


def parse_constant(text: str, target: Any) -> Any:
    """A constant of a job (`default(0)`, `> 2020-01-01`) as a scalar of a column's type.

    ValueError when the text is no such value.
    """
    made = caster(pa.string(), target)
    if made is None:
        raise ValueError(f"a column of type {target} takes no constants")
    try:
        return made.convert(pa.array([text], pa.string()))[0]
    except pa.ArrowInvalid:
        raise ValueError(f"{text!r} is no {target}") from None
