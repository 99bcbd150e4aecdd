"""Rates, the bounded queue, progress, plans and the dirty-record file."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchangis.connectors.base import Split
from exchangis.domain.errors import DirtyLimitExceeded, SinkError, SourceError
from exchangis.domain.model import Limits
from exchangis.engine.base import Counters
from exchangis.engine.dirty import RECORD_BYTES, DirtyFile, DirtyLimit, DirtyRecord
from exchangis.engine.handover import Handover, Stopped
from exchangis.engine.planning import check_splits, dump_plan, load_plan
from exchangis.engine.progress import Reporter, Tally
from exchangis.engine.rate import BURST_SECONDS, Rate, rows_per_step
from tests.unit.engine_fakes import Recorder


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stopped = False

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.stopped


@given(st.integers(1, 5000), st.lists(st.tuples(st.integers(1, 3000), st.floats(0, 2)), min_size=1))
def test_no_more_than_the_rate_is_let_through(per_second: int, steps: list) -> None:
    clock = Clock()
    rate = Rate(per_second, clock=clock, wait=clock.wait)
    start, units = clock.now, 0
    for count, working in steps:
        assert rate.acquire(count)
        units += count
        assert units <= (clock.now - start + BURST_SECONDS) * per_second * (1 + 1e-9) + 1e-6
        clock.now += working


def test_the_rate_is_reached_when_there_is_enough_to_send() -> None:
    clock = Clock()
    rate = Rate(1000, clock=clock, wait=clock.wait)
    start = clock.now
    for _ in range(100):
        rate.acquire(100)
        clock.now += 0.05  # work between two steps is made up for
    assert clock.now - start == pytest.approx(10, rel=0.03)


def test_a_stopped_task_waits_no_longer() -> None:
    clock = Clock()
    clock.stopped = True
    assert not Rate(1, clock=clock, wait=clock.wait).acquire(10**9)


def test_steps_are_a_tenth_of_a_second() -> None:
    assert rows_per_step(None, 16_384) == 16_384
    assert rows_per_step(1000, 16_384) == 100
    assert rows_per_step(3, 16_384) == 1


def test_the_queue_holds_no_more_bytes_than_it_may() -> None:
    queue: Handover[int] = Handover(100)
    most = 0
    got = []

    def put() -> None:
        for number in range(200):
            queue.put(number, 30)

    thread = threading.Thread(target=put)
    thread.start()
    for _ in range(200):
        most = max(most, queue.held)
        got.append(queue.take())
    thread.join(10)
    assert not thread.is_alive()
    assert most <= 100
    assert got == list(range(200))


def test_an_item_larger_than_the_queue_goes_alone() -> None:
    queue: Handover[str] = Handover(10)
    queue.put("large", 1000)
    queue.put("mark", 0)
    assert queue.take() == "large"
    assert queue.held == 0


def test_stopping_wakes_both_sides() -> None:
    queue: Handover[str] = Handover(10)
    queue.put("a", 10)
    woken = []

    def put() -> None:
        try:
            queue.put("b", 10)
        except Stopped:
            woken.append("put")

    thread = threading.Thread(target=put)
    thread.start()
    queue.stop()
    thread.join(10)
    assert woken == ["put"]
    with pytest.raises(Stopped):
        queue.take()
    assert queue.held == 0


def _add(tally: Tally, split: str, rows: int) -> None:
    tally.add(split, scanned=rows, read=rows, exchanged=rows, errors=0, ignored=0, size=rows)


def test_progress_is_weighted_by_rows() -> None:
    tally = Tally([Split("a", "a", rows=900), Split("b", "b", rows=100)])
    _add(tally, "a", 450)
    assert tally.fraction == pytest.approx(0.45)
    tally.finish("a")
    assert tally.fraction == pytest.approx(0.9)
    tally.finish("b")
    assert tally.fraction == 0.999


def test_progress_outlives_wrong_estimates() -> None:
    tally = Tally([Split("a", "a", rows=10), Split("b", "b", rows=None)])
    seen = []
    for _ in range(100):
        _add(tally, "a", 100)
        _add(tally, "b", 100)
        seen.append(tally.fraction)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] < 1


def test_events_come_at_most_five_times_a_second() -> None:
    clock, events = Clock(), Recorder()
    tally = Tally([Split("a", "a", rows=1000)])
    reporter = Reporter(tally, events, clock)
    for _ in range(100):
        _add(tally, "a", 10)
        reporter.tick()
        clock.now += 0.01
    assert len(events.counts) <= 6
    reporter.now()
    assert events.counts[-1] == Counters(1000, 1000, 0, 0, 1000)


def test_a_plan_comes_back_as_it_was() -> None:
    splits = [Split("a", "id < 5", {"to": 5}, 4), Split("n", "id IS NULL", {"null": True})]
    assert load_plan(dump_plan(splits, "f"), "f") == splits
    with pytest.raises(SinkError, match="changed"):
        load_plan(dump_plan(splits, "f"), "g")
    with pytest.raises(SinkError, match="damaged"):
        load_plan("{}", "f")


def test_a_source_without_splits_or_with_twins_is_refused() -> None:
    with pytest.raises(SourceError, match="no splits"):
        check_splits([])
    with pytest.raises(SourceError, match="same id"):
        check_splits([Split("a", "1"), Split("a", "2")])


BATCH = pa.record_batch(
    {
        "n": pa.array([1, 2**60, None], pa.int64()),
        "d": pa.array([Decimal("1.50"), None, None], pa.decimal128(5, 2)),
        "b": pa.array([b"\xff", b"", None], pa.binary()),
        "t": pa.array([0, 1, None], pa.timestamp("us")),
        "s": ["x" * 200_000, "é", None],
    }
)


def _records() -> list[DirtyRecord]:
    return [DirtyRecord(index + 7, "n", "why", index) for index in range(3)]


def test_dirty_records_are_json_that_loses_nothing_and_stays_short(tmp_path: Path) -> None:
    dirty = DirtyFile(tmp_path / "sub" / "d.jsonl")
    dirty.write("s", BATCH, _records())
    dirty.close()
    lines = dirty.path.read_text().splitlines()
    assert all(len(line.encode()) <= RECORD_BYTES for line in lines)
    first, second, third = (json.loads(line) for line in lines)
    assert first["shortened"]
    assert "200000 characters" in first["record"]["s"]
    assert first["record"]["d"] == "1.50"
    assert first["record"]["b"] == "/w=="
    assert second["record"] == {
        "n": str(2**60), "d": None, "b": "", "t": "1970-01-01 00:00:00.000001", "s": "é",
    }  # fmt: skip
    assert set(third["record"].values()) == {None}
    assert second["row"] == 8


def test_resuming_keeps_the_records_of_committed_splits_alone(tmp_path: Path) -> None:
    dirty = DirtyFile(tmp_path / "d.jsonl")
    for split in ("a", "b"):
        dirty.write(split, BATCH.slice(1), [DirtyRecord(1, None, "why", 0)])
    dirty.close()
    with dirty.path.open("ab") as torn:
        torn.write(b'{"split": "a", "row"')
    assert DirtyFile(dirty.path).resume({"a"}) == {"a": 1}
    assert [json.loads(line)["split"] for line in dirty.path.read_text().splitlines()] == ["a"]
    assert DirtyFile(dirty.path).resume(set()) == {}
    assert not dirty.path.exists()


def test_both_dirty_limits_hold(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    both = DirtyLimit(Limits(error_records=5, error_percentage=50), path)
    both.check(5, 10, finished=True)
    with pytest.raises(DirtyLimitExceeded):
        both.check(6, 1000)
    with pytest.raises(DirtyLimitExceeded, match="50 %"):
        both.check(5, 9, finished=True)
    both.check(5, 5)  # the percentage may still come right
    with pytest.raises(DirtyLimitExceeded):
        DirtyLimit(Limits(error_percentage=0), path).check(1, 1)
