"""Claims, leases and fences, on every database."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from exchangis.domain.errors import InvalidRequest
from exchangis.domain.states import State
from exchangis.store.queue import ACTIVE, NewTask
from exchangis.store.report_rows import Report
from exchangis.store.schema import tasks
from tests.integration.store_fixtures import module_database, world
from tests.store_helpers import LEASE, World, story

__all__ = ["module_database", "world"]


def test_no_task_is_claimed_twice(world: World) -> None:
    for _ in range(4):
        world.job(10)
    gate = threading.Barrier(4)

    def work(number: int) -> list[int]:
        queue = world.queue(f"server-{number}")
        gate.wait(30)
        taken: list[int] = []
        while claims := queue.claim_tasks(limit=3, now=world.now, lease_ms=LEASE):
            taken += [claim.task_id for claim in claims]
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [task for result in pool.map(work, range(4)) for task in result]
    # Rows that another server had locked at that moment were skipped, and wait for the next look.
    taken += [claim.task_id for claim in world.claim(1000)]
    assert len(taken) == 40
    assert len(set(taken)) == 40


def test_limits_hold_over_all_servers(world: World) -> None:
    for user in ("ann", "bob", "cid"):
        world.job(6, user=user)
    gate = threading.Barrier(3)
    counts: list[Counter[str]] = []
    done = threading.Lock()
    finished: list[int] = []

    def observe() -> None:
        query = (
            select(tasks.c.execute_user, func.count())
            .where(tasks.c.state.in_(ACTIVE))
            .group_by(tasks.c.execute_user)
        )
        with world.database.read() as connection:
            counts.append(Counter(dict(connection.execute(query).all())))

    def work(number: int) -> None:
        owner = f"server-{number}"
        gate.wait(30)
        for _ in range(200):
            claims = world.queue(owner).claim_tasks(
                limit=2, now=world.now, lease_ms=LEASE, max_total=4, max_per_user=2
            )
            observe()
            for claim in claims:
                assert world.finish(claim, State.SUCCESS, owner=owner)
                with done:
                    finished.append(claim.task_id)
            if len(finished) == 18:
                return

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert sorted(set(finished)) == sorted(finished)
    assert len(finished) == 18
    assert max(sum(count.values()) for count in counts) <= 4
    assert max(max(count.values(), default=0) for count in counts) <= 2


def test_full_user_does_not_hold_up_others(world: World) -> None:
    world.job(5, user="ann")
    other = world.job(2, user="bob")
    claims = world.queue().claim_tasks(limit=10, now=world.now, lease_ms=LEASE, max_per_user=1)
    assert sorted(claim.execution_id == other for claim in claims) == [False, True]
    assert world.queue().claim_tasks(limit=10, now=world.now, lease_ms=LEASE, max_total=2) == []


def test_long_queue_of_a_full_user_does_not_hide_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exchangis.store.queue._CANDIDATES", 2)
    world.job(5, user="ann")
    world.claim(1)
    other = world.job(1, user="bob")
    claims = world.queue().claim_tasks(limit=10, now=world.now, lease_ms=LEASE, max_per_user=1)
    assert [claim.execution_id for claim in claims] == [other]


def test_oldest_task_is_claimed_first(world: World) -> None:
    first, second = world.job(2), world.job(2)
    claims = [world.claim(1)[0] for _ in range(4)]
    assert [claim.execution_id for claim in claims] == [first, first, second, second]
    assert claims[0].attempt == 1
    assert world.claim() == []


def test_claim_sets_owner_and_lease(world: World) -> None:
    execution_id = world.job(1)
    world.claim(owner="server-7")
    task = world.tasks(execution_id)[0]
    assert (task.state, task.owner, task.attempt) == (State.SCHEDULED, "server-7", 1)
    world.now += LEASE + 1
    assert world.settler.expire_leases(now=world.now) == 1


def test_running_task_makes_its_job_run(world: World) -> None:
    execution_id = world.job(2)
    assert world.state(execution_id) is State.SCHEDULED
    world.now += 5
    world.run(1)
    job = world.executions.get(execution_id)
    assert (job.state, job.launched_at) == (State.RUNNING, world.now)


def test_lost_claim_cannot_start(world: World) -> None:
    execution_id = world.job(1)
    (claim,) = world.claim()
    world.now += LEASE + 1
    world.settler.expire_leases(now=world.now)
    assert world.queue().mark_running([(claim, story("INFO", "x"))], now=world.now) == set()
    assert world.state(execution_id) is State.SCHEDULED


def test_stale_attempt_is_refused_everywhere(world: World) -> None:
    execution_id = world.job(1)
    (old,) = world.run()
    world.now += LEASE + 1
    assert world.settler.expire_leases(now=world.now) == 1
    (new,) = world.run(owner="server-2")
    assert new.attempt == 2
    queue = world.queue()
    report = Report(
        old.task_id, old.attempt, execution_id, progress=0.9, lines=tuple(story("INFO", "stale"))
    )
    assert queue.record([report], now=world.now) == {old.task_id}
    assert queue.renew([(old.task_id, old.attempt)], now=world.now, lease_ms=LEASE) == set()
    assert not world.finish(old, State.FAILED)
    assert world.states(execution_id) == [State.RUNNING]
    assert world.tasks(execution_id)[0].progress == 0.0
    # Nor does the right fence help on the wrong server.
    assert not world.finish(new, State.FAILED, owner="server-1")
    assert world.finish(new, State.SUCCESS, owner="server-2")
    assert world.state(execution_id) is State.SUCCESS


def test_older_attempt_on_the_same_server_is_refused_too(world: World) -> None:
    execution_id = world.job(1)
    (old,) = world.run()
    world.now += LEASE + 1
    world.settler.expire_leases(now=world.now)
    (new,) = world.claim()
    queue = world.queue()
    report = Report(old.task_id, old.attempt, execution_id, progress=0.9)
    assert queue.record([report], now=world.now) == {old.task_id}
    assert queue.renew([(old.task_id, old.attempt)], now=world.now, lease_ms=LEASE) == set()
    assert queue.mark_running([(old, ())], now=world.now) == set()
    assert not world.finish(old, State.SUCCESS)
    assert world.states(execution_id) == [State.SCHEDULED]
    assert queue.mark_running([(new, ())], now=world.now) == {new.task_id}


def test_renewed_lease_is_not_taken_over(world: World) -> None:
    world.job(1)
    (claim,) = world.run()
    world.now += LEASE - 1
    held = [(claim.task_id, claim.attempt)]
    assert world.queue().renew(held, now=world.now, lease_ms=LEASE) == {claim.task_id}
    world.now += LEASE - 1
    assert world.settler.expire_leases(now=world.now) == 0


def test_ended_lease_is_not_revived(world: World) -> None:
    world.job(1)
    (claim,) = world.run()
    world.now += LEASE + 1
    held = [(claim.task_id, claim.attempt)]
    assert world.queue().renew(held, now=world.now, lease_ms=LEASE) == set()


def test_dead_owner_loses_its_tasks_before_the_lease_ends(world: World) -> None:
    execution_id = world.job(2)
    world.run(1, owner="dead")
    world.run(1, owner="alive")
    assert world.settler.expire_leases(now=world.now, dead_owners=["dead"]) == 1
    assert sorted(world.states(execution_id)) == [State.RUNNING, State.WAIT_FOR_RETRY]
    assert any("taken over" in line for line in world.job_log(execution_id))


def test_task_that_kills_its_servers_is_given_up(world: World) -> None:
    execution_id = world.job(1)
    for _ in range(60):
        if not world.claim():
            break
        world.now += LEASE + 1
        world.settler.expire_leases(now=world.now)
    assert world.state(execution_id) is State.FAILED
    assert world.tasks(execution_id)[0].error_code == "runner_lost"


def test_progress_never_falls_and_is_one_on_success_alone(world: World) -> None:
    execution_id = world.job(2)
    first, second = world.run()
    queue = world.queue()

    def record(task_id: int, value: float, weight: float | None = None) -> float:
        values = () if weight is None else (("weight", weight),)
        report = Report(task_id, 1, execution_id, progress=value, values=values)
        assert queue.record([report], now=world.now) == set()
        return world.executions.status(execution_id).progress

    # The second task's size is not known yet: it weighs as much as the first.
    assert record(first.task_id, 0.5, 300.0) == pytest.approx(0.25)
    assert record(first.task_id, 0.2) == pytest.approx(0.25)
    assert record(second.task_id, 0.5, 100.0) == pytest.approx(0.5)
    assert world.executions.task(first.task_id).progress == pytest.approx(0.5)
    assert record(second.task_id, 7.0) < 1
    assert world.executions.task(second.task_id).progress < 1
    assert record(second.task_id, float("nan")) < 1
    for claim in (first, second):
        assert world.executions.status(execution_id).progress < 1
        assert world.finish(claim, State.SUCCESS)
    assert world.executions.status(execution_id).progress == 1.0
    assert [task.progress for task in world.tasks(execution_id)] == [1.0, 1.0]


def test_record_keeps_metrics_and_log_lines(world: World) -> None:
    execution_id = world.job(1)
    (claim,) = world.run()
    report = Report(
        claim.task_id, claim.attempt, execution_id,
        values=(("flow", 12.5), ("exchanged_records", 2**40), ("external_info", "i" * 5000)),
        lines=tuple(story("WARN", "one\ntwo")),
    )  # fmt: skip
    assert world.queue().record([report], now=world.now) == set()
    task = world.executions.task(claim.task_id)
    assert (task.flow, task.exchanged_records) == (12.5, 2**40)
    assert len(task.external_info or "") == 1024
    assert world.executions.get(execution_id).flow == 12.5


def test_generation_is_claimed_by_one_server(world: World) -> None:
    execution_id = world.submit()
    work = world.queue("a").claim_generation(now=world.now, lease_ms=LEASE)
    assert work is not None and work.execution_id == execution_id
    assert world.queue("b").claim_generation(now=world.now, lease_ms=LEASE) is None
    world.now += LEASE + 1
    assert world.queue("b").claim_generation(now=world.now, lease_ms=LEASE) == work
    new = [NewTask("t", "native", "CSV", "CSV", "{}", (), 1, None)]
    assert not world.queue("a").generated(work, new, (), now=world.now)
    assert world.queue("b").generated(work, new, (), now=world.now)
    assert not world.queue("b").generated(work, new, (), now=world.now)
    assert len(world.tasks(execution_id)) == 1


def test_job_without_tasks_is_refused(world: World) -> None:
    world.submit()
    work = world.queue().claim_generation(now=world.now, lease_ms=LEASE)
    assert work is not None
    with pytest.raises(InvalidRequest, match="content"):
        world.queue().generated(work, [], (), now=world.now)


def test_large_job_keeps_the_order_of_its_tasks(world: World) -> None:
    execution_id = world.job(300)
    assert [task.name for task in world.tasks(execution_id)] == [f"t{n}" for n in range(300)]
    assert world.executions.status(execution_id).open_tasks == 300


def test_killed_execution_is_not_generated(world: World) -> None:
    execution_id = world.submit()
    work = world.queue().claim_generation(now=world.now, lease_ms=LEASE)
    assert work is not None
    world.settler.kill(execution_id, "ann", now=world.now)
    new = [NewTask("t", "native", "CSV", "CSV", "{}", (), 1, None)]
    assert not world.queue().generated(work, new, (), now=world.now)
    assert world.state(execution_id) is State.CANCELLED
    assert world.queue().claim_generation(now=world.now, lease_ms=LEASE) is None


def test_leftovers_are_cleaned_by_one_server_at_a_time(world: World) -> None:
    world.job(1)
    (claim,) = world.run()
    assert world.finish(claim, State.FAILED)
    (cleanup,) = world.queue("a").claim_cleanups(limit=4, now=world.now, lease_ms=LEASE)
    assert (cleanup.task_id, cleanup.attempt) == (claim.task_id, claim.attempt)
    assert world.queue("b").claim_cleanups(limit=4, now=world.now, lease_ms=LEASE) == []
    world.now += LEASE + 1
    assert len(world.queue("b").claim_cleanups(limit=4, now=world.now, lease_ms=LEASE)) == 1
    world.queue("b").cleaned(claim.task_id)
    world.now += LEASE + 1
    assert world.queue("b").claim_cleanups(limit=4, now=world.now, lease_ms=LEASE) == []
