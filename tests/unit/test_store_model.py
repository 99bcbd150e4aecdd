"""Whatever happens in whatever order: states move as `domain.states` allows, and never back."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exchangis.domain.errors import Conflict
from exchangis.domain.states import (
    FINAL,
    JOB_MOVES,
    TASK_MOVES,
    TASK_STATES,
    State,
    decide_job,
)
from exchangis.logs.reader import LogQuery
from exchangis.store.database import Database
from exchangis.store.queue import ACTIVE, Claim
from exchangis.store.report_rows import Report
from exchangis.store.upgrade import upgrade
from tests.store_helpers import LEASE, World

OWNERS = st.sampled_from(["a", "b"])
PICK = st.integers(0, 1000)
ENDS = st.sampled_from([state for state in TASK_STATES if state in FINAL])


def _reachable(moves: dict[State, frozenset[State]]) -> dict[State, set[State]]:
    """Every state that can be reached in one or more moves: a step of the test may make several."""
    reach = {state: set(moves.get(state, ())) for state in State}
    for _ in State:
        for state in State:
            reach[state] |= {far for near in reach[state] for far in reach[near]}
    return reach


TASK_REACH, JOB_REACH = _reachable(TASK_MOVES), _reachable(JOB_MOVES)


class StoreMachine(RuleBasedStateMachine):
    """Servers a and b, which may be slow, dead or confused, against one store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        database = Database(f"sqlite:///{self.folder / 'store.db'}")
        upgrade(database)
        self.world = World(database)
        self.jobs: list[str] = []
        self.permits: dict[str, bool] = {}
        self.killed: set[str] = set()
        self.claims: list[tuple[str, Claim]] = []
        self.taken_ends: dict[int, State] = {}
        self.seen_tasks: dict[int, tuple[State, int, float]] = {}
        self.seen_jobs: dict[str, tuple[State, float]] = {}

    def teardown(self) -> None:
        self.world.database.close()
        shutil.rmtree(self.folder)

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(count=st.integers(1, 3), permit=st.booleans(), limit=st.sampled_from([None, 3000]))
    def submit(self, count: int, permit: bool, limit: int | None) -> None:
        execution_id = self.world.submit(permit=permit, timeout_ms=limit)
        self.world.generate(execution_id, count, attempts=2, timeout_ms=limit)
        self.jobs.append(execution_id)
        self.permits[execution_id] = permit

    @rule(owner=OWNERS, limit=st.integers(1, 3))
    def claim(self, owner: str, limit: int) -> None:
        for claim in self.world.claim(limit, owner):
            assert claim.task_id not in self.taken_ends
            self.claims.append((owner, claim))

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def start(self, pick: int) -> None:
        owner, claim = self.claims[pick % len(self.claims)]
        self.world.queue(owner).mark_running([(claim, ())], now=self.world.now)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, progress=st.floats(0, 1))
    def record(self, pick: int, progress: float) -> None:
        owner, claim = self.claims[pick % len(self.claims)]
        report = Report(claim.task_id, claim.attempt, claim.execution_id, progress=progress)
        self.world.queue(owner).record([report], now=self.world.now)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, end=ENDS, retry=st.booleans())
    def finish(self, pick: int, end: State, retry: bool) -> None:
        owner, claim = self.claims[pick % len(self.claims)]
        before = self.world.executions.task(claim.task_id)
        ours = before.attempt == claim.attempt and before.owner == owner and before.state in ACTIVE
        taken = self.world.finish(
            claim, end, owner=owner, error="e", retry_in_ms=100 if retry else None
        )
        assert taken == ours

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def renew(self, pick: int) -> None:
        owner, claim = self.claims[pick % len(self.claims)]
        held = [(claim.task_id, claim.attempt)]
        self.world.queue(owner).renew(held, now=self.world.now, lease_ms=LEASE)

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def kill(self, pick: int) -> None:
        execution_id = self.jobs[pick % len(self.jobs)]
        before = self.world.state(execution_id)
        try:
            self.world.settler.kill(execution_id, "op", now=self.world.now)
        except Conflict:
            assert before in FINAL
        else:
            if before not in FINAL:
                self.killed.add(execution_id)

    @rule(step=st.sampled_from([1, 200, LEASE + 1, 3001]))
    def time_passes(self, step: int) -> None:
        self.world.now += step
        self.world.settler.expire_leases(now=self.world.now)
        self.world.settler.expire_deadlines(now=self.world.now)

    @invariant()
    def states_move_as_allowed(self) -> None:
        for execution_id in self.jobs:
            job = self.world.executions.get(execution_id)
            tasks = self.world.tasks(execution_id)
            for task in tasks:
                self._check_task(task.id, task.state, task.attempt, task.progress)
                assert (task.owner is not None) == (task.state in ACTIVE)
            state, progress = self.seen_jobs.get(execution_id, (job.state, 0.0))
            assert state is job.state or job.state in JOB_REACH[state]
            assert job.progress >= progress
            assert (job.progress == 1.0) == (job.state is State.SUCCESS)
            self.seen_jobs[execution_id] = (job.state, job.progress)
            counts = {s: sum(t.state is s for t in tasks) for s in State}
            still_open = sum(count for s, count in counts.items() if s not in FINAL)
            assert job.open_tasks == still_open
            self._check_decision(execution_id, job.state, counts)
            page = self.world.logs.job_log(execution_id, LogQuery(page_size=10_000))
            assert page.is_end == (job.state in FINAL and still_open == 0)

    def _check_task(self, task_id: int, state: State, attempt: int, progress: float) -> None:
        before, old_attempt, old_progress = self.seen_tasks.get(task_id, (state, attempt, 0.0))
        assert before is state or state in TASK_REACH[before]
        if before in FINAL:
            assert state is before
        if attempt == old_attempt:
            assert progress >= old_progress
        assert (progress == 1.0) == (state is State.SUCCESS)
        self.seen_tasks[task_id] = (state, attempt, progress)

    def _check_decision(self, execution_id: str, state: State, counts: dict[State, int]) -> None:
        decided = decide_job(
            counts,
            permit_partial_failures=self.permits[execution_id],
            killed=execution_id in self.killed,
        )
        if state not in FINAL:
            assert decided is None
        elif execution_id in self.killed:
            assert state is State.CANCELLED
        elif state is State.TIMEOUT:
            pass  # its own limit or a task's: the tests of settling tell them apart
        elif self.permits[execution_id]:
            assert decided is state
        else:
            assert counts[state] > 0
            assert state is not State.SUCCESS or decided is state


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
