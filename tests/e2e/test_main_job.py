"""The main job on real input: TPC-H lineitem, MariaDB -> PostgreSQL -> Parquet, over REST alone.

While it runs a client polls status, progress, metrics and logs as a person would; afterwards both
sides are compared, and everything that was written or said is searched for the passwords.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psutil
import pytest

from tests.e2e import lineitem
from tests.e2e.system import DOCUMENTED, System
from tests.services import PASSWORD, Service

SCALE = 0.1


@pytest.fixture(scope="module")
def loaded(mariadb: Service, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """MariaDB with `tpch.lineitem`."""
    file = lineitem.generate(tmp_path_factory.mktemp("tpch"), SCALE)
    lineitem.load_mysql(mariadb, file, "tpch")
    return mariadb


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main-job")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[System]:
    """One server for the whole story of this module."""
    made = System(home / "home")
    made.start()
    yield made
    made.close()


def _forms(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1],
            secret.replace("\\", "\\\\").replace('"', '\\"')}  # fmt: skip


def _command_lines() -> str:
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append("\0".join([*process.cmdline(), *process.environ().values()]))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return "\n".join(lines)


class _Watch:
    """Polls every call of the interface while an execution runs."""

    def __init__(self, system: System, execution: str) -> None:
        self._system = system
        self._execution = execution
        self.states: list[str] = []
        self.progress: list[float] = []
        self.flows: list[float] = []
        self.memory: list[float] = []
        self.running_groups = 0
        self.command_lines = ""

    def until_final(self, within: float = 120) -> str:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            found = self._system.status(self._execution)
            self.states.append(found["status"])
            self.progress.append(found["progress"])
            self._look()
            if found["status"] in ("Success", "Failed", "Cancelled", "Partial_Success"):
                return str(found["status"])
        raise AssertionError(f"no end within {within} s: {self._system.log(self._execution)}")

    def _look(self) -> None:
        path = f"/job/execution/{self._execution}/progress"
        tasks = self._system.data("GET", path)["job"]["tasks"]
        self.running_groups += len(tasks["running"])
        for task in tasks["running"]:
            metrics = self._system.metrics(self._execution, task["taskId"])
            if metrics:
                self.flows.append(metrics["traffic"]["flow"])
                self.memory.append(metrics["resourceUsed"]["memory"])
        self._system.data("GET", f"/job/execution/{self._execution}/log", lastRows=5)
        self.command_lines = self.command_lines or _command_lines()


def _run(system: System, job: int) -> tuple[str, _Watch]:
    execution = system.execute(job)
    watch = _Watch(system, execution)
    state = watch.until_final()
    assert state == "Success", system.log(execution)
    return execution, watch


def test_lineitem_from_mariadb_to_postgres_to_parquet_is_equal_and_no_secret_shows(
    server: System, loaded: Service, postgres: Service, home: Path
) -> None:
    mysql = server.data_source("lake", "MYSQL", {**loaded.params, "database": "tpch"})
    target = server.data_source("mart", "POSTGRESQL", postgres.params)
    files = server.data_source("files", "PARQUET", {"path": str(home)})
    load = server.job(
        "load",
        [
            {
                "subJobName": "lineitem",
                "dataSources": {
                    "source_id": f"MYSQL.{mysql}.tpch.lineitem",
                    "sink_id": f"POSTGRESQL.{target}.public.lineitem",
                },
                "params": {
                    "sources": [],
                    "sinks": [
                        {
                            "config_key": "exchangis.job.ds.params.datax.postgresql.w.write_type",
                            "config_name": "write type",
                            "config_value": "OVERWRITE",
                            "sort": 1,
                        }
                    ],
                },
                "transforms": {"type": "MAPPING", "mapping": []},
                "settings": [
                    {"config_key": "exchangis.datax.setting.max.parallelism", "config_value": "2"}
                ],
            }
        ],
    )
    export = server.job(
        "export",
        [
            {
                "subJobName": "to-parquet",
                "source": {"type": "POSTGRESQL", "id": target, "db": "public",
                           "table": "lineitem"},
                "sink": {"type": "PARQUET", "id": files, "uri": "lineitem/"},
            }
        ],
    )  # fmt: skip
    want = lineitem.sums_mysql(loaded, "tpch.lineitem")
    rows = int(want[0])
    assert rows > 500_000

    first, watched = _run(server, load)
    assert "Running" in watched.states
    assert watched.running_groups
    assert watched.progress == sorted(watched.progress)
    assert (
        max(p for p, s in zip(watched.progress, watched.states, strict=True) if s != "Success") < 1
    )
    assert watched.progress[-1] == 1.0
    assert any(flow > 0 for flow in watched.flows)
    assert any(0 < memory < 1 for memory in watched.memory)
    assert lineitem.sums_postgres(postgres, "public.lineitem") == want

    second, more = _run(server, export)
    assert lineitem.sums_parquet(home / "lineitem" / "*.parquet") == want

    for execution, source, sink in (
        (first, "mysql", "postgresql"),
        (second, "postgresql", "parquet"),
    ):
        task = server.tasks(execution)[0]
        metrics: dict[str, Any] = server.metrics(execution, task["taskId"])
        assert metrics["indicator"] == {
            "exchangedRecords": rows, "errorRecords": 0, "ignoredRecords": 0,
        }  # fmt: skip
        assert (metrics["traffic"]["source"], metrics["traffic"]["sink"]) == (source, sink)
        assert metrics["traffic"]["flow"] > 0
        log = server.log(execution, task["taskId"])
        assert f"{rows:,}" in log

    said = "\n".join([*server.answers, server.output, watched.command_lines, more.command_lines])
    assert "exchangis" in watched.command_lines
    stored = [file.read_bytes() for file in home.rglob("*") if file.is_file()]
    assert len(stored) > 3
    for form in _forms(PASSWORD):
        assert form not in said
        assert not any(form.encode() in content for content in stored)
    assert DOCUMENTED in said
    mode = (home / "home" / "secret.key").stat().st_mode
    assert mode & 0o077 == 0
