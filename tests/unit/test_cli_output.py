"""What commands print is clean, aligned and, where asked, JSON."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchangis.cli.main import main
from exchangis.cli.progress import Snapshot, TaskProgress, make_face, print_summary
from exchangis.cli.terminal import clean, one_line, print_table
from exchangis.domain.states import State
from tests.cli_kit import COMMAND, CONTROLS, environment


@given(st.text())
def test_nothing_that_is_printed_steers_the_terminal(text: str) -> None:
    assert not CONTROLS.search(clean(text))
    clean(text).encode()  # a lone surrogate would fail here, and at the terminal
    assert "\n" not in one_line(text)


def test_a_table_in_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("Name", "Rows"), [("a\x1b[31m\nb", "1"), ("long name", "1,000")])
    assert capsys.readouterr().out.splitlines() == [
        "NAME          ROWS",
        "a\\x1b[31m b      1",
        "long name    1,000",
    ]


def test_wide_characters_take_two_places(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("Name", "State"), [("订单", "Success"), ("abc", "Failed")])
    assert capsys.readouterr().out.splitlines()[1:] == ["订单  Success", "abc   Failed"]


def test_a_table_without_rows_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("Id", "State"), [])
    assert capsys.readouterr().out == "ID  STATE\n"


def task(state: State, fraction: float = 0.0, **more: int) -> TaskProgress:
    return TaskProgress("1", "orders", state, fraction, **more)


STORY = (
    Snapshot(State.RUNNING, 0.0, (task(State.INITED),)),
    Snapshot(State.RUNNING, 0.0, (task(State.RUNNING),)),
    Snapshot(State.RUNNING, 0.4, (task(State.RUNNING, 0.4, rows=400),)),
    Snapshot(State.SUCCESS, 1.0, (task(State.SUCCESS, 1.0, rows=1000, errors=2),)),
)


def test_plain_lines_tell_each_change_of_state_once(capsys: pytest.CaptureFixture[str]) -> None:
    face = make_face(as_json=False)
    for snapshot in STORY:
        face.show(snapshot)
        face.show(snapshot)
    face.close()
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["orders: Running, 0%", "orders: Success, 1,000 rows, 2 dirty"]


def test_plain_lines_repeat_what_runs_no_more_than_every_two_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("exchangis.cli.progress_lines.time.monotonic", lambda: now)
    face = make_face(as_json=False)
    for step in range(100):  # ten seconds, ten looks each
        now = 100.0 + step / 10
        face.show(Snapshot(State.RUNNING, 0.5, (task(State.RUNNING, 0.5, rows=5),)))
    lines = capsys.readouterr().out.splitlines()
    assert 4 <= len(lines) <= 6
    assert "ETA" in lines[-1]


def test_json_lines_are_json_and_end_with_the_last_state(
    capsys: pytest.CaptureFixture[str],
) -> None:
    face = make_face(as_json=True)
    for snapshot in STORY:
        face.show(snapshot)
    face.tell("WARN", "two\nlines")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == {"progress", "log"}
    assert events[-2]["status"] == "Success"
    assert events[-2]["tasks"][0]["exchangedRecords"] == 1000


def test_bars_leave_the_terminal_as_they_found_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    face = make_face(as_json=False)
    many = tuple(
        TaskProgress(str(n), f"task {n}", State.RUNNING if n % 9 == 0 else State.INITED, 0.1)
        for n in range(200)
    )
    face.show(Snapshot(State.RUNNING, 0.1, many))
    face.tell("ERROR", "a \x1b[2J line")
    face.show(Snapshot(State.RUNNING, 0.2, many))
    face.close()
    shown = terminal.getvalue()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back
    assert "0/200 tasks" in shown
    assert "\x1b[2J" not in shown
    assert "task 1 " not in shown  # more tasks than lines: those that run are shown


def test_no_color_means_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    print_summary(STORY[-1])
    assert "Success" in terminal.getvalue()
    assert "\x1b[3" not in terminal.getvalue()


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["CSV", "DUCKDB", "MYSQL", "PARQUET", "POSTGRESQL", "SQLITE"])
def test_connectors_lists_modes_and_parameters(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["connectors", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert "append" in found[name]["writeModes"]
    assert all(param["description"] for param in found[name]["params"])
    assert main(["connectors"]) == 0
    assert name in capsys.readouterr().out


def test_engines_names_the_aliases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "--json"]) == 0
    engines = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert {"datax", "sqoop"} <= set(engines["native"]["aliases"])


@pytest.mark.parametrize("reader_stays", [True, False])
def test_another_encoding_and_a_reader_that_leaves_are_no_bugs(
    reader_stays: bool, tmp_path: Path
) -> None:
    (tmp_path / "exchangis.yaml").write_text("user: 张三\n", encoding="utf-8")
    process = subprocess.Popen(
        [*COMMAND, "config", "show", "--home", str(tmp_path)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment({"PYTHONIOENCODING": "latin-1"}),
    )  # fmt: skip
    assert process.stdout is not None
    if not reader_stays:
        process.stdout.close()
        process.stdout = None
    out, err = process.communicate(timeout=60)
    assert err == ""
    if reader_stays:
        assert process.returncode == 0
        assert "\\u5f20\\u4e09" in out
