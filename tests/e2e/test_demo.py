"""`exchangis demo`: from nothing to rows that moved, proved from outside."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import psutil
import pytest

from tests.cli_kit import COMMAND, environment, exchangis, on_terminal

ROWS = 20_000


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Where the demo makes its home; no process may be left that works there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert not [one for one in psutil.process_iter() if str(folder) in _words(one)]


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_the_demo_moves_its_rows_and_proves_it(temporary: Path, tmp_path: Path) -> None:
    home = tmp_path / "demo home"
    for _ in range(2):  # also on the home of an earlier demo
        ended = exchangis("demo", "--rows", ROWS, "--home", home, env={"TMPDIR": str(temporary)})
        assert ended.code == 0, ended
    assert "Sample data: 20,000 rows" in ended.out
    assert "Success: 19,995 rows moved, 5 dirty ones" in ended.out
    assert " NO" not in ended.out
    with closing(sqlite3.connect(home / "data" / "shop.sqlite")) as shop:
        orders = shop.execute("SELECT count(*), sum(id) FROM orders").fetchone()
    with closing(duckdb.connect()) as reader:
        moved = reader.execute(
            "SELECT count(*), sum(id) FROM read_parquet(?)",
            [str(home / "data" / "files" / "orders.parquet")],
        ).fetchone()
    assert orders == moved == (ROWS // 2, sum(range(1, ROWS // 2 + 1)))
    # What it says to look further with does work.
    (execution,) = {
        line.split(" status ")[1].split()[0]
        for line in ended.out.splitlines()
        if " status " in line
    }
    dirty = list((home / "runs" / execution).glob("*/dirty.jsonl"))
    assert [len(path.read_text().splitlines()) for path in dirty] == [5]
    assert not (home / "server.json").exists()


def test_the_demo_as_json_leaves_no_home_behind(temporary: Path) -> None:
    ended = exchangis(
        "demo", "--rows", ROWS, "--json",
        env={"TMPDIR": str(temporary), "EXCHANGIS_STORE_URL": "mysql://nobody@127.0.0.1:1/x"},
    )  # fmt: skip
    assert ended.code == 0, ended
    result = ended.events[-1]
    assert result["success"] is True
    assert result["status"] == "Success"
    assert {task["name"]: task["errorRecords"] for task in result["tasks"]} == {
        "orders": 0, "readings": 5, "visits": 0,
    }  # fmt: skip
    assert len(result["checks"]) > 15
    assert all(check["equal"] for check in result["checks"])
    assert not list(temporary.iterdir())


def test_the_demo_on_a_terminal_shows_bars_per_task(temporary: Path, tmp_path: Path) -> None:
    shown = on_terminal(
        "demo", "--rows", ROWS, cwd=tmp_path, env={"TMPDIR": str(temporary)}, within=90
    )
    assert shown.code == 0, shown.out
    for word in ("━", "3/3 tasks", "orders", "readings", "visits", "Success", "demo --keep"):
        assert word in shown.out


def test_a_demo_that_is_ended_takes_its_server_and_home_with_it(temporary: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--json"], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=environment({"TMPDIR": str(temporary)}),
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        next(line for line in output if json.loads(line)["event"] == "progress")
        assert list(temporary.iterdir())
        process.send_signal(signal.SIGTERM)
        output.read()
    assert process.wait(30) == 130
    assert not list(temporary.iterdir())


def test_a_check_that_cannot_fail_is_none(tmp_path: Path) -> None:
    """The demo's proof fails when a row is missing or a value differs on either side."""
    from exchangis.cli.demo_check import check_all
    from exchangis.cli.demo_data import SampleData

    home = tmp_path / "home"
    assert exchangis("demo", "--rows", 300, "--home", home).code == 0
    data = SampleData.of(home / "data", 300)
    assert all(check.holds for check in check_all(data))
    with closing(sqlite3.connect(data.reports)) as reports, reports:
        reports.execute("UPDATE visits SET milliseconds = milliseconds + 1 WHERE id = 7")
    with closing(duckdb.connect(str(data.warehouse))) as warehouse:
        warehouse.execute("DELETE FROM readings WHERE id = 3")
    with closing(sqlite3.connect(data.shop)) as shop, shop:
        shop.execute("UPDATE orders SET note = NULL WHERE id = 2")
    wrong = {(check.task, check.measure) for check in check_all(data) if not check.holds}
    assert wrong >= {
        ("visits", "sum of milliseconds"), ("readings", "rows"), ("orders", "notes"),
    }  # fmt: skip
