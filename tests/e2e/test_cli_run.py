"""`exchangis run`: job files carried out with no server, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import psutil
import pytest

from exchangis.config import Settings
from exchangis.store.opening import open_store
from tests.cli_kit import (
    COMMAND,
    count_rows,
    environment,
    exchangis,
    inside,
    make_table,
    on_terminal,
    sqlite_side,
    tables,
    write_job,
)
from tests.services import Service
from tests.waiting import wait_until

ROWS = 2_000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A SQLite database with a table `orders`."""
    path = tmp_path / "shop.sqlite"
    make_table(path, ROWS)
    return path


def two_tasks(tmp_path: Path, shop: Path) -> Path:
    (tmp_path / "out").mkdir()
    return write_job(tmp_path / "job.yaml", [
        {"name": "to parquet", "source": sqlite_side(shop, "orders"), "mode": "overwrite",
         "sink": {"type": "PARQUET", "connection": {"path": "out"}, "uri": "orders.parquet"}},
        {"name": "to sqlite", "source": sqlite_side(shop, "orders", where="id <= ${most}"),
         "sink": sqlite_side(tmp_path / "copy.sqlite", "orders"), "mode": "overwrite"},
    ])  # fmt: skip


def test_a_job_file_moves_its_rows_and_ends_with_0(tmp_path: Path, shop: Path) -> None:
    job = two_tasks(tmp_path, shop)
    ended = exchangis("run", job, "--var", "most=500", "--parallel", 2, cwd=tmp_path)
    assert ended.code == 0, ended
    assert ended.err == ""
    assert "Success: 2 of 2 tasks succeeded, 2,500 rows." in ended.out
    with closing(duckdb.connect()) as reader:
        path = str(tmp_path / "out" / "orders.parquet")
        found = reader.execute("SELECT count(*), sum(price) FROM read_parquet(?)", [path])
        assert found.fetchone() == (ROWS, sum(range(1, ROWS + 1)) / 4)
    assert count_rows(tmp_path / "copy.sqlite", "orders") == 500


def test_the_job_may_come_from_standard_input_as_json(tmp_path: Path, shop: Path) -> None:
    content = [{"subJobName": "one", "source": sqlite_side(shop, "orders"),
                "sink": sqlite_side(tmp_path / "copy.sqlite", "t")}]  # fmt: skip
    ended = exchangis("run", "-", stdin=json.dumps(content), cwd=tmp_path)
    assert ended.code == 0, ended
    assert count_rows(tmp_path / "copy.sqlite", "t") == ROWS


def test_json_output_is_events_and_a_result(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = two_tasks(tmp_path, shop)
    ended = inside(capsys, "run", job, "--var", "most=500", "--json")
    assert ended.code == 0, ended
    *progress, result = ended.events
    assert {event["event"] for event in progress} == {"progress"}
    assert result["event"] == "result"
    assert result["status"] == "Success"
    assert [task["exchangedRecords"] for task in result["tasks"]] == [ROWS, 500]


def test_dry_run_shows_the_plan_and_writes_nothing(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = two_tasks(tmp_path, shop)
    before = sorted(tmp_path.rglob("*"))
    ended = inside(capsys, "run", job, "--var", "most=500", "--dry-run")
    assert ended.code == 0, ended
    for word in ("to parquet", "SQLITE orders", "where id <= 500", "(to be created)", "split(s)",
                 "INTEGER", "int64", "REAL", "double"):  # fmt: skip
        assert word in ended.out
    plan = inside(capsys, "run", job, "--var", "most=500", "--dry-run", "--json")
    tasks = json.loads(plan.out)["tasks"]
    assert [c["sourceType"] for c in tasks[0]["columns"]] == ["INTEGER", "TEXT", "REAL"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_task_stops_the_others_unless_failures_are_permitted(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path / "job.yaml", [
        {"name": "bad", "source": sqlite_side(shop, "nowhere"),
         "sink": sqlite_side(tmp_path / "a.sqlite", "t")},
        {"name": "good", "source": sqlite_side(shop, "orders"),
         "sink": sqlite_side(tmp_path / "b.sqlite", "t")},
    ])  # fmt: skip
    permitted = inside(capsys, "run", job, "--permit-partial-failures", "--json")
    assert permitted.code == 1
    result = permitted.events[-1]
    assert result["status"] == "Partial_Success"
    assert [task["status"] for task in result["tasks"]] == ["Failed", "Success"]
    assert "nowhere" in result["tasks"][0]["message"]
    (tmp_path / "b.sqlite").unlink()
    ended = inside(capsys, "run", job)
    assert ended.code == 1
    assert "nowhere" in ended.out
    assert "Failed: 0 of 2 tasks succeeded" in ended.out


def test_dirty_rows_are_kept_aside_and_named(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path / "job.yaml", {
        "name": "checked", "source": sqlite_side(shop, "orders"),
        "sink": sqlite_side(tmp_path / "a.sqlite", "t"), "limits": {"error_records": 3},
        "columns": ["name", {"from": "id", "validators": ["> 3"]}],
    })  # fmt: skip
    ended = inside(capsys, "run", job, "--dirty-folder", "dirty")
    assert ended.code == 0, ended
    (line,) = [line for line in ended.out.splitlines() if line.startswith("Refused rows of")]
    kept = (tmp_path / line.split(": ", 1)[1]).read_text().splitlines()
    assert len(kept) == 3
    assert count_rows(tmp_path / "a.sqlite", "t") == ROWS - 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", "is neither JSON nor YAML"),
        ("", "holds no sub job"),
        ("- {name: a, source: {type: ORACLE}}", "no such data source type"),
        ("- {name: a, source: {type: SQLITE, table: t}}", "connection: {...}"),
        ("- {name: a, source: {type: SQLITE, table: t, connection: {}}}", "sink: is missing"),
        ("- {name: '${who}'}", "--var NAME=VALUE"),
    ],
)
def test_a_wrong_job_file_is_one_line(
    tmp_path: Path,
    content: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(content)
    ended = inside(capsys, "run", "job.yaml")
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert told in ended.err


def test_a_missing_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = inside(capsys, "run", "nothing.yaml")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "exchangis: nothing.yaml: No such file or directory\n"


def test_data_sources_of_the_homes_store_may_be_named(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    with closing(open_store(Settings(home=home))) as store:
        for name, path in (("shop", shop), ("copy", tmp_path / "copy.sqlite")):
            store.data_sources.create(
                name=name, type_name="SQLITE", params={"path": str(path)}, secrets={},
                user="ann", now=0,
            )  # fmt: skip
    job = write_job(tmp_path / "job.yaml", {
        "source": {"type": "SQLITE", "name": "shop", "table": "orders"},
        "sink": {"type": "SQLITE", "id": 2, "table": "orders"},
    })  # fmt: skip
    assert inside(capsys, "run", job, "--home", home).code == 0
    assert count_rows(tmp_path / "copy.sqlite", "orders") == ROWS
    elsewhere = inside(capsys, "run", job, "--home", tmp_path / "other")
    assert elsewhere.code == 1
    assert "no data source of that name" in elsewhere.err
    assert not (tmp_path / "other").exists()


def test_a_job_with_connections_needs_no_store(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGIS_STORE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret.key").touch()
    job = write_job(tmp_path / "job.yaml", {
        "source": sqlite_side(shop, "orders"), "sink": sqlite_side(tmp_path / "a.sqlite", "t"),
    })  # fmt: skip
    assert inside(capsys, "run", job, "--home", tmp_path / "home").code == 0


def test_a_task_that_outruns_its_time_ends_as_timeout(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job.yaml", {
        "source": sqlite_side(shop, "orders"), "sink": sqlite_side(tmp_path / "a.sqlite", "t"),
        "limits": {"records_per_second": 10, "batch_rows": 10, "timeout": 0.3},
    })  # fmt: skip
    ended = inside(capsys, "run", job, "--json")
    assert ended.code == 1
    assert ended.events[-1]["status"] == "Timeout"
    assert not count_rows(tmp_path / "a.sqlite", "t")


def test_an_error_that_may_pass_is_tried_again_and_then_told(
    tmp_path: Path, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGIS_RETRY_BASE", "0.05")
    nowhere = {"host": "127.0.0.1", "port": 1, "username": "ann", "database": "x"}
    job = write_job(tmp_path / "job.yaml", {
        "source": sqlite_side(shop, "orders"), "limits": {"max_attempts": 3},
        "sink": {"type": "POSTGRESQL", "connection": nowhere, "table": "t"},
    })  # fmt: skip
    ended = inside(capsys, "run", job, "--json")
    assert ended.code == 1
    told = [event["text"] for event in ended.events if event["event"] == "log"]
    for attempt in (1, 2):
        assert sum(f"Attempt {attempt} failed; again in" in text for text in told) == 1
    assert not any("Attempt 3 failed; again" in text for text in told)
    assert ended.events[-1]["tasks"][0]["code"] == "connection_failed"


# --- Ctrl-C ---------------------------------------------------------------------------------


def slow_job(tmp_path: Path, shop: Path) -> Path:
    return write_job(tmp_path / "job.yaml", [
        {"name": "slow", "source": sqlite_side(shop, "orders"), "mode": "overwrite",
         "sink": sqlite_side(tmp_path / "copy.sqlite", "orders"),
         "limits": {"records_per_second": 50, "batch_rows": 10}},
        {"name": "later", "source": sqlite_side(shop, "orders"),
         "sink": sqlite_side(tmp_path / "later.sqlite", "orders")},
    ])  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_half_written_table_and_no_process(
    tmp_path: Path, shop: Path, number: signal.Signals
) -> None:
    make_table(tmp_path / "copy.sqlite", 5)
    before = tables(tmp_path / "copy.sqlite")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [*COMMAND, "run", str(slow_job(tmp_path, shop)), "--json"], cwd=tmp_path,
        stdout=subprocess.PIPE, text=True, env=environment({"TMPDIR": str(temporary)}),
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        events = (json.loads(line) for line in output)
        started = next(
            event
            for event in events
            if event["event"] == "progress" and event["tasks"][0]["exchangedRecords"] > 0
        )
        assert started["tasks"][0]["status"] == "Running"
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        *_, result = events
        assert process.wait(20) == 128 + number
    assert [task["status"] for task in result["tasks"]] == ["Cancelled", "Cancelled"]
    assert result["status"] == "Cancelled"
    assert count_rows(tmp_path / "copy.sqlite", "orders") == 5
    left = tables(tmp_path / "copy.sqlite") - before - {"exchangis_commits"}
    assert not {name for name in left if "stg" in name or "staging" in name}, left
    assert not (tmp_path / "later.sqlite").exists()
    assert not list(temporary.iterdir())
    wait_until(lambda: not any(child.is_running() for child in children))


STUBBORN = """
import sys, threading
from exchangis.cli import local_task
from exchangis.cli.main import main

class Stubborn:
    def check(self, spec): pass
    def run(self, request, events): threading.Event().wait()
    def cancel(self): pass
    def discard(self, request, events): pass

local_task.engine_class = lambda name: Stubborn
sys.exit(main(sys.argv[1:]))
"""


def test_a_second_interrupt_ends_even_what_does_not_heed_the_first(
    tmp_path: Path, shop: Path
) -> None:
    job = write_job(tmp_path / "job.yaml", {
        "source": sqlite_side(shop, "orders"), "sink": sqlite_side(tmp_path / "a.sqlite", "t"),
    })  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN, "run", str(job)], stdout=subprocess.PIPE, text=True,
        cwd=tmp_path, env=environment({"TMPDIR": str(tmp_path)}),
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as lines:
        next(line for line in lines if "Running" in line)
        process.send_signal(signal.SIGINT)
        next(line for line in lines if "once more ends it at once" in line)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT


# --- terminals ------------------------------------------------------------------------------


def test_a_terminal_gets_bars_and_its_cursor_back(tmp_path: Path, shop: Path) -> None:
    job = two_tasks(tmp_path, shop)
    shown = on_terminal("run", job, "--var", "most=500", cwd=tmp_path)
    assert shown.code == 0, shown.out
    assert "━" in shown.out
    assert "2/2 tasks" in shown.out
    assert shown.out.count("\x1b[?25l") == shown.out.count("\x1b[?25h") == 1
    assert "\x1b[3" in shown.out  # colours
    plain = on_terminal("run", job, "--var", "most=500", cwd=tmp_path, env={"NO_COLOR": "1"})
    assert plain.code == 0, plain.out
    assert "━" in plain.out
    assert "\x1b[3" not in plain.out


# --- secrets --------------------------------------------------------------------------------


def test_passwords_show_neither_in_output_nor_in_the_process_list(
    tmp_path: Path, shop: Path, postgres: Service
) -> None:
    reach = {**postgres.params, "password": "${env.DB_PASSWORD}"}
    target = {"type": "POSTGRESQL", "db": "public", "table": "cli_secret_test"}
    job = write_job(tmp_path / "job.yaml", {
        "name": "load", "source": sqlite_side(shop, "orders"), "mode": "overwrite",
        "sink": target | {"connection": reach},
        "limits": {"records_per_second": 2 * ROWS},
    })  # fmt: skip
    process = subprocess.Popen(
        [*COMMAND, "run", str(job), "-v", "--json"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment({"DB_PASSWORD": postgres.password}),
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        first = output.readline()
        listed = [
            " ".join(one.cmdline()) for one in psutil.process_iter() if _is_ours(one, process)
        ]
        assert listed
        printed = first + output.read()
    assert process.wait(20) == 0, printed
    assert not any(postgres.password in text for text in [*listed, printed])


def _is_ours(one: psutil.Process, process: subprocess.Popen[str]) -> bool:
    try:
        return one.pid == process.pid or process.pid in {p.pid for p in one.parents()}
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--json", "-v"), ("--bad",)])
def test_a_password_in_a_job_file_is_never_repeated(
    tmp_path: Path,
    shop: Path,
    postgres: Service,
    options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = "wr0ng-Pa55'\"word"
    reach = {**postgres.params, "password": wrong}
    content = {
        "name": f"load {wrong}" if options == ("--bad",) else "load",
        "source": sqlite_side(shop, "orders"),
        "sink": {"type": "POSTGRESQL", "connection": reach, "table": "t",
                 "mode": wrong if options == ("--bad",) else "append"},
        "limits": {"max_attempts": 1},
    }  # fmt: skip
    job = write_job(tmp_path / "job.yaml", content)
    ended = inside(capsys, "run", job, *(o for o in options if o != "--bad"))
    assert ended.code == 1
    assert wrong not in ended.out + ended.err
