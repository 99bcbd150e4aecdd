"""Data sources, jobs, history, retention and servers, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select

from exchangis.domain.errors import Conflict, ExchangisError, InvalidRequest, NotFound
from exchangis.domain.states import State
from exchangis.logs.reader import LogQuery
from exchangis.store.database import Database
from exchangis.store.datasources import DataSourceRecord, DataSources
from exchangis.store.executions import HistoryFilter
from exchangis.store.jobs import Jobs
from exchangis.store.paging import Page
from exchangis.store.schema import executions, log_chunks, log_streams, tasks
from exchangis.store.secrets import SecretBox
from exchangis.store.servers import Servers
from tests.integration.store_fixtures import module_database, world
from tests.store_helpers import World

__all__ = ["module_database", "world"]

HUGE = 2**70


@pytest.fixture
def sources(world: World, tmp_path: Path) -> DataSources:
    return DataSources(world.database, SecretBox(tmp_path / "key"))


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """The statements that are sent meanwhile."""
    sent: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    engine = database._reader
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _create(sources: DataSources, name: str = "src", **more: Any) -> DataSourceRecord:
    values = {
        "name": name, "type_name": "MYSQL", "params": {"host": "h", "port": 3306},
        "secrets": {"password": "geheim 😀"}, "user": "ann", "now": 1,
    }  # fmt: skip
    return sources.create(**{**values, **more})


# --- data sources ---------------------------------------------------------------------------


def test_data_source_keeps_its_secrets_apart(sources: DataSources) -> None:
    record = _create(sources)
    assert record == sources.get(record.id) == sources.by_name("src")
    assert (record.params, record.secret_names) == ({"host": "h", "port": 3306}, ("password",))
    assert (record.version, record.expired, record.created_by) == (1, False, "ann")
    assert "geheim" not in repr(record)
    connection = sources.connection(record.id)
    assert connection.get("password") == "geheim 😀"
    assert "geheim" not in repr(connection)
    assert sources.secret_values() == ["geheim 😀"]


def test_names_of_data_sources_are_unique_and_case_counts(sources: DataSources) -> None:
    record = _create(sources, "Orders")
    _create(sources, "orders")
    with pytest.raises(Conflict, match="Orders"):
        _create(sources, "Orders")
    other = _create(sources, "other")
    with pytest.raises(Conflict, match="Orders"):
        sources.update(other.id, name="Orders", user="ann", now=2)
    assert sources.update(record.id, name="Orders", user="ann", now=2).version == 2


@pytest.mark.parametrize("given", [None, {}, {"password": "******"}])
def test_update_without_a_new_secret_keeps_the_stored_one(
    sources: DataSources, given: dict[str, str | None] | None
) -> None:
    record = _create(sources)
    updated = sources.update(record.id, params={"host": "h2"}, secrets=given, user="bob", now=9)
    assert (updated.version, updated.params, updated.modified_by) == (2, {"host": "h2"}, "bob")
    assert (updated.created_by, updated.modified_at) == ("ann", 9)
    assert sources.connection(record.id).get("password") == "geheim 😀"


def test_update_changes_adds_and_removes_secrets(sources: DataSources) -> None:
    record = _create(sources)
    sources.update(record.id, secrets={"password": "new", "key": "k"}, user="a", now=2)
    assert sources.connection(record.id).get("password") == "new"
    updated = sources.update(record.id, secrets={"password": None}, user="a", now=3)
    assert updated.secret_names == ("key",)
    assert sources.update(record.id, type_name="csv", user="a", now=4).secret_names == ()


def test_unknown_data_sources_are_named(sources: DataSources) -> None:
    for unknown in (0, 77, HUGE):
        for ask in (
            sources.get,
            sources.connection,
            sources.delete,
            lambda x: sources.set_expired(x, True, user="a", now=1),
            lambda x: sources.update(x, label="l", user="a", now=1),
        ):
            with pytest.raises(NotFound, match=str(unknown)):
                ask(unknown)
    with pytest.raises(NotFound, match="nosuch"):
        sources.by_name("nosuch")


def test_deleted_data_source_is_gone_and_its_name_free(sources: DataSources) -> None:
    record = _create(sources)
    sources.delete(record.id)
    with pytest.raises(NotFound):
        sources.get(record.id)
    assert _create(sources).id != 0


def test_expired_can_be_set_twice(sources: DataSources) -> None:
    record = _create(sources)
    for _ in range(2):
        sources.set_expired(record.id, True, user="a", now=record.modified_at)
    assert sources.get(record.id).expired is True


def test_data_sources_are_found_by_type_and_part_of_the_name(sources: DataSources) -> None:
    for name, type_name in (("a_1", "MYSQL"), ("ab1", "CSV"), ("a%1", "MYSQL"), ("z", "MYSQL")):
        _create(sources, name, type_name=type_name)
    assert [x.name for x in sources.query().items] == ["z", "a%1", "ab1", "a_1"]
    assert [x.name for x in sources.query(name="_").items] == ["a_1"]
    assert [x.name for x in sources.query(name="%").items] == ["a%1"]
    assert [x.name for x in sources.query(type_name="csv", name="").items] == ["ab1"]
    page = sources.query(page=2, size=3)
    assert (page.total, [x.name for x in page.items]) == (4, ["a_1"])
    assert sources.query(page=9).items == ()


@pytest.mark.parametrize(
    ("page", "size", "field"), [(0, 5, "page"), (1, 0, "size"), (1, 1001, "size")]
)
def test_wrong_pages_are_refused_by_name(
    sources: DataSources, page: int, size: int, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sources.query(page=page, size=size)
    assert refused.value.errors[0].field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "x" * 256), ("name", "a\x00b"), ("label", "\ud800"), ("user", "u" * 129)],
)
def test_what_a_database_would_cut_is_refused_by_name(
    sources: DataSources, field: str, value: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _create(sources, **{field: value}) if field != "name" else _create(sources, value)
    assert refused.value.errors[0].field == {"user": "created_by"}.get(field, field)
    assert sources.query().total == 0


@pytest.mark.parametrize("name", ["a\x00", "\ud800"])
def test_impossible_values_to_look_for_are_no_crash(sources: DataSources, name: str) -> None:
    with pytest.raises(ExchangisError):
        sources.by_name(name)


# --- jobs -----------------------------------------------------------------------------------


def test_job_lives_through_create_update_copy_delete(world: World) -> None:
    jobs = Jobs(world.database)
    job = jobs.create(name="nightly", content="[1]", project_id=3, user="ann", now=1)
    assert (job.type, job.engine, job.params, job.description) == ("OFFLINE", "native", None, "")
    updated = jobs.update(job.id, description="d", content=None, user="bob", now=2)
    assert updated == jobs.get(job.id)
    assert (updated.content, updated.description, updated.name) == (None, "d", "nightly")
    assert (updated.created_by, updated.modified_by, updated.modified_at) == ("ann", "bob", 2)
    copy = jobs.copy(job.id, user="cid", now=3)
    assert (copy.name, copy.project_id, copy.created_by) == ("nightly_copy", 3, "cid")
    assert copy.id != job.id
    jobs.delete(job.id)
    for unknown in (job.id, HUGE):
        with pytest.raises(NotFound, match=str(unknown)):
            jobs.update(unknown, name="x", user="a", now=1)
        with pytest.raises(NotFound, match=str(unknown)):
            jobs.delete(unknown)


def test_copy_of_a_long_name_fits(world: World) -> None:
    jobs = Jobs(world.database)
    job = jobs.create(name="n" * 255, user="a", now=1)
    assert len(jobs.copy(job.id, user="a", now=1).name) == 255


def test_job_needs_a_name(world: World) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        Jobs(world.database).create(user="a", now=1)


def test_large_content_comes_back_whole(world: World) -> None:
    jobs = Jobs(world.database)
    content = "[" + "😀" * 300_000 + "]"
    assert jobs.get(jobs.create(name="n", content=content, user="a", now=1).id).content == content


def test_jobs_are_found_by_project_type_and_name(world: World) -> None:
    jobs = Jobs(world.database)
    for name, project, kind in (("a", 1, "OFFLINE"), ("ab", 2, "OFFLINE"), ("abc", 2, "STREAM")):
        jobs.create(name=name, project_id=project, type=kind, user="u", now=1)

    def names(**query: Any) -> list[str]:
        return [job.name for job in jobs.query(**query).items]

    assert names() == ["abc", "ab", "a"]
    assert names(project_id=2) == ["abc", "ab"]
    assert names(project_id=2, type_name="OFFLINE") == ["ab"]
    assert names(name="b", project_id=None, type_name=None) == ["abc", "ab"]


# --- executions -----------------------------------------------------------------------------


def test_submitted_execution_is_inited_and_tells_so(world: World) -> None:
    execution_id = world.submit(job_id=5, timeout_ms=1000)
    record = world.executions.get(execution_id)
    assert (record.state, record.job_id, record.deadline) == (State.INITED, 5, world.now + 1000)
    assert world.tasks(execution_id) == []
    assert world.executions.submission(execution_id).content == "[]"
    assert "Submitted." in world.job_log(execution_id)[0]
    assert world.executions.unfinished_count() == 1


def test_status_reads_one_row_by_index(world: World) -> None:
    execution_id = world.submit()
    with counted(world.database) as sent:
        assert world.executions.status(execution_id).state is State.INITED
    selects = [x for x in sent if "executions" in x]
    assert len(selects) == 1
    assert "content" not in selects[0]


def test_unknown_executions_and_tasks_are_named(world: World) -> None:
    store = world.executions
    for ask in (store.status, store.get, store.submission, store.task_list, store.delete):
        with pytest.raises(NotFound, match="nosuch"):
            ask("nosuch")
    for unknown in (0, -1, HUGE):
        with pytest.raises(NotFound, match=str(unknown)):
            store.task(unknown)
    with pytest.raises(NotFound, match="nosuch"):
        world.logs.job_log("nosuch", LogQuery())
    with pytest.raises(NotFound, match="77"):
        world.logs.task_log(77, LogQuery())


def _history(world: World) -> None:
    rows = [
        {
            "execution_id": f"h{n:05d}",
            "job_id": n % 7,
            "project_id": None if n % 3 == 0 else n % 3,
            "job_name": ("Load_orders", "load%orders", "load orders", "x|y")[n % 4],
            "engine": "native",
            "content": "[]",
            "state": (State.SUCCESS, State.FAILED, State.RUNNING)[n % 3],
            "created_by": "u",
            "execute_user": "u",
            "created_at": n,
            "launched_at": None if n % 5 == 0 else 10 * n,
            "ended_at": 10 * n + 5,
            "updated_at": n,
        }
        for n in range(120)
    ]
    with world.database.begin() as connection:
        connection.execute(insert(executions), rows)


FILTERS = [
    HistoryFilter(),
    HistoryFilter(execution_id="", job_name=""),
    HistoryFilter(execution_id="h00042"),
    HistoryFilter(execution_id="h000"),
    HistoryFilter(job_id=0),
    HistoryFilter(job_id=HUGE >> 10),
    HistoryFilter(job_name="_"),
    HistoryFilter(job_name="%"),
    HistoryFilter(job_name="|"),
    HistoryFilter(job_name="LOAD_"),
    HistoryFilter(state=State.FAILED),
    HistoryFilter(project_id=2),
    HistoryFilter(launched_from_ms=300),
    HistoryFilter(launched_to_ms=300),
    HistoryFilter(launched_from_ms=100, launched_to_ms=900, state=State.SUCCESS, job_name="load"),
    HistoryFilter(state=State.TIMEOUT),
]


@pytest.mark.parametrize("wanted", FILTERS, ids=[str(n) for n in range(len(FILTERS))])
def test_history_gives_what_the_filter_says_newest_first(
    world: World, wanted: HistoryFilter
) -> None:
    _history(world)
    everything = []
    for page in range(1, 4):
        everything += world.executions.history(page=page, size=50).items
    assert [record.execution_id for record in everything] == sorted(
        (record.execution_id for record in everything), reverse=True
    )

    def fits(record: Any) -> bool:
        launched = record.launched_at
        return (
            wanted.execution_id in (None, "", record.execution_id)
            and wanted.job_id in (None, record.job_id)
            and (wanted.job_name or "").lower() in record.job_name.lower()
            and wanted.state in (None, record.state)
            and wanted.project_id in (None, record.project_id)
            and (
                wanted.launched_from_ms is None
                or (launched is not None and launched >= wanted.launched_from_ms)
            )
            and (
                wanted.launched_to_ms is None
                or (launched is not None and launched <= wanted.launched_to_ms)
            )
        )

    expected = [record for record in everything if fits(record)]
    found: list[Any] = []
    size = 17
    for number in range(1, len(expected) // size + 2):
        page = world.executions.history(wanted, page=number, size=size)
        assert page.total == len(expected)
        found += page.items
    assert found == expected


def test_history_page_takes_one_query_and_one_count(world: World) -> None:
    _history(world)
    with counted(world.database) as sent:
        page: Page[Any] = world.executions.history(HistoryFilter(job_name="load"), page=2, size=10)
    assert len(page.items) == 10
    assert len([x for x in sent if "executions" in x]) == 2


def test_delete_takes_tasks_and_logs_along(world: World) -> None:
    execution_id, other = world.job(1), world.job(1)
    for claim in world.run():
        assert world.finish(claim, State.SUCCESS)
    world.executions.delete(execution_id)
    with pytest.raises(NotFound):
        world.executions.get(execution_id)
    with world.database.read() as connection:
        for table in (tasks, log_streams):
            left = connection.execute(
                select(func.count()).where(table.c.execution_id == execution_id)
            )
            assert left.scalar_one() == 0
        streams = connection.execute(select(func.count()).select_from(log_streams)).scalar_one()
        owners = select(func.count()).where(log_chunks.c.stream_id.not_in(select(log_streams.c.id)))
        assert connection.execute(owners).scalar_one() == 0
    assert streams == 2
    assert world.job_log(other)


def test_unfinished_execution_is_not_deleted(world: World) -> None:
    execution_id = world.job(2)
    first, second = world.run()
    with pytest.raises(Conflict, match="Running"):
        world.executions.delete(execution_id)
    assert world.finish(first, State.FAILED)
    with pytest.raises(Conflict, match="1 of its tasks"):
        world.executions.delete(execution_id)
    assert world.finish(second, State.CANCELLED)
    world.executions.delete(execution_id)


def test_retention_removes_old_finished_executions_alone(world: World) -> None:
    old = [world.job(1) for _ in range(3)]
    for claim in world.run():
        assert world.finish(claim, State.SUCCESS)
    running = world.job(1)
    world.run()
    world.now += 1000
    young = world.job(1)
    for claim in world.run():
        assert world.finish(claim, State.SUCCESS)
    assert world.executions.purge(before_ms=world.now, limit=2) == 2
    assert world.executions.purge(before_ms=world.now, limit=2) == 1
    assert world.executions.purge(before_ms=world.now, limit=2) == 0
    left = {record.execution_id for record in world.executions.history(size=100).items}
    assert left == {running, young}
    assert not left & set(old)


# --- servers --------------------------------------------------------------------------------


def test_servers_come_are_seen_and_go(world: World) -> None:
    servers = Servers(world.database)
    servers.heartbeat("a", "127.0.0.1:1", "0.1", now=10)
    servers.heartbeat("b", "127.0.0.1:2", "0.1", now=10)
    servers.heartbeat("a", "127.0.0.1:1", "0.1", now=20)
    assert [(x.name, x.started_at, x.seen_at) for x in servers.all()] == [
        ("a", 10, 20),
        ("b", 10, 10),
    ]
    assert servers.remove_stale(before_ms=20) == 1
    servers.forget("a")
    servers.forget("a")
    assert servers.all() == []


def test_owners_with_work_are_those_of_active_tasks(world: World) -> None:
    world.job(4)
    world.run(1, owner="b")
    world.claim(2, owner="a")
    (done,) = world.run(1, owner="c")
    assert world.finish(done, State.SUCCESS, owner="c")
    assert Servers(world.database).owners_with_work() == ["a", "b"]
