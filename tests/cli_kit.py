"""Running the command line as people do: as a process, in a pipe or on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from exchangis.cli.main import main

COMMAND = (sys.executable, "-m", "exchangis")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it printed as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The test's own environment, without what would colour or widen the output."""
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS", "NO_COLOR")}
    return kept | dict(extra or {})


def exchangis(
    *arguments: object,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    within: float = 60,
) -> Ended:
    """Run a command with its output in pipes; nothing it prints there may steer a terminal."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, input=stdin, env=environment(env),
        capture_output=True, text=True, timeout=within, check=False,
    )  # fmt: skip
    assert not CONTROLS.search(done.stdout), ascii(done.stdout)
    assert not CONTROLS.search(done.stderr), ascii(done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def inside(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    """Run a command in this process, which is faster; the same rules hold for its output."""
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert not CONTROLS.search(output.out + output.err), ascii(output)
    assert "Traceback" not in output.err, output.err
    return Ended(code, output.out, output.err)


def on_terminal(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, within: float = 60
) -> Ended:
    """Run a command on a pseudo-terminal; `out` is all that the terminal was sent."""
    leader, follower = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], cwd=cwd, stdin=follower, stdout=follower,
            stderr=follower, start_new_session=True,
            env=environment({"TERM": "xterm-256color", "COLUMNS": "120", **(env or {})}),
        )  # fmt: skip
    finally:
        os.close(follower)
    received = bytearray()
    deadline = time.monotonic() + within
    try:
        while time.monotonic() < deadline:
            if not select.select([leader], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(leader, 65536)
            except OSError:  # the other end is closed: the command has ended
                break
            if not data:
                break
            received += data
        code = process.wait(max(deadline - time.monotonic(), 1))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(leader)
    return Ended(code, received.decode(), "")


def make_table(path: Path, rows: int, *, table: str = "orders") -> None:
    """A SQLite table of that many rows: id, name, price."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
        database.executemany(
            f"INSERT INTO {table} VALUES (?, ?, ?)",
            ((i, f"name {i}", i / 4) for i in range(1, rows + 1)),
        )


def count_rows(path: Path, table: str) -> int | None:
    """Rows of a SQLite table; None when there is no such table."""
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return None
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def tables(path: Path) -> set[str]:
    """Names of a SQLite database's tables."""
    with closing(sqlite3.connect(path)) as database:
        return {row[0] for row in database.execute("SELECT name FROM sqlite_master")}


def write_job(path: Path, content: Any) -> Path:
    """A job file."""
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return path


def sqlite_side(path: Path, table: str, **more: Any) -> dict[str, Any]:
    """A source or sink in SQLite, with its connection in the content."""
    return {"type": "SQLITE", "connection": {"path": str(path)}, "table": table, **more}
