"""Paging, filtering and following logs (contract, "Logs")."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchangis.domain.errors import InvalidRequest
from exchangis.domain.loglines import LogLevel, LogLine
from exchangis.logs import field
from exchangis.logs.reader import LogPage, LogQuery, LogReader, keywords
from exchangis.store import log_lines
from exchangis.store.database import Database
from tests.store_helpers import World, fresh_database, story

LEVELS: tuple[LogLevel, ...] = ("DEBUG", "INFO", "WARN", "ERROR")
MILLION = 1_000_000


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with fresh_database(tmp_path_factory.mktemp("logs"), None) as database:
        yield database


class Log:
    """A log under test, addressed by its name alone."""

    count = 0

    def __init__(self, database: Database) -> None:
        Log.count += 1
        self.id = f"log{Log.count}"
        self.name = log_lines.job_stream(self.id)
        self.database = database
        self.reader = LogReader(database)
        database.transact(lambda c: log_lines.create(c, [self.name], self.id))

    def append(self, *texts: str, level: LogLevel = "INFO") -> None:
        lines = [LogLine(level, text) for text in texts]
        assert self.database.transact(lambda c: log_lines.append(c, self.name, lines))

    def close(self) -> None:
        self.database.transact(lambda c: log_lines.close(c, self.name))

    def page(self, **query: object) -> LogPage:
        return self.reader.job_log(self.id, LogQuery(**query))  # type: ignore[arg-type]


@pytest.fixture
def log(database: Database) -> Log:
    return Log(database)


WORDS = st.sampled_from(["alpha", "beta", "Alpha", "be", "a,b", ""])


STEPS = st.lists(st.tuples(st.lists(WORDS, max_size=4), st.integers(1, 6)), max_size=10)
FILTER = st.lists(WORDS.filter(bool), max_size=2).map(tuple)


@settings(max_examples=50, deadline=None)
@given(steps=STEPS, only=FILTER, ignore=FILTER, first=st.sampled_from([0, 1]))
@pytest.mark.parametrize("base", ["documented", "field"])
def test_growing_log_is_read_with_each_line_exactly_once(
    database: Database,
    base: str,
    steps: list[tuple[list[str], int]],
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    first: int,
) -> None:
    """The log grows between reads of any size; then it is closed and read to its end."""
    log = Log(database)
    written: list[str] = []
    seen: list[str] = []
    next_line = 0 if base == "documented" else first

    def read(size: int) -> bool:
        nonlocal next_line
        query = LogQuery(next_line, size, only, ignore)
        if base == "documented":
            page = log.reader.job_log(log.id, query)
            assert next_line - 1 <= page.end_line < len(written)
        else:
            page = field.from_core(log.reader.job_log(log.id, field.to_core(query)))
        next_line = page.end_line + 1 if base == "documented" or page.end_line else 0
        seen.extend(page.all)
        return page.is_end

    for words, size in steps:
        texts = [f"{len(written) + n} {word}" for n, word in enumerate(words)]
        log.append(*texts)
        written += texts
        assert not read(size)
    log.close()
    reads = 0
    while not read(size=3):
        reads += 1
        assert reads <= len(written)
    assert seen == [
        line
        for line in written
        if (not only or any(word in line for word in only))
        and not any(word in line for word in ignore)
    ]


def test_page_looks_at_page_size_lines_and_keeps_those_that_fit(log: Log) -> None:
    log.append(*[f"n{n}" for n in range(10)])
    page = log.page(from_line=2, page_size=4, only_keywords=("n3", "n9"))
    assert (page.end_line, page.is_end, page.all) == (5, False, ("n3",))
    page = log.page(from_line=2, page_size=4, only_keywords=("n",), ignore_keywords=("n3", "N4"))
    assert page.all == ("n2", "n4", "n5")


def test_end_is_said_only_when_closed_and_nothing_is_left(log: Log) -> None:
    assert log.page() == LogPage(-1, False, (), (), (), ())
    log.append("a", "b")
    assert (log.page().end_line, log.page().is_end) == (1, False)
    log.close()
    assert not log.page(page_size=1).is_end
    assert log.page(from_line=1, page_size=1).is_end
    assert log.page(from_line=2) == LogPage(1, True, (), (), (), ())
    assert log.page(from_line=50) == LogPage(49, True, (), (), (), ())


def test_levels_are_apart_and_debug_is_in_all_alone(log: Log) -> None:
    for level in LEVELS:
        log.append(level.lower(), level=level)
    page = log.page()
    assert page.all == ("debug", "info", "warn", "error")
    assert (page.info, page.warn, page.error) == (("info",), ("warn",), ("error",))


def test_continuation_lines_have_the_level_of_their_line(log: Log) -> None:
    lines = [*story("INFO", "fine"), *story("ERROR", "Traceback\n  File x\nValueError")]
    log.database.transact(lambda c: log_lines.append(c, log.name, lines))
    page = log.page()
    assert len(page.error) == 3
    assert page.error[1].strip() == "File x"
    assert len(page.info) == 1


def test_last_rows_ignore_everything_else(log: Log) -> None:
    log.append(*[f"n{n}" for n in range(10)])
    query = {"from_line": -7, "page_size": 0, "only_keywords": ("x",), "ignore_keywords": ("n",)}
    page = log.page(last_rows=3, **query)
    assert (page.all, page.end_line, page.is_end) == (("n7", "n8", "n9"), 9, False)
    log.close()
    page = log.page(last_rows=100)
    assert (len(page.all), page.end_line, page.is_end) == (10, 9, True)


def test_tail_gives_the_newest_lines_in_file_order(log: Log) -> None:
    log.append(*[f"n{n}" for n in range(10)])
    assert log.page(page_size=3, tail=True).all == ("n7", "n8", "n9")
    assert log.page(page_size=30, tail=True).all[0] == "n0"
    assert log.page(page_size=3, tail=True, from_line=9).all == ("n9",)
    page = field.from_core(log.reader.job_log(log.id, field.to_core(LogQuery(1, 3, tail=True))))
    assert (page.end_line, page.all) == (10, ("n7", "n8", "n9"))


def test_field_base_counts_from_one(log: Log) -> None:
    def read(from_line: int) -> LogPage:
        return field.from_core(log.reader.job_log(log.id, field.to_core(LogQuery(from_line, 2))))

    assert (read(0).end_line, read(1).end_line) == (0, 0)
    log.append("a", "b", "c")
    assert read(0) == read(1)
    assert (read(0).end_line, read(0).all) == (2, ("a", "b"))
    assert (read(3).end_line, read(3).all) == (3, ("c",))
    assert (read(4).end_line, read(4).all) == (3, ())


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (LogQuery(from_line=-1), "fromLine"),
        (LogQuery(page_size=0), "pageSize"),
        (LogQuery(page_size=10_001), "pageSize"),
        (LogQuery(last_rows=-1), "lastRows"),
    ],
)
def test_wrong_queries_are_refused_by_name(log: Log, query: LogQuery, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        log.reader.job_log(log.id, query)
    assert refused.value.errors[0].field == name


def test_numbers_beyond_any_log_are_no_crash(log: Log) -> None:
    log.append("a")
    assert log.page(from_line=2**70).end_line == 2**70 - 1
    assert log.page(last_rows=2**70).all == ("a",)
    assert field.to_core(LogQuery(from_line=0)).from_line == 0
    with pytest.raises(InvalidRequest):
        field.to_core(LogQuery(from_line=-1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ()),
        ("", ()),
        (" ,,", ()),
        ("[main],[Spring]", ("[main]", "[Spring]")),
        ("a b", ("a b",)),
    ],
)
def test_keywords_are_comma_separated(text: str | None, words: tuple[str, ...]) -> None:
    assert keywords(text) == words


def test_followed_log_gives_lines_as_they_come_until_it_ends(log: Log) -> None:
    log.append("one", "two skip")
    stop = threading.Event()
    lines = log.reader.follow(log.name, ignore_keywords=("skip",), stop=stop, poll=0.001)
    assert next(lines) == "one"
    log.append("three")
    assert next(lines) == "three"
    log.append("four")
    log.close()
    assert list(lines) == ["four"]


def test_following_can_be_stopped(log: Log) -> None:
    stop = threading.Event()
    lines = log.reader.follow(log.name, stop=stop, poll=60)
    threading.Timer(0.05, stop.set).start()
    assert list(lines) == []


@pytest.fixture(scope="module")
def long_log(database: Database) -> Log:
    log = Log(database)
    for start in range(0, MILLION, 20_000):
        log.append(
            *[f"line {n} {'rare' if n % 99_991 == 0 else ''}" for n in range(start, start + 20_000)]
        )
    return log


@pytest.mark.parametrize(
    ("query", "first", "last", "chunks"),
    [
        (LogQuery(), 0, 99, 1),
        (LogQuery(500_000, 100), 500_000, 500_099, 2),
        (LogQuery(999_950, 100), 999_950, 999_999, 2),
        (LogQuery(page_size=100, tail=True), 999_900, 999_999, 2),
        (LogQuery(last_rows=100), 999_900, 999_999, 2),
        (LogQuery(123_456, 10_000), 123_456, 133_455, 22),
    ],
)
def test_page_of_a_million_lines_costs_what_it_holds(
    long_log: Log,
    monkeypatch: pytest.MonkeyPatch,
    query: LogQuery,
    first: int,
    last: int,
    chunks: int,
) -> None:
    read: list[int] = []
    unpack = log_lines._unpack

    def note(data: bytes) -> list[LogLine]:
        lines = unpack(data)
        read.append(len(lines))
        return lines

    monkeypatch.setattr(log_lines, "_unpack", note)
    page = long_log.reader.job_log(long_log.id, query)
    assert (page.all[0].split()[1], page.all[-1].split()[1]) == (str(first), str(last))
    assert page.end_line == last
    assert len(read) <= chunks
    assert sum(read) <= last - first + 1 + 2 * log_lines.CHUNK_LINES
    if not query.last_rows:
        filtered = long_log.reader.job_log(long_log.id, replace(query, only_keywords=("rare",)))
        assert filtered.end_line == last


def test_too_many_last_rows_of_a_long_log_are_refused(long_log: Log) -> None:
    with pytest.raises(InvalidRequest, match="lastRows"):
        long_log.page(last_rows=10_001)


def test_story_is_part_of_the_job_log(database: Database) -> None:
    world = World(database)
    execution_id = world.submit()
    assert world.job_log(execution_id)[0].endswith("Submitted.")
