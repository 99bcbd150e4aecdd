"""What is submitted is checked first, stored before the answer, and told in the job's log."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exchangis.config import Settings
from exchangis.connectors.registry import connector
from exchangis.domain.errors import Conflict, InvalidRequest, NotFound
from exchangis.domain.states import State
from exchangis.logs.reader import LogQuery
from exchangis.service.executions import ExecuteOptions, Submitted, state_of
from exchangis.service.planning import known_engines
from exchangis.service.services import Services, make_services
from exchangis.store.executions import HistoryFilter
from exchangis.store.opening import open_store

CONTENT = [
    {"name": "t", "source": {"id": 1, "table": "a"}, "sink": {"id": 1, "table": "b"}},
]


@pytest.fixture
def wakes() -> list[int]:
    return []


@pytest.fixture
def services(tmp_path: Path, wakes: list[int]) -> Iterator[Services]:
    settings = Settings(home=tmp_path / "home", user="ann", job_timeout=60)
    store = open_store(settings)
    made = make_services(settings, store, wake=lambda: wakes.append(1))
    sqlite3.connect(tmp_path / "x.db").close()
    made.data_sources.create(
        "ann", kind=connector("SQLITE"), name="x", values={"path": str(tmp_path / "x.db")}
    )
    yield made
    store.close()


def submit(services: Services, content: Any = CONTENT, **options: Any) -> str:
    work = Submitted(content=content, engine="NATIVE", job_name="j", execute_user="bob")
    return services.executions.execute(work, ExecuteOptions(**options), "ann")


def test_a_submission_is_stored_and_wakes_the_scheduler(
    services: Services, wakes: list[int]
) -> None:
    execution_id = submit(services, permit_partial_failures=True, timeout=5)
    record = services.executions.get(execution_id)
    assert (record.state, record.created_by, record.execute_user) == (State.INITED, "ann", "bob")
    assert (record.permit_partial, record.timeout_ms) == (True, 5000)
    assert record.deadline == record.created_at + 5000
    assert wakes == [1]
    log = services.logs.job_log(execution_id, LogQuery())
    assert "submitted by ann: 1 sub job(s), partial failures permitted" in log.all[0]


def test_the_settings_time_limit_holds_where_none_is_given(services: Services) -> None:
    assert services.executions.get(submit(services)).timeout_ms == 60_000


def test_unknown_keys_are_told_in_the_job_log_or_refused(services: Services) -> None:
    content = [CONTENT[0] | {"settings": [{"k": "a.magic", "v": "1"}]}]
    log = services.logs.job_log(submit(services, content), LogQuery())
    assert "t: keys that no engine knows, without effect: a.magic" in log.warn[0]
    with pytest.raises(InvalidRequest, match="no engine knows"):
        submit(services, content, strict=True)


def test_what_is_refused_leaves_nothing_behind(services: Services, wakes: list[int]) -> None:
    for content in ([], [{}], [CONTENT[0] | {"engine": "warp"}]):
        with pytest.raises(InvalidRequest):
            submit(services, content)
    assert services.executions.history(HistoryFilter(), page=1, size=10).total == 0
    assert wakes == []


def test_variables_of_the_call_win_over_the_jobs(services: Services) -> None:
    job = services.jobs.create(
        "ann", name="j", sub_jobs=[CONTENT[0] | {"where": "d = ${d} and e = ${e}"}],
        variables={"d": 1, "e": 2},
    )  # fmt: skip
    options = ExecuteOptions(variables={"e": "3"})
    execution_id = services.executions.execute_job(job.id, options, "ann")
    stored = services.store.executions.submission(execution_id)
    assert stored.params == '{"d": "1", "e": "3"}'
    assert services.executions.get(execution_id).execute_user == "ann"


def test_a_kill_wakes_the_scheduler_and_is_final(services: Services, wakes: list[int]) -> None:
    execution_id = submit(services)
    assert services.executions.kill(execution_id, "ann") is State.CANCELLED
    assert len(wakes) == 2
    with pytest.raises(Conflict):
        services.executions.delete(submit(services))
    services.executions.delete(execution_id)
    with pytest.raises(NotFound):
        services.executions.status(execution_id)


@pytest.mark.parametrize("execution_id", ["", "x" * 65, "a\x00", "é", "a b\n"])
def test_what_cannot_be_an_id_is_not_found(services: Services, execution_id: str) -> None:
    for ask in (services.executions.status, services.executions.get, services.executions.tasks):
        with pytest.raises(NotFound):
            ask(execution_id)


def test_states_and_engines_are_named_when_one_is_unknown() -> None:
    assert state_of("Partial_Success") is State.PARTIAL_SUCCESS
    assert state_of("") is state_of(None) is None
    with pytest.raises(InvalidRequest, match="Partial_Success"):
        state_of("partial_success")
    assert known_engines({"sqoop": "native"})[0] == "NATIVE"
    assert "SQOOP" in known_engines({"sqoop": "native"})
