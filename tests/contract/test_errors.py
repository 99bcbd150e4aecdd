"""Whatever goes wrong is told in the envelope; what a server must not do, it does not."""

from __future__ import annotations

import http.client
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from exchangis.api.app import create_app
from exchangis.config import Settings
from exchangis.service.services import Services, make_services
from tests.contract.conftest import Api, Stage, check_envelope, run_server

JSON = {"content-type": "application/json"}


def test_an_unknown_route_is_told_in_the_envelope(api: Api) -> None:
    answer = api.get("/nothing/here", expect=404)
    assert answer["method"] == f"{api.base.prefix}/nothing/here"
    for path in ("/", "/job/", "/job/1/execute/", "/JOB", "/job/execution//status"):
        api.get(path, expect=404)


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_wrong_verb_is_told_in_the_envelope(api: Api, job: int, verb: str) -> None:
    response = api.client.request(verb, f"{api.base.prefix}/job/{job}/execute")
    check_envelope(response)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "content", [b"{", b"nul", b'{"a":1}x', b"\xff\xfe", b'{"permitPartialFailures": tru}', b"'x'"]
)
def test_bad_json_is_told_in_the_envelope(api: Api, job: int, content: bytes) -> None:
    answer = api.call("POST", f"/job/{job}/execute", 400, content=content, headers=JSON)
    assert answer["data"]["errors"]


def test_a_form_is_no_json(api: Api, job: int) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"content-type": kind}
        api.call("POST", f"/job/{job}/execute", 400, content=b"{}", headers=headers)


def test_lone_surrogates_and_huge_numbers_are_told_in_the_envelope(api: Api) -> None:
    for name in ('"\\ud800"', "1" + "0" * 400, "1e999", "NaN", "-Infinity"):
        body = f'{{"jobName": "a", "jobDesc": {name}}}'.encode()
        api.call("POST", "/job", 400, content=body, headers=JSON)
        body = f'{{"jobName": "a", {name if name[0] == chr(34) else chr(34) + name + chr(34)}: 1}}'
        api.call("POST", "/job", 400, content=body.encode(), headers=JSON)


def test_deep_json_is_refused(api: Api) -> None:
    deep = b'{"jobName":"a","content":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = api.call("POST", "/job", 400, content=deep, headers=JSON)
    assert "nested deeper" in answer["message"]
    text = json.dumps({"jobName": "a", "content": "[" * 10_000})
    answer = api.call("POST", "/job", 400, content=text.encode(), headers=JSON)
    assert "nested deeper" in answer["message"]


def test_a_large_body_is_refused(api: Api) -> None:
    large = b'{"jobName":"' + b"a" * (1 << 20) + b'"}'
    answer = api.call("POST", "/job", 413, content=large, headers=JSON)
    assert "1 MB" in answer["message"]


def test_a_large_body_in_chunks_is_refused(api: Api) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 32_768

    api.call("POST", "/job", 413, content=chunks(), headers=JSON)


def test_a_body_that_does_not_come_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchangis.api.gate.BODY_SECONDS", 0.1)
    connection = http.client.HTTPConnection(api.client.base_url.netloc.decode(), timeout=10)
    connection.putrequest("POST", f"{api.base.prefix}/job")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b'{"jobName":')
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert (response.status, answer["status"]) == (400, 1)
    assert "did not arrive" in answer["message"]


def test_a_body_just_within_the_limit_is_taken(api: Api) -> None:
    body = json.dumps({"jobName": "big", "jobDesc": "x" * ((1 << 20) - 100)}).encode()
    api.call("POST", "/job", content=body, headers=JSON)


def _raw(api: Api, verb: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(api.client.base_url.netloc.decode(), timeout=10)
    try:
        connection.putrequest(verb, api.base.prefix + path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9321", "127.0.0.1.evil.example", "localhost.evil.example",
     "10.0.0.1", "user@localhost", "localhost/x", "[::2]", "", "localhost:x"],
)  # fmt: skip
def test_a_foreign_host_name_is_refused(api: Api, host: str) -> None:
    status, answer = _raw(api, "GET", "/job", {"Host": host})
    assert (status, answer["status"]) == (403, 2)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "127.1.2.3", "[::1]:9"]
)
def test_loopback_host_names_are_ours(api: Api, host: str) -> None:
    assert _raw(api, "GET", "/job", {"Host": host})[0] == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("http://localhost:8080", 200),
        ("http://127.0.0.1", 200),
    ],
)
def test_pages_of_elsewhere_may_not_write(api: Api, job: int, origin: str, status: int) -> None:
    headers = {"Origin": origin}
    api.call("POST", f"/job/{job}/execute", status, headers=headers)
    api.call("PUT", f"/job/{job}", status, headers=headers, json={"jobDesc": "x"})
    assert "access-control-allow-origin" not in api.client.get("/health", headers=headers).headers


def _served(services: Services) -> Iterator[str]:
    yield from run_server(create_app(services))


def test_a_token_is_needed_where_one_is_set(stage: Stage) -> None:
    settings = Settings(
        home=stage.services.settings.home, token="t0ken-s3cret", host="0.0.0.0",
        allowed_hosts=("exchangis.example",),
    )  # fmt: skip
    served = _served(make_services(settings, stage.services.store))
    path = "/api/rest_j/v1/exchangis/job"
    with httpx2.Client(base_url=next(served)) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic t0ken-s3cret"},
            {"Authorization": "t0ken-s3cret"},
            {"Authorization": "Bearer é"},
        ):
            answer = client.get(path, headers=[(k, v.encode()) for k, v in headers.items()])
            assert answer.status_code == 401
            body = check_envelope(answer)
            assert body["status"] == -1 and "t0ken" not in answer.text
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/openapi.json").status_code == 401
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        good = {"Authorization": "bearer t0ken-s3cret"}
        assert client.get(path, headers=good).status_code == 200
        for host, status in (("exchangis.example", 200), ("10.1.2.3:80", 200), ("evil.org", 403)):
            assert client.get(path, headers=good | {"Host": host}).status_code == status
    served.close()


def test_an_error_of_ours_shows_a_number_and_no_detail(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(job_id: int) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(stage.services.jobs, "get", fail)
    app = create_app(stage.services)
    with (
        TestClient(app, base_url="http://localhost") as client,
        caplog.at_level(logging.ERROR, "exchangis.api"),
    ):
        answer = client.get("/api/rest_j/v1/exchangis/job/1")
    assert answer.status_code == 500
    body = answer.json()
    assert list(body) == ["method", "status", "message", "data"]
    assert body["method"] == "/api/rest_j/v1/exchangis/job/{id}"
    assert "secret detail" not in answer.text and "Traceback" not in answer.text
    assert body["data"]["errorId"] in caplog.text and "secret detail" in caplog.text


def test_a_store_that_does_not_answer_is_told_as_such(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    monkeypatch.setattr(stage.services.jobs, "get", fail)
    monkeypatch.setattr("exchangis.api.routes_system.is_current", fail)
    with TestClient(create_app(stage.services), base_url="http://localhost") as client:
        answer = client.get("/api/rest_j/v1/exchangis/job/1")
        ready = client.get("/ready")
    assert (answer.status_code, ready.status_code) == (503, 503)
    assert "store does not answer" in answer.json()["message"]
    assert ready.json()["data"] == {"state": "the store does not answer"}


def test_probes_and_the_page_at_the_root_answer(client: httpx2.Client) -> None:
    assert client.get("/health").json()["data"] == {"state": "up"}
    assert client.get("/ready").json()["data"] == {"state": "ready"}
    assert client.get("/").json()["data"]["docs"] == "/docs"


def test_a_slow_call_does_not_hold_the_others(
    api: Api, stage: Stage, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    entered, leave = threading.Event(), threading.Event()

    def slow(job_id: int) -> None:
        entered.set()
        leave.wait(10)
        raise RuntimeError("done")

    monkeypatch.setattr(stage.services.jobs, "get", slow)
    logging.getLogger("exchangis.api").setLevel(logging.CRITICAL)
    waiting = threading.Thread(target=lambda: api.client.get(f"{api.base.prefix}/job/1"))
    waiting.start()
    assert entered.wait(10)
    began = time.monotonic()
    api.get(f"/job/execution/{execution}/status")
    assert time.monotonic() - began < 5
    leave.set()
    waiting.join(10)
    logging.getLogger("exchangis.api").setLevel(logging.NOTSET)
