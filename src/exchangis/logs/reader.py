"""Paging, filtering and following a log (contract, "Logs"). Lines count from 0.

A page costs what it holds: of a log of any length, only the chunks of its lines are read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from exchangis.domain.errors import InvalidRequest, NotFound
from exchangis.domain.loglines import LogLevel, LogLine
from exchangis.store import log_lines
from exchangis.store.database import Database
from exchangis.store.log_lines import StreamState

MAX_PAGE = 10_000
_LONGEST_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines to look at and which of them to keep.

    `page_size` counts lines looked at, 1..10,000. A line is kept that holds any of `only_keywords`
    (when there are any) and none of `ignore_keywords`: plain substrings, case-sensitive.
    `last_rows` > 0: the last lines of the log, everything else ignored. `tail`: the newest
    `page_size` lines in file order, from `from_line` on at the earliest.
    """

    from_line: int = 0
    page_size: int = 100
    only_keywords: tuple[str, ...] = ()
    ignore_keywords: tuple[str, ...] = ()
    last_rows: int | None = None
    tail: bool = False


@dataclass(frozen=True, slots=True)
class LogPage:
    """Kept lines in order, and by level (DEBUG lines are in `all` only).

    `end_line` is the number of the last line looked at, filtered out or not; `from_line - 1` when
    none was. `is_end`: no line is left and none can come any more. With `last_rows`, `end_line` is
    the number of the log's last line (-1: none) and `is_end` says whether the log is closed; more
    than 10,000 lines at once are refused.
    """

    end_line: int
    is_end: bool
    all: tuple[str, ...]
    error: tuple[str, ...]
    warn: tuple[str, ...]
    info: tuple[str, ...]


def keywords(text: str | None) -> tuple[str, ...]:
    """The words of a comma-separated list as it comes in a request; empty ones do not count."""
    return tuple(word for part in (text or "").split(",") if (word := part.strip()))


class LogReader:
    """Reads the logs in the store."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def job_log(self, execution_id: str, query: LogQuery) -> LogPage:
        """A page of an execution's job log; NotFound names an unknown id."""
        return self._read(
            log_lines.job_stream(execution_id), query, f"There is no execution {execution_id}."
        )

    def task_log(self, task_id: int, query: LogQuery) -> LogPage:
        """A page of a task's log, over all its attempts; NotFound names an unknown id."""
        return self._read(log_lines.task_stream(task_id), query, f"There is no task {task_id}.")

    def _read(self, name: str, query: LogQuery, missing: str) -> LogPage:
        _check(query)
        with self._db.read() as connection:
            stream = log_lines.state(connection, name)
            if stream is None:
                raise NotFound(missing)
            start, count = _range(query, stream)
            lines = log_lines.read(connection, stream, start, count)
        end_line = start + len(lines) - 1
        if query.last_rows:
            return _page(lines, end_line, is_end=stream.closed)
        is_end = stream.closed and end_line + 1 >= stream.next_line
        return _page([x for x in lines if _keeps(query, x.text)], end_line, is_end=is_end)

    def follow(
        self,
        name: str,
        *,
        from_line: int = 0,
        only_keywords: tuple[str, ...] = (),
        ignore_keywords: tuple[str, ...] = (),
        stop: threading.Event,
        poll: float = 0.1,
    ) -> Iterator[str]:
        """Lines of a stream (`store.log_lines` names it) as they come, until it ends or `stop`.

        Asks every `poll` seconds while lines come, and ever more seldom, up to each second, while
        none do.
        """
        query = LogQuery(from_line, 1000, only_keywords, ignore_keywords)
        wait = poll
        while not stop.is_set():
            page = self._read(name, query, f"There is no log {name}.")
            yield from page.all
            if page.is_end:
                return
            if page.end_line >= query.from_line:
                wait = poll
                query = LogQuery(page.end_line + 1, 1000, only_keywords, ignore_keywords)
            else:
                stop.wait(wait)
                wait = min(wait * 1.5, max(poll, _LONGEST_WAIT))


def _check(query: LogQuery) -> None:
    if query.last_rows is not None and query.last_rows < 0:
        raise InvalidRequest.field("lastRows", query.last_rows, "must not be negative")
    if query.last_rows:
        return
    if query.from_line < 0:
        raise InvalidRequest.field("fromLine", query.from_line, "must not be negative")
    if not 1 <= query.page_size <= MAX_PAGE:
        raise InvalidRequest.field("pageSize", query.page_size, f"must be between 1 and {MAX_PAGE}")


def _range(query: LogQuery, stream: StreamState) -> tuple[int, int]:
    if query.last_rows:
        count = min(query.last_rows, stream.next_line)
        if count > MAX_PAGE:
            reason = f"must be at most {MAX_PAGE} in a log of {stream.next_line} lines"
            raise InvalidRequest.field("lastRows", query.last_rows, reason)
        return stream.next_line - count, count
    if query.tail:
        return max(query.from_line, stream.next_line - query.page_size), query.page_size
    return query.from_line, query.page_size


def _keeps(query: LogQuery, text: str) -> bool:
    if query.only_keywords and not any(word in text for word in query.only_keywords):
        return False
    return not any(word in text for word in query.ignore_keywords)


def _page(lines: list[LogLine], end_line: int, *, is_end: bool) -> LogPage:
    def of(level: LogLevel) -> tuple[str, ...]:
        return tuple(line.text for line in lines if line.level == level)

    everything = tuple(line.text for line in lines)
    return LogPage(end_line, is_end, everything, of("ERROR"), of("WARN"), of("INFO"))
