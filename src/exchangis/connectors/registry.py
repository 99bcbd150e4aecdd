"""Finding connectors by name; loading one imports its driver, so each is loaded on first use."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from exchangis.connectors.base import Connector
from exchangis.domain.errors import EngineError, InvalidRequest

GROUP = "exchangis.connectors"


@cache
def _found() -> dict[str, EntryPoint]:
    return {point.name.upper(): point for point in entry_points(group=GROUP)}


def connector_names() -> list[str]:
    """All names, sorted."""
    return sorted(_found())


@cache
def connector(name: str) -> Connector:
    """The connector of that name (case does not count); InvalidRequest lists the known ones."""
    point = _found().get(name.upper())
    if point is None:
        raise InvalidRequest.field(
            "type", name, f"no such data source type; known: {', '.join(connector_names())}"
        )
    loaded = point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Connector)):
        raise EngineError(f"Entry point {point.value} is not a connector.")
    return loaded()
