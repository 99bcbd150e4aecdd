"""Data sources: checked against what their connector declares, tested for real."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exchangis.connectors.base import Connector
from exchangis.connectors.params import make_connection
from exchangis.connectors.registry import connector, connector_names
from exchangis.domain.clock import now_ms
from exchangis.domain.content_keys import whole
from exchangis.domain.errors import InvalidRequest, NotFound
from exchangis.domain.masking import MASK
from exchangis.domain.model import Connection
from exchangis.service.planning import check_name
from exchangis.service.probing import Prober
from exchangis.store.datasources import DataSourceRecord
from exchangis.store.opening import Store
from exchangis.store.paging import Page


def all_connectors() -> list[Connector]:
    """Every installed connector, by its number."""
    return sorted((connector(name) for name in connector_names()), key=lambda one: one.type_id)


def find_type(type_id: Any, *names: str | None) -> Connector:
    """The connector that a client means by `dataSourceTypeId`, or by one of the names."""
    if type_id not in (None, ""):
        if isinstance(type_id, str) and not type_id.strip().isdecimal():
            return connector(type_id.strip())  # clients may put the name there
        try:
            number = whole(type_id)
        except ValueError:
            number = -1
        for one in all_connectors():
            if one.type_id == number:
                return one
        raise InvalidRequest.field(
            "dataSourceTypeId", type_id, "no such data source type",
            guidance="Known are "
            + ", ".join(f"{one.type_id} ({one.name})" for one in all_connectors())
            + ".",
        )  # fmt: skip
    name = next((name for name in names if name), None)
    if name is None:
        raise InvalidRequest.field(
            "dataSourceType", None, "is required",
            guidance=f"Known are {', '.join(connector_names())}.",
        )  # fmt: skip
    try:
        return connector(name)
    except InvalidRequest as error:
        raise InvalidRequest.field("dataSourceType", name, error.errors[0].reason) from None


class DataSourceService:
    """Stored data sources. Their secrets go in and never come out again."""

    def __init__(self, store: Store, prober: Prober) -> None:
        self._sources = store.data_sources
        self._prober = prober

    def create(
        self,
        user: str,
        *,
        kind: Connector,
        name: str,
        values: Mapping[str, Any],
        description: str = "",
        label: str = "",
    ) -> DataSourceRecord:
        """Store a new one; `values` are its `connectParams`."""
        check_name(name, "dataSourceName")
        connection = make_connection(kind, _without_masks(kind, values))
        return self._sources.create(
            name=name,
            type_name=kind.name,
            params=connection.params,
            secrets=_reveal(connection),
            description=description,
            label=label,
            user=user,
            now=now_ms(),
        )

    def get(self, source_id: int) -> DataSourceRecord:
        """The data source of that id; NotFound otherwise."""
        return self._sources.get(source_id)

    def update(
        self,
        source_id: int,
        user: str,
        *,
        kind: Connector | None = None,
        name: str | None = None,
        values: Mapping[str, Any] | None = None,
        description: str | None = None,
        label: str | None = None,
    ) -> DataSourceRecord:
        """Change what is given. A secret that is absent or ****** stays; an empty one goes."""
        stored = self._sources.get(source_id)
        kind = kind or connector(stored.type)
        if name is not None:
            check_name(name, "dataSourceName")
        if kind.name != stored.type and values is None:
            raise InvalidRequest.field(
                "connectParams", None, f"is required to make it a {kind.name} data source"
            )
        params: Mapping[str, Any] | None = None
        secrets: dict[str, str | None] | None = None
        if values is not None:
            names = {param.name for param in kind.params if param.secret}
            removed = {n: None for n in names if n in values and values[n] in (None, "")}
            kept = stored.secret_names if kind.name == stored.type else ()
            given = {n: MASK for n in kept if n in names} | dict(values)
            if not kept:
                given = _without_masks(kind, given)
            connection = make_connection(kind, given)
            params = connection.params
            secrets = {**removed, **_reveal(connection)}
            _refuse_to_follow(stored, params, secrets)
        return self._sources.update(
            source_id,
            name=name,
            type_name=kind.name,
            params=params,
            secrets=secrets,
            description=description,
            label=label,
            user=user,
            now=now_ms(),
        )

    def delete(self, source_id: int) -> None:
        """Remove it with its secrets."""
        self._sources.delete(source_id)

    def expire(self, source_id: int, user: str) -> None:
        """Keep it, but let no new execution use it."""
        self._sources.set_expired(source_id, True, user=user, now=now_ms())

    def query(
        self, *, kind: Connector | None, name: str | None, page: int, size: int
    ) -> Page[DataSourceRecord]:
        """Data sources, newest first."""
        return self._sources.query(
            type_name=kind.name if kind else None, name=name, page=page, size=size
        )

    # --- asking the systems themselves ------------------------------------------------------

    def test(self, source_id: int, type_name: str | None = None) -> str:
        """Connect to a stored one for real; what answered."""
        connection = self._connection(source_id, type_name)
        return self._prober.call(connection, lambda kind, to, context: kind.test(to, context))

    def test_unsaved(self, kind: Connector, values: Mapping[str, Any], name: str | None) -> str:
        """Connect with parameters that are not stored yet; what answered.

        A form that edits a stored data source sends its secrets as ******: the stored ones are
        used, provided that they would go where they always go.
        """
        connection = make_connection(kind, values)
        masked = {n for n, value in _reveal(connection).items() if value == MASK}
        if masked:
            connection = self._with_stored_secrets(connection, masked, name)
        return self._prober.call(connection, lambda kind, to, context: kind.test(to, context))

    def databases(self, source_id: int, type_name: str) -> list[str]:
        """Databases (schemas) for browsing."""
        connection = self._connection(source_id, type_name)
        return self._prober.call(connection, lambda kind, to, context: kind.databases(to, context))

    def tables(self, source_id: int, type_name: str, database: str | None) -> list[str]:
        """Tables or files for browsing."""
        connection = self._connection(source_id, type_name)
        return self._prober.call(
            connection, lambda kind, to, context: kind.tables(to, database, context)
        )

    def _connection(self, source_id: int, type_name: str | None) -> Connection:
        connection = self._sources.connection(source_id)
        if type_name is not None and connector(type_name).name != connection.type:
            raise InvalidRequest.field(
                "type", type_name, f"data source {source_id} is of type {connection.type}"
            )
        return connection

    def _with_stored_secrets(
        self, connection: Connection, masked: set[str], name: str | None
    ) -> Connection:
        try:
            stored = self._sources.by_name(name or "")
        except NotFound:
            stored = None
        same = stored is not None and (stored.type, stored.params) == (
            connection.type,
            connection.params,
        )
        if stored is None or not same or not masked <= set(stored.secret_names):
            raise InvalidRequest.field(
                f"connectParams.{min(masked)}", None, "is masked",
                guidance="Enter it again: stored secrets are sent only where they were stored for.",
            )  # fmt: skip
        kept = self._sources.connection(stored.id).secrets
        secrets = {n: kept[n] if n in masked else value for n, value in connection.secrets.items()}
        return Connection(type=connection.type, params=connection.params, secrets=secrets)


def _reveal(connection: Connection) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in connection.secrets.items()}


def _refuse_to_follow(
    stored: DataSourceRecord, params: Mapping[str, Any], secrets: Mapping[str, str | None]
) -> None:
    """A kept password goes to no other server: who only may edit must not get to see it there."""
    moved = [name for name in ("host", "port") if params.get(name) != stored.params.get(name)]
    kept = [name for name, value in secrets.items() if value == MASK]
    if moved and kept:
        raise InvalidRequest.field(
            f"connectParams.{kept[0]}", None, f"must be entered again when {moved[0]} changes"
        )


def _without_masks(kind: Connector, values: Mapping[str, Any]) -> dict[str, Any]:
    """A mask is no password: there is nothing stored that it could stand for."""
    for param in kind.params:
        if param.secret and values.get(param.name) == MASK:
            raise InvalidRequest.field(
                f"connectParams.{param.name}", None, "is masked", guidance="Enter it again."
            )
    return dict(values)
