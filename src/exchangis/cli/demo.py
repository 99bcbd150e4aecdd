"""`exchangis demo`: from nothing to rows that moved through the real system, and the proof."""

from __future__ import annotations

import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exchangis.cli.client import Client, connect
from exchangis.cli.demo_check import Check, check_all, expected_dirty
from exchangis.cli.demo_data import BAD_LINES, SampleData, Tick
from exchangis.cli.demo_server import demo_server
from exchangis.cli.progress import Snapshot, make_face
from exchangis.cli.remote import RemoteJob, follow
from exchangis.cli.terminal import count, is_terminal, print_json, print_table, program_name, say
from exchangis.domain.states import State

_ERROR_LIMIT = 10


class _Voice:
    """What the demo says between the bars: lines for people, events for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def step(self, text: str, **details: Any) -> None:
        if self.as_json:
            print_json({"event": "step", "text": text, **details}, indent=None)
        else:
            say(text)


def _ignore(_rows: int) -> None:
    """For whoever does not show how the sample data grow."""


@contextmanager
def _making(total: int, voice: _Voice) -> Iterator[Tick]:
    """A bar over the making of the sample data, on a terminal."""
    if voice.as_json or not is_terminal():
        yield _ignore
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from exchangis.cli.terminal import console

    with Progress(
        TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), console=console(), transient=True,
    ) as progress:  # fmt: skip
        bar = progress.add_task("Sample data", total=total)
        yield lambda rows: progress.advance(bar, rows)


def run_demo(*, rows: int, home: Path | None, keep: bool, as_json: bool) -> int:
    """Run the demo; the exit code: 0 if every task succeeded and every check holds."""
    voice = _Voice(as_json=as_json)
    temporary = home is None
    chosen = Path(tempfile.mkdtemp(prefix="exchangis-demo-")) if home is None else home.absolute()
    # A demo that is ended ends its server too, and removes what is temporary.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(chosen, rows, voice, kept=keep or not temporary)
    finally:
        signal.signal(signal.SIGTERM, before)
        if temporary and not keep:
            shutil.rmtree(chosen, ignore_errors=True)


def _run(home: Path, rows: int, voice: _Voice, *, kept: bool) -> int:
    data = SampleData.of(home / "data", rows)
    began = time.monotonic()
    with _making(data.total, voice) as tick:
        data.make(tick)
    voice.step(
        f"Sample data: {count(data.total)} rows in SQLite, CSV ({len(BAD_LINES)} of them bad) and "
        f"DuckDB, made in {time.monotonic() - began:.1f} s",
        rows=data.total,
    )
    with demo_server(home) as url, connect(url, None, home) as client:
        voice.step(f"Server: {url}", url=url)
        job = _create_job(client, data)
        execution = str(client.post(f"/job/{job}/execute", {})["jobExecutionId"])
        voice.step(
            f"Job {job} with 3 tasks submitted through the REST API: execution {execution}",
            jobId=job, jobExecutionId=execution,
        )  # fmt: skip
        remote = RemoteJob(client, execution)
        face = make_face(as_json=voice.as_json)
        try:
            last = follow(remote, face)
        finally:
            face.close()
        spans = _launches(client, execution)
        problem = remote.problem() if last.state is not State.SUCCESS else ""
    checks = check_all(data) if last.state is State.SUCCESS else []
    good = _is_good(last, checks)
    if voice.as_json:
        print_json(_result(last, checks, execution, home if kept else None, good), indent=None)
    else:
        _print_end(last, spans, checks, problem, good=good)
        _print_ways_on(home, execution, kept=kept)
    return 0 if good else 1


def _create_job(client: Client, data: SampleData) -> int:
    """Data sources and the job, all through the REST API; the job's id."""
    kinds = {
        "demo shop": ("SQLITE", data.shop),
        "demo files (CSV)": ("CSV", data.files),
        "demo files (Parquet)": ("PARQUET", data.files),
        "demo web": ("DUCKDB", data.web),
        "demo warehouse": ("DUCKDB", data.warehouse),
        "demo reports": ("SQLITE", data.reports),
    }
    ids = {name: _data_source(client, name, *kind) for name, kind in kinds.items()}

    def side(name: str, **where: Any) -> dict[str, Any]:
        return {"type": kinds[name][0], "id": ids[name], **where}

    content = [
        {
            "subJobName": "orders",
            "source": side("demo shop", table="orders"),
            "sink": side("demo files (Parquet)", uri=data.orders_file.name),
            "mode": "overwrite",
        },
        {
            "subJobName": "readings",
            "source": side(
                "demo files (CSV)", uri=data.readings_file.name,
                # The table's types decide: a row that does not fit them is a dirty record.
                options={"types": "text", "newlines_in_values": "false"},
            ),
            "sink": side("demo warehouse", table="readings"),
            "mode": "overwrite",
            "settings": [{"config_key": "errorlimit.record", "config_value": _ERROR_LIMIT}],
        },
        {
            "subJobName": "visits",
            "source": side("demo web", table="visits"),
            "sink": side("demo reports", table="visits"),
            "mode": "overwrite",
        },
    ]  # fmt: skip
    job = {"jobName": "demo", "jobType": "OFFLINE", "jobDesc": "Made by `exchangis demo`."}
    created = client.post("/job", job | {"content": content})
    return int(created["result"]["id"])


def _data_source(client: Client, name: str, kind: str, path: Path) -> int:
    """The id of the data source of that name, made or brought up to date."""
    body = {
        "dataSourceName": name,
        "dataSourceType": kind,
        "connectParams": {"path": str(path)},
    }
    found = client.post("/datasources/query", {"name": name, "pageSize": 100})["list"]
    known = next((entry["id"] for entry in found if entry["name"] == name), None)
    if known is None:
        return int(client.post("/datasources", body)["id"])
    client.put(f"/datasources/{known}", body)
    return int(known)


def _launches(client: Client, execution: str) -> dict[str, tuple[str, str]]:
    """Engine and user of each task, by its id, as the task list tells them."""
    tasks = client.get(f"/job/execution/{execution}/tasklist")["tasks"]
    return {str(task["taskId"]): (task["engineType"], task["executeUser"]) for task in tasks}


def _is_good(last: Snapshot, checks: list[Check]) -> bool:
    dirty = {task.name: task.errors for task in last.tasks}
    return (
        last.state is State.SUCCESS
        and bool(checks)
        and all(check.holds for check in checks)
        and dirty == expected_dirty()
    )


def _result(
    last: Snapshot, checks: list[Check], execution: str, home: Path | None, good: bool
) -> dict[str, Any]:
    return {
        "event": "result",
        "success": good,
        "jobExecutionId": execution,
        **last.as_dict(),
        "checks": [
            {"task": c.task, "measure": c.measure, "source": c.source, "sink": c.sink,
             "equal": c.holds}
            for c in checks
        ],
        "home": None if home is None else str(home),
    }  # fmt: skip


_ROUTES = {
    "orders": "SQLite → Parquet",
    "readings": "CSV → DuckDB",
    "visits": "DuckDB → SQLite",
}


def _print_end(
    last: Snapshot, spans: dict[str, tuple[str, str]], checks: list[Check], problem: str, *,
    good: bool,
) -> None:  # fmt: skip
    say()
    print_table(
        ("Task", "Way", "Engine", "State", "Rows", "Rows/s", "Dirty"),
        [
            (task.name, _ROUTES.get(task.name, ""), spans.get(task.key, ("",))[0],
             task.state.value, count(task.rows), count(task.rate), count(task.errors))
            for task in last.tasks
        ],
    )  # fmt: skip
    if problem:
        say(problem)
    if checks:
        say("Both sides, read by sqlite3 and duckdb, without Exchangis:")
        print_table(
            ("Task", "Measure", "Source", "Sink", "Equal"),
            [
                (c.task, c.measure, _shown(c.source), _shown(c.sink), "yes" if c.holds else "NO")
                for c in checks
            ],
        )
    moved = sum(task.rows for task in last.tasks)
    dirty = sum(task.errors for task in last.tasks)
    if good:
        say(
            f"Success: {count(moved)} rows moved, {count(dirty)} dirty ones counted and kept "
            f"aside, all {len(checks)} counts and sums are equal on both sides."
        )
    elif not checks:
        say(f"The job ended as {last.state.value}.")
    else:
        wrong = sum(not check.holds for check in checks)
        say(f"Not as it should be: {wrong} of {len(checks)} measures differ, {dirty} dirty rows.")


def _shown(value: Any) -> str:
    return count(value) if isinstance(value, int) else str(value)


def _print_ways_on(home: Path, execution: str, *, kept: bool) -> None:
    say()
    if not kept:
        say(f"All of it was temporary. To look around afterwards: {program_name()} demo --keep")
        return
    program, option = program_name(), f"--home {shlex.quote(str(home))}"
    say(f"Everything is in {home}. To look further:")
    say(f"  {program} server {option}")
    say("      then http://127.0.0.1:9321 (its calls: http://127.0.0.1:9321/docs), and meanwhile")
    say(f"  {program} job list {option}")
    say(f"  {program} job status {execution} {option}")
    say(f"  {program} job logs {execution} {option}")
    say(f"  cat {shlex.quote(str(home / 'runs' / execution))}/*/dirty.jsonl")
    say("To remove it:")
    say(f"  rm -r {shlex.quote(str(home))}")
