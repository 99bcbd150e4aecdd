"""Fixtures of the end-to-end suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A fresh server process."""
    made = System(tmp_path / "server-home")
    made.start()
    yield made
    made.close()
