"""Runner processes: spawned fast, killed whole, gone with their server, silent about secrets."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import psutil
import pytest

from exchangis.domain.model import Connection, DataSet, TaskSpec
from exchangis.domain.states import State
from exchangis.engine.base import TaskRequest
from exchangis.runner.main import LEASE_LOST
from exchangis.runner.pool import Exit, Runner, RunnerPool
from exchangis.runner.protocol import Order, Outcome, encode
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _with_fault_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "faults"))


@pytest.fixture
def pool() -> Iterator[RunnerPool]:
    with_runners = RunnerPool()
    yield with_runners
    with_runners.close()


def _exit_of(pool: RunnerPool, runner: Runner) -> Exit:
    def ended() -> Exit | None:
        select.select([pool.start()], [], [], 0.1)
        return next((end for end in pool.exits() if end.pid == runner.pid), None)

    return wait_until(ended, what="exit of the runner")


def test_runner_that_cannot_read_its_order_says_so_and_ends(pool: RunnerPool) -> None:
    runner = pool.spawn()
    runner.send(b"this is no order\n")
    ended = _exit_of(pool, runner)
    assert ended.code == 70
    assert b"Error" in runner.read_output()
    assert runner.read_lines() == ([], False)
    runner.close()


def _order(what: str, folder: Path) -> Order:
    request = TaskRequest(
        task_key="test/1",
        attempt=1,
        spec=TaskSpec(
            name="t",
            engine="fault",
            source=DataSet(type="CSV", uri="a"),
            sink=DataSet(type="CSV", uri=str(folder / "sink")),
            where=what,
        ),
        source=Connection(type="CSV"),
        sink=Connection(type="CSV"),
        workdir=folder / "work",
        dirty_file=folder / "dirty.jsonl",
    )
    return Order("run", request, last_attempt=True, lease_seconds=30)


def test_killed_runner_takes_its_descendants_with_it(pool: RunnerPool, tmp_path: Path) -> None:
    runner = pool.spawn()
    runner.send(_order("stubborn", tmp_path).encode())
    children = wait_until(lambda: psutil.Process(runner.pid).children(), what="the child")
    pool.kill(runner.pid)
    assert _exit_of(pool, runner).code == -signal.SIGKILL
    wait_until(
        lambda: not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE,
        within=5,
        what="death of the child",
    )
    runner.close()


def test_runner_whose_lease_is_not_renewed_ends_itself(pool: RunnerPool, tmp_path: Path) -> None:
    runner = pool.spawn()
    runner.send(replace(_order("wait", tmp_path), lease_seconds=0.5).encode())
    assert _exit_of(pool, runner).code == LEASE_LOST
    runner.close()


def test_stop_ends_the_work_and_cleans_up(pool: RunnerPool, tmp_path: Path) -> None:
    runner = pool.spawn()
    runner.send(_order("wait", tmp_path).encode())
    lines: list[bytes] = []
    wait_until(lambda: lines.extend(runner.read_lines()[0]) or b'"progress":0.5' in b"".join(lines))
    runner.send(encode({"kind": "stop"}))
    assert _exit_of(pool, runner).code == 0
    rest, more = runner.read_lines()
    outcome = Outcome.decode(orjson.loads(rest[-1]))
    assert (outcome.state, outcome.discarded, more) == (State.CANCELLED, True, False)
    assert (tmp_path / "sink").read_text() == "discarded\n"
    assert not (tmp_path / "work").exists()
    runner.close()


def test_stopped_runner_that_ignores_every_signal_is_killed(pool: RunnerPool) -> None:
    runner = pool.spawn()
    os.kill(runner.pid, signal.SIGSTOP)
    pool.kill(runner.pid)
    assert _exit_of(pool, runner).code == -signal.SIGKILL
    runner.close()


def test_death_of_the_nursery_is_the_end_of_its_runners_and_a_new_one_starts(
    pool: RunnerPool,
) -> None:
    runner = pool.spawn()
    process = psutil.Process(runner.pid)
    nursery = process.parent()
    assert nursery is not None
    nursery.kill()
    assert _exit_of(pool, runner).code == -signal.SIGKILL
    wait_until(lambda: not psutil.pid_exists(runner.pid), what="death of the runner")
    runner.close()
    again = pool.spawn()
    assert psutil.pid_exists(again.pid)
    again.close()


_SERVER = """
import sys
from exchangis.runner.pool import RunnerPool
pool = RunnerPool()
runners = [pool.spawn() for _ in range(3)]
print(*[runner.pid for runner in runners], flush=True)
sys.stdin.read()
"""


def test_runners_die_with_a_killed_server() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        pids = [int(word) for word in server.stdout.readline().split()]
        assert len(pids) == 3
        os.kill(pids[0], signal.SIGSTOP)
        server.kill()
        wait_until(
            lambda: not any(psutil.pid_exists(pid) for pid in pids),
            within=5,
            what="death of the runners",
        )


def test_runner_does_not_inherit_the_servers_secrets(
    pool: RunnerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGIS_STORE_URL", "postgresql://u:hunter2@localhost/x")
    monkeypatch.setenv("EXCHANGIS_SECRET_KEY", "hunter2")
    monkeypatch.setenv("EXCHANGIS_TOKEN", "hunter2")
    runner = pool.spawn()
    for pid in (runner.pid, psutil.Process(runner.pid).ppid()):
        assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    runner.close()


def test_nursery_has_one_thread_when_it_forks(pool: RunnerPool) -> None:
    runner = pool.spawn()
    nursery = psutil.Process(psutil.Process(runner.pid).ppid())
    assert nursery.num_threads() == 1
    runner.close()
