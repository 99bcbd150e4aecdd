"""Logs in the store, on every database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from exchangis.domain.loglines import MAX_LINE, LogLine
from exchangis.logs.reader import LogQuery
from exchangis.store import log_lines
from tests.integration.store_fixtures import module_database, world
from tests.store_helpers import World

__all__ = ["module_database", "world"]


def _lines(*texts: str) -> list[LogLine]:
    return [LogLine("INFO", text) for text in texts]


def _append(world: World, name: str, lines: list[LogLine]) -> bool:
    return world.database.transact(lambda c: log_lines.append(c, name, lines))


def _all(world: World, execution_id: str) -> list[str]:
    texts: list[str] = []
    while True:
        page = world.logs.job_log(execution_id, LogQuery(len(texts), 1000))
        if not page.all:
            return texts
        texts += page.all


@pytest.mark.parametrize("sizes", [[1] * 40, [511, 1, 1, 600, 3], [2000], [0, 1, 0]])
def test_lines_come_back_as_they_were_appended(world: World, sizes: list[int]) -> None:
    execution_id = world.submit()
    name = log_lines.job_stream(execution_id)
    expected = list(_all(world, execution_id))
    for number, size in enumerate(sizes):
        lines = [f"{number}.{n} 😀 \t " for n in range(size)]
        assert _append(world, name, _lines(*lines))
        expected += lines
    assert _all(world, execution_id) == expected


def test_small_appends_share_chunks(world: World) -> None:
    execution_id = world.submit()
    name = log_lines.job_stream(execution_id)
    for n in range(100):
        _append(world, name, _lines(f"line {n}"))
    with world.database.read() as connection:
        stream = log_lines.state(connection, name)
        assert stream is not None
        assert len(list(log_lines._chunks(connection, stream, 0, stream.next_line))) == 1


def test_full_chunks_are_left_as_they_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "CHUNK_LINES", 8)
    execution_id = world.submit()
    name = log_lines.job_stream(execution_id)
    for n in range(23):
        _append(world, name, _lines(f"line {n}"))
    with world.database.read() as connection:
        stream = log_lines.state(connection, name)
        assert stream is not None
        chunks = list(log_lines._chunks(connection, stream, 0, stream.next_line))
    assert [(first, len(lines)) for first, lines in chunks] == [(0, 8), (8, 8), (16, 8)]


def test_long_lines_make_chunks_of_bounded_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = world.submit()
    name = log_lines.job_stream(execution_id)
    packed: list[int] = []
    pack = log_lines._pack

    def note(lines: list[LogLine]) -> bytes:
        packed.append(sum(len(line.text) for line in lines))
        return pack(lines)

    monkeypatch.setattr(log_lines, "_pack", note)
    for _ in range(3):
        assert _append(world, name, _lines(*["x" * MAX_LINE] * 100))
    assert len(_all(world, execution_id)) == 301
    assert max(packed) <= log_lines.CHUNK_CHARS + MAX_LINE


def test_closed_log_takes_no_more_lines(world: World) -> None:
    execution_id = world.submit()
    name = log_lines.job_stream(execution_id)
    before = _all(world, execution_id)
    world.database.transact(lambda c: log_lines.close(c, name))
    assert not _append(world, name, _lines("late"))
    assert not _append(world, "job:nosuch", _lines("late"))
    assert _all(world, execution_id) == before


def test_a_line_stays_one_line_whoever_made_it(world: World) -> None:
    execution_id = world.submit()
    name = log_lines.job_stream(execution_id)
    assert _append(world, name, _lines("a\nb", "\ud800", "", "c"))
    assert _all(world, execution_id)[1:] == ["a\\nb", "\\ud800", "", "c"]


def test_servers_that_append_at_once_leave_no_gap_and_lose_no_line(world: World) -> None:
    execution_id = world.submit()
    name = log_lines.job_stream(execution_id)
    gate = threading.Barrier(3)
    stop = threading.Event()

    def write(writer: int) -> None:
        gate.wait(30)
        for n in range(30):
            assert _append(
                world, name, _lines(*[f"{writer}.{n}.{part}" for part in range(n % 4 + 1)])
            )

    def read() -> list[str]:
        gate.wait(30)
        seen: list[str] = []
        while True:
            ended = stop.is_set()
            page = world.logs.job_log(execution_id, LogQuery(len(seen), 7))
            seen += page.all
            if ended and not page.all:
                return seen

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        writers = [pool.submit(write, n) for n in range(2)]
        for writer in writers:
            writer.result(60)
        stop.set()
        seen = reader.result(60)
    expected = [f"{w}.{n}.{p}" for w in range(2) for n in range(30) for p in range(n % 4 + 1)]
    assert sorted(seen[1:]) == sorted(expected)
    for writer in "01":  # each writer's lines keep their order
        mine = [line for line in seen if line.startswith(f"{writer}.")]
        assert mine == [line for line in expected if line.startswith(f"{writer}.")]
