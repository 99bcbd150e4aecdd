"""A catalog of a few systems and data sources, for tests of contents."""

from __future__ import annotations

from exchangis.domain.content_sides import StoredSource, System
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import Publish, WriteMode

_SYSTEMS = {
    "MYSQL": System("MYSQL", frozenset({"zero_dates"})),
    "HIVE": System("HIVE", frozenset({"partition"})),
    "SQLITE": System("SQLITE"),
    "CSV": System(
        "CSV",
        frozenset({"delimiter", "header"}),
        write_modes=frozenset({WriteMode.APPEND, WriteMode.OVERWRITE}),
        publish=frozenset({Publish.TASK}),
        addressing="uri",
    ),
    "PLAIN": System("PLAIN", databases=False),
}
_STORED = (
    StoredSource(22, "warehouse", "HIVE"),
    StoredSource(29, "shop", "MYSQL"),
    StoredSource(7, "files", "CSV"),
    StoredSource(8, "local", "SQLITE"),
    StoredSource(9, "plain", "PLAIN"),
    StoredSource(10, "old", "MYSQL", expired=True),
)


class Catalog:
    """See `content_sides.Catalog`."""

    def __init__(self, *, takes_connections: bool = False) -> None:
        self.takes_connections = takes_connections

    def system(self, type_name: str) -> System:
        found = _SYSTEMS.get(type_name.upper())
        if found is None:
            raise InvalidRequest.field("type", type_name, "no such data source type; known: MYSQL")
        return found

    def stored(self, key: int | str) -> StoredSource | None:
        return next((one for one in _STORED if key in (one.id, one.name)), None)


CATALOG = Catalog()
