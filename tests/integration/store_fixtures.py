"""Fixtures of the store's conformance suites: each test runs on every database that we support."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exchangis.store.database import Database
from tests.store_helpers import BACKENDS, World, empty, fresh_database


@pytest.fixture(scope="module", params=BACKENDS)
def module_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    service = None if request.param == "sqlite" else request.getfixturevalue(request.param)
    with fresh_database(tmp_path_factory.mktemp("store"), service) as database:
        yield database


@pytest.fixture
def world(module_database: Database) -> World:
    empty(module_database)
    return World(module_database)
