"""How a call is declared: once, with all that OpenAPI should say of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter

from exchangis.api.answers import Envelope, ErrorEnvelope
from exchangis.api.base import Base
from exchangis.api.envelope import DOCUMENTED, SUCCESS, EnvelopeResponse
from exchangis.api.shortcuts import Shortcut

F = TypeVar("F", bound=Callable[..., Any])

_PROBLEMS: dict[int, tuple[str, int, str, list[dict[str, Any]]]] = {
    400: (
        "The request is wrong; `data.errors` names the fields.", 1,
        "pageSize: must be between 1 and 10000 (got 0)",
        [{"field": "pageSize", "value": 0, "reason": "must be between 1 and 10000"}],
    ),
    401: ("The server needs a token.", -1, "This server needs a token.", []),
    403: ("Not for this host, or for pages of this origin.", 2,
          "Pages of 'https://elsewhere' may not change anything here.", []),
    404: ("There is no such thing.", 1, "There is no execution 0000.", []),
    409: ("Not in this state.", 1, "Execution 0000 has ended already: nothing to kill.", []),
    413: ("The body is too large.", 1, "The request body is larger than 8 MB.", []),
    429: ("Busy; try again shortly.", 1, "8 data sources are being asked already.", []),
    500: ("An error of the server's own; its log tells more.", 1,
          "Something went wrong inside of Exchangis.", []),
    503: ("The store does not answer; try again shortly.", 1, "The store does not answer.", []),
}  # fmt: skip


class Calls:
    """Adds calls to one base's router. An endpoint returns `data`; the envelope comes here."""

    def __init__(self, base: Base, tag: str) -> None:
        self.router = APIRouter(prefix=base.prefix)
        self.examples: dict[str, dict[int | str, Any]] = {}
        """By operation id and status: FastAPI itself would leave nulls out of them."""
        self.shortcuts: list[Shortcut] = []
        self._base = base
        self._tag = tag

    def add(
        self,
        verb: str,
        path: str,
        summary: str,
        *,
        data: type[Any],
        example: Any,
        prints: str | None = None,
        problems: Sequence[int] = (400, 404),
        also: Sequence[str] = (),
        inline: bool = False,
    ) -> Callable[[F], F]:
        """Declare a call. `prints` is its template where the document prints another one.

        `also` are further spellings of the path; they count as the same call. `inline` says that
        the endpoint takes nothing but texts in its path and ends within microseconds: it runs on
        the event loop itself, and before routing (see `exchangis.api.shortcuts`).
        """
        template = DOCUMENTED + (prints or path)

        def declare(endpoint: F) -> F:
            called = _enveloped(endpoint, template, inline=inline)
            answers = self._answers(template, example, verb, problems)
            for number, spelling in enumerate((path, *also)):
                name = f"{self._base.name}_{endpoint.__name__}{number or ''}"
                self.examples[name] = {
                    code: answer["content"]["application/json"]["example"]
                    for code, answer in answers.items()
                }
                if inline:
                    self.shortcuts.append(Shortcut(verb, self._base.prefix + spelling, called))
                self.router.add_api_route(
                    spelling,
                    called,
                    methods=[verb],
                    summary=summary,
                    description=inspect.getdoc(endpoint),
                    tags=[f"{self._tag} ({self._base.name} base)"],
                    operation_id=name,
                    response_model=Envelope[data],  # type: ignore[valid-type]
                    responses=answers,
                )
            return endpoint

        return declare

    def _answers(
        self, template: str, example: Any, verb: str, problems: Sequence[int]
    ) -> dict[int | str, dict[str, Any]]:
        good = {"method": template, "status": 0, "message": SUCCESS, "data": example}
        answers: dict[int | str, dict[str, Any]] = {
            200: {
                "description": "Success.",
                "content": {"application/json": {"example": good}},
            }
        }
        always = {401, 403, 500, 503} | ({413, 400} if verb != "GET" else set())
        for code in sorted({*problems, *always}):
            description, status, message, errors = _PROBLEMS[code]
            bad = {
                "method": template,
                "status": status,
                "message": message,
                "data": {"errors": errors} if errors else {},
            }
            answers[code] = {
                "model": ErrorEnvelope,
                "description": description,
                "content": {"application/json": {"example": bad}},
            }
        return answers


def _enveloped(endpoint: Callable[..., Any], template: str, *, inline: bool) -> Callable[..., Any]:
    called: Any
    if inline:

        @functools.wraps(endpoint)
        async def at_once(*args: Any, **kwargs: Any) -> EnvelopeResponse:
            return EnvelopeResponse(template, endpoint(*args, **kwargs))

        called = at_once
    else:

        @functools.wraps(endpoint)
        def in_thread(*args: Any, **kwargs: Any) -> EnvelopeResponse:
            return EnvelopeResponse(template, endpoint(*args, **kwargs))

        called = in_thread
    called.method_template = template
    return called  # type: ignore[no-any-return]
