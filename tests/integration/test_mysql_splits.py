"""Splits of a plan hold each row exactly once, whatever the keys are."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.connectors.base import ReadRequest
from exchangis.connectors.mysql import plan as mysql_plan
from exchangis.domain.errors import InvalidRequest, SourceError
from tests.integration.mysql_harness import Server, server_of
from tests.services import Service


@pytest.fixture
def db(mariadb: Service) -> Iterator[Server]:
    with server_of(mariadb) as server:
        yield server


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any table is large enough to be cut."""
    monkeypatch.setattr(mysql_plan, "SMALL_TABLE", 1)
    monkeypatch.setattr(mysql_plan, "ROWS_PER_SPLIT", 5)


def _keys(db: Server, table: str, parallelism: int = 3) -> tuple[int, list[int | None]]:
    source = db.source(table)
    request = ReadRequest(("k",), parallelism=parallelism)
    try:
        splits = source.plan(request)
        assert len({split.id for split in splits}) == len(splits)
        keys = [
            key for split in splits for batch in source.read(split, request)
            for key in batch["k"].to_pylist()
        ]  # fmt: skip
        return len(splits), keys
    finally:
        source.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    keys=st.sets(
        st.one_of(st.integers(-20, 20), st.integers(-(2**63), 2**63 - 1)), min_size=0, max_size=40
    ),
    nulls=st.integers(0, 3),
    analyze=st.booleans(),
)
def test_splits_cover_every_key_once(
    db: Server, small: None, keys: set[int], nulls: int, analyze: bool
) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k BIGINT NULL UNIQUE, v INT)")
    try:
        values = [*keys, *[None] * nulls]
        if values:
            db.run(f"INSERT INTO {table} (k) VALUES {','.join(['(%s)'] * len(values))}", *values)
        if analyze:
            db.run(f"ANALYZE TABLE {table}")
        _, found = _keys(db, table)
        assert sorted(found, key=str) == sorted(values, key=str)
    finally:
        db.run(f"DROP TABLE {table}")


def test_unsigned_extremes_are_covered(db: Server, small: None) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k BIGINT UNSIGNED PRIMARY KEY)")
    keys = [0, 1, 2, 3, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]
    db.run(f"INSERT INTO {table} VALUES {','.join(f'({key})' for key in keys)}")
    count, found = _keys(db, table)
    assert sorted(found) == keys  # type: ignore[type-var]
    assert count > 1


def test_rows_outside_of_the_planned_bounds_are_read(db: Server, small: None) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k INT PRIMARY KEY)")
    db.run(f"INSERT INTO {table} SELECT seq FROM seq_100_to_200")
    source = db.source(table)
    request = ReadRequest(("k",), parallelism=2)
    splits = source.plan(request)
    db.run(f"INSERT INTO {table} VALUES (-5), (1000)")
    found = [k for s in splits for b in source.read(s, request) for k in b["k"].to_pylist()]
    source.close()
    assert sorted(found) == [-5, *range(100, 201), 1000]


@pytest.mark.parametrize("analyzed", [True, False])
def test_a_far_outlier_leaves_the_splits_balanced(db: Server, analyzed: bool) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k BIGINT PRIMARY KEY)")
    db.run(f"INSERT INTO {table} SELECT seq FROM seq_1_to_60000")
    db.run(f"INSERT INTO {table} VALUES (4611686018427387904)")
    if analyzed:
        db.run(f"ANALYZE TABLE {table}")
    source = db.source(table)
    request = ReadRequest(("k",), parallelism=4)
    splits = source.plan(request)
    sizes = [sum(b.num_rows for b in source.read(split, request)) for split in splits]
    source.close()
    assert sum(sizes) == 60001
    assert len(sizes) >= 3
    assert max(sizes) < 40000


def test_composite_primary_key_is_cut_by_its_first_column(db: Server, small: None) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k INT, n INT, PRIMARY KEY (k, n))")
    db.run(f"INSERT INTO {table} SELECT seq DIV 4, seq FROM seq_0_to_199")
    count, found = _keys(db, table)
    assert sorted(found) == [n // 4 for n in range(200)]  # type: ignore[type-var]
    assert count > 1


@pytest.mark.parametrize(
    "declaration",
    ["k INT", "k VARCHAR(20) PRIMARY KEY", "k DECIMAL(20,0) PRIMARY KEY", "k INT, KEY (k)"],
)
def test_tables_without_an_integer_key_are_one_split(
    db: Server, small: None, declaration: str
) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} ({declaration})")
    db.run(f"INSERT INTO {table} SELECT seq FROM seq_1_to_50")
    count, found = _keys(db, table)
    assert (count, len(found)) == (1, 50)


def test_view_is_read_in_one_split(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE OR REPLACE VIEW {table} AS SELECT seq AS k FROM seq_1_to_9")
    assert _keys(db, table) == (1, list(range(1, 10)))


def test_filter_chooses_rows_in_every_split(db: Server, small: None) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k INT PRIMARY KEY, v VARCHAR(9))")
    db.run(f"INSERT INTO {table} SELECT seq, IF(seq MOD 2, 'odd', 'a\"b') FROM seq_1_to_50")
    data = db.read(
        table, request={"where": 'WHERE k > 10 AND v = "odd" OR k = 2', "parallelism": 3}
    )
    assert sorted(data["k"].to_pylist()) == [2, *range(11, 50, 2)]
    assert db.read(table, request={"columns": ("v",), "where": "k < 3"}).equals(
        pa.table({"v": ["odd", 'a"b']})
    )


def test_hostile_filter_is_refused(db: Server) -> None:
    table = db.name()
    db.run(f"CREATE TABLE {table} (k INT)")
    for text in ("1) OR (1=1", "1; DROP TABLE x", "k IN (SELECT 1)", "1 -- x"):
        with pytest.raises(InvalidRequest):
            db.read(table, request={"where": text})
    with pytest.raises(SourceError, match="nosuch"):
        db.read(table, request={"where": "nosuch = 1"})
