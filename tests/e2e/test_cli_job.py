"""`exchangis job`: executions on a real server, submitted, followed and ended from a shell."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import (
    COMMAND,
    CONTROLS,
    count_rows,
    environment,
    inside,
    make_table,
    on_terminal,
    write_job,
)
from tests.e2e.system import System
from tests.waiting import wait_until

ROWS = 2_000


class Desk:
    """A server with a SQLite source of orders and a sink, and job files for them."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self.folder = folder
        self.copy = folder / "copy.sqlite"
        make_table(folder / "shop.sqlite", ROWS)
        make_table(self.copy, 0, table="others")
        self.shop = system.data_source("shop", "SQLITE", {"path": str(folder / "shop.sqlite")})
        self.sink = system.data_source("copy", "SQLITE", {"path": str(self.copy)})

    def task(self, name: str = "orders", **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "source": {"type": "SQLITE", "id": self.shop, "table": "orders"},
            "sink": {"type": "SQLITE", "id": self.sink, "table": name},
            "mode": "overwrite",
            **more,
        }

    def file(self, *tasks: dict[str, Any]) -> Path:
        return write_job(self.folder / "nightly.yaml", list(tasks))

    def slow(self) -> Path:
        return self.file(self.task(limits={"records_per_second": 100, "batch_rows": 10}))

    @property
    def where(self) -> tuple[str, str]:
        return ("--home", str(self.system.home))


@pytest.fixture
def desk(system: System, tmp_path: Path) -> Desk:
    return Desk(system, tmp_path)


def test_a_file_is_executed_and_waited_for(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    ended = inside(capsys, "job", "submit", desk.file(desk.task()), "--wait", *desk.where)
    assert ended.code == 0, ended
    assert "orders: Success" in ended.out
    assert count_rows(desk.copy, "orders") == ROWS
    execution = ended.out.splitlines()[0]
    shown = inside(capsys, "job", "status", execution, *desk.where)
    assert f"{execution}: Success, 100%" in shown.out
    assert "2,000" in shown.out
    told = json.loads(inside(capsys, "job", "status", execution, "--json", *desk.where).out)
    assert told["status"] == "Success"
    assert told["tasks"][0]["exchangedRecords"] == ROWS


def test_a_stored_job_is_executed_by_its_id_with_variables(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    job = desk.system.job("stored", [desk.task(where="id <= ${most}")])
    ended = inside(capsys, "job", "submit", job, "--var", "most=7", "--wait", "--json", *desk.where)
    assert ended.code == 0, ended
    first, *_, last = ended.events
    assert first["event"] == "submitted"
    assert last["event"] == "result"
    assert last["jobExecutionId"] == first["jobExecutionId"]
    assert last["tasks"][0]["exchangedRecords"] == 7


def test_a_failure_ends_with_1_and_says_why(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    bad = desk.task("bad")
    bad["source"] = {"type": "SQLITE", "id": desk.shop, "table": "nowhere"}
    job = desk.file(bad, desk.task())
    ended = inside(capsys, "job", "submit", job, "--wait", "--permit-partial-failures", *desk.where)
    assert ended.code == 1
    assert "Partial_Success" in ended.out
    assert "nowhere" in ended.out


def test_history_is_listed_and_filtered(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [
        inside(capsys, "job", "submit", desk.file(desk.task()), "--name", name, "--wait",
               *desk.where).out.splitlines()[0]
        for name in ("first", "second")
    ]  # fmt: skip
    listed = json.loads(inside(capsys, "job", "list", "--json", *desk.where).out)
    assert [one["jobExecutionId"] for one in listed] == ids[::-1]
    table = inside(capsys, "job", "list", "--status", "Success", "--name", "sec", *desk.where)
    assert ids[1] in table.out
    assert ids[0] not in table.out
    one = json.loads(inside(capsys, "job", "list", "-n", 1, "--json", *desk.where).out)
    assert len(one) == 1
    assert (
        json.loads(inside(capsys, "job", "list", "--status", "Failed", "--json", *desk.where).out)
        == []
    )
    wrong = inside(capsys, "job", "list", "--status", "Nope", *desk.where)
    assert wrong.code == 1
    assert "Partial_Success" in wrong.err


def test_following_a_log_prints_all_of_it_once_while_it_grows(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted = inside(capsys, "job", "submit", desk.slow(), "--json", *desk.where)
    execution = json.loads(submitted.out)["jobExecutionId"]
    follower = subprocess.Popen(
        [*COMMAND, "job", "logs", execution, "-f", *desk.where], text=True,
        stdout=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    try:
        assert follower.stdout is not None
        assert "submitted" in follower.stdout.readline()  # it reads while the job runs
        assert desk.system.status(execution)["status"] in ("Inited", "Scheduled", "Running")
        wait_until(lambda: desk.system.status(execution)["status"] == "Running")
        assert inside(capsys, "job", "kill", execution, *desk.where).code == 0
        rest = follower.stdout.read()
        assert follower.wait(30) == 0
    finally:
        follower.kill()
        follower.communicate()
    whole = inside(capsys, "job", "logs", execution, *desk.where).out
    assert whole.splitlines()[1:] == rest.splitlines()
    assert "Cancelled" in rest.splitlines()[-1]
    tail = inside(capsys, "job", "logs", execution, "--tail", 2, *desk.where)
    assert tail.out.splitlines() == whole.splitlines()[-2:]
    only = inside(capsys, "job", "logs", execution, "--only", "submitted", *desk.where)
    assert only.out.splitlines() == whole.splitlines()[:1]
    rest_of_it = inside(capsys, "job", "logs", execution, "--ignore", "submitted", *desk.where)
    assert rest_of_it.out.splitlines() == whole.splitlines()[1:]


def test_the_log_of_a_task_is_its_own(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    ended = inside(capsys, "job", "submit", desk.file(desk.task()), "--wait", "--json", *desk.where)
    result = ended.events[-1]
    task = result["tasks"][0]["taskId"]
    shown = inside(
        capsys, "job", "logs", result["jobExecutionId"], "--task", task, "-f", *desk.where
    )
    assert shown.code == 0
    assert shown.out
    assert "submitted" not in shown.out


def test_kill_ends_the_work_and_says_so(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    submitted = inside(capsys, "job", "submit", desk.slow(), "--json", *desk.where)
    execution = json.loads(submitted.out)["jobExecutionId"]
    wait_until(lambda: desk.system.status(execution)["status"] == "Running")
    killed = inside(capsys, "job", "kill", execution, *desk.where)
    assert killed.code == 0
    assert execution in killed.out
    wait_until(lambda: desk.system.status(execution)["status"] == "Cancelled")
    assert not count_rows(desk.copy, "orders")  # an empty table may have been made
    again = inside(capsys, "job", "kill", execution, *desk.where)
    assert (again.code, again.out) == (0, f"{execution}: Cancelled\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("job", "status", "no-such-id"), "no-such-id"),
        (("job", "status", "../../job"), "There is no"),
        (("job", "logs", "no-such-id", "-f"), "no-such-id"),
        (("job", "kill", "no-such-id"), "no-such-id"),
        (("job", "submit", "999"), "999"),
        (("job", "submit", "no-such-file.yaml"), "neither a file nor the number"),
    ],
)
def test_what_the_server_refuses_is_one_line(
    system: System, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = inside(capsys, *arguments, "--home", system.home)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert told in ended.err


def test_no_server_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = inside(capsys, "job", "list", "--url", "http://127.0.0.1:1")
    assert ended.code == 1
    assert "exchangis server" in ended.err


def test_waiting_on_a_terminal_shows_bars(desk: Desk) -> None:
    shown = on_terminal(
        "job", "submit", desk.file(desk.task(), desk.task("twice")), "--wait", *desk.where,
        cwd=desk.folder,
    )  # fmt: skip
    assert shown.code == 0, shown.out
    assert "━" in shown.out
    assert "2/2 tasks" in shown.out


def test_a_file_with_a_password_is_refused_without_repeating_it(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    task = desk.task()
    task["sink"] = {"type": "MYSQL", "table": "t",
                    "connection": {"host": "db", "password": "hunter2-hunter2"}}  # fmt: skip
    ended = inside(capsys, "job", "submit", desk.file(task), *desk.where)
    assert ended.code == 1
    assert "connections are not taken" in ended.err
    assert "hunter2" not in ended.err + ended.out
    assert not CONTROLS.search(ended.err)
