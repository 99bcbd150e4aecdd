"""The one shape of every answer (contract, "Envelope")."""

from __future__ import annotations

import json
from typing import Any

import orjson
from starlette.responses import Response

from exchangis.domain.errors import (
    Conflict,
    ExchangisError,
    InvalidRequest,
    NotFound,
    NotLoggedIn,
    Overloaded,
    PermissionDenied,
    TaskError,
    TooLarge,
)

SUCCESS = "Submitted succeed(提交成功)！"
DOCUMENTED = "/api/rest_j/v1/exchangis"
FIELD = "/api/rest_j/v1/dss/exchangis/main"
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_LONGEST_VALUE = 200

# Most specific first: how an error is told to HTTP and in the envelope's `status`.
_STATUSES: tuple[tuple[type[ExchangisError], int, int], ...] = (
    (InvalidRequest, 400, 1),
    (NotLoggedIn, 401, -1),
    (PermissionDenied, 403, 2),
    (NotFound, 404, 1),
    (Conflict, 409, 1),
    (TooLarge, 413, 1),
    (Overloaded, 429, 1),
    (TaskError, 400, 1),
    (ExchangisError, 500, 1),
)


def encode(value: Any) -> bytes:
    """JSON; what orjson refuses (lone surrogates, integers beyond 64 bits) is escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()


class EnvelopeResponse(Response):
    """An answer in the envelope."""

    media_type = "application/json"

    def __init__(
        self,
        method: str,
        data: Any,
        *,
        status: int = 0,
        message: str = SUCCESS,
        http_status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        body = encode({"method": method, "status": status, "message": message, "data": data})
        super().__init__(body, http_status, _HEADERS | (headers or {}))


def failure(
    method: str,
    error: ExchangisError,
    *,
    http_status: int | None = None,
    headers: dict[str, str] | None = None,
) -> EnvelopeResponse:
    """An error in the envelope: `data.errors` names fields where the request is wrong."""
    code, status = next((c, s) for kind, c, s in _STATUSES if isinstance(error, kind))
    data: dict[str, Any] = {}
    if error.errors:
        data["errors"] = [
            {"field": one.field, "value": _shown(one.value), "reason": one.reason}
            for one in error.errors
        ]
    if isinstance(error, NotLoggedIn):
        headers = {"www-authenticate": "Bearer"} | (headers or {})
    return EnvelopeResponse(
        method,
        data,
        status=status,
        message=str(error),
        http_status=http_status or code,
        headers=headers,
    )


def _shown(value: Any) -> Any:
    """A value as an error repeats it: whole if small, else cut."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
