"""Errors that the framework finds, told in the envelope and in our words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from exchangis.api.envelope import EnvelopeResponse, failure
from exchangis.api.gate import template_of
from exchangis.domain.errors import (
    ExchangisError,
    FieldError,
    InvalidRequest,
    NotFound,
)
from exchangis.domain.masking import is_secret_name

_PLACES = frozenset({"body", "query", "path", "header"})
_REASONS = {
    "missing": "is required",
    "extra_forbidden": "unknown",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "is too large a number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "bool_type": "expected true or false, without quotes",
    "bool_parsing": "expected true or false",
    "string_type": "expected text",
    "dict_type": "expected an object",
    "model_attributes_type": "expected a JSON object, sent as Content-Type: application/json",
    "model_type": "expected a JSON object, sent as Content-Type: application/json",
}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the envelope."""

    async def expected(request: Request, error: Exception) -> EnvelopeResponse:
        assert isinstance(error, ExchangisError)
        return failure(template_of(request.scope), error)

    async def invalid(request: Request, error: Exception) -> EnvelopeResponse:
        assert isinstance(error, RequestValidationError)
        return failure(template_of(request.scope), _translated(error.errors()))

    async def http(request: Request, error: Exception) -> EnvelopeResponse:
        assert isinstance(error, HTTPException)
        return _http_failure(request, error)

    app.add_exception_handler(ExchangisError, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _http_failure(request: Request, error: HTTPException) -> EnvelopeResponse:
    method = template_of(request.scope)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return failure(
            method,
            NotFound(
                f"There is no {request.method} {request.scope['path'][:300]}.",
                guidance="See /docs for the calls that there are.",
            ),
        )
    if error.status_code == 405:
        return failure(
            method,
            InvalidRequest(
                f"{request.method} is not a way to call this.",
                guidance=f"Use {headers.get('Allow', 'another')}.",
            ),
            http_status=405,
            headers=headers,
        )
    return failure(
        method, InvalidRequest(str(error.detail)), http_status=error.status_code, headers=headers
    )


def _translated(errors: Sequence[Any]) -> InvalidRequest:
    """Pydantic's findings as field errors; what may hold a secret is not repeated."""
    found: list[FieldError] = []
    for error in errors:
        if error["type"] == "json_invalid":
            found.append(FieldError("body", None, "is not valid JSON"))
            continue
        parts = [part for part in error["loc"] if isinstance(part, str | int)]
        if parts and parts[0] in _PLACES:
            parts = parts[1:]
        name = ".".join(str(part) for part in parts) or "body"
        value = error.get("input")
        if isinstance(value, dict | list | bytes) or any(
            isinstance(part, str) and (is_secret_name(part) or part == "connectParams")
            for part in parts
        ):
            value = None
        reason = _REASONS.get(error["type"]) or _tidy(error["msg"])
        found.append(FieldError(name, value, reason))
    unique = tuple({(one.field, one.reason): one for one in found}.values())
    message = "; ".join(
        f"{one.field}: {one.reason}" + ("" if one.value is None else f" (got {one.value!r:.120})")
        for one in unique
    )
    return InvalidRequest(message, errors=unique)


def _tidy(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]
