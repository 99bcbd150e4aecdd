"""Every command says what it does, answers at once, and speaks of mistakes in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from exchangis.cli.main import app, main

HEAVY = ("pyarrow", "duckdb", "sqlalchemy", "fastapi", "httpx2", "rich", "psycopg")


def commands(command: Any, path: str = "exchangis") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


def tree() -> list[tuple[str, Any]]:
    return list(commands(typer.main.get_command(app)))


def test_the_commands_that_were_promised_are_there() -> None:
    names = {path.removeprefix("exchangis ") for path, _ in tree()}
    assert names >= {
        "server", "demo", "run", "job submit", "job status", "job logs", "job kill", "job list",
        "db upgrade", "connectors", "engines", "version", "config show",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "command"), tree(), ids=[path for path, _ in tree()])
def test_every_command_and_option_has_help(path: str, command: Any) -> None:
    assert command.help, path
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


@pytest.mark.parametrize("path", [path for path, _ in tree()])
def test_help_is_shown_for_every_command(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path.split()[1:], "--help"]) == 0
    assert "Usage: " + path in capsys.readouterr().out


def test_version_loads_nothing_heavy() -> None:
    code = (
        "import sys; from exchangis.cli.main import main; main(['version']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    version, loaded = done.stdout.splitlines()
    assert version.startswith("exchangis 0.")
    assert loaded == "[]"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nope"], "No such command 'nope'"),
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--parallel", "many"], "--parallel"),
        (["server", "--port", "65536"], "--port"),
        (["job", "logs", "x", "--tail", "-1"], "--tail"),
        (["config", "show", "--nope"], "--nope"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert told in output.err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output = capsys.readouterr()
    assert "Usage: exchangis" in output.out + output.err


def test_a_bug_of_ours_is_told_in_one_line_and_shown_with_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("password=hunter22 broke it")

    monkeypatch.setattr("exchangis.connectors.registry.connector_names", broken)
    assert main(["connectors"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "RuntimeError" in told
    assert "hunter22" not in told
    assert main(["--debug", "connectors"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_completion_knows_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exchangis"],
        env={"_EXCHANGIS_COMPLETE": "complete_bash", "COMP_WORDS": "exchangis job s",
             "COMP_CWORD": "2", "PATH": "/usr/bin"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert set(done.stdout.split()) == {"submit", "status"}
