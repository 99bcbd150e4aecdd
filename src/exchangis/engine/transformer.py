"""What a transformer is made of; `functions` holds the list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from exchangis.engine.cast import Failure, caster, convert_bisecting, shown
from exchangis.engine.kinds import kind, pc

Kernel = Callable[[Any], Any]
"""From an array to one of the same length; ArrowInvalid when any value cannot be taken."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function; `minimum` and `maximum` bound integers, in characters."""

    name: str
    kind: Literal["text", "integer", "choice"] = "text"
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = 10_000

    def parse(self, text: str) -> Any:
        """The argument's value; ValueError says what is expected."""
        if self.kind == "choice":
            if text not in self.choices:
                raise ValueError(f"{self.name} must be one of {', '.join(self.choices)}")
            return text
        if self.kind == "text":
            return text
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{self.name} must be a whole number") from None
        if not self.minimum <= number <= self.maximum:
            raise ValueError(f"{self.name} must be within {self.minimum} and {self.maximum}")
        return number


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a column: values, those that could not be taken, and rows to drop."""

    array: Any
    failures: tuple[Failure, ...] = ()
    drop: Any = None


@dataclass(frozen=True, slots=True)
class Transformer:
    """A function with its arguments, bound to a column's type; `result` is the type it gives."""

    result: Any
    apply: Callable[[Any], Outcome]


@dataclass(frozen=True, slots=True)
class Function:
    """A function that jobs may name. `bind` raises ValueError when it cannot serve the type."""

    name: str
    parameters: tuple[Parameter, ...]
    description: str
    bind: Callable[[tuple[Any, ...], Any], Transformer]
    aliases: tuple[str, ...] = ()

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(p.name for p in self.parameters)})"


def run_kernel(kernel: Kernel, array: Any, result: Any, what: str) -> Outcome:
    """The kernel over the column; the values it refuses become NULL and failures."""
    try:
        return Outcome(kernel(array))
    except pa.ArrowInvalid:
        parts, bad = convert_bisecting(array, kernel, result)
    failures = tuple(Failure(i, f"{what} cannot take {shown(array[i])}") for i in bad)
    return Outcome(pa.concat_arrays(parts), failures)


def same_type(kernel: Kernel, data_type: Any, what: str) -> Transformer:
    """A transformer that keeps the column's type."""
    return Transformer(data_type, lambda array: run_kernel(kernel, array, data_type, what))


def on_text(kernel: Kernel, data_type: Any, what: str) -> Transformer:
    """A transformer over the values' canonical text; its result is text."""
    text = caster(data_type, pa.string())
    if text is None:
        raise ValueError(f"{what} cannot serve a column of type {data_type}")
    convert = text.convert
    return Transformer(
        pa.string(),
        lambda array: run_kernel(lambda part: kernel(convert(part)), array, pa.string(), what),
    )


def number_type(data_type: Any, what: str) -> None:
    """ValueError unless the type is a number."""
    if kind(data_type) not in ("int", "float", "decimal"):
        raise ValueError(f"{what} needs a column of numbers, not {data_type}")


def refuse_unless(good: Any, why: str) -> None:
    """Raise ArrowInvalid unless every verdict is true (NULL counts as true)."""
    if pc.any(pc.invert(good)).as_py():
        raise pa.ArrowInvalid(why)
