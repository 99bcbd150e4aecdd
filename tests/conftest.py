"""Fixtures that every suite shares, and the honest last lines: what did not run, and why."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import services

_NOT_RUN: dict[str, str] = {}
_IN_CI = os.environ.get("CI") == "true"


@contextlib.contextmanager
def _service(
    name: str, start: Callable[[], contextlib.AbstractContextManager[services.Service]]
) -> Iterator[services.Service]:
    with contextlib.ExitStack() as stack:
        try:
            service = stack.enter_context(start())
        except services.ServiceMissing as missing:
            _NOT_RUN[name] = str(missing)
            if _IN_CI:
                pytest.fail(f"{name}: {missing}")
            pytest.skip(f"{name}: {missing}")
        yield service


@pytest.fixture(scope="session")
def mariadb() -> Iterator[services.Service]:
    """A real MariaDB server (MySQL itself is not among Debian's packages)."""
    with _service("MariaDB suites", services.mariadb) as service:
        yield service


@pytest.fixture(scope="session")
def postgres() -> Iterator[services.Service]:
    """A real PostgreSQL server."""
    with _service("PostgreSQL suites", services.postgres) as service:
        yield service


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the settings and the home of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("EXCHANGIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EXCHANGIS_HOME", str(tmp_path / "home"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("suites that did not run")
    for name, reason in _NOT_RUN.items():
        terminalreporter.line(f"NOT RUN: {name}: {reason}")
    if not _NOT_RUN:
        terminalreporter.line("none: every suite ran")
