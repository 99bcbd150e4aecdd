"""How fast the server answers and starts work.

    python -m bench.api [--store sqlite|postgresql|both] [--live 200] [--history 100000] ...

Measured, for each kind of store, with everything on one machine:

- status calls per second and their latency, from 16 kept-alive connections, while `--live`
  executions really run (each a runner process) and `--history` finished ones lie in the store;
  the same for the history's first page, and for a page of a log;
- submit-to-Running: from sending `execute` to the first status answer that is past Scheduled;
- tasks per second: `--tiny` executions of one small real task each (a CSV file of ten rows copied),
  and one execution of as many tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import insert
from tests import services
from tests.e2e.system import DOCUMENTED, FIELD, System

from exchangis.config import Settings
from exchangis.domain.clock import now_ms
from exchangis.domain.ids import new_execution_id
from exchangis.domain.states import State
from exchangis.store.database import Database
from exchangis.store.opening import open_store
from exchangis.store.schema import executions, tasks

_BATCH = 5_000


def _seed_history(database: Database, count: int) -> list[str]:
    """Finished executions with one task each; returns some of their ids."""
    now = now_ms()
    ids: list[str] = []
    for start in range(0, count, _BATCH):
        rows = []
        for number in range(start, min(start + _BATCH, count)):
            at = now - (count - number) * 1000
            rows.append(
                {
                    "execution_id": new_execution_id(), "job_id": number % 500 + 10_000,
                    "job_name": f"nightly-{number % 500}", "engine": "native", "content": "[]",
                    "state": State.SUCCESS if number % 20 else State.FAILED, "progress": 1.0,
                    "total_tasks": 1, "open_tasks": 0, "flow": 1000.0, "created_by": "bench",
                    "execute_user": "bench", "created_at": at, "launched_at": at,
                    "updated_at": at + 500, "ended_at": at + 500,
                }
            )  # fmt: skip
        work = [
            {
                "execution_id": row["execution_id"], "position": 0, "name": "t", "engine": "native",
                "source_type": "MYSQL", "sink_type": "HIVE", "execute_user": "bench",
                "spec": "{}", "state": State.SUCCESS, "progress": 1.0, "attempt": 1,
                "created_at": row["created_at"], "updated_at": row["updated_at"],
                "ended_at": row["ended_at"],
            }
            for row in rows
        ]  # fmt: skip
        with database.begin() as connection:
            connection.execute(insert(executions), rows)
            connection.execute(insert(tasks), work)
        ids += [row["execution_id"] for row in rows[:50]]
    return ids


def _load(url: str, paths: list[str], *, clients: int, seconds: float) -> dict[str, Any]:
    order = {"url": url, "paths": paths, "clients": clients, "seconds": seconds}
    found = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(order).encode(), capture_output=True, check=True,
    )  # fmt: skip
    return dict(json.loads(found.stdout))


def _content(files: int, source: str, sink: str, **limits: int) -> list[dict[str, Any]]:
    return [
        {
            "name": "copy",
            "source": {"type": "CSV", "id": files, "uri": source},
            "sink": {"type": "CSV", "id": files, "uri": sink},
            "mode": "overwrite",
            "limits": {"parallelism": 1, **limits},
        }
    ]


def _calls(system: System, args: argparse.Namespace, files: int, history: list[str]) -> list[Any]:
    """The figures of the reading calls, with executions live."""
    live = [
        system.execute(
            system.job(f"live-{n}", _content(files, "long.csv", f"live-{n}.csv",
                                             records_per_second=5))
        )
        for n in range(args.live)
    ]  # fmt: skip
    for execution in live:
        system.wait(execution, "Running", within=300)
    assert system.process is not None
    runners = psutil.Process(system.process.pid).children(recursive=True)
    memory = sum(p.memory_full_info().pss for p in runners)
    base = f"{DOCUMENTED}/job/execution"
    found = []
    for name, paths in (
        ("status, live and finished", [f"{base}/{x}/status" for x in live + history]),
        ("status, field base", [f"{FIELD}/job/execution/{x}/status?labels=" for x in live]),
        ("progress, live", [f"{base}/{x}/progress" for x in live]),
        ("log page, live", [f"{base}/{x}/log?fromLine=0&pageSize=100" for x in live]),
        ("history, first page", [f"{DOCUMENTED}/job/listJobs?current=1&size=10"]),
        ("history, by name", [f"{DOCUMENTED}/job/listJobs?jobName=nightly-7&current=1&size=10"]),
    ):  # fmt: skip
        figures = _load(system.url, paths, clients=16, seconds=args.seconds)
        assert figures["failed"] == 0, (name, figures)
        found.append((name, figures))
    states = {system.status(x)["status"] for x in live}
    assert states == {"Running"}, states
    server = psutil.Process(system.process.pid).memory_info().rss
    found.append(("memory", {"server_mb": server >> 20, "runner_mb": memory / len(live) / 1e6}))
    for execution in live:
        system.data("POST", f"/job/execution/{execution}/kill", {})
    began = time.perf_counter()
    for execution in live:
        system.wait_all_final(execution, within=120)
    found.append(("kill", {"executions": len(live), "seconds": time.perf_counter() - began}))
    return found


def _latency(system: System, args: argparse.Namespace, files: int) -> dict[str, float]:
    """Milliseconds from sending execute to a status past Scheduled."""
    job = system.job("latency", _content(files, "short.csv", "latency.csv", records_per_second=10))
    took = []
    for _ in range(args.samples):
        began = time.perf_counter()
        execution = system.execute(job)
        while system.status(execution)["status"] in ("Inited", "Scheduled"):
            pass
        took.append((time.perf_counter() - began) * 1000)
        system.wait_all_final(execution)
    took.sort()
    return {
        "median_ms": statistics.median(took),
        "p95_ms": took[int(len(took) * 0.95)],
        "worst_ms": took[-1],
        "samples": len(took),
    }


def _rate(system: System, args: argparse.Namespace, files: int) -> dict[str, float]:
    """Tasks per second of tiny real tasks, as many executions and as one."""
    jobs = [
        system.job(f"tiny-{n}", _content(files, "tiny.csv", f"tiny/{n}.csv"))
        for n in range(args.tiny)
    ]
    began = time.perf_counter()
    running = [system.execute(job) for job in jobs]
    for execution in running:
        assert system.wait(execution, within=600) == "Success"
    many = args.tiny / (time.perf_counter() - began)
    content = [
        {**_content(files, "tiny.csv", f"tiny/one-{n}.csv")[0], "name": f"copy-{n}"}
        for n in range(args.tiny)
    ]
    one = system.job("tiny-all", content)
    began = time.perf_counter()
    assert system.wait(system.execute(one), within=600) == "Success"
    return {"executions_per_s": many, "tasks_per_s": args.tiny / (time.perf_counter() - began)}


@contextlib.contextmanager
def _store_url(kind: str) -> Iterator[str | None]:
    if kind == "sqlite":
        yield None
        return
    with services.postgres() as service:
        import psycopg

        with psycopg.connect(
            host=service.host, port=service.port, user=service.user, password=service.password,
            dbname="test", autocommit=True,
        ) as connection:  # fmt: skip
            connection.execute("CREATE ROLE bench LOGIN SUPERUSER PASSWORD 'bench'")
        yield f"postgresql://bench:bench@{service.host}:{service.port}/test"


def _measure(kind: str, args: argparse.Namespace, step: Any) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exchangis-bench-")))
        url = stack.enter_context(_store_url(kind))
        home = folder / "home"
        (folder / "tiny.csv").write_text("a,b\n" + "1,x\n" * 10)
        (folder / "short.csv").write_text("a,b\n" + "1,x\n" * 5)
        (folder / "long.csv").write_text("a,b\n" + "1,x\n" * 100_000)
        (folder / "tiny").mkdir()
        options: dict[str, Any] = {} if url is None else {"store_url": url}
        system = System(home, max_running=args.live + 4, lease=30, heartbeat=10, poll=1, **options)
        step(f"{kind}: history of {args.history:,} executions")
        store = open_store(Settings(home=home, **options))
        history = _seed_history(store.database, args.history)
        store.close()
        stack.callback(system.close)
        system.start()
        files = system.data_source("files", "CSV", {"path": str(folder)})
        result: dict[str, Any] = {}
        step(f"{kind}: submit-to-Running")
        result["latency"] = _latency(system, args, files)
        step(f"{kind}: {args.live} live executions, status calls")
        result["calls"] = _calls(system, args, files, history)
        system.stop()
        system = System(home, **options)
        stack.callback(system.close)
        system.start()
        step(f"{kind}: {args.tiny:,} tiny tasks")
        result["rate"] = _rate(system, args, files)
        return result


def _report(kind: str, result: dict[str, Any]) -> list[str]:
    lines = [f"### Store: {kind}", "", "| call | calls/s | p50 ms | p99 ms |", "| --- " * 4 + "|"]
    notes = []
    for name, figures in result["calls"]:
        if "per_second" in figures:
            lines.append(
                f"| {name} | {figures['per_second']:,.0f} | {figures['p50']:.1f} | "
                f"{figures['p99']:.1f} |"
            )
        elif name == "memory":
            notes.append(
                f"- Memory: server {figures['server_mb']} MB, and {figures['runner_mb']:.0f} MB"
                " (proportional share) for each live runner."
            )
        else:
            notes.append(
                f"- Kill of {figures['executions']} executions at once: all final "
                f"{figures['seconds']:.1f} s after the last request."
            )
    latency, rate = result["latency"], result["rate"]
    return [
        *lines,
        "",
        f"- Submit to Running: median {latency['median_ms']:.0f} ms, 95 % within "
        f"{latency['p95_ms']:.0f} ms, worst {latency['worst_ms']:.0f} ms "
        f"({latency['samples']} samples).",
        f"- Tiny tasks: {rate['executions_per_s']:.1f} executions of one task per second, "
        f"{rate['tasks_per_s']:.1f} tasks per second in one execution.",
        *notes,
        "",
    ]


def main() -> None:
    """Measure, print Markdown, and write it to --output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--live", type=int, default=200)
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--tiny", type=int, default=1_000)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    kinds = ["sqlite", "postgresql"] if args.store == "both" else [args.store]
    console = Console(stderr=True)
    lines = [
        f"{args.live} live executions, {args.history:,} in history, 16 connections, "
        f"{psutil.cpu_count()} cores shared by server, runners, store and clients.",
        "",
    ]
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task("start")

        def step(text: str) -> None:
            progress.update(task, description=text)
            if not console.is_terminal:
                console.print(text)

        for kind in kinds:
            lines += _report(kind, _measure(kind, args, step))
    text = "\n".join(lines)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
