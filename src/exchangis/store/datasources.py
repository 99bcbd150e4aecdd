"""Data sources: how to reach a system, with its secrets encrypted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection as StoreConnection
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from exchangis.domain.errors import Conflict, NotFound
from exchangis.domain.masking import MASK
from exchangis.domain.model import Connection
from exchangis.store.database import Database
from exchangis.store.paging import Page, contains, read_page
from exchangis.store.schema import data_sources
from exchangis.store.secrets import SecretBox, SecretKeyError
from exchangis.store.values import check_values, is_id


@dataclass(frozen=True, slots=True)
class DataSourceRecord:
    """A stored data source. `params` holds no secret; `secret_names` says which ones there are."""

    id: int
    name: str
    type: str
    description: str
    label: str
    params: dict[str, Any]
    secret_names: tuple[str, ...]
    version: int
    expired: bool
    created_by: str
    created_at: int
    modified_by: str
    modified_at: int


class DataSources:
    """Stored data sources. Unknown ids are NotFound, a name that is taken is Conflict."""

    def __init__(self, database: Database, box: SecretBox) -> None:
        self._db = database
        self._box = box

    def create(
        self,
        *,
        name: str,
        type_name: str,
        params: Mapping[str, Any],
        secrets: Mapping[str, str],
        description: str = "",
        label: str = "",
        user: str,
        now: int,
    ) -> DataSourceRecord:
        """Store a new data source; `params` and `secrets` as `make_connection` parts them."""
        values: dict[str, Any] = {
            "name": name,
            "type": type_name.upper(),
            "description": description,
            "label": label,
            "params": json.dumps(dict(params)),
            "secrets": self._seal({x: value for x, value in secrets.items() if value != MASK}),
            "created_by": user,
            "created_at": now,
            "modified_by": user,
            "modified_at": now,
        }
        check_values(data_sources, values)

        def work(connection: StoreConnection) -> DataSourceRecord:
            key = connection.execute(insert(data_sources).values(values)).inserted_primary_key
            assert key is not None
            return _record(_find(connection, key[0]))

        try:
            return self._db.transact(work)
        except IntegrityError:
            raise _taken(name) from None

    def get(self, source_id: int) -> DataSourceRecord:
        """The data source of that id."""
        with self._db.read() as connection:
            return _record(_find(connection, source_id))

    def by_name(self, name: str) -> DataSourceRecord:
        """The data source of exactly that name."""
        with self._db.read() as connection:
            row = connection.execute(
                select(data_sources).where(data_sources.c.name == name)
            ).first()
        if row is None:
            raise NotFound(f"There is no data source named {name!r}.")
        return _record(row)

    def connection(self, source_id: int) -> Connection:
        """How to reach it, secrets decrypted: for runners and connection tests alone."""
        with self._db.read() as connection:
            row = _find(connection, source_id)
        secrets = self._open(row.secrets)
        return Connection(
            type=row.type,
            params=json.loads(row.params),
            secrets={name: SecretStr(value) for name, value in secrets.items()},
        )

    def update(
        self,
        source_id: int,
        *,
        name: str | None = None,
        type_name: str | None = None,
        params: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str | None] | None = None,
        description: str | None = None,
        label: str | None = None,
        user: str,
        now: int,
    ) -> DataSourceRecord:
        """Change what is given and count the version up; what is None stays.

        A secret that is left out, or is the mask ******, stays as stored; one given as None is
        removed. Another type keeps no secret of the old one.
        """

        def work(connection: StoreConnection) -> DataSourceRecord:
            row = _find(connection, source_id, lock=True)
            values: dict[str, Any] = {
                column: value
                for column, value in (
                    ("name", name),
                    ("type", None if type_name is None else type_name.upper()),
                    ("description", description),
                    ("label", label),
                    ("params", None if params is None else json.dumps(dict(params))),
                )
                if value is not None
            }
            same_type = values.get("type", row.type) == row.type
            if secrets is not None or not same_type:
                given = secrets or {}
                # Nothing is decrypted when all are entered anew: the way out of a lost key.
                kept = _names(row) - {x for x, value in given.items() if value != MASK}
                stored = self._open(row.secrets) if kept and same_type else {}
                changed = {x: value for x, value in given.items() if value not in (None, MASK)}
                values["secrets"] = self._seal(
                    {x: stored[x] for x in kept & stored.keys()} | changed
                )
            values |= {"version": row.version + 1, "modified_by": user, "modified_at": now}
            check_values(data_sources, values)
            connection.execute(
                update(data_sources).where(data_sources.c.id == source_id).values(values)
            )
            return _record(_find(connection, source_id))

        try:
            return self._db.transact(work)
        except IntegrityError:
            raise _taken(name) from None

    def set_expired(self, source_id: int, expired: bool, *, user: str, now: int) -> None:
        """An expired data source is kept, and no new execution may use it."""

        def work(connection: StoreConnection) -> None:
            _find(connection, source_id)
            connection.execute(
                update(data_sources)
                .where(data_sources.c.id == source_id)
                .values(expired=expired, modified_by=user, modified_at=now)
            )

        self._db.transact(work)

    def delete(self, source_id: int) -> None:
        """Remove it with its secrets."""

        def work(connection: StoreConnection) -> None:
            _find(connection, source_id)
            connection.execute(delete(data_sources).where(data_sources.c.id == source_id))

        self._db.transact(work)

    def query(
        self,
        *,
        type_name: str | None = None,
        name: str | None = None,
        page: int = 1,
        size: int = 10,
    ) -> Page[DataSourceRecord]:
        """Those of a type whose name holds `name`, newest first; None or empty means any."""
        conditions = []
        if type_name:
            conditions.append(data_sources.c.type == type_name.upper())
        if name:
            conditions.append(contains(data_sources.c.name, name))
        with self._db.read() as connection:
            return read_page(
                connection, data_sources, list(data_sources.c), conditions, _record,
                page=page, size=size,
            )  # fmt: skip

    def secret_values(self) -> list[str]:
        """Every stored secret in clear: for the masker alone."""
        with self._db.read() as connection:
            stored = connection.execute(select(data_sources.c.secrets)).scalars().all()
        values: list[str] = []
        for text in stored:
            with suppress(SecretKeyError):  # what nobody can decrypt can't be shown either
                values += self._open(text).values()
        return values

    def _seal(self, secrets: Mapping[str, str]) -> str:
        """The names of the secrets stay readable, so that a list needs no decryption."""
        return json.dumps({"names": sorted(secrets), "sealed": self._box.encrypt(secrets)})

    def _open(self, text: str) -> dict[str, str]:
        return self._box.decrypt(json.loads(text)["sealed"])


def _record(row: Any) -> DataSourceRecord:
    return DataSourceRecord(
        id=row.id,
        name=row.name,
        type=row.type,
        description=row.description,
        label=row.label,
        params=json.loads(row.params),
        secret_names=tuple(sorted(_names(row))),
        version=row.version,
        expired=bool(row.expired),
        created_by=row.created_by,
        created_at=row.created_at,
        modified_by=row.modified_by,
        modified_at=row.modified_at,
    )


def _names(row: Any) -> set[str]:
    return set(json.loads(row.secrets)["names"])


def _find(connection: StoreConnection, source_id: int, *, lock: bool = False) -> Any:
    if not is_id(source_id):
        raise _unknown(source_id)
    query = select(data_sources).where(data_sources.c.id == source_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise _unknown(source_id)
    return row


def _unknown(source_id: int) -> NotFound:
    return NotFound(f"There is no data source {source_id}.")


def _taken(name: str | None) -> Conflict:
    return Conflict(f"A data source named {name!r} exists already.")
