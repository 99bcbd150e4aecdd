"""The whole system as its users meet it: a server process, spoken to over REST alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from tests.waiting import wait_until

DOCUMENTED = "/api/rest_j/v1/exchangis"
FIELD = "/api/rest_j/v1/dss/exchangis/main"
FINAL = ("Cancelled", "Failed", "Partial_Success", "Success", "Undefined", "Timeout")


class System:
    """A server process on a home folder, and a client that keeps every answer it got."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.answers: list[str] = []
        self._settings = {
            f"EXCHANGIS_{name.upper()}": str(value) for name, value in settings.items()
        }
        self._output = home.parent / f"{home.name}.output"
        self.process: subprocess.Popen[bytes] | None = None
        self._client = httpx2.Client(timeout=30)
        self.url = ""

    def start(self) -> None:
        """Start the server and wait until it answers."""
        environment = {
            **os.environ, "EXCHANGIS_POLL": "0.3", "EXCHANGIS_HEARTBEAT": "1",
            "EXCHANGIS_LEASE": "8", **self._settings,
        }  # fmt: skip
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "exchangis", "server", "--port", "0", "--home",
                 str(self.home)],
                stdout=output, stderr=output, env=environment, start_new_session=True,
            )  # fmt: skip
        pid = self.process.pid
        file = self.home / "server.json"

        def listening() -> str | None:
            assert self.process is not None
            assert self.process.poll() is None, self._output.read_text()
            if not file.exists():
                return None
            found = json.loads(file.read_text())
            return str(found["url"]) if found["pid"] == pid else None

        self.url = wait_until(listening, within=30, what="the server's start")

    def crash(self) -> None:
        """SIGKILL: no handler runs, nothing is said good-bye to."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, as a service manager does; the server must end by itself."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(20) == 0, self._output.read_text()

    def close(self) -> None:
        """Stop the server and the client."""
        try:
            self.stop()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._client.close()

    @property
    def output(self) -> str:
        """What the server process printed."""
        return self._output.read_text()

    def call(
        self, method: str, path: str, body: Any = None, *, base: str = DOCUMENTED, **query: Any
    ) -> dict[str, Any]:
        """One request; the whole envelope, whatever its status."""
        answer = self._client.request(
            method, f"{self.url}{base}{path}", params=query or None,
            **({} if body is None else {"json": body}),
        )  # fmt: skip
        self.answers.append(answer.text)
        envelope = answer.json()
        assert set(envelope) == {"method", "status", "message", "data"}
        assert (answer.status_code == 200) == (envelope["status"] == 0), envelope
        return dict(envelope)

    def data(self, method: str, path: str, body: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The data of a successful answer."""
        envelope = self.call(method, path, body, **kwargs)
        assert envelope["status"] == 0, envelope
        return dict(envelope["data"])

    def data_source(self, name: str, kind: str, params: Mapping[str, Any]) -> int:
        """Create a data source and test its connection."""
        body = {"dataSourceName": name, "dataSourceType": kind, "connectParams": dict(params)}
        found = int(self.data("POST", "/datasources", body)["id"])
        self.data("PUT", f"/datasources/{kind}/{found}/connect", {})
        return found

    def job(self, name: str, content: list[dict[str, Any]], **fields: Any) -> int:
        """Create a job."""
        body = {"jobName": name, "jobType": "OFFLINE", "engineType": "NATIVE", **fields,
                "jobContent": content}  # fmt: skip
        return int(self.data("POST", "/job", body)["result"]["id"])

    def execute(self, job: int, **options: Any) -> str:
        """Submit a job; its jobExecutionId."""
        return str(self.data("POST", f"/job/{job}/execute", options)["jobExecutionId"])

    def status(self, execution: str) -> dict[str, Any]:
        """State and progress."""
        return self.data("GET", f"/job/execution/{execution}/status")

    def tasks(self, execution: str) -> list[dict[str, Any]]:
        """The task list."""
        return list(self.data("GET", f"/job/execution/{execution}/tasklist")["tasks"])

    def metrics(self, execution: str, task: int) -> dict[str, Any]:
        """A task's metrics."""
        body = {"jobExecutionId": execution}
        found = self.data("POST", f"/task/execution/{task}/metrics", body)
        return dict(found["task"]["metrics"])

    def wait(self, execution: str, *states: str, within: float = 60) -> str:
        """Wait for one of the states (any final one by default) and return it."""

        def reached() -> str | None:
            state = str(self.status(execution)["status"])
            if state in (states or FINAL):
                return state
            if state in FINAL:
                raise AssertionError(f"{state} while waiting for {states}: {self.log(execution)}")
            return None

        return wait_until(reached, within=within, what=f"{states or 'the end'} of {execution}")

    def wait_all_final(self, execution: str, within: float = 60) -> str:
        """Wait until the job and all its tasks are final; the job's state."""

        def ended() -> str | None:
            path = f"/job/execution/{execution}/status"
            found = self.data("GET", path, base=FIELD)
            return str(found["status"]) if found["allTaskStatus"] else None

        return wait_until(ended, within=within, what=f"the end of {execution}")

    def log(self, execution: str, task: int | None = None) -> str:
        """A whole log, read page by page to its present end."""
        path, query = f"/job/execution/{execution}/log", {}
        if task is not None:
            path, query = f"/task/execution/{task}/log", {"jobExecutionId": execution}
        lines: list[str] = []
        start = 0
        while True:
            page = self.data("GET", path, fromLine=start, pageSize=1000, **query)
            if page["endLine"] < start:
                return "\n".join(lines)
            lines.append(page["logs"]["all"])
            start = page["endLine"] + 1
