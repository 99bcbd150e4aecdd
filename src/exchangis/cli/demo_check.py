"""Checking the demo's outcome without Exchangis: both sides are read by their own libraries."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from exchangis.cli.demo_data import BAD_LINES, SampleData


@dataclass(frozen=True, slots=True)
class Check:
    """One measure of one task, on both sides."""

    task: str
    measure: str
    source: Any
    sink: Any

    @property
    def holds(self) -> bool:
        return bool(self.source == self.sink)


_ORDERS = ("rows", "sum of id", "sum of amount (cents)", "characters of customer", "notes",
           "latest placed_at")  # fmt: skip
_READINGS = ("rows", "sum of id", "sum of reading (1/1000)", "sensors", "latest measured_at")
_VISITS = ("rows", "sum of id", "sum of milliseconds", "characters of url", "served",
           "latest visited_at")  # fmt: skip


def check_all(data: SampleData) -> list[Check]:
    """Counts and sums of every task, on both sides; the refused rows are left out of the file's."""
    pairs = (
        ("orders", _ORDERS, _orders_source(data), _orders_sink(data)),
        ("readings", _READINGS, _readings_source(data), _readings_sink(data)),
        ("visits", _VISITS, _visits_source(data), _visits_sink(data)),
    )
    return [
        Check(task, measure, left, right)
        for task, measures, source, sink in pairs
        for measure, left, right in zip(measures, source, sink, strict=True)
    ]


def _from_sqlite(path: Path, query: str) -> tuple[Any, ...]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        row: tuple[Any, ...] = connection.execute(query).fetchone()
        return row


def _from_duckdb(query: str, *values: object, file: Path | None = None) -> tuple[Any, ...]:
    where = ":memory:" if file is None else str(file)
    with contextlib.closing(duckdb.connect(where, read_only=file is not None)) as connection:
        row = connection.execute(query, values).fetchone()
        assert row is not None, "an aggregate without groups has one row"
        return row


def _orders_source(data: SampleData) -> tuple[Any, ...]:
    return _from_sqlite(
        data.shop,
        "SELECT count(*), sum(id), sum(CAST(round(amount * 100) AS INTEGER)), "
        "sum(length(customer)), count(note), substr(max(placed_at), 1, 19) FROM orders",
    )


def _orders_sink(data: SampleData) -> tuple[Any, ...]:
    return _from_duckdb(
        "SELECT count(*), CAST(sum(id) AS BIGINT), CAST(sum(amount) * 100 AS BIGINT), "
        "CAST(sum(length(customer)) AS BIGINT), count(note), "
        "strftime(max(placed_at), '%Y-%m-%d %H:%M:%S') FROM read_parquet(?)",
        str(data.orders_file),
    )


def _readings_source(data: SampleData) -> tuple[Any, ...]:
    # The bad lines are the last ones, and have ids of their own.
    return _from_duckdb(
        "SELECT count(*), CAST(sum(id) AS BIGINT), "
        "CAST(sum(CAST(reading AS DECIMAL(18, 3))) * 1000 AS BIGINT), "
        "count(DISTINCT sensor), max(CAST(measured_at AS TIMESTAMP)) FROM read_csv(?, "
        "header = true, columns = {'id': 'BIGINT', 'sensor': 'VARCHAR', 'reading': 'VARCHAR', "
        "'measured_at': 'VARCHAR'}) WHERE id <= ?",
        str(data.readings_file),
        data.readings,
    )


def _readings_sink(data: SampleData) -> tuple[Any, ...]:
    return _from_duckdb(
        "SELECT count(*), CAST(sum(id) AS BIGINT), CAST(sum(reading) * 1000 AS BIGINT), "
        "count(DISTINCT sensor), max(measured_at) FROM readings",
        file=data.warehouse,
    )


def _visits_source(data: SampleData) -> tuple[Any, ...]:
    return _from_duckdb(
        "SELECT count(*), CAST(sum(id) AS BIGINT), CAST(sum(milliseconds) AS BIGINT), "
        "CAST(sum(length(url)) AS BIGINT), count(*) FILTER (WHERE served), "
        "strftime(max(visited_at), '%Y-%m-%d %H:%M:%S') FROM visits",
        file=data.web,
    )


def _visits_sink(data: SampleData) -> tuple[Any, ...]:
    return _from_sqlite(
        data.reports,
        "SELECT count(*), sum(id), sum(milliseconds), sum(length(url)), sum(served), "
        "substr(max(visited_at), 1, 19) FROM visits",
    )


def expected_dirty() -> dict[str, int]:
    """Dirty records that each task should report."""
    return {"orders": 0, "readings": len(BAD_LINES), "visits": 0}
