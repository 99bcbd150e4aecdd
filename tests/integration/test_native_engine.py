"""The native engine with real connectors, and Exchangis as a library."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import exchangis
from exchangis import ExchangeResult, Progress, exchange
from exchangis.domain.errors import (
    ConnectionFailed,
    DirtyLimitExceeded,
    InvalidRequest,
    SinkError,
    SourceError,
)
from tests.services import Service

ROWS = 3000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT, price DECIMAL(10,2))"
        )
        database.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)",
            [(n, None if n % 100 == 0 else f"näme {n}", f"{n / 4:.2f}") for n in range(ROWS)],
        )
        database.commit()
    return path


def _orders(shop: Path) -> dict[str, Any]:
    return {"type": "SQLITE", "path": shop, "table": "orders"}


def _table(path: Path, table: str = "orders") -> dict[str, Any]:
    return {"type": "SQLITE", "path": path, "table": table}


def _rows(path: Path, table: str = "orders") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return sorted(database.execute(f"SELECT * FROM {table}"), key=repr)


def test_a_table_goes_through_every_embedded_format_and_back(shop: Path, tmp_path: Path) -> None:
    stations: list[dict[str, Any]] = [
        _orders(shop),
        {"type": "PARQUET", "path": tmp_path, "uri": "orders.parquet"},
        {"type": "DUCKDB", "path": tmp_path / "shop.duckdb", "table": "orders"},
        _table(tmp_path / "back.db"),
    ]
    for source, sink in pairwise(stations):
        result = exchange(source, sink, mode="overwrite")
        assert result.exchanged == result.read == ROWS
    with closing(sqlite3.connect(tmp_path / "back.db")) as database:
        database.execute("ATTACH ? AS shop", (str(shop),))
        (differing,) = database.execute(
            "SELECT count(*) FROM orders b JOIN shop.orders a ON a.id = b.id"
            " WHERE a.name IS NOT b.name OR CAST(a.price AS REAL) IS NOT CAST(b.price AS REAL)"
        ).fetchone()
        assert differing == 0
    assert len(_rows(tmp_path / "back.db")) == ROWS


def test_columns_rules_filter_and_limits_work_together(shop: Path, tmp_path: Path) -> None:
    exchange(_orders(shop), {"type": "PARQUET", "path": tmp_path, "uri": "o.parquet"})
    told: list[Progress] = []
    result = exchange(
        {"type": "PARQUET", "path": tmp_path, "uri": "o.parquet"},
        _table(tmp_path / "out.db", "picked"),
        columns=[
            ("id", "key"),
            {
                "source": "name",
                "sink": "label",
                "validators": ["is not null"],
                "transformers": [{"name": "upper"}, {"name": "ex_substr", "params": ["0", "4"]}],
            },
        ],
        where="id < 250 AND price >= 1",
        limits={"error_records": 2},
        dirty_file=tmp_path / "dirty.jsonl",
        on_progress=told.append,
    )
    assert (result.read, result.exchanged, result.errors) == (246, 244, 2)
    assert (101, "NÄME") in _rows(tmp_path / "out.db", "picked")
    dirty = [json.loads(line) for line in (tmp_path / "dirty.jsonl").read_text().splitlines()]
    assert [line["record"]["id"] for line in dirty] == [100, 200]
    assert result.dirty_file == tmp_path / "dirty.jsonl"
    assert told[-1].counters.exchanged == 244


def test_append_overwrite_and_upsert_leave_the_right_rows(shop: Path, tmp_path: Path) -> None:
    sink = _table(tmp_path / "out.db")
    exchange(_orders(shop), sink, where="id < 10")
    exchange(_orders(shop), sink, where="id BETWEEN 5 AND 14", mode="upsert")
    assert [row[0] for row in sorted(_rows(tmp_path / "out.db"))] == list(range(15))
    exchange(_orders(shop), sink, where="id = 7", mode="overwrite")
    assert [row[0] for row in _rows(tmp_path / "out.db")] == [7]
    exchange(_orders(shop), sink, where="id = 8")
    assert [row[0] for row in _rows(tmp_path / "out.db")] == [7, 8]


def test_rows_that_the_sink_refuses_are_dirty(shop: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    sink = _table(tmp_path / "out.db")
    columns = ["id", "name"]
    with pytest.raises(DirtyLimitExceeded, match="NOT NULL"):
        exchange(
            _orders(shop), sink, columns=columns, limits={"error_records": 29},
            dirty_file=tmp_path / "few.jsonl",
        )  # fmt: skip
    assert _rows(tmp_path / "out.db") == []
    result = exchange(
        _orders(shop), sink, columns=columns, limits={"error_records": 30},
        dirty_file=tmp_path / "dirty.jsonl",
    )  # fmt: skip
    assert (result.errors, result.exchanged) == (30, ROWS - 30)
    lines = (tmp_path / "dirty.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["record"] == {"id": 0, "name": None}


def test_an_overwrite_of_a_file_brings_its_own_columns(shop: Path, tmp_path: Path) -> None:
    sink = {"type": "PARQUET", "path": tmp_path, "uri": "o.parquet"}
    exchange(_orders(shop), sink, columns=["id"])
    exchange(_orders(shop), sink, columns=["name"], mode="overwrite")
    found = pq.read_table(tmp_path / "o.parquet")
    assert found.schema.names == ["name"]
    assert found.num_rows == ROWS


@pytest.mark.parametrize(
    ("source", "sink", "error", "message"),
    [
        ({"type": "NOPE"}, {}, InvalidRequest, "no such data source type; known: .*SQLITE"),
        ({}, {}, InvalidRequest, "source.type"),
        ({"type": "SQLITE", "table": "t"}, {}, InvalidRequest, "connectParams.path: is required"),
        ({"type": "SQLITE", "path": "x", "tabel": "t"}, {}, InvalidRequest, "connectParams.tabel"),
    ],
)
def test_a_wrong_end_is_refused_by_name(
    source: dict[str, Any], sink: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        exchange(source, sink)


def test_a_missing_table_is_named(shop: Path, tmp_path: Path) -> None:
    with pytest.raises((SourceError, ConnectionFailed), match="nowhere"):
        exchange(_table(shop, "nowhere"), _table(tmp_path / "out.db"))
    with pytest.raises(SinkError, match="does not exist"):
        exchange(_orders(shop), _table(tmp_path / "out.db"), create_table=False)
    with pytest.raises(InvalidRequest, match=r"limits\.parallelism"):
        exchange(_orders(shop), _table(tmp_path / "out.db"), limits={"parallelism": 0})


def test_the_log_goes_to_the_standard_library(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exchangis.exchange")
    exchange(_orders(shop), _table(tmp_path / "out.db"))
    assert f"done: {ROWS:,} rows read" in caplog.text


def test_the_package_exports_what_it_says() -> None:
    assert set(exchangis.__all__) == {"ExchangeResult", "Progress", "__version__", "exchange"}
    assert exchangis.__version__.count(".") == 2
    assert ExchangeResult(2, 2, 0, 0, 9, 0.5).rows_per_second == 4
    with pytest.raises(AttributeError, match="nothing"):
        _ = exchangis.nothing


def test_importing_the_package_loads_no_engine() -> None:
    code = (
        "import sys, exchangis; exchangis.__version__; heavy = ('pyarrow', 'duckdb');"
        "sys.exit(any(module.startswith(heavy) for module in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


# A process that dies ------------------------------------------------------------------------------

_DYING = """
import json, os, sys
from exchangis import exchange
from exchangis.connectors.sqlite.sink import SQLiteSink, SQLiteWriter

settings = json.loads(sys.argv[1])
owner = {"SQLiteSink": SQLiteSink, "SQLiteWriter": SQLiteWriter}[settings["class"]]
whole, seen = getattr(owner, settings["method"]), 0

def dying(self, *arguments):
    global seen
    seen += 1
    if seen == settings["call"] and settings["before"]:
        os._exit(9)
    result = whole(self, *arguments)
    if seen == settings["call"]:
        os._exit(9)
    return result

setattr(owner, settings["method"], dying)
exchange(settings["source"], settings["sink"], **settings["task"])
"""


STEPS = {
    "prepared": ("SQLiteSink", "prepare", 1, False),
    "written in part": ("SQLiteWriter", "write", 2, False),
    "marked": ("SQLiteWriter", "mark", 1, False),
    "not committed": ("SQLiteWriter", "commit", 1, True),
    "committed": ("SQLiteWriter", "commit", 1, False),
    "not published": ("SQLiteSink", "publish", 1, True),
}
DEATHS = [("append", "task", step) for step in STEPS] + [
    (mode, publish, step)
    for mode, publish in (("append", "split"), ("overwrite", "task"))
    for step in ("not committed", "committed")
]


@pytest.mark.parametrize(("mode", "publish", "step"), DEATHS)
def test_a_process_that_dies_is_resumed_exactly_once(
    shop: Path, tmp_path: Path, mode: str, publish: str, step: str
) -> None:
    owner, method, call, before = STEPS[step]
    target = tmp_path / "out.db"
    with closing(sqlite3.connect(target)) as database:
        database.execute("CREATE TABLE orders (id INTEGER, name TEXT, price DECIMAL(10,2))")
        database.execute("INSERT INTO orders VALUES (-1, 'old', '0')")
        database.commit()
    task = {"mode": mode, "publish": publish, "task_key": "one", "limits": {"batch_rows": 500}}
    ends = {"source": {**_orders(shop), "path": str(shop)}, "sink": _table(target)}
    ends["sink"]["path"] = str(target)
    settings = {
        "class": owner, "method": method, "call": call, "before": before, "task": task, **ends,
    }  # fmt: skip
    died = subprocess.run(
        [sys.executable, "-c", _DYING, json.dumps(settings)], check=False, timeout=60
    )
    assert died.returncode == 9
    if step not in ("committed", "not published"):
        assert [row[0] for row in _rows(target)] == [-1]
    result = exchange(ends["source"], ends["sink"], **task)
    assert result.exchanged == result.read == ROWS
    expected = {"append": [-1], "overwrite": []}[mode] + list(range(ROWS))
    assert sorted(row[0] for row in _rows(target)) == expected


# Servers ------------------------------------------------------------------------------------------


def _connect(service: Service) -> Any:
    import pymysql

    return pymysql.connect(
        host=service.host, port=service.port, user=service.user, password=service.password,
        database=service.database, autocommit=True,
    )  # fmt: skip


def test_lanes_move_a_table_between_servers_and_back(mariadb: Service, postgres: Service) -> None:
    with closing(_connect(mariadb)) as database, database.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS lanes, lanes_back")
        cursor.execute(
            "CREATE TABLE lanes (id BIGINT PRIMARY KEY, t TEXT CHARACTER SET utf8mb4,"
            " d DECIMAL(20,4), at DATETIME(6), b BLOB)"
        )
        cursor.execute(
            "INSERT INTO lanes SELECT seq, IF(seq % 7, CONCAT('😀', seq), NULL), seq / 16,"
            " '2020-01-01' + INTERVAL seq MICROSECOND, UNHEX(LPAD(HEX(seq), 8, '0'))"
            " FROM seq_1_to_20000"
        )
    here = {"type": "MYSQL", **mariadb.params}
    there = {"type": "POSTGRESQL", **postgres.params, "table": "lanes"}
    steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({**here, "table": "lanes"}, there),
        (there, {**here, "table": "lanes_back"}),
    ]
    for source, sink in steps:
        for mode in ("overwrite", "upsert", "overwrite"):
            result = exchange(
                source, sink, mode=mode, key_columns=["id"], limits={"parallelism": 3}
            )
            assert result.exchanged == result.read == 20_000
    with closing(_connect(mariadb)) as database, database.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM lanes_back), count(*) FROM lanes a JOIN lanes_back b"
            " USING (id) WHERE a.t <=> b.t AND a.d <=> b.d AND a.at <=> b.at AND a.b <=> b.b"
        )
        assert cursor.fetchone() == (20_000, 20_000)
