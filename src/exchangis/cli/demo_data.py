"""Sample data for the demo: the same for the same number of rows, on every machine."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

Tick = Callable[[int], None]
"""Told of rows made since the last call."""

_CHUNK = 20_000
BAD_LINES = (
    "{id},sensor-x,not a number,2025-01-01 00:00:00",
    "{id},sensor-x,,not a time",
    "{id},sensor-x,12.5.1,2025-01-01 00:00:00",
    "{id},sensor-x,1.25,2025-13-41 00:00:00",
    "{id},sensor-x,1e,2025-01-01 00:00:00",
)
"""Lines of the CSV file that its declared types refuse, each for a reason of its own."""

# Hashing row numbers gives values that look random and are the same everywhere.
_ORDERS = """
SELECT i + 1,
       'Kundin Nº ' || (hash(i) % 50000) || CASE WHEN i % 7 = 0 THEN ' 🛒' ELSE '' END,
       CAST((hash(i, 1) % 1000000) AS BIGINT) / 100.0,
       strftime(TIMESTAMP '2024-01-01' + INTERVAL 1 SECOND * CAST(hash(i, 2) % 63072000 AS BIGINT),
                '%Y-%m-%d %H:%M:%S.%f'),
       CASE WHEN i % 3 = 0 THEN NULL ELSE '备注 ' || (i % 1000) END
FROM range(?) AS r(i)
"""
_READINGS = """
SELECT i + 1 AS id,
       'sensor-' || (hash(i, 3) % 500) AS sensor,
       CAST(CAST(hash(i, 4) % 2000000 AS BIGINT) - 1000000 AS DECIMAL(12, 0)) / 1000 AS reading,
       TIMESTAMP '2025-01-01' + INTERVAL 1 SECOND * i AS measured_at
FROM range({rows}) AS r(i)
"""
_READINGS_TABLE = """
CREATE TABLE readings (
    id BIGINT PRIMARY KEY, sensor VARCHAR NOT NULL, reading DECIMAL(12, 3),
    measured_at TIMESTAMP NOT NULL
)
"""
_VISITS = """
SELECT i + 1 AS id,
       '/page/' || (hash(i, 5) % 1000) || '?q=' || (i % 13) AS url,
       CAST(hash(i, 6) % 30000 AS INTEGER) AS milliseconds,
       hash(i, 7) % 20 <> 0 AS served,
       TIMESTAMP '2025-06-01' + INTERVAL 1 MILLISECOND * (i * 137) AS visited_at
FROM range({rows}) AS r(i)
"""


@dataclass(frozen=True)
class SampleData:
    """Where the demo's data lie and how many rows each source has; `readings` counts good ones."""

    folder: Path
    orders: int
    readings: int
    visits: int

    @classmethod
    def of(cls, folder: Path, rows: int) -> SampleData:
        """`rows` in all: half orders, three tenths readings (bad ones too), the rest visits."""
        orders, readings = rows // 2, rows * 3 // 10
        return cls(folder, orders, readings - len(BAD_LINES), rows - orders - readings)

    @property
    def shop(self) -> Path:
        return self.folder / "shop.sqlite"

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def readings_file(self) -> Path:
        return self.files / "readings.csv"

    @property
    def orders_file(self) -> Path:
        return self.files / "orders.parquet"

    @property
    def web(self) -> Path:
        return self.folder / "web.duckdb"

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def reports(self) -> Path:
        return self.folder / "reports.sqlite"

    @property
    def total(self) -> int:
        return self.orders + self.readings + len(BAD_LINES) + self.visits

    def make(self, tick: Tick) -> None:
        """Write the sources and the readings' empty table, in place of an earlier demo's."""
        self.files.mkdir(parents=True, exist_ok=True)
        for path in (self.shop, self.web, self.warehouse, self.reports, self.readings_file):
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
        with contextlib.closing(duckdb.connect()) as maker:
            self._make_orders(maker, tick)
            self._make_readings(maker, tick)
            self._make_visits(maker, tick)
        with contextlib.closing(duckdb.connect(str(self.warehouse))) as warehouse:
            warehouse.execute(_READINGS_TABLE)

    def _make_orders(self, maker: duckdb.DuckDBPyConnection, tick: Tick) -> None:
        with contextlib.closing(sqlite3.connect(self.shop, isolation_level=None)) as shop:
            shop.execute("PRAGMA journal_mode = OFF")
            shop.execute("PRAGMA synchronous = OFF")
            shop.execute(
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, "
                "amount DECIMAL(12,2) NOT NULL, placed_at TIMESTAMP NOT NULL, note TEXT)"
            )
            shop.execute("BEGIN")
            for rows in _chunks(maker.execute(_ORDERS, [self.orders])):
                shop.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", rows)
                tick(len(rows))
            shop.execute("COMMIT")

    def _make_readings(self, maker: duckdb.DuckDBPyConnection, tick: Tick) -> None:
        target = str(self.readings_file).replace("'", "''")
        query = _READINGS.format(rows=self.readings)
        maker.execute(f"COPY ({query}) TO '{target}' (FORMAT csv, HEADER true)")
        with self.readings_file.open("a", encoding="utf-8") as file:
            for number, line in enumerate(BAD_LINES, self.readings + 1):
                file.write(line.format(id=number) + "\n")
        tick(self.readings + len(BAD_LINES))

    def _make_visits(self, maker: duckdb.DuckDBPyConnection, tick: Tick) -> None:
        target = str(self.web).replace("'", "''")
        maker.execute(f"ATTACH '{target}' AS web")
        maker.execute(f"CREATE TABLE web.visits AS {_VISITS.format(rows=self.visits)}")
        maker.execute("DETACH web")
        tick(self.visits)


def _chunks(result: duckdb.DuckDBPyConnection) -> Iterator[list[tuple[object, ...]]]:
    while rows := result.fetchmany(_CHUNK):
        yield rows
