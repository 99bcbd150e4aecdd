"""What every connector is held to: one table of hard values, and a comparison that excuses nothing.

The values go into a system, on into another one and back out into Parquet. `values_of` then takes
each back to the Python value that its column began as: systems may carry a value in a type of their
own (a bool as 0 or 1, a date as text), never as another value.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pymysql

from exchangis import ExchangeResult, exchange
from tests.services import Service

SYSTEMS = ("MYSQL", "POSTGRESQL", "SQLITE", "DUCKDB", "CSV", "JSONL", "PARQUET")
DATABASES = ("MYSQL", "POSTGRESQL", "SQLITE", "DUCKDB")
TEXT_FORMATS = frozenset({"CSV", "JSONL"})

Rows = dict[Any, dict[str, Any]]
"""Rows by their number `n`; the row of NULLs alone is under None."""

_TYPES: dict[str, Any] = {
    "n": pa.int32(),
    "k": pa.int64(),
    "i": pa.int32(),
    "u": pa.uint64(),
    "d": pa.decimal128(38, 10),
    "f": pa.float64(),
    "b": pa.bool_(),
    "s": pa.string(),
    "day": pa.date32(),
    "stamp": pa.timestamp("us"),
    "moment": pa.timestamp("us", "UTC"),
    "raw": pa.binary(),
}
SCHEMA: Any = pa.schema(_TYPES)

_KEYS = [-(2**63), 2**63 - 1, 0, -1, 1, 42]
_INTS = [-(2**31), 2**31 - 1, 0, None, -7]
_UNSIGNED = [2**64 - 1, 0, 2**63, 1, None, 2**53 + 1]
_DECIMALS = [
    Decimal("9" * 28 + "." + "9" * 10),
    Decimal("-" + "9" * 28 + "." + "9" * 10),
    Decimal("0.0000000001"),
    Decimal("0"),
    None,
    Decimal("-0.5"),
    Decimal("1234567890123456789.0123456789"),
]
_DOUBLES = [0.1, 1e300, -0.0, None, 5e-324, 1.7976931348623157e308, 1 / 3, -2.5, 123456789012345.6]
_BOOLS = [True, False, None]
_TEXTS = [
    "",
    None,
    "tab\there",
    "line\nfeed",
    "return\r\nfeed",
    'double "quotes"',
    "it's",
    "back\\slash \\n \\N \\",
    "\\N",
    "comma, semicolon; pipe|",
    "😀 𝒳 näme 中文",
    " around ",
    "NULL",
    "null",
    "\u2028\u0085 line ends of Unicode",
    "\x01\x1f\x7f control",
    "end\\",
    '"',
    "\ufeffmark",
    '{"json": [1, null]}',
]
_DAYS = [
    dt.date(1970, 1, 1), dt.date(9999, 12, 31), dt.date(1, 1, 1), dt.date(2024, 2, 29), None,
    dt.date(1582, 10, 10), dt.date(1969, 12, 31),
]  # fmt: skip
_TIMES = [
    dt.datetime(1970, 1, 1),
    dt.datetime(2024, 2, 29, 23, 59, 59, 999999),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
    dt.datetime(1969, 12, 31, 23, 59, 59, 1),
    None,
    dt.datetime(1001, 1, 1, 0, 0, 0, 10),
]
_MOMENTS = [
    dt.datetime(1971, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2037, 12, 31, 23, 59, 59, 999999, dt.UTC),
    None,
    dt.datetime(2024, 3, 31, 1, 30, 0, 123456, dt.UTC),
    dt.datetime(2024, 10, 27, 1, 30, 0, 0, dt.UTC),
]
_BYTES = [bytes(range(256)), b"", None, b"\x00", b"'\\\n\r\t\"", b"\xff\xfe"]


def original() -> pa.Table:
    """20 rows of hard values and one of NULLs alone."""
    rows = [
        (
            n, *(values[n % len(values)] for values in (
                _KEYS, _INTS, _UNSIGNED, _DECIMALS, _DOUBLES, _BOOLS, _TEXTS, _DAYS, _TIMES,
                _MOMENTS, _BYTES,
            ))
        )
        for n in range(20)
    ]  # fmt: skip
    rows.append((None,) * len(SCHEMA))
    columns = list(zip(*rows, strict=True))
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def others() -> pa.Table:
    """Types that systems have in other widths and units, or not at all."""
    clock, length = dt.time, dt.timedelta
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "i8": (pa.int8(), [-128, 127, None]),
        "i16": (pa.int16(), [-(2**15), 2**15 - 1, None]),
        "u8": (pa.uint8(), [0, 255, None]),
        "u16": (pa.uint16(), [0, 2**16 - 1, None]),
        "u32": (pa.uint32(), [0, 2**32 - 1, None]),
        "f32": (pa.float32(), [0.1, 1.401298464324817e-45, -3.4028232635611926e38]),
        "whole": (pa.decimal128(38), [Decimal("9" * 38), Decimal("-1"), None]),
        "part": (pa.decimal128(5, 5), [Decimal("0.00001"), Decimal("-0.99999"), None]),
        "wide": (pa.decimal256(65, 10), [Decimal("9" * 55 + "." + "9" * 10), Decimal(-1), None]),
        "time": (pa.time64("us"), [clock(0), clock(23, 59, 59, 999999), None]),
        "seconds": (pa.time32("s"), [clock(1, 2, 3), clock(23, 59, 59), None]),
        "long": (pa.duration("us"), [length(34, 82799, 999999), -length(0, 0, 1), None]),
        "second": (pa.timestamp("s"), [dt.datetime(1969, 12, 31, 23, 59, 59), None, None]),
        "milli": (pa.timestamp("ms"), [dt.datetime(1, 1, 1), None, None]),
        "china": (pa.timestamp("us", "Asia/Shanghai"), [_MOMENTS[1], _MOMENTS[3], None]),
        "big": (pa.large_string(), ["", "x", None]),
        "fixed": (pa.binary(2), [b"\0\xff", b"ab", None]),
        "word": (pa.dictionary(pa.int8(), pa.string()), ["", "b", None]),
    }
    table = {"n": pa.array([0, 1, 2], pa.int32())}
    return pa.table(table | {n: pa.array(v, kind) for n, (kind, v) in columns.items()})


# Values -------------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    return Decimal(value) if isinstance(value, str) else Decimal(str(value))


def _integer(value: Any) -> Any:
    if isinstance(value, float):  # a double would have bent it
        raise AssertionError(f"{value!r} came back as a double")
    return _number(value)


def _double(value: Any) -> Any:
    return struct.pack("<d", float(value)).hex() + f" ({float(value)!r})"


def _truth(value: Any) -> Any:
    return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]


def _text(value: Any) -> Any:
    assert isinstance(value, str), value
    return value


def _day(value: Any) -> Any:
    if isinstance(value, str):
        return dt.date.fromisoformat(value)
    assert type(value) is dt.date, value
    return value


def _naive(value: Any) -> Any:
    parsed = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    assert type(parsed) is dt.datetime, value
    assert parsed.tzinfo is None, value
    return parsed


def _instant(value: Any) -> Any:
    parsed = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    assert type(parsed) is dt.datetime, value
    return parsed.replace(tzinfo=dt.UTC) if parsed.tzinfo is None else parsed.astimezone(dt.UTC)


def _length(value: Any) -> Any:
    """Seconds, from `[-]HH:MM:SS[.f]` or from ISO 8601 as PostgreSQL's intervals travel."""
    if isinstance(value, dt.timedelta):
        value = pa.scalar(value, pa.duration("us")).value
        return Decimal(value) / 1_000_000
    if clock := re.fullmatch(r"(-?)(\d+):(\d\d):(\d\d(?:\.\d+)?)", value):
        sign, hours, minutes, seconds = clock.groups()
        length = int(hours) * 3600 + int(minutes) * 60 + Decimal(seconds)
        return -length if sign else length
    parts = re.fullmatch(r"PT(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?[\d.]+)S)?", value)
    assert parts, value
    hours, minutes, seconds = (Decimal(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds


def _clock(value: Any) -> Any:
    if isinstance(value, dt.timedelta) or str(value).startswith("PT"):  # MySQL's TIME, from afar
        since = dt.timedelta(microseconds=int(_length(value) * 1_000_000))
        return (dt.datetime.min + since).time()
    return dt.time.fromisoformat(value) if isinstance(value, str) else value


def _single(value: Any) -> Any:
    return struct.unpack("<f", struct.pack("<f", float(value)))


def _bytes(value: Any) -> Any:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)


def _reading(kind: pa.DataType) -> Callable[[Any], Any]:
    t = pa.types
    found: list[tuple[Callable[[Any], bool], Callable[[Any], Any]]] = [
        (t.is_boolean, _truth),
        (t.is_integer, _integer),
        (t.is_decimal, _integer),
        (t.is_float32, _single),
        (t.is_floating, _double),
        (t.is_duration, _length),
        (t.is_time, _clock),
        (lambda k: t.is_string(k) or t.is_large_string(k) or t.is_dictionary(k), _text),
        (t.is_date, _day),
        (lambda k: t.is_timestamp(k) and k.tz is None, _naive),
        (t.is_timestamp, _instant),
        (lambda k: t.is_binary(k) or t.is_fixed_size_binary(k), _bytes),
    ]
    return next(reading for matches, reading in found if matches(kind))


def changing(rows: Rows, changed: Callable[[Any], Any], column: str) -> Rows:
    """The rows with `changed` applied to one column's values, as an exception says they become."""
    return {number: {**row, column: changed(row[column])} for number, row in rows.items()}


def without_sign_of_zero(value: Any) -> Any:
    """A double as `values_of` gives it, after a system that stores -0.0 as 0.0."""
    return _double(0.0) if value == _double(-0.0) else value


def values_of(table: pa.Table, schema: pa.Schema = SCHEMA, key: str = "n") -> Rows:
    """The table's rows by `key`, each value as the type in `schema` has it."""
    assert sorted(table.schema.names) == sorted(schema.names)
    rows: Rows = {}
    for row in table.to_pylist():
        read = {
            field.name: None if row[field.name] is None else _reading(field.type)(row[field.name])
            for field in schema
        }
        number = None if row[key] is None else int(row[key])
        assert number not in rows, f"row {number} came twice"
        rows[number] = read
    return rows


def differences(expected: Rows, found: Rows) -> dict[str, list[Any]]:
    """What differs, by column: (row, expected, found); `rows` for those missing or too many."""
    wrong: dict[str, list[Any]] = {}
    if odd := sorted(set(expected) ^ set(found), key=str):
        wrong["rows"] = odd
    for number in expected.keys() & found.keys():
        for name, value in expected[number].items():
            if found[number][name] != value:
                wrong.setdefault(name, []).append((number, value, found[number][name]))
    return wrong


# Systems ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_databases(mariadb: Service, postgres: Service) -> Iterator[tuple[Service, Service]]:
    """The two servers, each with a database of this suite's own, dropped at the end."""
    name = "conformance"
    with (
        contextlib.closing(
            pymysql.connect(
                host=mariadb.host,
                port=mariadb.port,
                user=mariadb.user,
                password=mariadb.password,
                autocommit=True,
            )
        ) as here,
        psycopg.connect(
            host=postgres.host,
            port=postgres.port,
            user=postgres.user,
            password=postgres.password,
            dbname=postgres.database,
            autocommit=True,
        ) as there,
        here.cursor() as cursor,
    ):
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        there.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield replace(mariadb, database=name), replace(postgres, database=name)
        finally:
            cursor.execute(f"DROP DATABASE {name}")
            there.execute(f"DROP DATABASE {name}")


@dataclass(frozen=True)
class Systems:
    """Where data sets of each system are: the ends that `exchange` takes."""

    folder: Path
    mariadb: Service
    postgres: Service

    def end(self, system: str, name: str) -> dict[str, Any]:
        """The data set of that name; CSV and JSON Lines files carry their system's suffix."""
        if system == "MYSQL":
            return {"type": system, **self.mariadb.params, "table": name}
        if system == "POSTGRESQL":
            return {"type": system, **self.postgres.params, "table": name}
        if system in DATABASES:
            return {"type": system, "path": self.folder / f"all.{system.lower()}", "table": name}
        return {"type": system, "path": self.folder, "uri": f"{name}.{system.lower()}"}

    def put(self, table: pa.Table, system: str, name: str, **how: Any) -> ExchangeResult:
        """Write a table into the system, by way of Parquet."""
        return self.put_as(table, f"{system.lower()}-{name}", self.end(system, name), **how)

    def put_as(
        self, table: pa.Table, label: str, sink: dict[str, Any], **how: Any
    ) -> ExchangeResult:
        """The same for any end; `label` names the file on the way."""
        path = self.folder / f"put-{label}.parquet"
        pq.write_table(table, path)
        return exchange({"type": "PARQUET", "path": self.folder, "uri": path.name}, sink, **how)

    def get(self, system: str, name: str, **how: Any) -> pa.Table:
        """Read a data set, by way of Parquet."""
        return self.get_from(self.end(system, name), f"{system.lower()}-{name}", **how)

    def get_from(self, source: dict[str, Any], label: str, **how: Any) -> pa.Table:
        """The same for any end; `label` names the file on the way."""
        uri = f"get-{label}.parquet"
        sink = {"type": "PARQUET", "path": self.folder, "uri": uri}
        exchange(source, sink, mode="overwrite", **how)
        return pq.read_table(self.folder / uri)


def pairs(systems: Iterable[str] = SYSTEMS) -> list[tuple[str, str]]:
    """Each system with each, itself too."""
    names = tuple(systems)
    return [(source, sink) for source in names for sink in names]
