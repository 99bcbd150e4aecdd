"""What is not the interface itself: probes, documentation, and the page at `/`."""

from __future__ import annotations

from enum import Enum
from functools import cache

from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import HTMLResponse, Response

from exchangis.api.answers import Data, Envelope
from exchangis.api.docs_page import docs_page
from exchangis.api.envelope import EnvelopeResponse
from exchangis.domain.errors import ExchangisError
from exchangis.service.services import Services
from exchangis.store.upgrade import is_current

_CSP = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
_TAG: list[str | Enum] = ["server"]


class HealthData(Data):
    """`up`, always: that it can be read says it all."""

    state: str


class ReadyData(Data):
    """`ready`, or what is not."""

    state: str


def _answer(method: str, status: int, state: str) -> dict[str, object]:
    message = "ok" if status == 0 else f"Not ready: {state}."
    data = {"state": state}
    example = {"method": method, "status": status, "message": message, "data": data}
    return {"content": {"application/json": {"example": example}}}


def add_system_routes(app: FastAPI, services: Services) -> None:
    """Add them to the app itself: they are outside of both bases."""

    @app.get(
        "/health", summary="Liveness", tags=_TAG, operation_id="health",
        response_model=Envelope[HealthData],
        responses={200: {"description": "The server answers.", **_answer("/health", 0, "up")}},
    )  # fmt: skip
    async def health() -> Response:
        """Whether the server answers at all."""
        return EnvelopeResponse("/health", {"state": "up"}, message="ok")

    @app.get(
        "/ready", summary="Readiness", tags=_TAG, operation_id="ready",
        response_model=Envelope[ReadyData],
        responses={
            200: {"description": "The store answers.", **_answer("/ready", 0, "ready")},
            503: {"description": "It does not.", "model": Envelope[ReadyData],
                  **_answer("/ready", 1, "the store does not answer")},
        },
    )  # fmt: skip
    def ready() -> Response:
        """Whether the server can serve: its store answers and has the right schema."""
        try:
            state = (
                "ready" if is_current(services.store.database)
                else "the store's schema is not that of this version"
            )  # fmt: skip
        except SQLAlchemyError:
            state = "the store does not answer"
        except ExchangisError as error:
            state = error.message
        good = state == "ready"
        return EnvelopeResponse(
            "/ready",
            {"state": state},
            status=0 if good else 1,
            message="ok" if good else f"Not ready: {state}.",
            http_status=200 if good else 503,
        )

    @cache
    def page() -> str:
        return docs_page(app.openapi())

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(page(), headers=_CSP)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return EnvelopeResponse(
            "/",
            {"name": "Exchangis", "docs": "/docs", "openapi": "/openapi.json", "ready": "/ready"},
            message="This is Exchangis; /docs lists its calls.",
        )
