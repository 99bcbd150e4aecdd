"""The native engine against a fake system: whatever fails, no row is doubled or lost."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exchangis.connectors.base import Column, TableSchema
from exchangis.domain.errors import (
    DirtyLimitExceeded,
    EngineError,
    InvalidRequest,
    SinkError,
    SourceError,
    TaskCancelled,
    TaskError,
    VerificationFailed,
)
from exchangis.engine.crew import Crew
from tests.unit.engine_fakes import Bench, Store, lane_threads, numbers


class Crash(Exception):
    """Raised by a hook in place of a process that dies."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path)


def _ids(store: Store) -> list[int]:
    return sorted(row["id"] for row in store.rows())


def _dirty(bench: Bench) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bench.folder / "dirty.jsonl").read_text().splitlines()]


def test_every_row_arrives_once(bench: Bench) -> None:
    store = bench.use(Store(numbers(100)))
    result = bench.run()
    assert _ids(store) == list(range(100))
    assert result.counters.read == result.counters.exchanged == 100
    assert result.dirty_file is None
    assert result.counters.bytes > 0
    assert not lane_threads()


def test_columns_are_chosen_renamed_repeated_and_cast(bench: Bench) -> None:
    schema = TableSchema(
        (Column("key", pa.int32()), Column("again", pa.string()), Column("other", pa.int8()))
    )
    store = bench.use(Store(numbers(3), schema=schema))
    bench.run(columns=[{"source": "ID", "sink": "key"}, {"source": "id", "sink": "AGAIN"}])
    assert sorted(r["key"] for r in store.rows()) == [0, 1, 2]
    assert {"key": 0, "again": "0"} in store.rows()


def test_created_table_takes_types_after_transformers_and_the_primary_key(bench: Bench) -> None:
    store = bench.use(Store(numbers(3), keys=("id",)))
    bench.run(
        columns=[
            {"source": "id", "sink": "id"},
            {"source": "id", "sink": "text", "transformers": [{"name": "hash_md5"}]},
        ]
    )
    assert store.created is not None
    assert store.created.column("text").type == pa.string()  # type: ignore[union-attr]
    assert store.created.primary_key == ("id",)


def test_a_key_changed_by_a_function_is_no_primary_key(bench: Bench) -> None:
    store = bench.use(Store(numbers(3), keys=("id",)))
    bench.run(
        columns=[
            {"source": "id", "sink": "id", "transformers": [{"name": "mask", "params": ["0"]}]}
        ]
    )
    assert store.created is not None
    assert store.created.primary_key == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": [{"source": "nope", "sink": "id"}]}, "no column nope.*columns are id, name"),
        ({"columns": [{"source": "id", "sink": "x"}, {"source": "name", "sink": "x"}]}, "already"),
        (
            {"columns": [{"source": "id", "sink": "x", "validators": ["> abc"]}]},
            r"columns\[0\].validators: 'abc' is no int64",
        ),
        (
            {"columns": [{"source": "id", "sink": "x", "validators": ["~~ 1"]}]},
            r"columns\[0\].validators: unknown operator '~~'",
        ),
        (
            {"columns": [{"source": "id", "sink": "x", "transformers": [{"name": "zap"}]}]},
            r"columns\[0\].transformers\[0\].name: no such function",
        ),
        (
            {"columns": [{"source": "id", "sink": "x", "transformers": [{"name": "round"}]}]},
            r"columns\[0\].transformers\[0\].params: round\(digits\) takes 1 parameter, got 0",
        ),
        ({"where": "id >"}, "where"),
        ({"where": "nope = 1"}, "no column nope"),
        ({"where": "sum(id) = 1"}, "aggregates"),
    ],
)
def test_a_wrong_task_is_refused_by_name(bench: Bench, fields: dict, message: str) -> None:
    bench.use(Store(numbers(3)))
    with pytest.raises(TaskError, match=message):
        bench.run(**fields)


def test_unknown_sink_column_lists_the_known_ones(bench: Bench) -> None:
    bench.use(Store(numbers(3), schema=TableSchema((Column("id", pa.int64()),))))
    with pytest.raises(SinkError, match=r"no column name.*columns are id"):
        bench.run()


def test_types_without_a_reading_are_refused_before_anything_is_written(bench: Bench) -> None:
    schema = TableSchema((Column("id", pa.timestamp("us")), Column("name", pa.string())))
    bench.use(Store(numbers(3), schema=schema))
    with pytest.raises(SinkError, match=r"Column id.*int64.*timestamp"):
        bench.run()


@pytest.mark.parametrize(
    ("capabilities", "fields", "field"),
    [
        ({"write_modes": frozenset()}, {}, "write_mode"),
        ({"publish": frozenset()}, {}, "publish"),
        ({"staged": False}, {"publish": "split", "write_mode": "overwrite"}, "publish"),
        (
            {},
            {"source": {"type": "FAKE", "table": "s", "options": {"odd": "1"}}},
            "source.options.odd",
        ),
        ({}, {"sink": {"type": "FAKE", "table": "s", "database": "d"}}, "sink.database"),
        ({}, {"sink": {"type": "FAKE", "uri": "s"}}, "sink.table"),
        ({}, {"engine": "spark"}, "engine"),
        (
            {},
            {"columns": [{"source": "id", "sink": "x"}], "key_columns": ["y"]},
            r"key_columns\[0\]",
        ),
    ],
)
def test_check_names_the_field(bench: Bench, capabilities: dict, fields: dict, field: str) -> None:
    bench.use(Store(numbers(1)), **capabilities)
    with pytest.raises(InvalidRequest, match=f"^{field}"):
        bench.engine.check(bench.spec(**fields))


# Dirty records ------------------------------------------------------------------------------------


def _refuse_first(count: int):  # type: ignore[no-untyped-def]
    return lambda row: "too small" if row["id"] < count else None


def test_exactly_as_many_dirty_records_as_allowed_are_well(bench: Bench) -> None:
    store = bench.use(Store(numbers(50), refuse=_refuse_first(5)))
    result = bench.run(limits={"error_records": 5})
    assert result.counters.errors == 5
    assert _ids(store) == list(range(5, 50))
    lines = _dirty(bench)
    assert [line["record"]["id"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[0] == {
        "split": "s0", "row": 1, "column": None, "reason": "too small",
        "record": {"id": 0, "name": "n0"},
    }  # fmt: skip


def test_one_dirty_record_more_fails_the_task_and_shows_nothing(bench: Bench) -> None:
    store = bench.use(Store(numbers(50), refuse=_refuse_first(6)))
    with pytest.raises(DirtyLimitExceeded, match=r"6 dirty.*too small.*dirty\.jsonl") as failure:
        bench.run(limits={"error_records": 5})
    assert store.rows() == []
    assert not failure.value.retryable


@pytest.mark.parametrize(("publish", "kept"), [("task", 0), ("split", 30)])
def test_a_failed_task_counts_only_what_is_committed_as_exchanged(
    bench: Bench, publish: str, kept: int
) -> None:
    bench.use(Store(numbers(50), splits=5, refuse=lambda r: "no" if r["id"] == 35 else None))
    with pytest.raises(DirtyLimitExceeded):
        bench.run(publish=publish, limits={"parallelism": 1})
    assert max(counters.exchanged for counters in bench.events.counts[:-1]) >= kept
    assert bench.events.counts[-1].exchanged == kept


def test_no_dirty_record_is_allowed_unless_said(bench: Bench) -> None:
    bench.use(Store(numbers(50), refuse=_refuse_first(1)))
    with pytest.raises(DirtyLimitExceeded):
        bench.run()


@pytest.mark.parametrize(("bad", "well"), [(5, True), (6, False)])
def test_percentage_is_judged_at_the_end(bench: Bench, bad: int, well: bool) -> None:
    bench.use(Store(numbers(50), refuse=_refuse_first(bad)))
    if well:
        assert bench.run(limits={"error_percentage": 10}).counters.errors == 5
    else:
        with pytest.raises(DirtyLimitExceeded, match="10 % allowed"):
            bench.run(limits={"error_percentage": 10})


def test_dirty_rows_name_column_value_and_condition(bench: Bench) -> None:
    store = bench.use(Store(numbers(20), splits=1, batch=2))
    result = bench.run(
        columns=[
            {"source": "id", "sink": "id", "validators": ["!= 3"]},
            {"source": "name", "sink": "name", "validators": ["not like", "n1_"]},
        ],
        limits={"error_records": 100},
        where="id >= 2",
    )
    assert result.counters.errors == 11
    assert result.counters.read == 18
    assert _ids(store) == [2, 4, 5, 6, 7, 8, 9]
    lines = _dirty(bench)
    third = next(line for line in lines if line["record"]["id"] == 3)
    assert third["reason"] == "id: '3' fails '!= 3'"
    assert third["row"] == 4
    assert third["column"] == "id"


def test_a_refused_row_is_found_among_filtered_and_failed_ones(bench: Bench) -> None:
    bench.use(Store(numbers(20), splits=2, refuse=lambda r: "no" if r["id"] == 8 else None))
    bench.run(
        columns=[
            {"source": "id", "sink": "id", "validators": ["!= 5"]},
            {"source": "name", "sink": "name"},
        ],
        where="id <> 2",
        limits={"error_records": 2},
    )
    found = {line["record"]["id"]: (line["split"], line["row"]) for line in _dirty(bench)}
    assert found == {5: ("s0", 6), 8: ("s0", 9)}
    assert "dirty records are kept in" in bench.events.text


def test_the_dirty_limit_ends_the_task_at_once(bench: Bench) -> None:
    store = bench.use(Store(numbers(1000), splits=1, batch=1, refuse=_refuse_first(1)))
    steps: list[str] = []
    store.hook = steps.append
    with pytest.raises(DirtyLimitExceeded, match="among 1 rows read"):
        bench.run()
    assert steps.count("write") == 1


def test_filtered_rows_are_ignored_not_dirty(bench: Bench) -> None:
    store = bench.use(Store(numbers(10)))
    result = bench.run(
        columns=[
            {
                "source": "id",
                "sink": "id",
                "transformers": [{"name": "ex_filter", "params": ["<", "4"]}],
            },
            {"source": "name", "sink": "name", "validators": ["!= n1"]},
        ]
    )
    assert (result.counters.ignored, result.counters.errors) == (4, 0)
    assert _ids(store) == [4, 5, 6, 7, 8, 9]


def test_a_retry_does_not_double_dirty_records(bench: Bench) -> None:
    store = bench.use(Store(numbers(60), refuse=lambda row: "odd" if row["id"] % 2 else None))
    store.hook = _crash_at("before commit", 2)
    fields = {"publish": "split", "limits": {"error_records": 60, "parallelism": 1}}
    with pytest.raises(EngineError):
        bench.run(**fields)
    store.hook = lambda _step: None
    result = bench.run(attempt=2, **fields)
    assert _ids(store) == list(range(0, 60, 2))
    assert (result.counters.errors, result.counters.read) == (30, 60)
    lines = _dirty(bench)
    assert sorted(line["record"]["id"] for line in lines) == list(range(1, 60, 2))


def test_a_sink_that_loses_rows_is_found_out(bench: Bench) -> None:
    store = bench.use(Store(numbers(30), lose=True))
    with pytest.raises(VerificationFailed, match=r"10 rows.*9 taken"):
        bench.run()
    assert store.rows() == []


# Failing, resuming, cancelling --------------------------------------------------------------------


def _crash_at(step: str, occurrence: int):  # type: ignore[no-untyped-def]
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def hook(name: str) -> None:
        with lock:
            seen[name] += 1
            count = seen[name]
        if name == step and count == occurrence:
            raise Crash(step)

    return hook


STEPS = [
    ("prepare", 1),
    ("read", 1),
    ("read", 7),
    ("write", 1),
    ("write", 8),
    ("mark", 1),
    ("mark", 3),
    ("before commit", 1),
    ("before commit", 2),
    ("after commit", 1),
    ("after commit", 2),
    ("before publish", 1),
    ("after publish", 1),
]


@pytest.mark.parametrize(("step", "occurrence"), STEPS)
@pytest.mark.parametrize(
    ("mode", "publish", "staged"),
    [
        ("append", "task", True),
        ("append", "split", True),
        ("overwrite", "task", True),
        ("overwrite", "task", False),
    ],
)
def test_a_crash_at_any_step_is_resumed_exactly_once(
    bench: Bench, mode: str, publish: str, staged: bool, step: str, occurrence: int
) -> None:
    # A sink that is not staged takes everything in one transaction, so it has one writer.
    store = bench.use(Store(numbers(100)), staged=staged, max_writers=None if staged else 1)
    before = [{"id": -1, "name": "old"}]
    store.target["t"] = list(before)
    store.hook = _crash_at(step, occurrence)
    fields = {"write_mode": mode, "publish": publish}
    try:
        bench.run(**fields)
    except EngineError:
        if publish == "task" and mode == "overwrite" and step not in {
            "after commit", "before publish", "after publish"
        }:  # fmt: skip
            assert store.rows() == before
    assert not lane_threads()
    store.hook = lambda _step: None
    store.splits = 5  # a later attempt must use the first one's plan
    result = bench.run(attempt=2, **fields)
    kept = [-1] if mode == "append" else []
    assert _ids(store) == kept + list(range(100))
    assert result.counters.exchanged == 100
    assert result.counters.read == 100
    assert result.details["splits"] == (5 if step == "prepare" else 3)


def test_append_commits_no_lane_before_all_have_written(bench: Bench) -> None:
    store = bench.use(Store(numbers(100), splits=2))
    steps: list[str] = []
    store.hook = steps.append
    bench.run(limits={"parallelism": 2})
    first = steps.index("before commit")
    assert "write" not in steps[first:]
    assert "mark" not in steps[first:]
    assert steps.count("mark") == 2


def test_a_changed_task_does_not_resume(bench: Bench) -> None:
    store = bench.use(Store(numbers(100)))
    store.hook = _crash_at("after commit", 1)
    with pytest.raises(EngineError):
        bench.run(publish="split")
    store.hook = lambda _step: None
    with pytest.raises(SinkError, match="changed since its first attempt"):
        bench.run(attempt=2, publish="split", where="id > 3")


def test_what_is_published_is_not_done_again(bench: Bench) -> None:
    store = bench.use(Store(numbers(10)))
    bench.run(write_mode="overwrite")
    store.hook = _crash_at("write", 1)
    result = bench.run(attempt=2, write_mode="overwrite")
    assert result.counters.exchanged == 10
    assert "published everything already" in bench.events.text


def test_a_failing_lane_stops_the_others_and_its_error_is_told(bench: Bench) -> None:
    store = bench.use(Store(numbers(1000), splits=2, batch=1))
    held, blocked = threading.Event(), threading.Event()

    def hook(step: str) -> None:
        if step == "write" and threading.current_thread().name == "lane-1-write":
            assert blocked.wait(30)
            raise SinkError("disk full")
        if step == "write":
            blocked.set()
            assert held.wait(30), "the failing lane must end this wait"
            raise SinkError("ended")
        if step == "cancel sink":
            held.set()

    store.hook = hook
    with pytest.raises(SinkError, match="disk full"):
        bench.run(limits={"parallelism": 2})
    assert held.is_set()
    assert store.rows() == []
    assert store.open_writers == 0
    assert not lane_threads()


def test_a_failing_lane_ends_reads_that_block(bench: Bench) -> None:
    store = bench.use(Store(numbers(100), splits=2))
    ended: list[bool] = []
    blocked = threading.Event()

    def hook(step: str) -> None:
        if step == "read" and threading.current_thread().name == "lane-1-read":
            assert blocked.wait(30)
            raise SourceError("gone")
        if step == "read":
            blocked.set()
            ended.append(store.cancelled.wait(30))

    store.hook = hook
    with pytest.raises(SourceError, match="gone"):
        bench.run(limits={"parallelism": 2})
    assert ended == [True]
    assert not lane_threads()


def test_a_failed_rollback_hides_not_the_first_error(bench: Bench) -> None:
    store = bench.use(Store(numbers(10)))

    def hook(step: str) -> None:
        if step == "write":
            raise SinkError("first")
        if step == "rollback":
            raise RuntimeError("second")

    store.hook = hook
    with pytest.raises(SinkError, match="first"):
        bench.run()


def test_cancel_ends_a_run_that_blocks(bench: Bench) -> None:
    store = bench.use(Store(numbers(1000)))
    reading = threading.Event()

    def hook(step: str) -> None:
        if step == "read":
            reading.set()
            assert store.cancelled.wait(30)

    store.hook = hook
    failures: list[BaseException] = []

    def run() -> None:
        try:
            bench.run()
        except TaskError as error:
            failures.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    assert reading.wait(30)
    bench.engine.cancel()
    runner.join(5)
    assert not runner.is_alive()
    assert isinstance(failures[0], TaskCancelled)
    assert not lane_threads()
    assert store.rows() == []


def test_cancel_before_the_start_reads_nothing(bench: Bench) -> None:
    store = bench.use(Store(numbers(10)))
    store.hook = _crash_at("read", 1)
    bench.engine.cancel()
    with pytest.raises(TaskCancelled):
        bench.engine.run(bench.request(), bench.events)


def test_cancel_during_the_commit_comes_too_late(bench: Bench) -> None:
    """Some lanes may have committed: the task ends as a whole."""
    store = bench.use(Store(numbers(100)))

    def hook(step: str) -> None:
        assert step != "cancel sink"
        if step == "before commit":
            bench.engine.cancel()

    store.hook = hook
    assert bench.run().counters.exchanged == 100
    assert _ids(store) == list(range(100))


def test_cancel_before_the_switch_shows_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"t": [{"id": -1, "name": "old"}]}
    store = bench.use(Store(numbers(100), target=dict(old)))
    store.hook = lambda step: bench.engine.cancel() if step == "close source" else None
    with pytest.raises(TaskCancelled):
        bench.run(write_mode="overwrite")
    assert _ids(store) == [-1]
    store = bench.use(Store(numbers(100), target=dict(old)))
    monkeypatch.setattr(Crew, "commit", lambda _crew: bench.engine.cancel())
    with pytest.raises(TaskCancelled):
        bench.run(write_mode="overwrite")
    assert _ids(store) == [-1]


def test_discard_removes_staging(bench: Bench) -> None:
    store = bench.use(Store(numbers(100)))
    store.hook = _crash_at("before publish", 1)
    with pytest.raises(EngineError):
        bench.run(write_mode="overwrite")
    assert store.staging
    bench.engine.discard(bench.request(write_mode="overwrite"), bench.events)
    assert not store.staging


def test_a_failing_source_is_told_as_it_is(bench: Bench) -> None:
    store = bench.use(Store(numbers(100)))

    def hook(step: str) -> None:
        if step == "read":
            raise SourceError("gone", retryable=True)

    store.hook = hook
    with pytest.raises(SourceError, match="gone") as failure:
        bench.run()
    assert failure.value.retryable


# Limits, progress, telling ------------------------------------------------------------------------


def test_rates_hold_over_all_lanes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[int, list[int]] = {}

    class CountingRate:
        def __init__(self, per_second: int, **_kwargs: Any) -> None:
            self.per_second = per_second
            made[per_second] = []

        def acquire(self, units: int) -> bool:
            made[self.per_second].append(units)
            return True

    monkeypatch.setattr("exchangis.engine.exchange.Rate", CountingRate)
    bench.use(Store(numbers(100), splits=2, batch=50))
    result = bench.run(limits={"records_per_second": 40, "bytes_per_second": 100_000})
    assert sum(made[40]) == 100
    assert max(made[40]) == 4
    assert sum(made[100_000]) == result.counters.bytes


def test_splits_are_shared_by_the_lanes(bench: Bench) -> None:
    store = bench.use(Store(numbers(100), splits=2))
    both = threading.Barrier(2, timeout=30)
    store.hook = lambda step: both.wait() and None if step == "mark" else None
    bench.run(limits={"parallelism": 2})
    assert store.most_writers == 2


def test_a_single_writer_sink_gets_one_lane(bench: Bench) -> None:
    store = bench.use(Store(numbers(100), splits=8), max_writers=1)
    bench.run(limits={"parallelism": 4})
    assert store.most_writers == 1
    assert _ids(store) == list(range(100))


def test_progress_never_falls_and_stays_below_one(bench: Bench) -> None:
    bench.use(Store(numbers(500), splits=5))
    bench.run()
    fractions = bench.events.fractions
    assert fractions == sorted(fractions)
    assert 0.9 < fractions[-1] < 1
    assert bench.events.counts[-1].exchanged == 500


def test_batches_too_large_for_memory_are_cut(bench: Bench) -> None:
    rows = pa.table({"id": list(range(64)), "name": ["x" * (1 << 20)] * 64})
    store = bench.use(Store(rows, splits=1, batch=64))
    steps: list[str] = []
    store.hook = steps.append
    bench.run(limits={"memory_mb": 64})
    assert steps.count("write") >= 16
    assert _ids(store) == list(range(64))


def test_the_log_tells_the_story(bench: Bench) -> None:
    bench.use(Store(numbers(100)))
    bench.run(write_mode="overwrite")
    for part in (
        "task: FAKE s -> FAKE t",
        "id int64 -> id int64",
        "3 splits",
        "split part 0: 33 rows committed",
        "published FAKE t",
        "done: 100 rows read, 100 exchanged, 0 dirty, 0 ignored",
        "No engine knows the setting odd.key; ignored.",
    ):
        assert part in bench.events.text
    assert ("WARN", "No engine knows the setting odd.key; ignored.") in bench.events.lines


def test_explain_writes_nothing(bench: Bench) -> None:
    schema = TableSchema((Column("id", pa.int8()), Column("name", pa.string())))
    store = bench.use(Store(numbers(100), schema=schema))
    steps: list[str] = []
    store.hook = steps.append
    told = bench.engine.explain(bench.request(where="id > 3"), bench.events)
    assert set(steps) <= {"close source", "close sink"}
    assert told.rows == 100
    assert told.splits == ("part 0", "part 1", "part 2")
    assert not told.creates_table
    assert told.columns[0].note
    assert not told.columns[1].note
    assert any("odd.key" in note for note in told.notes)


def test_an_empty_table_is_exchanged_and_published(bench: Bench) -> None:
    store = bench.use(Store(numbers(0), target={"t": [{"id": 1, "name": "old"}]}))
    assert bench.run(write_mode="overwrite").counters.read == 0
    assert store.rows() == []
