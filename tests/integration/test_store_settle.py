"""How tasks and jobs end, on every database."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from exchangis.domain.errors import Conflict, NotFound
from exchangis.domain.states import FINAL, State
from exchangis.logs.reader import LogQuery
from tests.integration.store_fixtures import module_database, world
from tests.store_helpers import LEASE, World

__all__ = ["module_database", "world"]


def test_job_succeeds_when_all_tasks_do(world: World) -> None:
    execution_id = world.job(3)
    for claim in world.run():
        assert world.state(execution_id) is State.RUNNING
        assert world.finish(claim, State.SUCCESS)
    status = world.executions.status(execution_id)
    assert (status.state, status.open_tasks, status.all_final) == (State.SUCCESS, 0, True)
    assert world.logs.job_log(execution_id, LogQuery()).is_end


def test_one_failure_decides_the_job_at_once_and_stops_the_others(world: World) -> None:
    execution_id = world.job(3)
    first, second = world.run(2)
    assert world.finish(first, State.FAILED, error="no table", error_code="source_failed")
    status = world.executions.status(execution_id)
    assert (status.state, status.open_tasks, status.all_final) == (State.FAILED, 1, False)
    assert world.states(execution_id) == [State.FAILED, State.RUNNING, State.CANCELLED]
    (stop,) = world.queue().stops()
    assert (stop.task_id, stop.state) == (second.task_id, State.CANCELLED)
    assert not world.logs.job_log(execution_id, LogQuery()).is_end
    assert world.finish(second, State.FAILED, error="connection was killed")
    assert world.states(execution_id)[1] is State.CANCELLED
    job = world.executions.get(execution_id)
    assert (job.state, job.open_tasks) == (State.FAILED, 0)
    assert "no table" in (job.error or "")
    assert world.logs.job_log(execution_id, LogQuery()).is_end


@pytest.mark.parametrize("end", [State.CANCELLED, State.UNDEFINED, State.TIMEOUT])
def test_other_unhappy_ends_decide_too(world: World, end: State) -> None:
    execution_id = world.job(2)
    (claim,) = world.run(1)
    assert world.finish(claim, end)
    assert world.state(execution_id) is end
    assert world.states(execution_id) == [end, State.CANCELLED]


def test_permitted_failure_lets_the_others_run_on(world: World) -> None:
    execution_id = world.job(3, permit=True)
    first, second, third = world.run()
    assert world.finish(first, State.FAILED, error="bad")
    assert world.state(execution_id) is State.RUNNING
    assert world.queue().stops() == []
    assert world.finish(second, State.SUCCESS)
    assert world.state(execution_id) is State.RUNNING
    assert world.finish(third, State.SUCCESS)
    assert world.state(execution_id) is State.PARTIAL_SUCCESS
    assert world.executions.status(execution_id).progress < 1


def test_permitted_failures_without_any_success_give_the_worst(world: World) -> None:
    execution_id = world.job(3, permit=True)
    for claim, end in zip(world.run(), (State.TIMEOUT, State.FAILED, State.CANCELLED), strict=True):
        assert world.finish(claim, end)
    assert world.state(execution_id) is State.FAILED


def test_success_beats_a_stop_that_came_too_late(world: World) -> None:
    execution_id = world.job(1)
    (claim,) = world.run()
    world.settler.kill(execution_id, "ann", now=world.now)
    assert world.finish(claim, State.SUCCESS)
    assert world.states(execution_id) == [State.SUCCESS]
    assert world.state(execution_id) is State.CANCELLED  # an operator's kill, in either case


def test_retry_waits_and_then_runs_again(world: World) -> None:
    execution_id = world.job(1)
    (claim,) = world.run()
    assert world.finish(claim, State.FAILED, error="deadlock", retry_in_ms=500)
    assert world.states(execution_id) == [State.WAIT_FOR_RETRY]
    assert world.state(execution_id) is State.WAIT_FOR_RETRY
    world.now += 499
    assert world.claim() == []
    world.now += 1
    (again,) = world.run()
    assert (again.attempt, again.failures, again.max_attempts) == (2, 1, 3)
    assert world.state(execution_id) is State.RUNNING
    assert world.finish(again, State.SUCCESS)
    task = world.tasks(execution_id)[0]
    assert (task.state, task.error, task.failures) == (State.SUCCESS, None, 1)
    assert any("deadlock" in line for line in world.job_log(execution_id))


def _waiting(world: World) -> str:
    execution_id = world.job(1)
    (claim,) = world.run()
    assert world.finish(claim, State.FAILED, error="e", retry_in_ms=500)
    return execution_id


def test_kill_before_generation_ends_at_once(world: World) -> None:
    execution_id = world.submit()
    assert world.settler.kill(execution_id, "ann", now=world.now) is State.CANCELLED
    assert world.executions.status(execution_id).all_final
    assert world.executions.get(execution_id).error == "Killed by ann."


@pytest.mark.parametrize("prepare", [lambda w: w.job(2), _waiting], ids=["scheduled", "retry"])
def test_kill_of_waiting_work_ends_at_once(world: World, prepare: Callable[[World], str]) -> None:
    execution_id = prepare(world)
    assert world.settler.kill(execution_id, "ann", now=world.now) is State.CANCELLED
    assert set(world.states(execution_id)) == {State.CANCELLED}
    world.now += 10_000
    assert world.claim() == []
    assert any("Kill requested by ann" in line for line in world.job_log(execution_id))


@pytest.mark.parametrize("running", [False, True], ids=["claimed", "running"])
def test_kill_of_work_under_way_is_cancelled_when_it_has_ended(world: World, running: bool) -> None:
    execution_id = world.job(1)
    (claim,) = world.run() if running else world.claim()
    before = world.state(execution_id)
    assert world.settler.kill(execution_id, "ann", now=world.now) is before
    assert world.settler.kill(execution_id, "bob", now=world.now) is before
    (stop,) = world.queue().stops()
    assert (stop.task_id, stop.attempt, stop.state) == (claim.task_id, 1, State.CANCELLED)
    assert world.state(execution_id) is before
    assert world.finish(claim, State.CANCELLED)
    assert world.state(execution_id) is State.CANCELLED
    assert world.settler.kill(execution_id, "ann", now=world.now) is State.CANCELLED


def test_kill_reaches_work_of_a_lost_server(world: World) -> None:
    execution_id = world.job(1)
    world.run(owner="lost")
    world.settler.kill(execution_id, "ann", now=world.now)
    world.now += LEASE + 1
    assert world.settler.expire_leases(now=world.now) == 1
    assert world.state(execution_id) is State.CANCELLED


def test_kill_of_ended_or_unknown_execution_is_refused(world: World) -> None:
    execution_id = world.job(1)
    (claim,) = world.run()
    assert world.finish(claim, State.SUCCESS)
    with pytest.raises(Conflict, match="Success"):
        world.settler.kill(execution_id, "ann", now=world.now)
    with pytest.raises(NotFound, match="nosuch"):
        world.settler.kill("nosuch", "ann", now=world.now)
    assert world.state(execution_id) is State.SUCCESS


def test_task_that_outruns_its_limit_is_timeout(world: World) -> None:
    execution_id = world.job(1, task_timeout_ms=1000)
    (claim,) = world.run()
    world.now += 1001
    assert world.settler.expire_deadlines(now=world.now) == 1
    assert world.settler.expire_deadlines(now=world.now) == 0
    (stop,) = world.queue().stops()
    assert stop.state is State.TIMEOUT
    assert world.finish(claim, State.CANCELLED, error="The task was cancelled.")
    task = world.tasks(execution_id)[0]
    assert (task.state, task.error_code) == (State.TIMEOUT, "time_limit_exceeded")
    assert "1 s" in (task.error or "")
    assert world.state(execution_id) is State.TIMEOUT


def test_limit_counts_over_all_attempts(world: World) -> None:
    execution_id = world.job(1, task_timeout_ms=1000)
    (claim,) = world.run()
    assert world.finish(claim, State.FAILED, error="e", retry_in_ms=5000)
    world.now += 1001
    assert world.settler.expire_deadlines(now=world.now) == 1
    assert world.states(execution_id) == [State.TIMEOUT]
    assert world.state(execution_id) is State.TIMEOUT


@pytest.mark.parametrize("made", [False, True], ids=["inited", "running"])
def test_execution_that_outruns_its_limit_is_timeout(world: World, made: bool) -> None:
    execution_id = world.submit(timeout_ms=1000)
    if made:
        world.generate(execution_id, 2)
        world.run(1)
    world.now += 1001
    assert world.settler.expire_deadlines(now=world.now) == 1
    job = world.executions.get(execution_id)
    assert job.state is State.TIMEOUT and "1 s" in (job.error or "")
    assert world.settler.expire_deadlines(now=world.now) == 0
    assert world.states(execution_id) == ([State.RUNNING, State.CANCELLED] if made else [])


def test_kill_that_takes_long_is_no_timeout(world: World) -> None:
    execution_id = world.submit(timeout_ms=1000)
    world.generate(execution_id, 1)
    (claim,) = world.run()
    world.settler.kill(execution_id, "ann", now=world.now)
    world.now += 1001
    world.settler.expire_deadlines(now=world.now)
    assert world.finish(claim, State.CANCELLED)
    assert world.state(execution_id) is State.CANCELLED


def test_refused_generation_fails_the_job_and_says_why(world: World) -> None:
    execution_id = world.submit()
    world.settler.refuse_generation(execution_id, "sink_id: no such table", now=world.now)
    job = world.executions.get(execution_id)
    assert (job.state, job.error) == (State.FAILED, "sink_id: no such table")
    assert world.logs.job_log(execution_id, LogQuery()).is_end
    world.settler.refuse_generation(execution_id, "again", now=world.now)
    assert world.executions.get(execution_id).error == "sink_id: no such table"


def test_flow_of_a_final_job_is_its_average(world: World) -> None:
    execution_id = world.job(2)
    first, second = world.run()
    world.now += 2000
    assert world.finish(first, State.FAILED, values=(("exchanged_records", 1000),))
    assert world.finish(second, State.CANCELLED)
    assert world.executions.get(execution_id).flow == pytest.approx(500)
    assert world.tasks(execution_id)[0].flow == pytest.approx(500)


@pytest.mark.parametrize("error", ["nul \x00 inside", "lone \ud800 surrogate", "x" * 300_000, "😀"])
def test_any_error_text_can_be_stored(world: World, error: str) -> None:
    execution_id = world.job(1)
    (claim,) = world.run()
    assert world.finish(claim, State.FAILED, error=error)
    task = world.tasks(execution_id)[0]
    assert task.state is State.FAILED
    assert (task.error or "")[:3] == error[:3]


def test_tasks_that_end_together_end_their_job_once(world: World) -> None:
    execution_id = world.job(12, permit=True)
    claims = world.run()
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda claim: world.finish(claim, State.SUCCESS), claims))
    assert all(taken)
    status = world.executions.status(execution_id)
    assert (status.state, status.open_tasks) == (State.SUCCESS, 0)
    assert sum("Job: Success" in line for line in world.job_log(execution_id)) == 1


def test_kill_and_outcomes_that_race_leave_nothing_open(world: World) -> None:
    ids = [world.job(4) for _ in range(4)]
    claims = world.run(8)

    def kill(execution_id: str) -> None:
        try:
            world.settler.kill(execution_id, "ann", now=world.now)
        except Conflict:
            assert world.state(execution_id) in FINAL

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(world.finish, claim, State.FAILED) for claim in claims]
        work += [pool.submit(kill, execution_id) for execution_id in ids]
        work += [pool.submit(world.claim, 2, "late")]
        for future in work:
            future.result(60)
    for stop in world.queue("late").stops():
        (task,) = [t for x in ids for t in world.tasks(x) if t.id == stop.task_id]
        world.now += LEASE + 1
        assert task.owner == "late"
    world.settler.expire_leases(now=world.now)
    for execution_id in ids:
        assert world.executions.status(execution_id).all_final, world.states(execution_id)
