"""Filling a job's variables, `${name}`, into its content.

A job's `jobParams` are its variables. A `${...}` that no variable fills is refused: run with it, a
filter would select the wrong rows or a table of that name would be made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from exchangis.domain.errors import InvalidRequest
from exchangis.domain.nesting import is_too_deep

_VARIABLE = re.compile(r"\$\{\s*([A-Za-z_][\w.-]{0,99})\s*\}")


def read_variables(params: Any, *, path: str = "jobParams") -> dict[str, str]:
    """Variables as stored or sent: null, an object or the JSON text of one; values become text."""
    if params is None or params == "":
        return {}
    if isinstance(params, str):
        if is_too_deep(params.encode("utf-8", "replace")):
            raise InvalidRequest.field(path, None, "is nested too deeply")
        try:
            params = json.loads(params)
        except ValueError:
            raise InvalidRequest.field(path, params, "must be a JSON object") from None
    if not isinstance(params, dict):
        raise InvalidRequest.field(path, params, "must be an object of names and values")
    variables = {}
    for name, value in params.items():
        if not isinstance(value, str | int | float | bool | None):
            raise InvalidRequest.field(f"{path}.{name}", value, "must be text or a number")
        shown = json.dumps(value) if isinstance(value, bool) else value
        variables[name] = "" if shown is None else str(shown)
    return variables


def fill_variables(value: Any, variables: Mapping[str, str], path: str) -> Any:
    """`value` with the variables filled in, in all texts at any depth."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in variables:
            raise InvalidRequest.field(
                path, match.group(), "no such variable",
                guidance=f'Set it in the job\'s jobParams: {{"{name}": ...}}.',
            )  # fmt: skip
        return variables[name]

    if isinstance(value, str):
        return _VARIABLE.sub(fill, value) if "${" in value else value
    if isinstance(value, list):
        return [fill_variables(x, variables, f"{path}[{i}]") for i, x in enumerate(value)]
    if isinstance(value, dict):
        return {k: fill_variables(x, variables, f"{path}.{k}") for k, x in value.items()}
    return value
