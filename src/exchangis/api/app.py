"""The web application: both bases, documentation and probes behind one gate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from exchangis.api.base import BASES
from exchangis.api.errors import add_error_handlers
from exchangis.api.gate import Gate
from exchangis.api.routes_datasources import data_source_routes
from exchangis.api.routes_executions import execution_routes
from exchangis.api.routes_jobs import job_routes
from exchangis.api.routes_logs import log_routes
from exchangis.api.routes_system import add_system_routes
from exchangis.api.shortcuts import Shortcuts
from exchangis.service.services import Services

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_DESCRIPTION = (
    "Data exchange between databases and files, run as jobs of tasks. "
    "Each call is on two bases: /api/rest_j/v1/exchangis, as the interface document prints it, and "
    "/api/rest_j/v1/dss/exchangis/main, which deployed Exchangis 1.x clients use. "
    "Every answer is an envelope of method, status (0 is success), message and data."
)


def create_app(services: Services, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The application on open services; `lifespan` starts and stops what runs beside it."""
    app = FastAPI(
        title="Exchangis",
        version=version("exchangis"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        strict_content_type=False,
        separate_input_output_schemas=False,
    )
    app.state.services = services
    # What is polled comes first: routes are tried in order. And /job/listJobs is no job's id.
    polled = [make(services, base) for base in BASES for make in (execution_routes, log_routes)]
    others = [make(services, base) for base in BASES for make in (job_routes, data_source_routes)]
    examples: dict[str, dict[int | str, Any]] = {}
    for calls in (*polled, *others):
        app.include_router(calls.router)
        examples |= calls.examples
    _describe(app, examples, needs_token=services.settings.token is not None)
    add_system_routes(app, services)
    add_error_handlers(app)
    shortcuts = [one for calls in polled for one in calls.shortcuts]
    app.add_middleware(Shortcuts, shortcuts=shortcuts)
    app.add_middleware(Gate, settings=services.settings)  # the outermost: added last
    return app


def _describe(
    app: FastAPI, examples: dict[str, dict[int | str, Any]], *, needs_token: bool
) -> None:
    """Make the OpenAPI document say what is so: whole examples, no 422, and the token if needed."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            for calls in document["paths"].values():
                for call in calls.values():
                    call["responses"].pop("422", None)
                    for code, example in examples.get(call["operationId"], {}).items():
                        content = call["responses"][str(code)]["content"]["application/json"]
                        content["example"] = example
            schemas = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            if needs_token:
                document["components"]["securitySchemes"] = {
                    "token": {"type": "http", "scheme": "bearer"}
                }
                document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
