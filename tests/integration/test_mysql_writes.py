"""Write modes of the MySQL sink: all or nothing, resumable, and honest about refused rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from exchangis.connectors.base import Sink, Split, WriteRequest
from exchangis.connectors.marks import PLAN, PUBLISHED, TABLE
from exchangis.connectors.mysql.publish import Replacement
from exchangis.domain.errors import InvalidRequest, SinkError
from exchangis.domain.model import WriteMode
from tests.integration.mysql_harness import Server, request_for, server_of
from tests.services import Service

ONE, TWO = Split("one", "first"), Split("two", "second")


@pytest.fixture
def db(mariadb: Service) -> Iterator[Server]:
    with server_of(mariadb) as server:
        yield server


def numbers(*ids: int, text: str = "new") -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int32()), "v": [text] * len(ids)})


def filled(db: Server, extra: str = "") -> str:
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT PRIMARY KEY, v VARCHAR(10), d INT DEFAULT 7 {extra})")
    db.run(f"INSERT INTO {table} VALUES (1, 'old', 1), (2, 'old', 2)")
    return table


def rows(db: Server, table: str) -> list[tuple[Any, ...]]:
    return db.run(f"SELECT * FROM {table} ORDER BY 1")


def staged(db: Server) -> list[str]:
    return [str(r[0]) for r in db.run("SHOW TABLES LIKE 'exchangis\\_stg%%'", *())]


def put(sink: Sink, data: pa.Table, split: Split) -> None:
    writer = sink.open_writer()
    try:
        for batch in data.to_batches():
            assert writer.write(batch).rejected == ()
        writer.mark(split, data.num_rows)
        writer.commit()
    finally:
        writer.close()


def opened(
    db: Server, table: str, key: str, mode: WriteMode, attempt: int = 1
) -> tuple[Sink, WriteRequest]:
    sink = db.sink(table, db.context(key, attempt))
    return sink, request_for(sink, numbers(1), mode)


def test_append_shows_rows_and_mark_together_or_not_at_all(db: Server) -> None:
    table = filled(db)
    sink, request = opened(db, table, f"k-{table}", WriteMode.APPEND)
    assert sink.prepare(request, "the plan").done == {}
    writer = sink.open_writer()
    writer.write(numbers(3, 4).to_batches()[0])
    writer.mark(ONE, 2)
    assert len(rows(db, table)) == 2
    writer.rollback()
    writer.write(numbers(5).to_batches()[0])
    writer.mark(TWO, 1)
    writer.commit()
    writer.close()
    sink.close()
    assert rows(db, table) == [(1, "old", 1), (2, "old", 2), (5, "new", 7)]
    again, request = opened(db, table, f"k-{table}", WriteMode.APPEND, 2)
    resume = again.prepare(request, "another plan")
    assert (resume.plan, dict(resume.done), resume.published) == ("the plan", {"two": 1}, False)
    again.close()


def test_split_committed_twice_is_refused_and_its_rows_are_gone(db: Server) -> None:
    table = filled(db)
    sink, request = opened(db, table, f"k-{table}", WriteMode.APPEND)
    sink.prepare(request, "")
    put(sink, numbers(3), ONE)
    writer = sink.open_writer()
    writer.write(numbers(4).to_batches()[0])
    with pytest.raises(SinkError, match="another attempt") as caught:
        writer.mark(ONE, 1)
    assert caught.value.retryable
    with pytest.raises(SinkError, match="cannot be committed"):
        writer.commit()
    writer.close()
    sink.close()
    assert [row[0] for row in rows(db, table)] == [1, 2, 3]


@pytest.mark.parametrize("copies", [1, 200])
def test_refused_rows_come_back_with_the_servers_reason(db: Server, copies: int) -> None:
    table = db.name()
    db.run(
        f"CREATE TABLE {table} (id INT PRIMARY KEY, v VARCHAR(5) CHARACTER SET latin1 NOT NULL, "
        "n TINYINT CHECK (n < 100), e ENUM('a','b'))"
    )
    good = [(1000 + i, "ok", 1, "a") for i in range(copies)]
    bad = [
        (1, "too long", 1, "a"), (2, None, 1, "a"), (3, "中", 1, "a"), (4, "x", 100, "a"),
        (1000, "dup", 1, "a"), (5, "x", 1, "c"),
    ]  # fmt: skip
    data = [*good, *bad, (6, "last", 5, "b")]
    table_data = pa.table(
        {
            name: pa.array([row[i] for row in data], kind)
            for i, (name, kind) in enumerate(
                [("id", pa.int32()), ("v", pa.string()), ("n", pa.int8()), ("e", pa.string())]
            )
        }
    )
    rejected = db.write(table, table_data)
    assert [r.index for r in rejected] == list(range(copies, copies + len(bad)))
    for found, reason in zip(
        rejected, ["too long", "null", "Incorrect string", "CONSTRAINT", "Duplicate", "truncated"],
        strict=True,
    ):  # fmt: skip
        assert reason.lower() in found.reason.lower()
    assert len(rows(db, table)) == copies + 1


def test_without_load_data_the_same_rows_arrive(db: Server) -> None:
    many = numbers(*range(500))
    for setting in (1, 0):
        db.run(f"SET GLOBAL local_infile = {setting}")
        try:
            table = db.name()
            assert db.write(table, many, primary_key=["id"]) == []
            assert db.read(table).equals(many)
        finally:
            db.run("SET GLOBAL local_infile = 1")


def test_zero_in_an_auto_increment_column_stays_zero(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(9))")
    db.write(table, numbers(0, 5))
    assert [row[0] for row in rows(db, table)] == [0, 5]


def test_overwrite_replaces_all_rows_and_keeps_defaults(db: Server) -> None:
    table = filled(db)
    db.write(table, numbers(2, 9), WriteMode.OVERWRITE)
    assert rows(db, table) == [(2, "new", 7), (9, "new", 7)]


def test_overwrite_of_an_absent_table_creates_it(db: Server) -> None:
    table = db.name()
    db.write(table, numbers(1), WriteMode.OVERWRITE, primary_key=["id"])
    assert rows(db, table) == [(1, "new")]


def test_overwrite_resumes_with_the_splits_that_are_staged(db: Server) -> None:
    table = filled(db)
    key = f"k-{table}"
    first, request = opened(db, table, key, WriteMode.OVERWRITE)
    first.prepare(request, "plan")
    put(first, numbers(5), ONE)
    first.close()
    assert len(rows(db, table)) == 2
    second, request = opened(db, table, key, WriteMode.OVERWRITE, 2)
    assert second.prepare(request, "").done == {"one": 1}
    put(second, numbers(6), TWO)
    second.publish()
    second.publish()
    second.close()
    assert [row[0] for row in rows(db, table)] == [5, 6]
    assert not any(name in staged(db) for name in _names_of(db, key))


def _names_of(db: Server, key: str) -> list[str]:
    from exchangis.connectors.marks import staging_name

    return [staging_name(key), staging_name(key) + "_old"]


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("crash", ["begin", "rename", "finish"])
def test_overwrite_that_crashed_while_publishing_is_completed(
    db: Server, monkeypatch: pytest.MonkeyPatch, crash: str, absent: bool
) -> None:
    table = db.name() if absent else filled(db)
    key = f"k-{table}"
    sink, request = opened(db, table, key, WriteMode.OVERWRITE)
    sink.prepare(request, "plan")
    put(sink, numbers(8), ONE)

    def dies(self: Replacement, session: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Replacement, crash, dies)
        with pytest.raises(KeyboardInterrupt):
            sink.publish()
    sink.close()
    again, request = opened(db, table, key, WriteMode.OVERWRITE, 2)
    resume = again.prepare(request, "")
    assert resume.published == (crash == "finish")
    if not resume.published:
        assert resume.done == {"one": 1}
    again.publish()
    again.close()
    assert [row[:2] for row in rows(db, table)] == [(8, "new")]
    assert not any(name in staged(db) for name in _names_of(db, key))
    marks = [r[0] for r in db.run(f"SELECT split_id FROM {TABLE} WHERE task_key = %s", key)]
    assert PUBLISHED in marks


def test_overwrite_keeps_triggers_and_references(db: Server) -> None:
    table, child = filled(db), db.name()
    db.run(f"CREATE TRIGGER {table}_g BEFORE INSERT ON {table} FOR EACH ROW SET NEW.d = 42")
    db.run(f"CREATE TABLE {child} (p INT, FOREIGN KEY (p) REFERENCES {table} (id))")
    before = db.run(f"SHOW CREATE TABLE {child}")
    db.write(table, numbers(4), WriteMode.OVERWRITE)
    assert rows(db, table) == [(4, "new", 42)]
    assert db.run(f"SHOW TRIGGERS LIKE '{table}'")[0][0] == f"{table}_g"
    db.run(f"INSERT INTO {child} VALUES (4)")
    with pytest.raises(SinkError, match="foreign key"):
        db.write(table, numbers(5), WriteMode.OVERWRITE)
    assert rows(db, table) == [(4, "new", 42)]
    assert db.run(f"SHOW CREATE TABLE {child}") == before


def test_upsert_updates_inserts_and_lets_later_rows_win(db: Server) -> None:
    table = filled(db)
    data = pa.concat_tables([numbers(2, 3, text="first"), numbers(3, text="later")])
    db.write(table, data, WriteMode.UPSERT)
    assert rows(db, table) == [(1, "old", 1), (2, "first", 2), (3, "later", 7)]


def test_upsert_shows_nothing_before_it_is_published(db: Server) -> None:
    table = filled(db)
    sink, request = opened(db, table, f"k-{table}", WriteMode.UPSERT)
    sink.prepare(request, "")
    put(sink, numbers(2), ONE)
    assert rows(db, table)[1] == (2, "old", 2)
    sink.publish()
    assert rows(db, table)[1] == (2, "new", 2)
    again, request = opened(db, table, f"k-{table}", WriteMode.UPSERT, 2)
    assert again.prepare(request, "").published
    for each in (sink, again):
        each.close()


def test_upsert_needs_a_unique_index_on_its_key(db: Server) -> None:
    table = filled(db)
    with pytest.raises(SinkError, match=r"no primary key or unique index on \(v\)"):
        db.write(table, numbers(1), WriteMode.UPSERT, key_columns=["v"])
    with pytest.raises(InvalidRequest, match="key_columns"):
        db.write(db.name(), numbers(1), WriteMode.UPSERT)
    created = db.name()
    db.write(created, numbers(1, 1), WriteMode.UPSERT, key_columns=["id"])
    assert rows(db, created) == [(1, "new")]


def test_discard_leaves_the_target_and_nothing_else(db: Server) -> None:
    table = filled(db)
    key = f"k-{table}"
    sink, request = opened(db, table, key, WriteMode.OVERWRITE)
    sink.prepare(request, "")
    put(sink, numbers(9), ONE)
    sink.discard()
    sink.discard()
    sink.close()
    assert len(rows(db, table)) == 2
    assert not any(name in staged(db) for name in _names_of(db, key))
    assert db.run(f"SELECT * FROM {TABLE} WHERE task_key = %s", key) == []


def test_old_marks_of_other_tasks_are_swept(db: Server) -> None:
    table = filled(db)
    opened_first, request = opened(db, table, f"k-{table}", WriteMode.APPEND)
    opened_first.prepare(request, "")
    db.run(
        f"UPDATE {TABLE} SET created_at = NOW() - INTERVAL 8 DAY WHERE task_key = %s", f"k-{table}"
    )
    other, request = opened(db, table, f"other-{table}", WriteMode.APPEND)
    other.prepare(request, "")
    found = db.run(
        f"SELECT split_id FROM {TABLE} WHERE task_key IN (%s, %s)", f"k-{table}", f"other-{table}"
    )
    assert found == [(PLAN,)]
    opened_first.close()
    other.close()


def test_engine_without_transactions_is_warned_about_and_loses_no_row(db: Server) -> None:
    table = filled(db)
    db.run(f"ALTER TABLE {table} ENGINE=MyISAM")
    rejected = db.write(table, numbers(1, 3, 2, 4))
    assert [r.index for r in rejected] == [0, 2]
    assert [row[0] for row in rows(db, table)] == [1, 2, 3, 4]
    assert any(line.startswith("WARN") and "no transactions" in line for line in db.lines)


def test_missing_table_is_named_when_it_may_not_be_made(db: Server) -> None:
    sink = db.sink("nowhere")
    schema = sink.proposed(_schema(numbers(1)))
    with pytest.raises(SinkError, match=r"test\.nowhere"):
        sink.prepare(WriteRequest(schema, WriteMode.APPEND, create=False), "")
    sink.close()


def _schema(data: pa.Table) -> Any:
    from exchangis.connectors.base import Column, TableSchema

    return TableSchema(tuple(Column(f.name, f.type) for f in data.schema))


def test_rounded_times_are_told(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (a DATETIME, b DATETIME(3), c DATETIME(6), d TIME)")
    times = pa.array([1_500_000, None, 2_000_000], pa.timestamp("us"))
    data = pa.table(
        {"a": times, "b": times, "c": times, "d": times.cast(pa.int64()).cast("duration[us]")}
    )
    assert db.write(table, data) == []
    warned = [line for line in db.lines if "rounds" in line]
    assert [line.split()[2] for line in warned] == ["a", "d"]
