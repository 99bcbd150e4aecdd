"""TPC-H `lineitem`: real input with keys, decimals, dates and text, and its sums on either side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pymysql

from tests.services import Service

COLUMNS = (
    "l_orderkey BIGINT NOT NULL", "l_partkey BIGINT NOT NULL", "l_suppkey BIGINT NOT NULL",
    "l_linenumber INTEGER NOT NULL", "l_quantity DECIMAL(15,2) NOT NULL",
    "l_extendedprice DECIMAL(15,2) NOT NULL", "l_discount DECIMAL(15,2) NOT NULL",
    "l_tax DECIMAL(15,2) NOT NULL", "l_returnflag CHAR(1) NOT NULL",
    "l_linestatus CHAR(1) NOT NULL", "l_shipdate DATE NOT NULL", "l_commitdate DATE NOT NULL",
    "l_receiptdate DATE NOT NULL", "l_shipinstruct VARCHAR(25) NOT NULL",
    "l_shipmode VARCHAR(10) NOT NULL", "l_comment VARCHAR(44) NOT NULL",
)  # fmt: skip
# What must be equal on both sides: for each column a sum that every system computes exactly.
_SUMS = (
    "count(*)",
    *(f"sum(l_{name})" for name in ("orderkey", "partkey", "suppkey", "linenumber", "quantity",
                                    "extendedprice", "discount", "tax")),
    *(f"sum(ascii(l_{name}))" for name in ("returnflag", "linestatus")),
    *(f"sum(extract(year from l_{n}) * 10000 + extract(month from l_{n}) * 100"
      f" + extract(day from l_{n}))" for n in ("shipdate", "commitdate", "receiptdate")),
    *(f"sum(length(l_{name}) * 31 + ascii(l_{name}) + 7 * ascii(substr(l_{name}, 5, 1)))"
      for name in ("shipinstruct", "shipmode", "comment")),
    "count(distinct l_orderkey * 8 + l_linenumber)",
)  # fmt: skip
SUMS = f"SELECT {', '.join(_SUMS)} FROM "


def generate(folder: Path, scale: float) -> Path:
    """The table as `|`-separated text."""
    program = Path(sys.executable).parent / "tpchgen-cli"
    subprocess.run(
        [program, "-s", str(scale), f"--output-dir={folder}", "--tables=lineitem"],
        check=True,
        capture_output=True,
    )
    return folder / "lineitem.tbl"


def connect_mysql(service: Service, **options: Any) -> Any:
    """A plain connection for checks."""
    return pymysql.connect(
        host=service.host, port=service.port, user=service.user, password=service.password,
        database=service.database, autocommit=True, **options,
    )  # fmt: skip


def connect_postgres(service: Service) -> psycopg.Connection[Any]:
    """A plain connection for checks."""
    return psycopg.connect(
        host=service.host, port=service.port, user=service.user, password=service.password,
        dbname=service.database, autocommit=True,
    )  # fmt: skip


def load_mysql(service: Service, file: Path, database: str) -> None:
    """Make `database`.lineitem with its primary key and fill it from the file."""
    with connect_mysql(service, local_infile=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {database}")
        cursor.execute(
            f"CREATE TABLE {database}.lineitem ({', '.join(COLUMNS)},"
            " PRIMARY KEY (l_orderkey, l_linenumber))"
        )
        cursor.execute(
            f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE {database}.lineitem"
            " FIELDS TERMINATED BY '|'"
        )


def _plain(row: Any) -> tuple[str, ...]:
    """Numbers compare by value, whatever type a driver gives them."""
    return tuple(f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"
                 for value in (float(v) if isinstance(v, float) else v for v in row)
                 if value is not None)  # fmt: skip


def sums_mysql(service: Service, table: str) -> tuple[str, ...]:
    """The sums over a table of MariaDB."""
    with connect_mysql(service) as connection, connection.cursor() as cursor:
        cursor.execute(SUMS + table)
        return _plain(cursor.fetchone())


def sums_postgres(service: Service, table: str) -> tuple[str, ...]:
    """The sums over a table of PostgreSQL."""
    with connect_postgres(service) as connection:
        return _plain(connection.execute(SUMS + table).fetchone())


def sums_parquet(path: Path) -> tuple[str, ...]:
    """The sums over Parquet files, read by DuckDB."""
    with duckdb.connect() as connection:
        return _plain(connection.execute(f"{SUMS} read_parquet('{path}')").fetchone())
