"""A PostgreSQL sink loses no row, doubles none, and shows old or new rows and nothing between."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exchangis.connectors import marks
from exchangis.connectors.base import Column, Sink, Split, TableSchema, WriteRequest
from exchangis.domain.errors import ConnectionFailed, SinkError, TaskCancelled, TaskError
from exchangis.domain.model import WriteMode
from tests.integration.postgres_kit import Kit, new_kit, prepare, until, write
from tests.services import Service

PARTIAL = "CREATE TABLE t (id int, t text); CREATE UNIQUE INDEX ON t (id) WHERE id > 1"
TWO = TableSchema((Column("id", pa.int32()), Column("t", pa.string())), ("id",))


@pytest.fixture
def kit(postgres: Service, tmp_path: Path) -> Iterator[Kit]:
    yield from new_kit(postgres, tmp_path)


def rows(*pairs: tuple[int | None, str | None]) -> pa.RecordBatch:
    ids, texts = zip(*pairs, strict=True) if pairs else ((), ())
    return pa.record_batch([pa.array(ids, pa.int32()), pa.array(texts, pa.string())], ["id", "t"])


def staging(kit: Kit) -> list[str]:
    found = kit.run(
        "SELECT relname FROM pg_class WHERE relname ~ '^exchangis_stg_' AND relkind = 'r'"
        " AND relnamespace = current_schema()::regnamespace"
    )
    return [row[0] for row in found]


def mark_names(kit: Kit) -> list[str]:
    return [r[0] for r in kit.run("SELECT split_id FROM exchangis_commits ORDER BY split_id")]


def existing(kit: Kit, *pairs: tuple[int, str]) -> None:
    kit.run("CREATE TABLE t (id int PRIMARY KEY, t text)")
    for pair in pairs:
        kit.run("INSERT INTO t VALUES (%s, %s)", *pair)


def test_appended_rows_and_marks_show_together_at_the_commit(kit: Kit) -> None:
    existing(kit, (1, "old"))
    sink = kit.sink("t")
    assert prepare(sink, TWO).done == {}
    writer = sink.open_writer()
    assert writer.write(rows((2, "a"), (3, None))).rows == 2
    writer.mark(Split("s1", "s1"), 2)
    assert kit.rows("t") == [(1, "old")]
    assert mark_names(kit) == [marks.PLAN]
    writer.commit()
    assert kit.rows("t") == [(1, "old"), (2, "a"), (3, None)]
    assert mark_names(kit) == [marks.PLAN, "s1"]
    writer.write(rows((4, "forgotten")))
    writer.rollback()
    writer.write(rows((5, "kept")))
    writer.mark(Split("s2", "s2"), 1)
    writer.commit()
    writer.close()
    writer.close()
    sink.publish()
    assert [row[0] for row in kit.rows("t")] == [1, 2, 3, 5]


def test_an_append_that_crashes_resumes_where_its_marks_end(kit: Kit) -> None:
    first = kit.sink("t")
    assert prepare(first, TWO).plan == '{"plan": 1}'
    write(first, rows((1, "a")), split="s1")
    crashed = first.open_writer()
    crashed.write(rows((2, "lost")))
    crashed.mark(Split("s2", "s2"), 1)
    first.close()  # the process is gone: its sessions end, its transaction is rolled back
    second = kit.sink("t", attempt=2)
    resume = second.prepare(WriteRequest(TWO, WriteMode.APPEND), '{"plan": "another"}')
    assert (resume.plan, resume.done, resume.published) == ('{"plan": 1}', {"s1": 1}, False)
    write(second, rows((2, "b")), split="s2")
    assert kit.rows("t") == [(1, "a"), (2, "b")]


def test_a_split_is_committed_once_whoever_tries(kit: Kit) -> None:
    existing(kit)
    stale, fresh = kit.sink("t"), kit.sink("t", attempt=2)
    prepare(stale, TWO)
    prepare(fresh, TWO)
    lane = stale.open_writer()
    lane.write(rows((1, "stale")))
    lane.mark(Split("s1", "s1"), 1)
    write(fresh, rows((2, "fresh")), split="s1")
    with pytest.raises(SinkError, match="committed") as caught:
        lane.commit()
    assert caught.value.retryable
    assert kit.rows("t") == [(2, "fresh")]
    lane.close()


def test_refused_rows_are_found_and_the_others_taken(kit: Kit) -> None:
    kit.run("CREATE TYPE mood AS ENUM ('fine')")
    kit.run(
        "CREATE TABLE t (id int PRIMARY KEY, t varchar(5) NOT NULL CHECK (t <> 'no'), m mood,"
        " j jsonb)"
    )
    kit.run("INSERT INTO t VALUES (7, 'old')")
    bad: dict[int, tuple[tuple[Any, ...], str]] = {
        0: ((100, "toolong", "fine", None), "too long"),
        3: ((None, "a", "fine", None), "null value"),
        4: ((101, None, "fine", None), "null value"),
        50: ((102, "no", "fine", None), "check constraint"),
        51: ((7, "dup", "fine", None), "already exists"),
        60: ((103, "a", "bad", None), "invalid input value for enum"),
        61: ((104, "a\x00b", "fine", None), "0x00"),
        99: ((105, "a", "fine", "{oops"), "json"),
    }
    table = [bad[n][0] if n in bad else (1000 + n, "ok", "fine", "{}") for n in range(100)]
    columns = list(zip(*table, strict=True))
    types = [pa.int32(), pa.string(), pa.string(), pa.string()]
    batch = pa.record_batch(
        [pa.array(c, t) for c, t in zip(columns, types, strict=True)], ["id", "t", "m", "j"]
    )
    sink = kit.sink("t")
    schema = sink.schema()
    assert schema is not None
    prepare(sink, schema)
    writer = sink.open_writer()
    written = writer.write(batch)
    writer.commit()
    writer.close()
    assert written.rows == 92
    assert {r.index for r in written.rejected} == set(bad)
    for rejected in written.rejected:
        assert bad[rejected.index][1] in rejected.reason
        assert len(rejected.reason) < 400
    assert len(kit.rows("t")) == 93


def test_a_trigger_may_refuse_a_row_and_finds_its_own_tables(kit: Kit) -> None:
    existing(kit)
    kit.run("CREATE TABLE audit (id int)")
    kit.run(
        "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.id = 2 THEN RAISE 'not two'; END IF; INSERT INTO audit VALUES (NEW.id);"
        " RETURN NEW; END $$"
    )
    kit.run("CREATE TRIGGER w BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION watch()")
    sink = kit.sink("t")
    prepare(sink, TWO)
    assert write(sink, rows((1, "a"), (2, "b"), (3, "c"))) == ["not two"]
    assert kit.run("SELECT id FROM audit ORDER BY 1") == [(1,), (3,)]
    over = kit.sink("t", key="task-2")
    prepare(over, TWO, WriteMode.OVERWRITE)
    write(over, rows((9, "z")))
    over.publish()
    assert kit.rows("t") == [(9, "z")]


@pytest.mark.parametrize("way", ["truncate", "delete"])
def test_overwrite_shows_old_rows_until_it_shows_the_new_ones(kit: Kit, way: str) -> None:
    existing(kit, (1, "old"), (2, "old"))
    sink = kit.sink("t", overwrite_with=way)
    prepare(sink, TWO, WriteMode.OVERWRITE)
    assert write(sink, rows((2, "new")), split="s1") == []
    assert write(sink, rows((3, "new")), split="s2") == []
    assert kit.rows("t") == [(1, "old"), (2, "old")]
    sink.publish()
    assert kit.rows("t") == [(2, "new"), (3, "new")]
    assert staging(kit) == []
    sink.publish()
    again = kit.sink("t", attempt=2, overwrite_with=way)
    assert prepare(again, TWO, WriteMode.OVERWRITE).published
    again.publish()
    assert kit.rows("t") == [(2, "new"), (3, "new")]


def test_deleting_overwrite_lets_readers_keep_their_snapshot(kit: Kit) -> None:
    existing(kit, (1, "old"))
    with kit.second() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        sink = kit.sink("t", overwrite_with="delete")
        prepare(sink, TWO, WriteMode.OVERWRITE)
        write(sink, rows((2, "new")))
        sink.publish()
        assert reader.execute(f"SELECT * FROM {kit.schema}.t").fetchall() == [(1, "old")]
        reader.execute("ROLLBACK")
    assert kit.rows("t") == [(2, "new")]


def test_overwrite_resumes_after_a_crash_at_each_step(kit: Kit) -> None:
    existing(kit, (1, "old"))

    def attempt(number: int) -> tuple[Sink, dict[str, int]]:
        sink = kit.sink("t", attempt=number)
        return sink, dict(prepare(sink, TWO, WriteMode.OVERWRITE).done)

    sink, done = attempt(1)
    assert done == {}
    sink.close()  # after prepare
    sink, done = attempt(2)
    assert done == {}
    write(sink, rows((10, "a")), split="s1")
    lane = sink.open_writer()
    lane.write(rows((11, "lost")))
    sink.close()  # between a split's rows and its commit
    sink, done = attempt(3)
    assert done == {"s1": 1}
    write(sink, rows((11, "b")), split="s2")
    sink.close()  # before publish
    assert kit.rows("t") == [(1, "old")]
    sink, done = attempt(4)
    assert done == {"s1": 1, "s2": 1}
    sink.publish()
    assert kit.rows("t") == [(10, "a"), (11, "b")]


@pytest.mark.parametrize("mode", [WriteMode.OVERWRITE, WriteMode.UPSERT])
def test_a_switch_that_dies_half_way_is_done_whole_by_the_next_attempt(
    kit: Kit, mode: WriteMode
) -> None:
    existing(kit, (1, "old"))
    sink = kit.sink("t")
    prepare(sink, TWO, mode)
    write(sink, rows((2, "new"), (3, "waits")))
    holder = kit.second()
    holder.execute(f"BEGIN; INSERT INTO {kit.schema}.t VALUES (3, 'held')")
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(sink.publish)
        until(lambda: kit.run("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0] == 1)
        pids = [pid for _, pid in kit.sessions]
        kit.connector.end_sessions(kit.connection(), pids, kit.context())
        error = blocked.exception(2)
    assert isinstance(error, TaskError)
    assert error.retryable
    holder.execute("ROLLBACK")
    holder.close()
    assert kit.rows("t") == [(1, "old")]
    again = kit.sink("t", attempt=2)
    resume = prepare(again, TWO, mode)
    assert (dict(resume.done), resume.published) == ({"s1": 2}, False)
    again.publish()
    kept = [(1, "old")] if mode is WriteMode.UPSERT else []
    assert kit.rows("t") == [*kept, (2, "new"), (3, "waits")]
    assert staging(kit) == []


def test_marks_without_their_staging_rows_are_taken_back(kit: Kit) -> None:
    existing(kit)
    sink = kit.sink("t")
    prepare(sink, TWO, WriteMode.OVERWRITE)
    write(sink, rows((1, "a")), split="s1")
    kit.run(f"DROP TABLE {staging(kit)[0]}")
    again = kit.sink("t", attempt=2)
    assert prepare(again, TWO, WriteMode.OVERWRITE).done == {}
    write(again, rows((1, "a")), split="s1")
    again.publish()
    assert kit.rows("t") == [(1, "a")]


def test_a_switch_that_fails_leaves_the_old_rows(kit: Kit) -> None:
    existing(kit, (1, "old"))
    kit.run("CREATE TABLE child (t_id int REFERENCES t); INSERT INTO child VALUES (1)")
    sink = kit.sink("t")
    prepare(sink, TWO, WriteMode.OVERWRITE)
    write(sink, rows((2, "new")))
    with pytest.raises(SinkError, match="still referenced"):
        sink.publish()
    assert kit.rows("t") == [(1, "old")]
    assert len(staging(kit)) == 1
    write(sink, rows((1, "kept")), split="s2")
    sink.publish()  # now the referenced key is among the new rows
    assert kit.rows("t") == [(1, "kept"), (2, "new")]


def test_overwrite_never_deletes_another_tables_rows(kit: Kit) -> None:
    existing(kit, (1, "old"))
    kit.run("CREATE TABLE child (t_id int REFERENCES t ON DELETE CASCADE)")
    kit.run("INSERT INTO child VALUES (1)")
    sink = kit.sink("t", overwrite_with="delete")
    prepare(sink, TWO, WriteMode.OVERWRITE)
    write(sink, rows((1, "new")))
    with pytest.raises(SinkError, match="CASCADE"):
        sink.publish()
    assert kit.run("SELECT * FROM child") == [(1,)]
    assert kit.rows("t") == [(1, "old")]


def test_duplicate_keys_of_an_overwrite_are_dirty_rows(kit: Kit) -> None:
    existing(kit, (1, "old"))
    sink = kit.sink("t")
    prepare(sink, TWO, WriteMode.OVERWRITE)
    reasons = write(sink, rows((1, "a"), (1, "b"), (2, "c")))
    assert len(reasons) == 1
    assert "already exists" in reasons[0]
    sink.publish()
    assert kit.rows("t") == [(1, "a"), (2, "c")]


def test_upsert_updates_inserts_and_the_last_row_of_a_key_wins(kit: Kit) -> None:
    kit.run("CREATE TABLE t (id int PRIMARY KEY, t text, untouched text DEFAULT 'd')")
    kit.run("INSERT INTO t VALUES (1, 'old', 'mine'), (2, 'old', 'mine')")
    sink = kit.sink("t")
    prepare(sink, TWO, WriteMode.UPSERT)
    write(sink, rows((2, "first"), (3, "new")), rows((2, "last")))
    assert kit.rows("t") == [(1, "old", "mine"), (2, "old", "mine")]
    sink.publish()
    assert kit.rows("t") == [(1, "old", "mine"), (2, "last", "mine"), (3, "new", "d")]
    assert staging(kit) == []
    sink.publish()
    assert prepare(kit.sink("t", attempt=2), TWO, WriteMode.UPSERT).published


def test_upsert_by_a_nullable_unique_key_inserts_every_null(kit: Kit) -> None:
    kit.run("CREATE TABLE t (id int, t text, UNIQUE (id)); INSERT INTO t VALUES (1, 'old')")
    sink = kit.sink("t")
    prepare(sink, TWO, WriteMode.UPSERT, key_columns=("id",))
    write(sink, rows((None, "x"), (None, "y"), (1, "new")))
    sink.publish()
    assert kit.rows("t", "1, 2") == [(1, "new"), (None, "x"), (None, "y")]


def test_upsert_of_keys_alone_adds_the_missing_ones(kit: Kit) -> None:
    existing(kit, (1, "old"))
    only = TableSchema((Column("id", pa.int32()),), ("id",))
    sink = kit.sink("t")
    prepare(sink, only, WriteMode.UPSERT)
    write(sink, pa.record_batch([pa.array([1, 2], pa.int32())], ["id"]))
    sink.publish()
    assert kit.rows("t") == [(1, "old"), (2, None)]


@pytest.mark.parametrize(
    ("ddl", "keys", "message"),
    [
        ("CREATE TABLE t (id int, t text)", (), "no primary key"),
        ("CREATE TABLE t (id int, t text)", ("id",), "unique index"),
        (PARTIAL, ("id",), "unique index"),
        ("CREATE TABLE t (id int PRIMARY KEY, t text)", ("id", "t"), "unique index"),
        ("CREATE TABLE t (id int, t text, o int PRIMARY KEY)", (), "not written: o"),
    ],
)  # fmt: skip
def test_upsert_without_a_fitting_unique_index_says_so(
    kit: Kit, ddl: str, keys: tuple[str, ...], message: str
) -> None:
    kit.run(ddl)
    with pytest.raises(SinkError, match=message):
        prepare(kit.sink("t"), TWO, WriteMode.UPSERT, key_columns=keys)


@pytest.mark.parametrize("mode", list(WriteMode))
def test_generated_columns_are_left_to_the_server(kit: Kit, mode: WriteMode) -> None:
    kit.run(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text,"
        " u text GENERATED ALWAYS AS (upper(t)) STORED)"
    )
    sink = kit.sink("t")
    schema = sink.schema()
    assert schema is not None
    assert schema.names == ("id", "t")
    prepare(sink, schema, mode)
    write(sink, rows((7, "a")))
    sink.publish()
    assert kit.rows("t") == [(7, "a", "A")]
    with pytest.raises(SinkError, match="computes the column u"):
        prepare(kit.sink("t", key="x"), TableSchema((Column("u", pa.string()),)), mode)


@pytest.mark.parametrize("mode", list(WriteMode))
def test_a_missing_table_is_made_with_its_key_or_named(kit: Kit, mode: WriteMode) -> None:
    sink = kit.sink("made")
    assert sink.schema() is None
    with pytest.raises(SinkError, match=r"no table t\d+\.made"):
        prepare(sink, TWO, mode, create=False)
    prepare(sink, TWO, mode)
    write(sink, rows((1, "a")))
    sink.publish()
    assert kit.rows("made") == [(1, "a")]
    made = sink.schema()
    assert made is not None
    assert made.primary_key == ("id",)


def test_names_that_the_server_would_cut_are_refused(kit: Kit) -> None:
    with pytest.raises(SinkError, match="1 to 63 bytes"):
        prepare(kit.sink("t"), TableSchema((Column("\u00e9" * 32, pa.int32()),)))
    with pytest.raises(SinkError, match="1 to 63 bytes"):
        prepare(kit.sink("x" * 64), TWO)


def test_many_tasks_may_prepare_the_same_missing_table_at_once(kit: Kit) -> None:
    def one(number: int) -> int:
        sink = kit.sink("t", key=f"task-{number}")
        prepare(sink, TWO)
        write(sink, rows((number, "a")))
        return number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one, range(16))) == list(range(16))
    assert len(kit.rows("t")) == 16


def test_lanes_write_at_once_and_all_rows_arrive(kit: Kit) -> None:
    existing(kit)
    sink = kit.sink("t")
    prepare(sink, TWO, WriteMode.OVERWRITE)

    def lane(number: int) -> list[str]:
        return write(sink, *(rows((number * 100 + n, "x")) for n in range(20)), split=f"s{number}")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lane, range(4))) == [[]] * 4
    sink.publish()
    assert len(kit.rows("t")) == 80


def test_discard_removes_what_is_this_tasks_alone(kit: Kit) -> None:
    existing(kit, (1, "old"))
    mine, other = kit.sink("t"), kit.sink("t", key="task-2")
    for sink in (mine, other):
        prepare(sink, TWO, WriteMode.OVERWRITE)
        write(sink, rows((2, "new")))
    kit.sink("t").discard()  # a fresh object, as after a crash
    assert len(staging(kit)) == 1
    assert {r[0] for r in kit.run("SELECT task_key FROM exchangis_commits")} == {"task-2"}
    other.publish()
    assert kit.rows("t") == [(2, "new")]
    kit.sink("nothing", key="never").discard()


def test_marks_of_long_past_tasks_go(kit: Kit) -> None:
    existing(kit)
    prepare(kit.sink("t", key="ancient"), TWO)
    prepare(kit.sink("t", key="recent"), TWO)
    kit.run(
        "UPDATE exchangis_commits SET created_at = now() - interval '8 days'"
        " WHERE task_key = 'ancient'"
    )
    prepare(kit.sink("t", key="now"), TWO)
    assert kit.run("SELECT task_key FROM exchangis_commits ORDER BY 1") == [("now",), ("recent",)]


def test_a_blocked_write_is_cancelled_and_leaves_nothing_behind(kit: Kit) -> None:
    existing(kit)
    holder = kit.second()
    holder.execute(f"BEGIN; INSERT INTO {kit.schema}.t VALUES (1, 'held')")
    sink = kit.sink("t")
    prepare(sink, TWO)
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(write, sink, rows((1, "waits for the holder")))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"
        until(lambda: kit.run(waiting)[0][0] == 1)
        sink.cancel()
        assert isinstance(blocked.exception(2), TaskCancelled)
    until(lambda: kit.backends() == 0, seconds=2)
    holder.close()
    assert kit.rows("t") == []
    with pytest.raises(TaskCancelled):
        sink.open_writer()


def test_a_blocked_publish_is_cancelled_and_leaves_the_old_rows(kit: Kit) -> None:
    existing(kit, (1, "old"))
    sink = kit.sink("t")
    prepare(sink, TWO, WriteMode.OVERWRITE)
    write(sink, rows((2, "new")))
    holder = kit.second()
    holder.execute(f"BEGIN; SELECT * FROM {kit.schema}.t")
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(sink.publish)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        until(lambda: kit.run(waiting)[0][0] == 1)
        sink.cancel()
        assert isinstance(blocked.exception(2), TaskCancelled)
    until(lambda: kit.backends() == 0, seconds=2)
    holder.close()
    assert kit.rows("t") == [(1, "old")]


def test_a_session_ended_in_mid_write_is_worth_a_retry(kit: Kit) -> None:
    existing(kit)
    sink = kit.sink("t")
    prepare(sink, TWO)
    writer = sink.open_writer()
    writer.write(rows((1, "a")))
    pids = [pid for _, pid in kit.sessions]
    kit.connector.end_sessions(kit.connection(), pids, kit.context())
    with pytest.raises(TaskError) as caught:
        for number in range(100):
            writer.write(rows((number, "b")))
    assert caught.value.retryable
    writer.rollback()
    writer.close()
    assert kit.rows("t") == []
    assert prepare(kit.sink("t", attempt=2), TWO).done == {}


def test_a_deadlock_is_worth_a_retry_and_no_rows_fault(kit: Kit) -> None:
    existing(kit)
    sink = kit.sink("t")
    prepare(sink, TWO)
    one, two = sink.open_writer(), sink.open_writer()
    one.write(rows((1, "one")))
    two.write(rows((2, "two")))
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(one.write, rows((2, "one"))),
            pool.submit(two.write, rows((1, "two"))),
        ]
        until(lambda: any(f.done() and f.exception() for f in futures))
        loser = 0 if futures[0].done() and futures[0].exception() else 1
        error = futures[loser].exception()
        (one, two)[loser].close()
        assert futures[1 - loser].result(5).rows == 1
    assert isinstance(error, SinkError)
    assert error.retryable
    assert "40P01" in str(error)
    one.close()
    two.close()


def test_a_role_that_may_not_create_tables_is_told_what_is_missing(kit: Kit) -> None:
    existing(kit)
    kit.run("DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN PASSWORD 'weak'")
    kit.run(f"GRANT USAGE ON SCHEMA {kit.schema} TO weak; GRANT INSERT, SELECT ON t TO weak")
    sink = kit.connector.sink(
        kit.connection(username="weak", password="weak"), kit.dataset("t"), kit.context()
    )
    try:
        with pytest.raises(SinkError, match="CREATE") as caught:
            prepare(sink, TWO)
        assert not caught.value.retryable
    finally:
        sink.close()
        kit.run(f"REVOKE USAGE ON SCHEMA {kit.schema} FROM weak; REVOKE ALL ON t FROM weak")
        kit.run("DROP ROLE weak")


def test_an_unknown_schema_is_refused(kit: Kit) -> None:
    dataset = kit.dataset("t").model_copy(update={"database": "nowhere"})
    sink = kit.connector.sink(kit.connection(), dataset, kit.context())
    with pytest.raises(SinkError, match="nowhere"):
        prepare(sink, TWO)
    sink.close()


def test_a_partitioned_table_is_written_in_every_mode(kit: Kit) -> None:
    kit.run("CREATE TABLE t (id int PRIMARY KEY, t text) PARTITION BY RANGE (id)")
    kit.run("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    for number, mode in enumerate(WriteMode):
        sink = kit.sink("t", key=f"task-{number}")
        prepare(sink, TWO, mode)
        reasons = write(sink, rows((number, mode.value)))
        assert reasons == []
        sink.publish()
    assert kit.rows("t") == [(1, "overwrite"), (2, "upsert")]
    sink = kit.sink("t", key="last")
    prepare(sink, TWO)
    assert "no partition" in write(sink, rows((99, "x")))[0]


def test_a_server_that_goes_away_at_prepare_is_worth_a_retry(kit: Kit) -> None:
    existing(kit)
    sink = kit.sink("t")
    assert sink.schema() is not None
    kit.connector.end_sessions(kit.connection(), [kit.sessions[0][1]], kit.context())
    with pytest.raises(TaskError) as caught:
        prepare(sink, TWO)
    assert caught.value.retryable
    assert isinstance(caught.value, ConnectionFailed | SinkError)
    prepare(sink, TWO)


def test_deferred_constraints_fail_the_commit_and_nothing_is_kept(kit: Kit) -> None:
    existing(kit)
    kit.run("CREATE TABLE c (id int REFERENCES t DEFERRABLE INITIALLY DEFERRED, t text)")
    sink = kit.sink("c")
    prepare(sink, TWO)
    with pytest.raises(SinkError, match="Committing"):
        write(sink, rows((1, "orphan")))
    assert kit.rows("c") == []
    assert mark_names(kit) == [marks.PLAN]


def test_a_table_dropped_under_a_task_is_named(kit: Kit) -> None:
    existing(kit)
    sink = kit.sink("t")
    prepare(sink, TWO)
    kit.run("DROP TABLE t")
    with pytest.raises(SinkError, match="no table") as caught:
        write(sink, rows((1, "a")))
    assert not caught.value.retryable
