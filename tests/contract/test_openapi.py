"""The OpenAPI document is complete and true: checked by itself, and against the answers."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema_rs import validator_for
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from exchangis.api.base import BASES, Base
from exchangis.domain.states import State
from tests.contract.conftest import DOCUMENTED, FIELD, SUCCESS, Api, Stage

_CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.response_schema_conformance,
    checks.content_type_conformance,
    checks.status_code_conformance,
    checks.allow_header_conformance,
]
_KEYS = {"method", "status", "message", "data"}
_DOCUMENTED_CALLS = {
    ("post", "/job/{id}/execute"),
    ("get", "/job/execution/{jobExecutionId}/status"),
    ("get", "/job/execution/{jobExecutionId}/tasklist"),
    ("get", "/job/execution/{jobExecutionId}/progress"),
    ("post", "/task/execution/{taskId}/metrics"),
    ("get", "/job/execution/{jobExecutionId}/log"),
    ("get", "/task/execution/{taskId}/log"),
}


@pytest.fixture(scope="session")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def _calls(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (verb, path, call)
        for path, verbs in document["paths"].items()
        for verb, call in verbs.items()
    ]


def test_every_route_is_documented_with_examples_and_errors(
    app: FastAPI, document: dict[str, Any]
) -> None:
    calls = _calls(document)
    assert {(v, p.removeprefix(DOCUMENTED)) for v, p, _ in calls} >= _DOCUMENTED_CALLS
    for verb, path, call in calls:
        where = f"{verb} {path}"
        assert call["summary"] and call["description"] and call["tags"], where
        for code, answer in call["responses"].items():
            content = answer["content"]["application/json"]
            assert answer["description"], where
            assert set(content["example"]) == _KEYS, f"{where} {code}"
            assert (content["example"]["status"] == 0) is (code == "200"), where
            assert "$ref" in content["schema"], where
        if path in ("/health", "/ready"):
            continue
        assert {"200", "401", "403", "500", "503"} <= set(call["responses"]), where
        assert "422" not in call["responses"], where
        assert call["responses"]["200"]["content"]["application/json"]["example"]["message"] == (
            SUCCESS
        )
        body = call.get("requestBody", {}).get("content", {}).get("application/json")
        if body and "LabelsBody" not in str(body["schema"]):
            assert body["schema"].get("examples") or body.get("examples"), where
        for name in re.findall(r"\{(\w+)\}", path):
            assert name in [p["name"] for p in call["parameters"]], where


def test_both_bases_have_the_same_calls(document: dict[str, Any]) -> None:
    by_base = [
        {(v, p.removeprefix(base)) for v, p, _ in _calls(document) if p.startswith(base + "/")}
        for base in (DOCUMENTED, FIELD)
    ]
    assert by_base[0] == by_base[1]
    assert len(by_base[0]) > 35


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [call["operationId"] for _, _, call in _calls(document)]
    assert len(ids) == len(set(ids))


def _validator(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    return validator_for({**schema, "components": document["components"]})


def test_examples_fit_their_own_schemas(document: dict[str, Any]) -> None:
    for verb, path, call in _calls(document):
        for code, answer in call["responses"].items():
            content = answer["content"]["application/json"]
            errors = list(_validator(document, content["schema"]).iter_errors(content["example"]))
            assert not errors, f"{verb} {path} {code}: {errors[0]}"


def test_answers_fit_the_document(
    api: Api, stage: Stage, document: dict[str, Any], job: int, execution: str
) -> None:
    def check(verb: str, template: str, body: Any = None, **values: Any) -> None:
        path = api.base.prefix + template.format(**values)
        response = api.client.request(verb, path, json=body)
        assert response.status_code == 200, response.text
        call = document["paths"][api.base.prefix + template.split("?", maxsplit=1)[0]][verb.lower()]
        schema = call["responses"]["200"]["content"]["application/json"]["schema"]
        errors = list(_validator(document, schema).iter_errors(response.json()))
        assert not errors, f"{verb} {template}: {errors[0]}"

    stage.generate(execution)
    first, second = stage.run(execution, 1) + stage.claims[execution][1:]
    stage.report(first, 0.5, lines=3)
    ids = {"jobExecutionId": execution, "taskId": first.task_id, "id": job}
    for name in ("status", "tasklist", "taskList", "progress", "log"):
        check("GET", f"/job/execution/{{jobExecutionId}}/{name}", **ids)
    check("POST", "/task/execution/{taskId}/metrics", {"jobExecutionId": execution}, **ids)
    waiting = ids | {"taskId": second.task_id}
    check("POST", "/task/execution/{taskId}/metrics", {"jobExecutionId": execution}, **waiting)
    check("GET", "/job/listJobs")
    check("GET", "/job")
    check("GET", "/job/{id}", **ids)
    check("PUT", "/job/{id}", {"jobDesc": "x"}, **ids)
    check("PUT", "/job/{id}/content", {"content": [{"source": "x"}]}, **ids)
    check("PUT", "/job/{id}/config", {}, **ids)
    check("POST", "/job/{id}/copy", **ids)
    for name in ("engineType", "Executor", "func/verify", "func/transform"):
        check("GET", f"/job/{name}")
    source = {"type": "SQLITE", "id": stage.source_id, "db": "main"}
    check("PUT", "/datasources/{type}/{id}/connect", **source)
    check("GET", "/datasources/{type}/{id}/dbs", **source)
    check("GET", "/datasources/{type}/{id}/dbs/{db}/tables", **source)
    check("GET", "/datasources/{id}", **source)
    check("GET", "/datasources/{id}/versions", **source)
    check("POST", "/datasources/query")
    check("GET", "/datasources/type")
    check("GET", "/datasources/types/{typeId}/keydefines", typeId="MYSQL")
    check("POST", "/job/execution/{jobExecutionId}/kill", **ids)
    for claim in (first, second):
        stage.finish(claim, State.CANCELLED)
    check("GET", "/job/{jobExecutionId}/allTaskStatus", **ids)
    check("POST", "/job/{jobExecutionId}/deleteJob", **ids)
    check("DELETE", "/job/{id}", **ids)


def test_the_page_for_people_lists_every_call_and_loads_nothing(
    app: FastAPI, client: httpx2.Client, document: dict[str, Any]
) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"<script|<link|<img|src=|https?://(?!elsewhere)", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for _, path, _ in _calls(document):
        assert path in page.text
    assert client.get("/openapi.json").json() == document


def test_no_route_is_missing_from_the_document(app: FastAPI, document: dict[str, Any]) -> None:
    hidden = {"/docs", "/", "/openapi.json"}

    def paths(routes: Any) -> set[str]:
        found: set[str] = set()
        for route in routes:
            inner = getattr(route, "original_router", None)
            found |= paths(inner.routes) if inner is not None else {route.path}
        return found

    assert paths(app.routes) - hidden == set(document["paths"])
    assert APIRoute


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_no_request_gets_past_the_document(
    app: FastAPI, stage: Stage, base: Base, mode: GenerationMode
) -> None:
    """Whatever is sent, the answer is the envelope, as documented, and no error of ours."""
    headers = {"host": "localhost"}
    loaded = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    # Given a host and a port, that one would knock on real doors.
    wanted = loaded.include(path_regex=f"^{base.prefix}/").exclude(path_regex=r"/op/connect$")
    tried = 0
    for found in wanted.get_all_operations():
        operation = found.ok()
        tried += 1

        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            response = case.call(headers=headers)
            body = response.json()
            assert list(body) == ["method", "status", "message", "data"]
            assert (body["status"] == 0) is (response.status_code == 200)
            case.validate_response(response, checks=_CHECKS)

        try:
            send()
        except Unsatisfiable:  # a call that takes any text can be sent nothing wrong
            assert mode is GenerationMode.NEGATIVE
    assert tried > 35
