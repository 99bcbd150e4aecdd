"""Calling connectors on a user's behalf: outside of any task, and never for long."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from exchangis.config import Settings
from exchangis.connectors.base import Connector, Context, Level
from exchangis.connectors.registry import connector
from exchangis.domain.errors import (
    ConnectionFailed,
    ExchangisError,
    InvalidRequest,
    Overloaded,
    TaskError,
)
from exchangis.domain.ids import new_execution_id
from exchangis.domain.masking import Masker
from exchangis.domain.model import Connection

T = TypeVar("T")
_LOG = logging.getLogger("exchangis.probing")
_LEVELS: dict[Level, int] = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.DEBUG,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
}
TIME_LIMIT = 15.0
"""Seconds that a data source has to answer."""
MAX_AT_ONCE = 8
"""Calls under way at once, those that were given up included: a thread cannot be ended."""


class Prober:
    """Runs one connector call in a thread of its own, with a time limit."""

    def __init__(self, settings: Settings, *, time_limit: float = TIME_LIMIT) -> None:
        self._settings = settings
        self._time_limit = time_limit
        self._free = threading.BoundedSemaphore(MAX_AT_ONCE)

    def call(
        self, connection: Connection, work: Callable[[Connector, Connection, Context], T]
    ) -> T:
        """What `work` returns; ConnectionFailed when it takes too long. No error holds a secret."""
        mask = Masker(secret.get_secret_value() for secret in connection.secrets.values())
        found = connector(connection.type)
        if not self._free.acquire(blocking=False):
            raise Overloaded(
                f"{MAX_AT_ONCE} data sources are being asked already; try again shortly."
            )
        results: list[T] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                with tempfile.TemporaryDirectory(prefix="exchangis-probe-") as scratch:
                    context = self._context(Path(scratch), mask)
                    results.append(work(found, connection, context))
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                failures.append(error)
            finally:
                self._free.release()

        thread = threading.Thread(target=run, name="exchangis-probe", daemon=True)
        thread.start()
        thread.join(self._time_limit)
        if thread.is_alive():
            raise ConnectionFailed(
                f"The {found.title} data source did not answer within {self._time_limit:g} s.",
                guidance="Check host and port, and whether a firewall stands between.",
            )
        if failures:
            raise _masked(failures[0], mask)
        return results[0]

    def _context(self, scratch: Path, mask: Masker) -> Context:
        return Context(
            task_key=f"probe-{new_execution_id()}",
            attempt=1,
            workdir=scratch,
            log=lambda level, text: _LOG.log(_LEVELS[level], "%s", mask(text)),
            roots=self._settings.file_roots,
        )


def _masked(error: Exception, mask: Masker) -> Exception:
    if isinstance(error, InvalidRequest):
        return InvalidRequest(
            mask(error.message), guidance=mask(error.guidance), errors=error.errors
        )
    if isinstance(error, TaskError):
        return ConnectionFailed(mask(error.message), guidance=mask(error.guidance))
    if isinstance(error, ExchangisError):
        return type(error)(mask(error.message), guidance=mask(error.guidance))
    return error
