"""A PostgreSQL source reads each row exactly once, as of one moment, and can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.connectors.base import ReadRequest
from exchangis.connectors.postgres import split as postgres_split
from exchangis.connectors.postgres.catalog import find_relation
from exchangis.connectors.postgres.session import connect
from exchangis.domain.errors import InvalidRequest, SourceError, TaskCancelled
from tests.integration.postgres_kit import Kit, new_kit, read, request, until
from tests.services import Service


@pytest.fixture
def kit(postgres: Service, tmp_path: Path) -> Iterator[Kit]:
    yield from new_kit(postgres, tmp_path)


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a page or two are split as large ones are."""
    monkeypatch.setattr(postgres_split, "_SMALL_BYTES", 1)
    monkeypatch.setattr(postgres_split, "_SPLIT_BYTES", 16 << 10)
    monkeypatch.setattr(postgres_split, "_SMALL_ROWS", 1)
    monkeypatch.setattr(postgres_split, "_SPLIT_ROWS", 500)


def test_schema_tells_columns_keys_and_an_estimate(kit: Kit) -> None:
    kit.run(
        "CREATE TABLE s (b text NOT NULL, a int, g int GENERATED ALWAYS AS (a * 2) STORED,"
        " gone int, PRIMARY KEY (a, b))"
    )
    kit.run("ALTER TABLE s DROP COLUMN gone")
    kit.run("INSERT INTO s SELECT 'x', g FROM generate_series(1, 100) g")
    kit.run("ANALYZE s")
    schema = kit.source("s").schema()
    assert schema.names == ("b", "a", "g")
    assert schema.primary_key == ("a", "b")
    assert schema.rows == 100
    assert [c.nullable for c in schema.columns] == [False, False, True]
    assert [c.native_type for c in schema.columns] == ["text", "integer", "integer"]
    assert read(kit.source("s"))["g"][99].as_py() == 200


def test_a_missing_table_is_named(kit: Kit) -> None:
    with pytest.raises(SourceError, match=r"no table t\d+\.nowhere") as caught:
        kit.source("nowhere").schema()
    assert not caught.value.retryable


def test_a_table_without_the_right_to_read_says_so(kit: Kit) -> None:
    kit.run("CREATE TABLE closed (a int)")
    kit.run("DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN PASSWORD 'poor'")
    kit.run(f"GRANT USAGE ON SCHEMA {kit.schema} TO poor")
    source = kit.connector.source(
        kit.connection(username="poor", password="poor"), kit.dataset("closed"), kit.context()
    )
    try:
        with pytest.raises(SourceError, match=r"permission denied.*42501"):
            source.schema()
    finally:
        source.close()
        kit.run(f"REVOKE USAGE ON SCHEMA {kit.schema} FROM poor; DROP ROLE poor")


def test_views_partitions_and_inheritance_are_read_whole(kit: Kit, small_splits: None) -> None:
    kit.run("CREATE TABLE p (id int PRIMARY KEY, t text) PARTITION BY RANGE (id)")
    kit.run("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (-5000) TO (1)")
    kit.run("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1) TO (5000)")
    kit.run("INSERT INTO p SELECT g, repeat('x', 50) FROM generate_series(-1999, 2000) g")
    kit.run("CREATE VIEW v AS SELECT id FROM p WHERE id % 2 = 0")
    kit.run("CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent)")
    kit.run("INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2)")
    kit.run("ANALYZE")
    for table, ids in (
        ("p", range(-1999, 2001)),
        ("v", range(-1998, 2001, 2)),
        ("parent", range(1, 3)),
    ):
        assert sorted(read(kit.source(table), parallelism=3)["id"].to_pylist()) == list(ids)
    source = kit.source("p")
    assert len(source.plan(request(source.schema(), parallelism=3))) > 2


def test_no_statistics_and_extreme_keys_still_cover_the_table(kit: Kit, small_splits: None) -> None:
    kit.run("CREATE TABLE p (id bigint PRIMARY KEY) PARTITION BY RANGE (id)")
    kit.run("CREATE TABLE p1 PARTITION OF p DEFAULT")
    kit.run("INSERT INTO p VALUES (-9223372036854775808), (9223372036854775807), (0)")
    kit.run("UPDATE pg_class SET reltuples = 100000 WHERE oid = 'p1'::regclass")
    source = kit.source("p")
    wanted = request(source.schema(), parallelism=4)
    assert len(source.plan(wanted)) > 1
    assert len(read(source, parallelism=4)) == 3


@given(
    rows=st.integers(0, 3000),
    width=st.integers(0, 300),
    updates=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=3),
    deletes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=3),
    parallelism=st.integers(1, 7),
    batch_rows=st.integers(1, 700),
    vacuum=st.booleans(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_splits_hold_each_row_exactly_once(
    kit: Kit,
    small_splits: None,
    rows: int,
    width: int,
    updates: list[tuple[int, int]],
    deletes: list[tuple[int, int]],
    parallelism: int,
    batch_rows: int,
    vacuum: bool,
) -> None:
    kit.run("DROP TABLE IF EXISTS h; CREATE TABLE h (id int, t text)")
    kit.run(f"INSERT INTO h SELECT g, repeat('x', {width}) FROM generate_series(1, {rows}) g")
    for low, high in updates:
        kit.run(f"UPDATE h SET t = t || 'y' WHERE id BETWEEN {low} AND {high}")
    for low, high in deletes:
        kit.run(f"DELETE FROM h WHERE id BETWEEN {low} AND {high}")
    if vacuum:
        kit.run("VACUUM h")
    with closing(kit.source("h")) as source:
        wanted = request(source.schema(), parallelism=parallelism, batch_rows=batch_rows)
        splits = source.plan(wanted)
        batches = [batch for split in splits for batch in source.read(split, wanted)]
    assert len({split.id for split in splits}) == len(splits)
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    ids = [row for batch in batches for row in batch["id"].to_pylist()]
    assert sorted(ids) == [row[0] for row in kit.run("SELECT id FROM h ORDER BY id")]


def test_large_heaps_are_read_by_page_ranges_that_seek(kit: Kit, small_splits: None) -> None:
    kit.run("CREATE TABLE h AS SELECT g AS id FROM generate_series(1, 20000) g")
    source = kit.source("h")
    wanted = request(source.schema(), parallelism=2)
    splits = source.plan(wanted)
    assert len(splits) > 2
    condition = postgres_split.predicate(splits[1])
    assert condition is not None
    plan = kit.run("EXPLAIN SELECT * FROM h WHERE " + condition.as_string(kit.admin))
    assert "Tid Range Scan" in plan[0][0]


def test_without_page_ranges_integer_keys_cut_at_the_statistics_quantiles(
    kit: Kit, small_splits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_split, "_TID_RANGE_SCAN", 10**9)  # as before PostgreSQL 14
    kit.run("CREATE TABLE k (id int PRIMARY KEY)")
    kit.run("INSERT INTO k SELECT g * g FROM generate_series(-30, 3000) g ON CONFLICT DO NOTHING")
    kit.run("ANALYZE k")
    source = kit.source("k")
    wanted = request(source.schema(), parallelism=4)
    sizes = [sum(b.num_rows for b in source.read(s, wanted)) for s in source.plan(wanted)]
    assert sum(sizes) == 3001
    assert len(sizes) > 4
    assert max(sizes) < 2 * min(sizes)


def test_splits_committed_one_by_one_keep_updated_rows(kit: Kit, small_splits: None) -> None:
    kit.run("CREATE TABLE u (id int PRIMARY KEY, v int)")
    kit.run("INSERT INTO u SELECT g, 0 FROM generate_series(1, 20000) g")
    kit.run("ANALYZE u")
    first = kit.source("u")
    wanted = replace(request(first.schema(), parallelism=4), resumable=True)
    splits = first.plan(wanted)
    assert len(splits) > 4
    ids = [i for b in first.read(splits[0], wanted) for i in b["id"].to_pylist()]
    # Between two attempts every row moves to another page; the second goes on with the rest.
    kit.run("UPDATE u SET v = 1")
    second = kit.source("u")
    for split in splits[1:]:
        ids += [i for b in second.read(split, wanted) for i in b["id"].to_pylist()]
    assert sorted(ids) == list(range(1, 20001))


def test_a_later_attempt_is_warned_of_rows_that_move(kit: Kit, small_splits: None) -> None:
    kit.run("CREATE TABLE h AS SELECT g AS id FROM generate_series(1, 20000) g")
    dataset, context = kit.dataset("h"), kit.context(attempt=2)
    with closing(kit.connector.source(kit.connection(), dataset, context)) as source:
        assert read(source).num_rows == 20000
    assert [level for level, text in kit.logs if "moved to other pages" in text] == ["WARN"]


def test_every_lane_sees_the_same_moment(kit: Kit, small_splits: None) -> None:
    kit.run("CREATE TABLE m AS SELECT g AS id FROM generate_series(1, 20000) g")
    source = kit.source("m")
    wanted = request(source.schema(), parallelism=2)
    splits = source.plan(wanted)
    seen: list[int] = []
    for number, split in enumerate(splits):
        kit.run(f"INSERT INTO m VALUES ({-1 - number})")
        kit.run(f"DELETE FROM m WHERE id = {20000 - number}")
        # A second, fresh lane for every split: the first one is busy.
        held = source.read(split, wanted)
        first = next(held)
        other = [row for batch in source.read(split, wanted) for row in batch["id"].to_pylist()]
        mine = first["id"].to_pylist() + [r for b in held for r in b["id"].to_pylist()]
        assert mine == other
        seen += mine
    assert sorted(seen) == list(range(1, 20001))


def test_a_filter_is_evaluated_by_the_server_and_stays_one_expression(kit: Kit) -> None:
    kit.run("CREATE TABLE f AS SELECT g AS id, 'n%' || g AS name FROM generate_series(1, 9) g")
    source = kit.source("f")
    table = read(source, where="WHERE id > 3 AND name LIKE 'n%%5' OR id = 1")
    assert sorted(table["id"].to_pylist()) == [1, 5]
    for bad in (
        "1=1) TO STDOUT; DROP TABLE f; COPY (SELECT 1",
        "id IN (SELECT 1)",
        "id = 1 -- x",
        "id = 1; DELETE FROM f",
    ):
        with pytest.raises(InvalidRequest):
            read(source, where=bad)
    with pytest.raises(SourceError, match="nope"):
        read(source, where="nope = 1")


def test_a_source_cannot_be_made_to_write(kit: Kit) -> None:
    kit.run("CREATE TABLE f (id int); INSERT INTO f VALUES (1)")
    kit.run("CREATE SEQUENCE counter")
    with pytest.raises(SourceError, match="read-only"):
        read(kit.source("f"), where=f"nextval('{kit.schema}.counter') > 0")


def test_batches_are_bounded_by_bytes_too(kit: Kit) -> None:
    kit.run("CREATE TABLE big AS SELECT repeat('x', 10000) AS t FROM generate_series(1, 300)")
    source = kit.source("big")
    wanted = request(source.schema(), batch_bytes=64 << 10)
    sizes = [b.nbytes for split in source.plan(wanted) for b in source.read(split, wanted)]
    assert max(sizes) <= 64 << 10
    assert len(sizes) > 40
    kit.run("CREATE TABLE narrow AS SELECT null::numeric(76,1) AS a FROM generate_series(1, 9000)")
    source = kit.source("narrow")
    wanted = request(source.schema(), batch_bytes=64 << 10)
    sizes = [b.nbytes for split in source.plan(wanted) for b in source.read(split, wanted)]
    assert max(sizes) <= 64 << 10


def test_schema_names_default_to_public_also_by_the_database_name(kit: Kit) -> None:
    kit.run("DROP TABLE IF EXISTS public.here; CREATE TABLE public.here (a int)")
    try:
        for database in (None, "public", kit.service.database):
            dataset = kit.dataset("here").model_copy(update={"database": database})
            source = kit.connector.source(kit.connection(), dataset, kit.context())
            assert source.schema().names == ("a",)
            source.close()
    finally:
        kit.run("DROP TABLE public.here")


def test_leaving_a_read_early_ends_its_statement_and_reads_no_more(kit: Kit) -> None:
    kit.run("CREATE VIEW endless AS SELECT generate_series(1, 1000000000000) AS id")
    source = kit.source("endless")
    wanted = ReadRequest(columns=("id",), batch_rows=100)
    batches = source.read(source.plan(wanted)[0], wanted)
    assert next(batches).num_rows == 100
    batches.close()  # type: ignore[attr-defined]
    until(lambda: kit.backends() == 1)  # the one that holds the snapshot
    source.close()
    until(lambda: kit.backends() == 0)


@pytest.mark.parametrize("blocked", ["sleep", "lock"])
def test_a_cancelled_read_raises_and_ends_in_the_database(kit: Kit, blocked: str) -> None:
    kit.run("CREATE TABLE l (a int); INSERT INTO l VALUES (1)")
    source = kit.source("l")
    where = "pg_sleep(600) IS NOT NULL" if blocked == "sleep" else None
    holder = kit.second()
    if blocked == "lock":
        holder.execute(f"BEGIN; LOCK TABLE {kit.schema}.l")
    try:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, source, where=where)
            event = "PgSleep" if blocked == "sleep" else "relation"
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = %s"
            until(lambda: kit.run(waiting, event)[0][0] == 1)
            source.cancel()
            assert isinstance(reading.exception(2), TaskCancelled)
        until(lambda: kit.backends() == 0, seconds=2)
        source.cancel()
        with pytest.raises(TaskCancelled):
            source.schema()
    finally:
        holder.close()


def test_sessions_are_told_and_can_be_ended_by_somebody_else(kit: Kit) -> None:
    kit.run("CREATE TABLE l (a int)")
    source = kit.source("l")
    source.schema()
    assert [side for side, _ in kit.sessions] == ["source"]
    bystander = str(kit.admin.info.backend_pid)
    pids = [kit.sessions[0][1], bystander, "999999"]
    kit.connector.end_sessions(kit.connection(), pids, kit.context())
    until(lambda: kit.backends() == 0, seconds=2)
    assert kit.run("SELECT 1") == [(1,)]  # a session that is not ours lives on
    with pytest.raises(Exception, match="Planning") as caught:
        source.plan(ReadRequest(columns=("a",)))
    assert caught.value.retryable  # type: ignore[attr-defined]


def test_a_server_without_snapshots_is_said_and_read_all_the_same(kit: Kit) -> None:
    kit.run("CREATE TABLE l AS SELECT 1 AS a")
    kit.run("REVOKE EXECUTE ON FUNCTION pg_export_snapshot() FROM PUBLIC")
    kit.run("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN PASSWORD 'plain'")
    kit.run(f"GRANT USAGE ON SCHEMA {kit.schema} TO plain; GRANT SELECT ON l TO plain")
    source = kit.connector.source(
        kit.connection(username="plain", password="plain"), kit.dataset("l"), kit.context()
    )
    try:
        assert read(source) == pa.table({"a": pa.array([1], pa.int32())})
        assert any("snapshot" in text for level, text in kit.logs if level == "WARN")
    finally:
        source.close()
        kit.run("GRANT EXECUTE ON FUNCTION pg_export_snapshot() TO PUBLIC")
        kit.run(f"REVOKE USAGE ON SCHEMA {kit.schema} FROM plain; REVOKE SELECT ON l FROM plain")
        kit.run("DROP ROLE plain")


def test_text_that_is_not_utf8_is_an_error_and_no_crash(kit: Kit) -> None:
    kit.run("DROP DATABASE IF EXISTS bytes_only")
    kit.run("CREATE DATABASE bytes_only ENCODING 'SQL_ASCII' TEMPLATE template0")
    connection = kit.connection(database="bytes_only")
    with closing(connect(connection)) as session:
        session.execute("CREATE TABLE public.t AS SELECT E'\\xff'::text AS a")
    dataset = kit.dataset("t").model_copy(update={"database": "public"})
    with (
        closing(kit.connector.source(connection, dataset, kit.context())) as source,
        pytest.raises(SourceError, match="invalid byte sequence"),
    ):
        read(source)
    until(lambda: kit.backends() == 0)
    kit.run("DROP DATABASE bytes_only")


def test_estimates_of_tables_never_analyzed_are_absent(kit: Kit) -> None:
    kit.run("CREATE TABLE fresh (a int)")
    relation = find_relation(kit.admin, kit.schema, "fresh")
    assert relation is not None
    assert relation.rows is None
