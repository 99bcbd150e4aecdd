"""What contents may name: the installed connectors and the stored data sources."""

from __future__ import annotations

from functools import lru_cache

from exchangis.connectors.registry import connector
from exchangis.domain.content_keys import is_storable
from exchangis.domain.content_sides import StoredSource, System
from exchangis.domain.errors import NotFound
from exchangis.store.datasources import DataSources

LARGEST_ID = 2**63 - 1


@lru_cache(maxsize=256)
def system_of(type_name: str) -> System:
    """The declared abilities of a connector; InvalidRequest lists the known ones."""
    found = connector(type_name)
    return System(
        type=found.name,
        options=frozenset(param.name for param in found.options),
        write_modes=found.capabilities.write_modes,
        publish=found.capabilities.publish,
        addressing=found.capabilities.addressing,
        databases=found.capabilities.databases,
    )


class StoreCatalog:
    """The catalog of a server: its connectors, and the data sources of its store."""

    takes_connections = False

    def __init__(self, data_sources: DataSources) -> None:
        self._data_sources = data_sources

    def system(self, type_name: str) -> System:
        """See `content_sides.Catalog`."""
        return system_of(type_name)

    def stored(self, key: int | str) -> StoredSource | None:
        """See `content_sides.Catalog`."""
        if not (0 <= key <= LARGEST_ID if isinstance(key, int) else is_storable(key)):
            return None  # no database can hold it, so it cannot be asked for either
        try:
            found = (
                self._data_sources.get(key)
                if isinstance(key, int)
                else self._data_sources.by_name(key)
            )
        except NotFound:
            return None
        return StoredSource(found.id, found.name, found.type, found.expired)
