"""All services of one server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exchangis.config import Settings
from exchangis.service.catalog import StoreCatalog
from exchangis.service.datasources import DataSourceService
from exchangis.service.executions import ExecutionService
from exchangis.service.jobs import JobService
from exchangis.service.logs import LogService
from exchangis.service.probing import Prober
from exchangis.store.opening import Store


@dataclass(frozen=True)
class Services:
    """What the edges (api, cli) work with. Thread-safe; the store is closed by who opened it."""

    settings: Settings
    store: Store
    catalog: StoreCatalog
    jobs: JobService
    data_sources: DataSourceService
    executions: ExecutionService
    logs: LogService


def make_services(
    settings: Settings, store: Store, *, wake: Callable[[], None] = lambda: None
) -> Services:
    """Services on an open store; `wake` nudges this server's scheduler, if it has one."""
    catalog = StoreCatalog(store.data_sources)
    executions = ExecutionService(settings, store, catalog, wake)
    return Services(
        settings=settings,
        store=store,
        catalog=catalog,
        jobs=JobService(settings, store, catalog),
        data_sources=DataSourceService(store, Prober(settings)),
        executions=executions,
        logs=LogService(store.database, executions),
    )
