"""Transformers: functions that change a column's values on their way to the sink.

`ex_*` are Exchangis's functions with DataX's meaning (`dx_*` are the same under DataX's names);
the others are named for what they do. Lengths and positions count Unicode characters. NULL stays
NULL unless a function says otherwise. A value that a function cannot take makes its row dirty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from exchangis.domain.model import FunctionCall
from exchangis.engine.exchangis_functions import EXCHANGIS
from exchangis.engine.plain_functions import PLAIN
from exchangis.engine.transformer import Function, Transformer


class BadCall(ValueError):
    """A function call that cannot be honoured; `part` is `name` or `params`."""

    def __init__(self, part: str, reason: str) -> None:
        self.part = part
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call, not yet bound to a column's type."""

    function: Function
    arguments: tuple[Any, ...]

    def bind(self, data_type: Any) -> Transformer:
        """ValueError when the function cannot serve a column of this type."""
        return self.function.bind(self.arguments, data_type)


_REGISTRY: Mapping[str, Function] = MappingProxyType(
    {
        name: function
        for functions_of in (EXCHANGIS, PLAIN)
        for function in functions_of
        for name in (function.name, *function.aliases)
    }
)


def parse_call(call: FunctionCall) -> Call:
    """Find the function and read its arguments; BadCall says what is wrong."""
    function = _REGISTRY.get(call.name.strip().lower())
    if function is None:
        raise BadCall("name", f"no such function; known: {', '.join(sorted(_REGISTRY))}")
    wanted = len(function.parameters)
    if len(call.params) != wanted:
        raise BadCall(
            "params",
            f"{function.signature} takes {wanted} parameter{'' if wanted == 1 else 's'}, "
            f"got {len(call.params)}",
        )
    try:
        pairs = zip(function.parameters, call.params, strict=True)
        arguments = tuple(parameter.parse(text) for parameter, text in pairs)
    except ValueError as error:
        raise BadCall("params", f"{function.name}: {error}") from None
    return Call(function, arguments)


def functions() -> list[dict[str, Any]]:
    """Every name with its parameters and description, for API and documentation."""
    return [
        {
            "funcName": name,
            "paramNames": [parameter.name for parameter in function.parameters],
            "params": [
                {"name": p.name, "kind": p.kind, "choices": list(p.choices)}
                for p in function.parameters
            ],
            "description": function.description,
        }
        for name, function in sorted(_REGISTRY.items())
    ]
