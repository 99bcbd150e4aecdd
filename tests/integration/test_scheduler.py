"""The scheduler on real processes: states, kills, retries, limits, takeovers.

The work itself is done by a fake engine that misbehaves as asked (`tests/faults`), so that each
fault comes when it is wanted; real moves of data are in the suites of the engine and the system.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from exchangis.config import Settings
from exchangis.domain.clock import now_ms
from exchangis.domain.errors import Conflict
from exchangis.domain.states import State
from exchangis.engine import base as engines
from exchangis.logs.reader import LogQuery
from exchangis.scheduler.supervisor import Supervisor
from exchangis.service.executions import ExecuteOptions, Submitted
from exchangis.service.services import Services, make_services
from exchangis.store.executions import TaskRecord
from exchangis.store.opening import open_store
from tests.waiting import wait_until

FAULTS = Path(__file__).parents[1] / "faults"
PASSWORD = "a-pass-word-to-grep-for"


class Bench:
    """A store, its services, and as many schedulers on it as a test wants."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.settings = Settings(
            home=home, retry_base=0.05, poll=0.2, heartbeat=0.5, lease=6.0, kill_grace=0.5,
            **settings,
        )  # fmt: skip
        self.store = open_store(self.settings)
        self.services: Services = make_services(self.settings, self.store, wake=self._wake)
        self.schedulers: list[Supervisor] = []
        self.source = self._data_source("in", home)
        self.sink = self._data_source("out", home)

    def _data_source(self, name: str, home: Path) -> int:
        record = self.store.data_sources.create(
            name=name, type_name="CSV", params={"path": str(home)}, secrets={}, description="",
            label="", user="tester", now=now_ms(),
        )  # fmt: skip
        return record.id

    def _wake(self) -> None:
        for scheduler in self.schedulers:
            scheduler.wake()

    def start(self) -> Supervisor:
        scheduler = Supervisor(self.settings, self.store, self.services.catalog)
        scheduler.start()
        self.schedulers.append(scheduler)
        return scheduler

    def submit(
        self,
        *what: str,
        permit: bool = False,
        timeout: float | None = None,
        user: str = "tester",
        limits: dict[str, Any] | None = None,
    ) -> str:
        content = [
            {
                "name": f"t{number}",
                "source": {"type": "CSV", "id": self.source, "uri": "in.csv"},
                "sink": {
                    "type": "CSV",
                    "id": self.sink,
                    "uri": str(self.settings.home / str(number)),
                },
                "where": word,
                "limits": limits or {},
            }
            for number, word in enumerate(what)
        ]
        return self.services.executions.execute(
            Submitted(content=content, engine="fault", job_name="job", execute_user=user),
            ExecuteOptions(permit_partial_failures=permit, timeout=timeout),
            user,
        )

    def state(self, execution_id: str) -> State:
        return self.services.executions.status(execution_id).state

    def tasks(self, execution_id: str) -> list[TaskRecord]:
        return self.store.executions.task_list(execution_id)

    def states(self, execution_id: str) -> list[State]:
        return [task.state for task in self.tasks(execution_id)]

    def wait(self, execution_id: str, state: State, within: float = 20) -> None:
        def reached() -> bool:
            found = self.services.executions.status(execution_id)
            if found.state.is_final and found.state is not state:
                raise AssertionError(f"{found.state}: {self.job_log(execution_id)}")
            return found.state is state

        wait_until(reached, within=within, what=f"{state} of {execution_id}")

    def settled(self, execution_id: str, within: float = 20) -> State:
        """The job's final state, once all of its tasks are final too."""
        wait_until(
            lambda: self.services.executions.status(execution_id).all_final,
            within=within,
            what=f"end of {execution_id}",
        )
        return self.state(execution_id)

    def job_log(self, execution_id: str) -> str:
        page = self.services.logs.job_log(execution_id, LogQuery(page_size=10_000))
        return "\n".join(page.all)

    def task_log(self, execution_id: str, position: int = 0) -> str:
        task = self.tasks(execution_id)[position]
        page = self.services.logs.task_log(task.id, execution_id, LogQuery(page_size=10_000))
        return "\n".join(page.all)

    def pid(self, execution_id: str, position: int = 0) -> int:
        """The pid of the task's runner, from its log."""
        log = wait_until(
            lambda: "pid " in (text := self.task_log(execution_id, position)) and text,
            what="the runner's pid",
        )
        return int(log.rsplit("pid ", 1)[1].split()[0])

    def close(self) -> None:
        for scheduler in self.schedulers:
            scheduler.stop()
        self.store.close()


@pytest.fixture(autouse=True)
def _with_fault_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    monkeypatch.syspath_prepend(str(FAULTS))
    engines._found.cache_clear()
    yield
    engines._found.cache_clear()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    made.start()
    yield made
    made.close()


def test_successful_job_ends_with_progress_one_and_its_counts(bench: Bench) -> None:
    execution = bench.submit("quick", "quick")
    assert bench.settled(execution) is State.SUCCESS
    assert bench.services.executions.status(execution).progress == 1.0
    assert [task.exchanged_records for task in bench.tasks(execution)] == [10, 10]
    log = bench.job_log(execution)
    for word in ("submitted by tester", "2 task(s)", "Running", "Success"):
        assert word in log


def test_job_shows_running_while_its_task_runs_with_live_metrics(bench: Bench) -> None:
    execution = bench.submit("wait")
    bench.wait(execution, State.RUNNING)
    task = wait_until(
        lambda: (found := bench.tasks(execution)[0]).memory and found.error_records and found
    )
    assert task.memory > 1 << 20
    assert task.progress == 0.5
    assert 0 < bench.services.executions.status(execution).progress < 1
    bench.services.executions.kill(execution, "tester")
    assert bench.settled(execution) is State.CANCELLED


def test_failing_task_decides_the_job_at_once_and_stops_the_others(bench: Bench) -> None:
    execution = bench.submit("wait 60", "fail no such table")
    bench.wait(execution, State.FAILED)
    assert bench.settled(execution) is State.FAILED
    assert bench.states(execution) == [State.CANCELLED, State.FAILED]
    assert "no such table" in bench.job_log(execution)


def test_permitted_partial_failure_lets_the_others_run_on(bench: Bench) -> None:
    execution = bench.submit("wait 0.5", "fail", "quick", permit=True)
    bench.wait(execution, State.RUNNING)
    assert bench.settled(execution) is State.PARTIAL_SUCCESS
    assert bench.states(execution)[1] is State.FAILED
    assert bench.services.executions.status(execution).progress < 1


def test_permitted_partial_failure_of_all_tasks_is_failed(bench: Bench) -> None:
    execution = bench.submit("fail", "fail", permit=True)
    assert bench.settled(execution) is State.FAILED


def test_retryable_error_is_tried_again_until_it_succeeds(bench: Bench) -> None:
    execution = bench.submit("flaky 3")
    assert bench.settled(execution) is State.SUCCESS
    task = bench.tasks(execution)[0]
    assert (task.attempt, task.failures) == (3, 2)
    assert bench.task_log(execution).count("fault engine: flaky") == 3
    assert "Trying again" in bench.job_log(execution)


def test_retryable_error_fails_when_no_attempt_is_left(bench: Bench) -> None:
    execution = bench.submit("flaky 9", limits={"max_attempts": 2})
    assert bench.settled(execution) is State.FAILED
    assert bench.tasks(execution)[0].attempt == 2
    assert (bench.settings.home / "0").exists()


def test_waiting_task_shows_wait_for_retry_and_can_be_killed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home", retry_ceiling=600)
    object.__setattr__(bench.settings, "retry_base", 300.0)
    try:
        bench.start()
        execution = bench.submit("flaky 9")
        bench.wait(execution, State.WAIT_FOR_RETRY)
        assert bench.states(execution) == [State.WAIT_FOR_RETRY]
        assert bench.services.executions.kill(execution, "tester") is State.CANCELLED
        assert bench.states(execution) == [State.CANCELLED]
    finally:
        bench.close()


def test_crashed_runner_costs_one_attempt_and_the_log_keeps_its_last_words(bench: Bench) -> None:
    execution = bench.submit("crash", limits={"max_attempts": 2})
    assert bench.settled(execution) is State.FAILED
    assert bench.tasks(execution)[0].attempt == 2
    log = bench.task_log(execution)
    assert "SIGSEGV" in log
    assert "a native library says good-bye" in log


def test_bug_in_an_engine_is_told_in_the_task_log_with_secrets_masked(bench: Bench) -> None:
    execution = bench.submit("bug")
    assert bench.settled(execution) is State.FAILED
    log = bench.task_log(execution)
    assert "Traceback" in log
    assert "hunter2" not in log + bench.job_log(execution) + str(bench.tasks(execution))


def test_memory_limit_ends_a_hungry_task(bench: Bench) -> None:
    execution = bench.submit("hungry", limits={"memory_mb": 256})
    assert bench.settled(execution) is State.FAILED
    task = bench.tasks(execution)[0]
    assert task.error_code == "memory_limit_exceeded"
    assert "its limit is 256 MB" in (task.error or "")
    assert task.attempt == 1


def test_task_that_outruns_its_limit_is_timeout(bench: Bench) -> None:
    execution = bench.submit("wait 60", limits={"timeout_seconds": 1})
    assert bench.settled(execution) is State.TIMEOUT
    assert bench.states(execution) == [State.TIMEOUT]
    assert "time limit of 1 s" in bench.job_log(execution)


def test_job_that_outruns_its_limit_is_timeout(bench: Bench) -> None:
    execution = bench.submit("wait 60", "wait 60", timeout=1)
    assert bench.settled(execution) is State.TIMEOUT


# --- kill -----------------------------------------------------------------------------------


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("what", ["wait", "stubborn", "deaf"])
def test_kill_ends_the_work_within_three_seconds(bench: Bench, what: str) -> None:
    execution = bench.submit(what)
    bench.wait(execution, State.RUNNING)
    pid = bench.pid(execution)
    children = []
    if what == "stubborn":
        children = wait_until(lambda: psutil.Process(pid).children(), what="its child")
    began = time.monotonic()
    bench.services.executions.kill(execution, "operator")
    assert bench.settled(execution, within=3) is State.CANCELLED
    assert time.monotonic() - began < 3
    wait_until(lambda: _gone(pid), within=1)
    wait_until(lambda: all(_gone(child.pid) for child in children), within=1)
    assert "Kill requested by operator" in bench.job_log(execution)
    assert (bench.settings.home / "0").read_text() == "discarded\n"


def test_kill_before_any_server_has_taken_the_job(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home")
    try:
        execution = bench.submit("quick")
        assert bench.services.executions.kill(execution, "operator") is State.CANCELLED
        bench.start()
        assert bench.settled(execution) is State.CANCELLED
        assert bench.tasks(execution) == []
    finally:
        bench.close()


def test_kill_of_a_queued_task(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home", max_running=1)
    try:
        bench.start()
        execution = bench.submit("wait 60", "wait 60")
        bench.wait(execution, State.RUNNING)
        assert State.INITED in bench.states(execution)
        bench.services.executions.kill(execution, "operator")
        assert bench.settled(execution) is State.CANCELLED
        assert bench.states(execution) == [State.CANCELLED, State.CANCELLED]
        assert [task.attempt for task in bench.tasks(execution)].count(0) == 1
    finally:
        bench.close()


def test_kill_of_a_finished_job_is_a_conflict_and_changes_nothing(bench: Bench) -> None:
    execution = bench.submit("quick")
    assert bench.settled(execution) is State.SUCCESS
    with pytest.raises(Conflict, match="has ended already, as Success"):
        bench.services.executions.kill(execution, "operator")
    assert bench.state(execution) is State.SUCCESS


# --- limits ---------------------------------------------------------------------------------


def _most_running(bench: Bench, executions: list[str], user_of: Callable[[str], str]) -> int:
    """The largest number of running tasks of one user seen until all has ended."""
    most = 0
    while True:
        running: dict[str, int] = {}
        for execution in executions:
            for state in bench.states(execution):
                if state in (State.SCHEDULED, State.RUNNING):
                    running[user_of(execution)] = running.get(user_of(execution), 0) + 1
        most = max(most, *running.values(), 0)
        if all(bench.services.executions.status(x).all_final for x in executions):
            return most


def test_limits_of_a_server_and_of_a_user_are_never_passed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home", max_running=3, max_running_per_user=2)
    try:
        bench.start()
        ann = bench.submit(*["wait 0.2"] * 5, user="ann")
        bob = bench.submit(*["wait 0.2"] * 3, user="bob")
        assert _most_running(bench, [ann, bob], lambda x: "ann" if x == ann else "bob") <= 2
        assert bench.state(ann) is bench.state(bob) is State.SUCCESS
    finally:
        bench.close()


def test_total_limit_holds_over_two_schedulers(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home", max_running_total=2)
    try:
        bench.start()
        bench.start()
        execution = bench.submit(*["wait 0.2"] * 6)
        assert _most_running(bench, [execution], lambda _: "all") <= 2
        assert bench.state(execution) is State.SUCCESS
    finally:
        bench.close()


# --- servers come and go --------------------------------------------------------------------


def test_stopped_scheduler_gives_its_tasks_back_and_another_finishes_them(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "home")
    try:
        first = bench.start()
        execution = bench.submit("wait 1", "quick")
        bench.wait(execution, State.RUNNING)
        pid = bench.pid(execution)
        first.stop()
        bench.schedulers.remove(first)
        assert _gone(pid)
        assert State.RUNNING not in bench.states(execution)
        bench.start()
        assert bench.settled(execution) is State.SUCCESS
        assert bench.tasks(execution)[0].attempt == 2
    finally:
        bench.close()


def test_frozen_runner_is_replaced_when_its_lease_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home")
    object.__setattr__(bench.settings, "lease", 1.5)
    try:
        bench.start()
        execution = bench.submit("wait 2", limits={"max_attempts": 3})
        bench.wait(execution, State.RUNNING)
        psutil.Process(bench.pid(execution)).send_signal(signal.SIGSTOP)
        assert bench.settled(execution) is State.SUCCESS
        assert bench.tasks(execution)[0].attempt > 1
    finally:
        bench.close()


def test_thousand_log_lines_of_a_fast_engine_all_arrive_in_order(bench: Bench) -> None:
    execution = bench.submit("chatter 30000")
    assert bench.settled(execution) is State.SUCCESS
    task = bench.tasks(execution)[0]
    seen: list[str] = []
    start = 0
    while True:
        page = bench.services.logs.task_log(
            task.id, execution, LogQuery(from_line=start, page_size=10_000)
        )
        seen += page.all
        start = page.end_line + 1
        if page.is_end:
            break
    numbers = [int(line.rsplit(" ", 1)[1]) for line in seen if " line " in line]
    assert numbers == list(range(30_000))


def test_submissions_from_many_threads_all_run_once(bench: Bench) -> None:
    executions: list[str] = []
    threads = [
        threading.Thread(target=lambda: executions.append(bench.submit("quick"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(executions)) == 20
    assert {bench.settled(execution) for execution in executions} == {State.SUCCESS}
    assert all(task.attempt == 1 for x in executions for task in bench.tasks(x))
