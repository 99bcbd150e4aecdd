"""Cutting a table into key ranges of about equal size.

Ranges follow an integer that leads a unique index. They are halved where the server's own index
estimates (EXPLAIN) say that rows are dense, so that gaps and far outliers (snowflake ids, a stray
maximum) neither make empty splits nor one that holds everything. Estimates only move boundaries:
the first and last ranges are open-ended, neighbours share their boundary, and NULL keys have a
split of their own, so that all together hold each row exactly once whatever the numbers were.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from exchangis.connectors.base import Split
from exchangis.connectors.mysql.catalog import Table
from exchangis.connectors.mysql.session import Session, quote

SMALL_TABLE = 20_000
"""Rows up to which a table is one split: opening another session costs more than it gains."""
ROWS_PER_SPLIT = 1_000_000
"""What a retry has to do again at most, more or less."""
MAX_SPLITS = 256
_MAX_ESTIMATES = 400

Piece = tuple[int, int, int]
"""First key, the key after the last, and rows."""

WHOLE = Split(id="all", label="whole table")


@dataclass(frozen=True, slots=True)
class Key:
    """An integer column to cut by."""

    name: str
    nullable: bool


def split_key(table: Table) -> Key | None:
    """The best key: the primary key's first column, else that of a unique index, NOT NULL first."""
    keys: list[tuple[bool, bool, Key]] = []
    for index in table.indexes:
        column = table.column(index.columns[0])
        if column is not None and column.is_integer:
            key = Key(column.name, column.nullable)
            keys.append((not index.primary, column.nullable, key))
    return min(keys, key=lambda found: found[:2])[2] if keys else None


def _ranges(low: int, high: int, target: int, estimate: Callable[[int, int], int]) -> list[Piece]:
    """(first key, end, rows) covering low..high; halved where more than `target` rows are said."""
    pieces = [(-estimate(low, high + 1), low, high + 1)]
    done: list[Piece] = []
    asked = 1
    while pieces:
        rows, start, end = heapq.heappop(pieces)
        if -rows <= target or end - start <= 1 or asked >= _MAX_ESTIMATES:
            done.append((start, end, -rows))
            continue
        middle = start + (end - start) // 2
        left, right = estimate(start, middle), estimate(middle, end)
        asked += 2
        heapq.heappush(pieces, (-left, start, middle))
        heapq.heappush(pieces, (-right, middle, end))
    return sorted(done)


def _steps(session: Session, source: str, key: str, low: int, high: int, step: int) -> list[Piece]:
    """The same by counting along the index, which costs a scan of it."""
    pieces: list[Piece] = []
    start = low
    while True:
        found = session.one(
            f"SELECT {key} FROM {source} WHERE {key}>={start} ORDER BY {key} LIMIT 1 OFFSET {step}"
        )
        following = high + 1 if found is None else max(int(found[0]), start + 1)
        pieces.append((start, following, step))
        if following > high:
            return pieces
        start = following


def _holds_more(session: Session, source: str, rows: int) -> bool:
    return session.one(f"SELECT 1 FROM {source} LIMIT 1 OFFSET {rows}") is not None


def _count(session: Session, source: str) -> int:
    found = session.one(f"SELECT COUNT(*) FROM {source}")
    return int(found[0]) if found else 0


def _boundaries(pieces: list[Piece], count: int) -> list[int]:
    """Keys at which to cut into at most `count` parts of similar size."""
    share = max(1.0, sum(rows for _, _, rows in pieces) / count)
    cuts: list[int] = []
    held = 0
    for (_, _, rows), (start, _, following) in pairwise(pieces):
        held += rows
        if held + following / 2 >= share and len(cuts) < count - 1:
            cuts.append(start)
            held = 0
    return cuts


def _estimator(session: Session, source: str, key: str) -> Callable[[int, int], int]:
    """The server's row estimate for a key range.

    The tabular form is asked for: MariaDB does not escape names in the JSON one.
    """

    def estimate(start: int, end: int) -> int:
        found = session.one(
            f"EXPLAIN FORMAT=TRADITIONAL SELECT {key} FROM {source} "
            f"WHERE {key}>={start} AND {key}<{end}"
        )
        rows = found[session.column_names.index("rows")] if found else None
        return int(rows or 0)

    return estimate


def _condition_label(name: str, start: int | None, end: int | None) -> str:
    if start is None:
        return f"{name} < {end}"
    return f"{name} >= {start}" if end is None else f"{start} <= {name} < {end}"


def _count_for(rows: int, parallelism: int) -> int:
    return min(MAX_SPLITS, max(parallelism, -(-rows // ROWS_PER_SPLIT)))


def _pieces(session: Session, table: Table, key: Key, parallelism: int) -> tuple[int, list[Piece]]:
    """The table's rows, and small ranges of the key in order; none where cutting does not pay."""
    source, name = f"{quote(table.database)}.{quote(table.name)}", quote(key.name)
    found = session.one(f"SELECT MIN({name}), MAX({name}) FROM {source}")
    if found is None or found[0] is None or found[0] == found[1]:
        return 0, []
    low, high = int(found[0]), int(found[1])
    estimate = _estimator(session, source, name)
    rows = table.rows or 0
    if rows <= SMALL_TABLE:
        rows = estimate(low, high + 1)
    if rows > SMALL_TABLE:
        share = rows // (_count_for(rows, parallelism) * 4)
        return rows, _ranges(low, high, max(1, share), estimate)
    if not _holds_more(session, source, SMALL_TABLE):
        return rows, []
    # A table that was filled a moment ago: the server has no statistics of it yet.
    rows = _count(session, source)
    step = max(1, rows // _count_for(rows, parallelism))
    return rows, _steps(session, source, name, low, high, step)


def make_splits(session: Session, table: Table, parallelism: int) -> list[Split]:
    """The table's splits for that many lanes."""
    key = None if table.is_view else split_key(table)
    rows, pieces = _pieces(session, table, key, parallelism) if key else (0, [])
    cuts = _boundaries(pieces, _count_for(rows, parallelism))
    if key is None or not cuts:
        return [Split(WHOLE.id, WHOLE.label, rows=table.rows)]
    # Range estimates may be twice the truth: they are scaled to the whole.
    scale = rows / max(1, sum(size for _, _, size in pieces))
    starts: list[int | None] = [None, *cuts]
    ends: list[int | None] = [*cuts, None]
    sizes = [
        round(
            scale
            * sum(
                size
                for first, _, size in pieces
                if (start is None or first >= start) and (end is None or first < end)
            )
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    splits = [
        Split(
            id=f"range-{number:04d}",
            label=_condition_label(key.name, start, end),
            data={"key": key.name, "start": start, "end": end},
            rows=size,
        )
        for number, (start, end, size) in enumerate(zip(starts, ends, sizes, strict=True))
    ]
    if key.nullable:
        splits.append(Split("null", f"{key.name} is null", {"key": key.name, "null": True}, rows=1))
    return splits


def condition(split: Split) -> str | None:
    """The SQL condition of a split, or None for the whole table."""
    if "key" not in split.data:
        return None
    key = quote(str(split.data["key"]))
    if split.data.get("null"):
        return f"{key} IS NULL"
    parts = []
    if split.data["start"] is not None:
        parts.append(f"{key} >= {int(split.data['start'])}")
    if split.data["end"] is not None:
        parts.append(f"{key} < {int(split.data['end'])}")
    return " AND ".join(parts) or None
