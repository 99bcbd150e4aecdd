"""The server is killed with SIGKILL mid-task and started again: no row lost, none doubled.

Real servers on both sides; the instant of the kill is chosen by what the system says of itself
(rows under way, lane written, publishing), not by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import lineitem
from tests.e2e.system import System
from tests.services import Service
from tests.waiting import wait_until

SCALE = 0.02


@pytest.fixture(scope="module")
def loaded(mariadb: Service, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """MariaDB with `crash.lineitem`, about 120,000 rows."""
    file = lineitem.generate(tmp_path_factory.mktemp("tpch"), SCALE)
    lineitem.load_mysql(mariadb, file, "crash")
    return mariadb


@pytest.fixture(scope="module")
def want(loaded: Service) -> tuple[str, ...]:
    return lineitem.sums_mysql(loaded, "crash.lineitem")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path / "home", lease="5", heartbeat="0.5")
    made.start()
    yield made
    made.close()


def _copy(system: System, loaded: Service, sink: dict[str, Any], **task: Any) -> str:
    source = system.data_source("from", "MYSQL", {**loaded.params, "database": "crash"})
    content = {
        "name": "copy",
        "source": {"type": "MYSQL", "id": source, "db": "crash", "table": "lineitem"},
        "sink": sink,
        **task,
    }
    return system.execute(system.job("copy", [content]))


def _crash_when(system: System, execution: str, reached: Callable[[], Any], what: str) -> None:
    wait_until(reached, within=60, what=what)
    runners = psutil.Process(_pid(system)).children(recursive=True)
    assert runners
    system.crash()
    wait_until(
        lambda: (
            not any(
                runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE
                for runner in runners
            )
        ),
        within=5,
        what="death of the runners",
    )


def _pid(system: System) -> int:
    assert system.process is not None
    return system.process.pid


def _rows_written(system: System, execution: str) -> int:
    tasks = system.tasks(execution)
    if not tasks:
        return 0
    metrics = system.metrics(execution, tasks[0]["taskId"])
    return int(metrics["indicator"]["exchangedRecords"]) if metrics else 0


@pytest.mark.parametrize(
    ("mode", "publish"),
    [("append", "task"), ("append", "split"), ("overwrite", "task"), ("upsert", "task")],
)
def test_killed_server_resumes_into_postgres(
    system: System,
    loaded: Service,
    postgres: Service,
    want: tuple[str, ...],
    mode: str,
    publish: str,
) -> None:
    table = f"crash_{mode}_{publish}"
    target = system.data_source("to", "POSTGRESQL", postgres.params)
    execution = _copy(
        system, loaded, {"type": "POSTGRESQL", "id": target, "db": "public", "table": table},
        mode=mode, publish=publish,
        key_columns=["l_orderkey", "l_linenumber"] if mode == "upsert" else [],
        limits={"records_per_second": 60_000, "parallelism": 2},
    )  # fmt: skip
    _crash_when(
        system, execution, lambda: _rows_written(system, execution) > 20_000, "20,000 rows written"
    )
    system.start()
    assert system.status(execution)["status"] not in ("Failed", "Cancelled", "Undefined")
    assert system.wait_all_final(execution) == "Success", system.log(execution)
    assert lineitem.sums_postgres(postgres, f"public.{table}") == want
    log = system.log(execution)
    assert "taken over" in log
    assert system.metrics(execution, system.tasks(execution)[0]["taskId"])["indicator"] == {
        "exchangedRecords": int(want[0]), "errorRecords": 0, "ignoredRecords": 0,
    }  # fmt: skip


def test_killed_server_resumes_into_mariadb(
    system: System, loaded: Service, want: tuple[str, ...]
) -> None:
    target = system.data_source("to", "MYSQL", {**loaded.params, "database": "crash"})
    execution = _copy(
        system, loaded, {"type": "MYSQL", "id": target, "db": "crash", "table": "copied"},
        limits={"records_per_second": 60_000, "parallelism": 2},
    )  # fmt: skip
    _crash_when(
        system, execution, lambda: _rows_written(system, execution) > 20_000, "20,000 rows written"
    )
    system.start()
    assert system.wait_all_final(execution) == "Success", system.log(execution)
    assert lineitem.sums_mysql(loaded, "crash.copied") == want


def test_killed_server_resumes_into_parquet_files(
    system: System, loaded: Service, want: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "files"
    out.mkdir()
    target = system.data_source("to", "PARQUET", {"path": str(out)})
    execution = _copy(
        system, loaded, {"type": "PARQUET", "id": target, "uri": "lineitem/"},
        limits={"records_per_second": 60_000, "parallelism": 2},
    )  # fmt: skip
    _crash_when(
        system, execution, lambda: _rows_written(system, execution) > 20_000, "20,000 rows written"
    )
    assert not list(out.glob("lineitem/*.parquet"))
    system.start()
    assert system.wait_all_final(execution) == "Success", system.log(execution)
    assert lineitem.sums_parquet(out / "lineitem" / "*.parquet") == want


def test_executions_accepted_right_before_the_crash_all_run_once(
    system: System, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,x\n2,y\n")
    files = system.data_source("files", "CSV", {"path": str(tmp_path)})
    jobs = [
        system.job(
            f"tiny-{number}",
            [
                {
                    "name": "t",
                    "source": {"type": "CSV", "id": files, "uri": "in.csv"},
                    "sink": {"type": "CSV", "id": files, "uri": f"out-{number}.csv"},
                }
            ],
        )
        for number in range(8)
    ]
    executions = [system.execute(job) for job in jobs]
    system.crash()
    system.start()
    for number, execution in enumerate(executions):
        assert system.wait_all_final(execution) == "Success", system.log(execution)
        assert len((tmp_path / f"out-{number}.csv").read_text().splitlines()) == 3


def test_kill_asked_for_before_a_crash_is_heeded_after_it(
    system: System, loaded: Service, postgres: Service
) -> None:
    target = system.data_source("to", "POSTGRESQL", postgres.params)
    execution = _copy(
        system, loaded,
        {"type": "POSTGRESQL", "id": target, "db": "public", "table": "never_seen"},
        limits={"records_per_second": 10_000},
    )  # fmt: skip
    wait_until(lambda: _rows_written(system, execution) > 1000, within=30)
    system.data("POST", f"/job/execution/{execution}/kill", {})
    system.crash()
    system.start()
    assert system.wait_all_final(execution) == "Cancelled"
    with lineitem.connect_postgres(postgres) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE 'exchangis_stg%'"
        ).fetchall()
        assert found == []
        empty = connection.execute("SELECT to_regclass('public.never_seen')").fetchone()
        if empty and empty[0]:
            assert connection.execute("SELECT count(*) FROM never_seen").fetchone() == (0,)
