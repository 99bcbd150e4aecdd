"""The server's own log: one event per line on stderr, masked, as text or JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime

from exchangis.config import Settings
from exchangis.domain.loglines import escape_controls
from exchangis.domain.masking import Masker

_QUIET = ("uvicorn.error", "uvicorn.access", "alembic", "asyncio", "httpx2", "httpcore2")
"""Loggers whose INFO is of no use to whoever runs a server."""


class _Formatter(logging.Formatter):
    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        super().__init__()
        self._zone = settings.zone
        self._as_json = as_json
        secrets = [value.get_secret_value() for value in (settings.token,) if value is not None]
        self._mask = Masker(secrets)

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, self._zone)
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = self._mask(text)
        if self._as_json:
            event = {
                "time": when.isoformat(timespec="milliseconds"),
                "level": record.levelname,
                "logger": record.name,
                "message": text,
            }
            return json.dumps(event, ensure_ascii=False)
        first, *rest = (escape_controls(line) for line in text.splitlines() or [""])
        head = f"{when:%Y-%m-%d %H:%M:%S}.{int(record.msecs):03d} {record.levelname:<7}"
        return "\n    ".join([f"{head} {record.name}: {first}", *rest])


def set_up_logging(level: str, *, as_json: bool, settings: Settings) -> None:
    """Send all logging of this process to stderr, in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(settings, as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
