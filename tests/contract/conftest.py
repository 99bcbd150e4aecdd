"""A real HTTP server on a real store; executions are put into states through the store's own
queue, since the scheduler is tested elsewhere.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from exchangis.api.app import create_app
from exchangis.api.base import BASES, Base
from exchangis.config import Settings
from exchangis.domain.clock import now_ms
from exchangis.domain.loglines import LogLevel, LogLine
from exchangis.domain.states import State
from exchangis.scheduler.generation import generate
from exchangis.service.services import Services, make_services
from exchangis.store.opening import open_store
from exchangis.store.queue import Claim, Queue
from exchangis.store.report_rows import Report
from exchangis.store.settle import Outcome, Settler
from tests.services import free_port

SUCCESS = "Submitted succeed(提交成功)！"
DOCUMENTED = "/api/rest_j/v1/exchangis"
FIELD = "/api/rest_j/v1/dss/exchangis/main"
_LEASE = 60_000


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Return when `condition()` holds; fail when it does not within the limit."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


def check_envelope(response: httpx2.Response) -> dict[str, Any]:
    """The body, which is the envelope and nothing else, whatever happened."""
    assert response.headers["content-type"].startswith("application/json"), response.text
    body = response.json()
    assert list(body) == ["method", "status", "message", "data"], body
    assert isinstance(body["method"], str) and isinstance(body["message"], str)
    assert isinstance(body["data"], dict)
    if response.status_code == 200:
        assert body["status"] == 0, body
    else:
        assert body["status"] in (1, 2, 4, -1) and body["message"], body
    return body


@dataclass(repr=False)
class Api:
    """One base, over HTTP."""

    base: Base
    client: httpx2.Client

    def call(self, verb: str, path: str, expect: int = 200, **options: Any) -> dict[str, Any]:
        response = self.client.request(verb, self.base.prefix + path, **options)
        body = check_envelope(response)
        assert response.status_code == expect, response.text
        return body

    def get(self, path: str, expect: int = 200, **options: Any) -> dict[str, Any]:
        return self.call("GET", path, expect, **options)

    def post(
        self, path: str, body: Any = None, expect: int = 200, **options: Any
    ) -> dict[str, Any]:
        return self.call("POST", path, expect, json=body, **options)

    def put(self, path: str, body: Any = None, expect: int = 200) -> dict[str, Any]:
        return self.call("PUT", path, expect, json=body)

    def data(self, path: str, **options: Any) -> Any:
        return self.get(path, **options)["data"]


@dataclass(repr=False)
class Stage:
    """Moves executions through their states as a server would."""

    services: Services
    folder: Path
    source_id: int = 0
    sink_id: int = 0
    wakes: list[int] = field(default_factory=list)
    claims: dict[str, list[Claim]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store = self.services.store
        self.queue = Queue(store.database, "test")
        self.settler = Settler(store.database, self._story)

    def _story(self, level: LogLevel, text: str) -> list[LogLine]:
        return [LogLine(level, text)]

    def content(self, tasks: int = 2) -> list[dict[str, Any]]:
        return [
            {
                "subJobName": f"test-{n + 1}",
                "source": {"type": "SQLITE", "id": self.source_id, "db": "main", "table": "orders"},
                "sink": {"type": "CSV", "id": self.sink_id, "uri": f"orders-{n}.csv"},
            }
            for n in range(tasks)
        ]

    def generate(self, execution_id: str) -> None:
        """Inited -> Scheduled."""
        while (work := self.queue.claim_generation(now=now_ms(), lease_ms=_LEASE)) is not None:
            new = generate(work, self.services.settings, self.services.catalog)
            self.queue.generated(work, new, [], now=now_ms())
            if work.execution_id == execution_id:
                return
        raise AssertionError(f"{execution_id} is not there to be generated")

    def claim(self, execution_id: str) -> list[Claim]:
        """Its tasks: Inited -> Scheduled."""
        for claim in self.queue.claim_tasks(limit=1000, now=now_ms(), lease_ms=_LEASE):
            self.claims.setdefault(claim.execution_id, []).append(claim)
        return self.claims[execution_id]

    def run(self, execution_id: str, count: int | None = None) -> list[Claim]:
        """Its first `count` tasks: Scheduled -> Running, the job with them."""
        claims = self.claim(execution_id)[:count]
        assert self.queue.mark_running([(c, []) for c in claims], now=now_ms())
        return claims

    def report(self, claim: Claim, progress: float, lines: int = 0, **values: Any) -> None:
        told = tuple(LogLine("INFO", f"line {n}") for n in range(lines))
        report = Report(
            claim.task_id, claim.attempt, claim.execution_id, progress=progress,
            values=tuple(values.items()), lines=told,
        )  # fmt: skip
        assert not self.queue.record([report], now=now_ms())

    def finish(self, claim: Claim, state: State, **values: Any) -> None:
        outcome = Outcome(claim.task_id, claim.execution_id, claim.attempt, state, **values)
        assert not self.settler.finish("test", [outcome], now=now_ms())


def run_server(app: FastAPI) -> Iterator[str]:
    """Serve on a free loopback port until closed; gives the address."""
    port = free_port()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="critical", access_log=False, ws="none",
        lifespan="off",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="test-server")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("contract")
    settings = Settings(home=folder / "home", user="enjoyyin", max_body_mb=1)
    store = open_store(settings)
    wakes: list[int] = []
    services = make_services(settings, store, wake=lambda: wakes.append(1))
    staged = Stage(services, folder, wakes=wakes)
    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT)")
    database.close()
    (folder / "files").mkdir()
    kinds = services.data_sources
    from exchangis.connectors.registry import connector

    staged.source_id = kinds.create(
        "enjoyyin", kind=connector("SQLITE"), name="shop", values={"path": str(folder / "shop.db")}
    ).id
    staged.sink_id = kinds.create(
        "enjoyyin", kind=connector("CSV"), name="files", values={"path": str(folder / "files")}
    ).id
    yield staged
    store.close()


@pytest.fixture(scope="session")
def app(stage: Stage) -> FastAPI:
    return create_app(stage.services)


@pytest.fixture(scope="session")
def address(app: FastAPI) -> Iterator[str]:
    yield from run_server(app)


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=address, timeout=20) as opened:
        yield opened


@pytest.fixture(params=BASES, ids=lambda base: base.name)
def api(request: pytest.FixtureRequest, client: httpx2.Client) -> Api:
    return Api(request.param, client)


@pytest.fixture
def job(api: Api, stage: Stage) -> int:
    """A stored job of two sub jobs."""
    body = {"jobName": "orders", "engineType": "SQOOP", "content": stage.content()}
    return int(api.post("/job", body)["data"]["result"]["id"])


@pytest.fixture
def execution(api: Api, job: int) -> str:
    """An execution that was just submitted: Inited."""
    return str(api.post(f"/job/{job}/execute")["data"]["jobExecutionId"])
