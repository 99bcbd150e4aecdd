"""What has to be looked at now and then: lost leases, deadlines, old history."""

from __future__ import annotations

import logging
import shutil
import time

from exchangis import __version__
from exchangis.config import Settings
from exchangis.domain.clock import now_ms
from exchangis.scheduler.identity import is_dead
from exchangis.store.opening import Store
from exchangis.store.settle import Settler

_LOG = logging.getLogger("exchangis.scheduler")
_PURGE = 600.0
_PURGE_ROWS = 200
_DAY_MS = 86_400_000


class Housekeeping:
    """Looks at every non-final task and execution, whoever owned it (field lesson: never hope)."""

    def __init__(self, settings: Settings, store: Store, settler: Settler, name: str) -> None:
        self._settings = settings
        self._store = store
        self._settler = settler
        self._name = name
        self._purge_at = 0.0

    def tick(self) -> bool:
        """One look; whether tasks became free to be claimed."""
        now = now_ms()
        self._store.servers.heartbeat(
            self._name, f"{self._settings.host}:{self._settings.port}", __version__, now=now
        )
        dead = [
            owner
            for owner in self._store.servers.owners_with_work()
            if owner != self._name and is_dead(owner)
        ]
        taken = self._settler.expire_leases(now=now, dead_owners=dead)
        if taken:
            _LOG.warning("%d task(s) of servers that are gone are taken over.", taken)
        self._settler.expire_deadlines(now=now)
        self._store.servers.remove_stale(before_ms=now - _DAY_MS)
        if time.monotonic() >= self._purge_at:
            self._purge_at = time.monotonic() + _PURGE
            self._purge(now)
        return bool(taken)

    def _purge(self, now: int) -> None:
        """Drop finished executions, with logs and run folders, past the retention."""
        days = self._settings.log_retention_days
        if days is None:
            return
        before = now - int(days * _DAY_MS)
        while self._store.executions.purge(before_ms=before, limit=_PURGE_ROWS) == _PURGE_ROWS:
            pass
        runs = self._settings.runs_folder
        for folder in runs.iterdir() if runs.is_dir() else ():
            if folder.stat().st_mtime * 1000 < before:
                shutil.rmtree(folder, ignore_errors=True)
