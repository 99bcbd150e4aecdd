"""Publishing files: killed at any step and taken up again, no row is lost or doubled."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exchangis.connectors.base import Connector, Sink, Split
from exchangis.connectors.csv import Csv
from exchangis.connectors.files import publish as files_publish
from exchangis.connectors.files import staging as files_staging
from exchangis.connectors.jsonl import JsonLines
from exchangis.connectors.parquet import Parquet
from exchangis.domain.errors import InvalidRequest, SinkError, SourceError, TaskCancelled
from exchangis.domain.model import WriteMode
from tests.integration.files_kit import (
    leftovers,
    open_sink,
    open_source,
    pieces,
    prepare,
    raises,
    read,
    write,
    write_splits,
)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here and kernels are not, so that fsync has nothing to save."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


OLD = pa.table({"a": [100, 200]})
NEW = pa.table({"a": [1, 2, 3, 4, 5]})


class Killed(BaseException):
    """Stands for the end of the process."""


class Faults:
    """Ends the "process" right after the n-th change of the file system."""

    def __init__(self, at: int) -> None:
        self._left = at

    def wrap(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            result = change(*args, **kwargs)
            if self._left == 0:
                raise Killed
            return result

        return changed


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    faults = Faults(step)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Path, "replace"),
            (Path, "rename"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (os, "link"),
            (shutil, "rmtree"),
            (files_publish, "exchange"),
            (files_staging, "sync"),
        ):
            patch.setattr(owner, name, faults.wrap(getattr(owner, name)))
        yield


SCENARIOS = {
    "append to a file": ("t{s}", WriteMode.APPEND, True),
    "append to no file": ("t{s}", WriteMode.APPEND, False),
    "overwrite a file": ("t{s}", WriteMode.OVERWRITE, True),
    "append to a folder": ("d/", WriteMode.APPEND, True),
    "append to no folder": ("d/", WriteMode.APPEND, False),
    "overwrite a folder": ("d/", WriteMode.OVERWRITE, True),
    "overwrite no folder": ("d/", WriteMode.OVERWRITE, False),
}


class Case:
    """One target with old content, and a task that brings new rows in two splits."""

    def __init__(self, base: Path, connector: Connector, scenario: str) -> None:
        pattern, self.mode, exists = SCENARIOS[scenario]
        self.base = base
        self.connector = connector
        self.uri = pattern.format(s={"CSV": ".csv", "PARQUET": ".parquet"}[connector.name])
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        if exists:
            write(connector, base, self.uri, OLD, key="earlier")
        self.before = [100, 200] if exists else []
        kept = self.before if self.mode is WriteMode.APPEND else []
        self.complete = sorted([*kept, 1, 2, 3, 4, 5])

    def sink(self, attempt: int) -> Sink:
        return open_sink(self.connector, self.base, self.uri, attempt=attempt)

    def attempt(self, number: int) -> bool:
        """Carry the task out; whether it turned out to be published already."""
        sink = self.sink(number)
        splits = pieces(NEW, 2)
        resume = prepare(sink, NEW, self.mode, plan=f"plan of {number}")
        if not resume.published:
            write_splits(sink, splits, resume)
            sink.publish()
        sink.close()
        return resume.published

    def rows(self) -> list[int]:
        target = self.base / self.uri
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return []
        return sorted(read(self.connector, self.base, self.uri)["a"].to_pylist())


def crashes(case: Callable[[], Case]) -> Iterator[Case]:
    """The case, killed at its first change of the file system, its second, and so on."""
    for step in range(1, 200):
        one = case()
        try:
            with killed_at(step):
                one.attempt(1)
        except Killed:
            yield one
        else:
            assert step > 15, "too few steps seen: the faults are not where the changes are"
            return
    raise AssertionError("the task never ended")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_task_killed_at_any_step_is_completed_once(tmp_path: Path, scenario: str) -> None:
    for case in crashes(lambda: Case(tmp_path / "b", Csv(), scenario)):
        assert case.rows() in (case.before, case.complete) or scenario == "append to a folder"
        case.attempt(2)
        assert case.rows() == case.complete
        assert case.attempt(3), "a third attempt must learn that all is done"
        assert case.rows() == case.complete
        assert leftovers(case.base) == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_task_killed_at_any_step_and_given_up_shows_all_or_nothing(
    tmp_path: Path, scenario: str
) -> None:
    for case in crashes(lambda: Case(tmp_path / "b", Csv(), scenario)):
        sink = case.sink(1)
        sink.discard()
        assert case.rows() in (case.before, case.complete)
        sink.discard()
        assert leftovers(case.base) == []


@pytest.mark.parametrize("scenario", ["append to a file", "overwrite a folder"])
def test_parquet_killed_at_any_step_is_completed_once(tmp_path: Path, scenario: str) -> None:
    for case in crashes(lambda: Case(tmp_path / "b", Parquet(), scenario)):
        case.attempt(2)
        assert case.rows() == case.complete
        assert leftovers(case.base) == []


def test_folders_are_switched_where_the_system_cannot_exchange_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_publish, "exchange", lambda _one, _other: False)
    for case in crashes(lambda: Case(tmp_path / "b", Csv(), "overwrite a folder")):
        case.attempt(2)
        assert case.rows() == case.complete
    for case in crashes(lambda: Case(tmp_path / "b", Csv(), "overwrite a folder")):
        case.sink(1).discard()
        assert case.rows() in (case.before, case.complete)
        assert leftovers(case.base) == []


@pytest.mark.parametrize("step", [4, 10, 16])
def test_a_killed_process_is_taken_over(tmp_path: Path, step: int) -> None:
    case = Case(tmp_path / "b", Csv(), "append to a file")
    script = f"""
        import os, signal
        from pathlib import Path
        from exchangis.connectors.csv import Csv
        from tests.integration import test_files_publish as tests
        case = tests.Case.__new__(tests.Case)
        case.base, case.connector, case.uri = Path({str(case.base)!r}), Csv(), {case.uri!r}
        case.mode = tests.WriteMode.APPEND
        try:
            with tests.killed_at({step}):
                case.attempt(1)
        except tests.Killed:
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    case.attempt(2)
    assert case.rows() == case.complete
    assert leftovers(case.base) == []


def test_finished_splits_are_not_written_again(tmp_path: Path) -> None:
    case = Case(tmp_path / "b", Csv(), "append to a file")
    sink = case.sink(1)
    prepare(sink, NEW, case.mode, plan="the first plan")
    write_splits(sink, {"s0": NEW.slice(0, 3)})
    writer = sink.open_writer()
    writer.write(NEW.slice(3, 1).to_batches()[0])  # of a split that never ends
    writer.close()
    again = case.sink(2)
    resume = prepare(again, NEW, case.mode, plan="another plan")
    assert (resume.plan, resume.done, resume.published) == ("the first plan", {"s0": 3}, False)
    write_splits(again, {"s1": NEW.slice(3)})
    again.publish()
    assert case.rows() == case.complete
    third = prepare(case.sink(3), NEW, case.mode)
    assert (third.plan, third.done, third.published) == ("the first plan", {"s0": 3, "s1": 2}, True)


def test_an_outrun_attempt_can_neither_commit_nor_publish(tmp_path: Path) -> None:
    case = Case(tmp_path / "b", Csv(), "append to a file")
    old = case.sink(1)
    prepare(old, NEW, case.mode)
    writer = old.open_writer()
    writer.write(NEW.to_batches()[0])
    writer.mark(Split("s0", ""), 5)
    new = case.sink(2)
    prepare(new, NEW, case.mode)
    with pytest.raises(SinkError):
        writer.commit()
    writer.close()
    assert "newer attempt (2)" in raises(old.publish, SinkError)
    assert "newer attempt (2)" in raises(lambda: prepare(case.sink(1), NEW, case.mode), SinkError)
    write_splits(new, pieces(NEW, 2))
    new.publish()
    assert case.rows() == case.complete


def test_two_tasks_may_append_to_one_file(tmp_path: Path) -> None:
    case = Case(tmp_path / "b", Csv(), "append to a file")
    sinks = [open_sink(Csv(), case.base, case.uri, key=f"task {n}") for n in range(4)]
    for sink in sinks:
        prepare(sink, NEW, case.mode)
        write_splits(sink, pieces(NEW, 2))
    threads = [threading.Thread(target=sink.publish) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert case.rows() == sorted([100, 200, *[1, 2, 3, 4, 5] * 4])


def test_a_change_by_somebody_else_survives_a_resumed_append(tmp_path: Path) -> None:
    case = Case(tmp_path / "b", Csv(), "append to a file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_publish.Publication, "_publish_file", _killed_before_the_switch)
        with pytest.raises(Killed):
            case.attempt(1)
    with (case.base / case.uri).open("a") as file:
        file.write("300\n")
    case.attempt(2)
    assert case.rows() == sorted([*case.complete, 300])


def _killed_before_the_switch(self: files_publish.Publication, schema: pa.Schema) -> None:
    assert self._build_merged(schema)
    self.staging.write_record("publishing", before=files_publish._identity(self.target))
    raise Killed


@pytest.mark.parametrize("uri", ["t.csv", "d/"])
def test_readers_see_the_old_or_the_new_content_while_it_is_overwritten(
    tmp_path: Path, uri: str
) -> None:
    def table(number: int) -> pa.Table:
        return pa.table({"a": [number] * 300})

    write(Csv(), tmp_path, uri, table(0), key="0", splits=3)
    folder = str(tmp_path / "d")
    done = threading.Event()
    wrong: list[object] = []
    looks = 0

    def look() -> None:
        nonlocal looks
        while not done.is_set():
            looks += 1
            if uri == "d/":
                before = os.stat(folder).st_ino  # noqa: PTH116
                names = [n for n in os.listdir(folder) if n.endswith(".csv")]  # noqa: PTH208
                if os.stat(folder).st_ino != before:  # noqa: PTH116
                    continue  # it was switched while we looked: the old one may be empty by now
                # The names of a task's parts share its hash: one task's three, or it is a mixture.
                if len(names) != 3 or len({name[:17] for name in names}) != 1:
                    wrong.append(names)
            else:
                lines = (tmp_path / uri).read_text().split()[1:]
                if len(lines) != 300 or len(set(lines)) != 1:
                    wrong.append(lines)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 30):
        write(
            Csv(), tmp_path, uri, table(number), mode=WriteMode.OVERWRITE, key=str(number), splits=3
        )
    done.set()
    reader.join()
    assert looks > 29
    assert wrong == []


def test_nothing_is_visible_before_publishing(tmp_path: Path) -> None:
    for uri in ("t.csv", "d/"):
        sink = open_sink(Csv(), tmp_path, uri)
        prepare(sink, NEW, WriteMode.OVERWRITE)
        write_splits(sink, pieces(NEW, 2))
        assert not (tmp_path / uri).exists()
        assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == []
        sink.discard()
        assert leftovers(tmp_path) == []


def test_a_folder_with_other_things_in_it_is_not_overwritten(tmp_path: Path) -> None:
    write(Csv(), tmp_path, "d/", OLD, key="earlier")
    (tmp_path / "d" / "notes.md").write_text("mine")
    sink = open_sink(Csv(), tmp_path, "d/")
    error = raises(lambda: prepare(sink, NEW, WriteMode.OVERWRITE), SinkError)
    assert "notes.md" in error
    assert (tmp_path / "d" / "notes.md").read_text() == "mine"


def test_a_full_disk_fails_the_task_and_leaves_the_target_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path / "b", Csv(), "append to a file")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = case.sink(1)
    prepare(sink, NEW, case.mode)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SinkError, match="No space left on device") as failed:
            write_splits(sink, pieces(NEW, 2))
    assert not failed.value.retryable
    sink.discard()
    assert case.rows() == case.before
    assert leftovers(case.base) == []


def test_cancel_ends_a_write_under_way(tmp_path: Path) -> None:
    sink = open_sink(JsonLines(), tmp_path, "t.jsonl")
    prepare(sink, NEW, WriteMode.APPEND)
    writer = sink.open_writer()
    batch = NEW.to_batches()[0]
    writer.write(batch)
    sink.cancel()
    with pytest.raises(TaskCancelled):
        writer.write(batch)
    writer.close()
    sink.discard()
    assert list(tmp_path.iterdir()) == []


ESCAPES = ["../out.csv", "/etc/passwd", "x/../../out.csv", "link/out.csv", "link.csv", "d/../t.csv"]


@pytest.mark.parametrize("uri", [*ESCAPES, "", ".", "a\x00.csv"])
def test_paths_that_leave_the_base_are_refused(tmp_path: Path, uri: str) -> None:
    base = tmp_path / "base"
    (base / "d").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "out.csv").write_text("a\n1\n")
    (tmp_path / "out.csv").write_text("a\n1\n")
    (base / "t.csv").write_text("a\n1\n")
    (base / "link").symlink_to(outside)
    (base / "link.csv").symlink_to(outside / "out.csv")
    assert "uri" in raises(lambda: open_source(Csv(), base, uri), InvalidRequest)
    assert "uri" in raises(lambda: open_sink(Csv(), base, uri), InvalidRequest)
    assert (outside / "out.csv").read_text() == "a\n1\n"


def test_patterns_do_not_follow_links_out_of_the_base(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (base / "x.csv").symlink_to(tmp_path / "secret.csv")
    for uri in ("*.csv", "../*.csv"):
        assert "uri" in raises(lambda uri=uri: open_source(Csv(), base, uri), InvalidRequest)  # type: ignore[misc]


def test_a_base_outside_of_the_roots_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "t.csv").write_text("a\n1\n")
    roots = (tmp_path / "a",)
    error = raises(lambda: open_source(Csv(), tmp_path / "b", "t.csv", roots), InvalidRequest)
    assert "connectParams.path" in error
    error = raises(lambda: open_sink(Csv(), tmp_path / "b", "t.csv", roots=roots), InvalidRequest)
    assert "connectParams.path" in error


@pytest.mark.parametrize("uri", ["t.exe", "t", ".hidden.csv", "_x.csv", "*.csv", "f.csv/"])
def test_names_that_would_hold_no_data_are_refused(tmp_path: Path, uri: str) -> None:
    (tmp_path / "f.csv").write_text("a\n1\n")
    assert "uri" in raises(lambda: open_sink(Csv(), tmp_path, uri), InvalidRequest)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("none.csv", "none.csv does not exist"),
        ("*.csv", "No file matches *.csv"),
        ("empty/", "holds no file that ends in .csv"),
        ("deep/", "deep/ holds folders (2024)"),
    ],
)
def test_absent_sources_are_named(tmp_path: Path, uri: str, expected: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "2024").mkdir(parents=True)
    assert expected in raises(lambda: open_source(Csv(), tmp_path, uri), SourceError)
