"""Checking what users enter for a connector against what it declares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import SecretStr

from exchangis.connectors.base import Connector, Param
from exchangis.domain.errors import FieldError, InvalidRequest
from exchangis.domain.model import Connection

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def parse_param(param: Param, value: Any) -> Any:
    """`value` in the parameter's type; ValueError says what is expected."""
    if param.kind == "integer":
        try:
            number = int(str(value).strip())
        except ValueError:
            raise ValueError("expected a whole number") from None
        if param.minimum is not None and number < param.minimum:
            raise ValueError(f"must be at least {param.minimum}")
        if param.maximum is not None and number > param.maximum:
            raise ValueError(f"must be at most {param.maximum}")
        return number
    if param.kind == "boolean":
        word = str(value).strip().lower()
        if word not in _TRUE | _FALSE:
            raise ValueError("expected true or false")
        return word in _TRUE
    if not isinstance(value, str | int | float):
        raise ValueError("expected text")
    text = str(value)
    if "\x00" in text:
        raise ValueError("must not hold a NUL character")
    if param.kind == "choice" and text not in param.choices:
        raise ValueError(f"must be one of {', '.join(param.choices)}")
    return text


def check_params(
    declared: Iterable[Param], values: Mapping[str, Any], *, prefix: str
) -> dict[str, Any]:
    """`values` typed and completed by defaults; InvalidRequest lists every wrong one by name.

    Empty strings and nulls count as absent. The values of secret parameters are never repeated.
    """
    known = {param.name: param for param in declared}
    errors = [
        FieldError(
            f"{prefix}.{name}", None, f"unknown; known are {', '.join(sorted(known)) or 'none'}"
        )
        for name in values
        if name not in known
    ]
    checked: dict[str, Any] = {}
    for name, param in known.items():
        value = values.get(name)
        if value is None or value == "":
            if param.required:
                errors.append(FieldError(f"{prefix}.{name}", value, "is required"))
            elif param.default is not None:
                checked[name] = param.default
            continue
        try:
            checked[name] = parse_param(param, value)
        except ValueError as error:
            shown = None if param.secret else value
            errors.append(FieldError(f"{prefix}.{name}", shown, str(error)))
    if errors:
        raise InvalidRequest(
            "; ".join(
                f"{e.field}: {e.reason}" + ("" if e.value is None else f" (got {e.value!r})")
                for e in errors
            ),
            errors=tuple(errors),
        )
    return checked


def make_connection(connector: Connector, values: Mapping[str, Any]) -> Connection:
    """Checked connection parameters, the secret ones apart.

    `params`, an object (or its JSON text) of further driver parameters as deployed clients send
    it, is merged in: the same allow-list holds for it.
    """
    flat = dict(values)
    if "params" not in {param.name for param in connector.params} and "params" in flat:
        extra = flat.pop("params")
        if isinstance(extra, str) and extra.strip():
            try:
                extra = json.loads(extra)
            except ValueError:
                raise InvalidRequest.field(
                    "connectParams.params", extra, "expected a JSON object"
                ) from None
        if extra and not isinstance(extra, dict):
            raise InvalidRequest.field("connectParams.params", extra, "expected an object")
        flat = {**(extra or {}), **flat}
    checked = check_params(connector.params, flat, prefix="connectParams")
    secret_names = {param.name for param in connector.params if param.secret}
    return Connection(
        type=connector.name,
        params={name: value for name, value in checked.items() if name not in secret_names},
        secrets={name: SecretStr(str(checked[name])) for name in secret_names & checked.keys()},
    )
