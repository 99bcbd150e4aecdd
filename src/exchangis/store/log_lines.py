"""Log lines in the store: numbered from 0 per stream, kept in compressed chunks.

A chunk holds up to `CHUNK_LINES` lines or about `CHUNK_CHARS` characters; small appends are merged
into the last chunk, so that a page is read from few rows however the lines came in. Numbers are
given out under the lock of the stream's row: any server may append, readers see no gap.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from exchangis.domain.loglines import LogLevel, LogLine
from exchangis.store.schema import log_chunks, log_streams

CHUNK_LINES = 512
CHUNK_CHARS = 256 * 1024
_MERGE_BYTES = 32 * 1024
"""A last chunk that is larger (compressed) is left as it is: packing it again would cost more."""
_CODES: dict[LogLevel, str] = {"DEBUG": "D", "INFO": "I", "WARN": "W", "ERROR": "E"}
_LEVELS: dict[str, LogLevel] = {code: level for level, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream as it is now: `next_line` lines are in it; a closed one gets no more."""

    id: int
    next_line: int
    closed: bool


def job_stream(execution_id: str) -> str:
    """Name of an execution's job log."""
    return f"job:{execution_id}"


def task_stream(task_id: int) -> str:
    """Name of a task's log, over all its attempts."""
    return f"task:{task_id}"


def _pack(lines: Sequence[LogLine]) -> bytes:
    # A line is one line and encodes, whoever made it: the numbers of all others depend on it.
    whole = "\n".join(_CODES[x.level] + x.text.replace("\n", "\\n") for x in lines)
    return zlib.compress(whole.encode("utf-8", "backslashreplace"), 1)


def _unpack(data: bytes) -> list[LogLine]:
    return [LogLine(_LEVELS[x[0]], x[1:]) for x in zlib.decompress(data).decode().split("\n")]


def _parts(lines: Sequence[LogLine]) -> Iterator[Sequence[LogLine]]:
    start = size = 0
    for number, line in enumerate(lines):
        if number > start and (number - start == CHUNK_LINES or size > CHUNK_CHARS):
            yield lines[start:number]
            start, size = number, 0
        size += len(line.text)
    yield lines[start:]


def create(connection: Connection, names: Sequence[str], execution_id: str) -> None:
    """Open empty streams that belong to an execution."""
    connection.execute(
        insert(log_streams), [{"name": name, "execution_id": execution_id} for name in names]
    )


def append(connection: Connection, name: str, lines: Sequence[LogLine]) -> bool:
    """Add lines at the end; False, and nothing done, when the stream is closed or unknown."""
    if not lines:
        return True
    taken = connection.execute(
        update(log_streams)
        .where(log_streams.c.name == name, log_streams.c.closed.is_(False))
        .values(next_line=log_streams.c.next_line + len(lines))
    )
    if taken.rowcount == 0:
        return False
    stream = state(connection, name)
    assert stream is not None
    first = stream.next_line - len(lines)
    last = connection.execute(
        select(log_chunks.c.first_line, log_chunks.c.line_count, log_chunks.c.data)
        .where(log_chunks.c.stream_id == stream.id)
        .order_by(log_chunks.c.first_line.desc())
        .limit(1)
    ).first()
    if (
        last is not None
        and last.line_count + len(lines) <= CHUNK_LINES
        and len(last.data) <= _MERGE_BYTES
        and sum(len(line.text) for line in lines) <= CHUNK_CHARS
    ):
        connection.execute(
            update(log_chunks)
            .where(log_chunks.c.stream_id == stream.id, log_chunks.c.first_line == last.first_line)
            .values(
                line_count=last.line_count + len(lines),
                data=_pack([*_unpack(last.data), *lines]),
            )
        )
        return True
    rows = []
    for part in _parts(lines):
        rows.append(
            {
                "stream_id": stream.id,
                "first_line": first,
                "line_count": len(part),
                "data": _pack(part),
            }
        )
        first += len(part)
    connection.execute(insert(log_chunks), rows)
    return True


def close(connection: Connection, name: str) -> None:
    """No line can come any more (contract: `isEnd`)."""
    connection.execute(update(log_streams).where(log_streams.c.name == name).values(closed=True))


def state(connection: Connection, name: str) -> StreamState | None:
    """The stream as it is now, or None when there is none.

    Read the state before the lines: lines up to its `next_line` are then all there.
    """
    row = connection.execute(
        select(log_streams.c.id, log_streams.c.next_line, log_streams.c.closed).where(
            log_streams.c.name == name
        )
    ).first()
    return None if row is None else StreamState(row.id, row.next_line, bool(row.closed))


def read(connection: Connection, stream: StreamState, start: int, count: int) -> list[LogLine]:
    """Lines `start` .. `start + count - 1`, as far as `stream` knows them."""
    end = min(start + count, stream.next_line)
    if start >= end:
        return []
    lines: list[LogLine] = []
    for first, chunk in _chunks(connection, stream, start, end):
        lines += chunk[max(start - first, 0) : end - first]
    return lines


def _chunks(
    connection: Connection, stream: StreamState, start: int, end: int
) -> Iterator[tuple[int, list[LogLine]]]:
    first = (
        select(log_chunks.c.first_line)
        .where(log_chunks.c.stream_id == stream.id, log_chunks.c.first_line <= start)
        .order_by(log_chunks.c.first_line.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(log_chunks.c.first_line, log_chunks.c.data)
        .where(
            log_chunks.c.stream_id == stream.id,
            log_chunks.c.first_line >= first,
            log_chunks.c.first_line < end,
        )
        .order_by(log_chunks.c.first_line)
    )
    for row in rows:
        yield row.first_line, _unpack(row.data)
