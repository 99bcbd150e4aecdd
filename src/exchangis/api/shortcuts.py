"""The way of the calls that are polled most: around the framework's routing and parsing.

They take texts in their path and nothing else, so that nothing needs to be parsed. Their routes
are declared like all others, and documented there; the endpoint is the same. Measured with a
SQLite store: 117 instead of 225 us of CPU per status call, HTTP included.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from exchangis.api.envelope import EnvelopeResponse


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A call: `path` is its template, `endpoint` answers given the texts in it."""

    verb: str
    path: str
    endpoint: Callable[..., Awaitable[EnvelopeResponse]]

    @property
    def pattern(self) -> re.Pattern[str]:
        named = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path)
        return re.compile(f"{named}\\Z")


class Shortcuts:
    """Answers calls that have a shortcut; hands all others on."""

    def __init__(self, app: ASGIApp, shortcuts: Iterable[Shortcut]) -> None:
        self._app = app
        self._by_end: dict[tuple[str, str], list[tuple[re.Pattern[str], Any]]] = {}
        for one in shortcuts:
            end = one.path.rsplit("/", 1)[1]
            self._by_end.setdefault((one.verb, end), []).append((one.pattern, one.endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            known = self._by_end.get((scope["method"], path[path.rfind("/") + 1 :]), ())
            for pattern, endpoint in known:
                match = pattern.match(path)
                if match is not None:
                    scope["endpoint"] = endpoint  # errors name the call by it
                    answer = await endpoint(**match.groupdict())
                    await answer(scope, receive, send)
                    return
        await self._app(scope, receive, send)
