"""What every request passes before it reaches a call: pure ASGI, since it is passed often.

- `Host` must name this server: a web page cannot reach it under a name of its own (DNS rebinding).
- A browser's write must come from a page of this server (`Origin`).
- With a token configured, calls need it; probes and the page at `/` do not.
- A body is bounded in bytes, chunked or not, in depth, and in the time that it takes to come.
- Whatever goes wrong in here or further in is answered in the envelope, and never in detail.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

import anyio
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exchangis.api.envelope import EnvelopeResponse, failure
from exchangis.config import Settings
from exchangis.domain.errors import (
    ExchangisError,
    InvalidRequest,
    NotLoggedIn,
    PermissionDenied,
    TooLarge,
)
from exchangis.domain.nesting import MAX_DEPTH, is_too_deep

_LOG = logging.getLogger("exchangis.api")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN_PATHS = frozenset({"/", "/health", "/ready"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})
_DRAIN_FACTOR = 4
"""Of a body that is too large this much more is read, so that the answer can be read at all."""
_BIG = 64 * 1024
BODY_SECONDS = 60.0
"""How long a client may take to send a body."""


class Gate:
    """See the module's text."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = _LOOPBACK_NAMES | {
            name.lower().strip("[]") for name in (settings.host, *settings.allowed_hosts)
        }
        self._any_address = settings.host in _WILDCARDS
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        self._max_body = settings.max_body_mb * 1024 * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            self._check(scope)
            if scope["method"] not in _SAFE:
                receive = await self._read_body(scope, receive)
            await self._app(scope, receive, watched)
        except Exception as error:
            answer = _answer_for(scope, error)
            if started:
                raise
            await answer(scope, receive, watched)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_allowed(_host_name(f"//{host}")):
            raise PermissionDenied(
                f"This server is not called {host[:200]!r}.",
                guidance="Use its address, or add the name to the setting allowed_hosts.",
            )
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] not in _SAFE:
            name = origin.decode("latin-1")
            if not self._is_allowed(_host_name(name)):
                raise PermissionDenied(
                    f"Pages of {name[:200]!r} may not change anything here.",
                    guidance="Add its host name to the setting allowed_hosts if they should.",
                )
        if self._token is not None and scope["path"] not in _OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                raise NotLoggedIn(
                    "This server needs a token.",
                    guidance="Send it in the header `Authorization: Bearer <token>`.",
                )

    def _is_allowed(self, name: str | None) -> bool:
        if name is None:
            return False
        if name in self._hosts:
            return True
        # An address cannot be rebound as a name can; it is ours if we listen on all of them.
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address or address.is_loopback

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive:
        """The whole body, within its limits, and a `receive` that gives it out."""
        parts: list[bytes] = []
        size = 0
        more = True
        with anyio.move_on_after(BODY_SECONDS):
            while more and size <= self._max_body * _DRAIN_FACTOR:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return _given_out([message])
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size <= self._max_body:
                    parts.append(chunk)
                more = message.get("more_body", False)
        if size > self._max_body:
            raise TooLarge(
                f"The request body is larger than {self._max_body // 1024 // 1024} MB.",
                guidance="Split the request, or raise the setting max_body_mb.",
            )
        if more:
            raise InvalidRequest(f"The request body did not arrive within {BODY_SECONDS:g} s.")
        body = b"".join(parts)
        too_deep = (
            await anyio.to_thread.run_sync(is_too_deep, body)
            if len(body) > _BIG
            else is_too_deep(body)
        )
        if too_deep:
            raise InvalidRequest.field("body", None, f"is nested deeper than {MAX_DEPTH} levels")
        return _given_out([{"type": "http.request", "body": body, "more_body": False}], receive)


def _given_out(messages: Iterable[Message], then: Receive | None = None) -> Receive:
    ready = list(messages)

    async def receive() -> Message:
        if ready:
            return ready.pop(0)
        return await then() if then is not None else {"type": "http.disconnect"}

    return receive


def _host_name(url: str) -> str | None:
    """The host of a URL or of `//host:port`, in lower case; None when there is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    name = parts.hostname
    return name.rstrip(".") if name else None


def _answer_for(scope: Scope, error: Exception) -> EnvelopeResponse:
    method = template_of(scope)
    if isinstance(error, ExchangisError):
        return failure(method, error)
    reference = secrets.token_hex(6)
    if isinstance(error, SQLAlchemyError):
        _LOG.error("Error %s in %s %s", reference, scope["method"], method, exc_info=error)
        return EnvelopeResponse(
            method, {"errorId": reference}, status=1, http_status=503,
            message=f"The store does not answer; try again shortly. (error {reference})",
        )  # fmt: skip
    _LOG.error("Error %s in %s %s", reference, scope["method"], method, exc_info=error)
    return EnvelopeResponse(
        method, {"errorId": reference}, status=1, http_status=500,
        message=f"Something went wrong inside of Exchangis. Its log tells more about error "
        f"{reference}.",
    )  # fmt: skip


def template_of(scope: Scope) -> str:
    """The route's template as the interface document prints it; the path where there is none."""
    endpoint = scope.get("endpoint")
    template = getattr(endpoint, "method_template", None)
    return template if isinstance(template, str) else scope["path"][:300]
