"""The two sides of a sub job: which data set of which data source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import SecretStr

from exchangis.domain.content_keys import (
    SINK_WORDS,
    SOURCE_WORDS,
    Word,
    endings,
    is_storable,
    plain_name,
    text,
    whole,
)
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import DataSet, Publish, WriteMode

SideName = Literal["source", "sink"]
_FIELDS = frozenset({"type", "id", "name", "creator", "db", "database", "table", "uri", "options",
                     "connection", "ds", "data_source_type", "data_source"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class System:
    """What a content needs to know of a kind of data source; `options` are a data set's own."""

    type: str
    options: frozenset[str] = frozenset()
    write_modes: frozenset[WriteMode] = frozenset(WriteMode)
    publish: frozenset[Publish] = frozenset(Publish)
    addressing: Literal["table", "uri"] = "table"
    databases: bool = True


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A stored data source that a content may point to."""

    id: int
    name: str
    type: str
    expired: bool = False


class Catalog(Protocol):
    """The systems and stored data sources that contents may name."""

    def system(self, type_name: str) -> System:
        """The system of that name (any case); InvalidRequest lists the known ones."""

    def stored(self, key: int | str) -> StoredSource | None:
        """The data source of that id or name; None when there is none."""

    @property
    def takes_connections(self) -> bool:
        """Whether connection parameters may stand in the content itself (`exchangis run`)."""


class RememberingCatalog:
    """Asks a catalog once for each data source: contents of many sub jobs name few."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._stored: dict[int | str, StoredSource | None] = {}

    def system(self, type_name: str) -> System:
        return self._catalog.system(type_name)

    def stored(self, key: int | str) -> StoredSource | None:
        if key not in self._stored:
            self._stored[key] = self._catalog.stored(key)
        return self._stored[key]

    @property
    def takes_connections(self) -> bool:
        return self._catalog.takes_connections


@dataclass
class Side:
    """One side as it is being read."""

    path: str
    system: System
    data_source: int | None = None
    database: str | None = None
    table: str | None = None
    uri: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    words: list[tuple[Word, str, Any]] = field(default_factory=list)
    """What the side says of the task (`where` in a source, `mode` in a sink): word, path, value."""
    connection: Mapping[str, SecretStr] | None = None

    def take_option(self, key: str, value: Any, path: str) -> bool:
        """Set the connector's option that `key` ends in; False when it declares none such."""
        name = next((word for word in endings(key) if word in self.system.options), None)
        if name is None:
            return False
        try:
            shown = text(value)
        except ValueError as error:
            raise InvalidRequest.field(path, value, str(error)) from None
        if self.options.setdefault(name, shown) != shown:
            raise InvalidRequest.field(path, value, f"{name} is given twice with other values")
        return True

    def dataset(self) -> DataSet:
        """The data set as tasks carry it."""
        return DataSet(
            type=self.system.type,
            data_source=self.data_source,
            database=self.database,
            table=self.table,
            uri=self.uri,
            options=self.options,
        )


def read_sides(plain: Mapping[str, Any], path: str, catalog: Catalog) -> tuple[Side, Side]:
    """Source and sink of a sub job whose names are in lower case with underscores."""
    return _read_side(plain, "source", path, catalog), _read_side(plain, "sink", path, catalog)


def _read_side(plain: Mapping[str, Any], side: SideName, path: str, catalog: Catalog) -> Side:
    places: list[tuple[str, Any]] = [(f"{path}.{side}", plain.get(side))]
    for group in ("data_sources", "data_source_ids"):
        holder = plain.get(group)
        if holder is None:
            continue
        shown = "dataSources" if group == "data_sources" else "dataSourceIds"
        if not isinstance(holder, dict):
            raise InvalidRequest.field(
                f"{path}.{shown}", holder, "must be an object with a source and a sink"
            )
        places += [(f"{path}.{shown}.{name}", holder.get(name)) for name in (side, f"{side}_id")]
    given = [(place, value) for place, value in places if value not in (None, "", {})]
    if not given:
        raise InvalidRequest.field(
            f"{path}.{side}", None, "is missing",
            guidance='Give e.g. {"type": "MYSQL", "id": 1, "db": "shop", "table": "orders"}.',
        )  # fmt: skip
    # A content may say a side in two spellings for clients of several ages: objects say more.
    place, value = next((one for one in given if isinstance(one[1], dict)), given[0])
    if isinstance(value, str):
        return _from_text(value, side, place, catalog)
    if not isinstance(value, dict):
        raise InvalidRequest.field(place, value, "must be an object or TYPE.id.database.table")
    return _from_object(value, side, place, catalog)


def _from_text(value: str, name_of: SideName, path: str, catalog: Catalog) -> Side:
    kind, _, rest = value.partition(".")
    number, _, where = rest.partition(".")
    if not kind or not number or not where:
        raise InvalidRequest.field(
            path, value, "must read TYPE.id.database.table, or TYPE.id.uri for files"
        )
    system = _system(catalog, kind, path)
    found = {"type": kind, "id": number}
    if system.addressing == "uri":
        return _from_object(found | {"uri": where.removeprefix(".")}, name_of, path, catalog)
    database, _, table = where.partition(".")
    return _from_object(found | {"db": database, "table": table}, name_of, path, catalog)


def _system(catalog: Catalog, name: Any, path: str) -> System:
    if not isinstance(name, str) or not name.strip():
        raise InvalidRequest.field(f"{path}.type", name, "must name a data source type")
    try:
        return catalog.system(name.strip())
    except InvalidRequest as error:
        reason = error.errors[0].reason if error.errors else error.message
        raise InvalidRequest.field(f"{path}.type", name, reason) from None


def _from_object(value: Mapping[str, Any], name_of: SideName, path: str, catalog: Catalog) -> Side:
    plain = {plain_name(str(name)): part for name, part in value.items()}
    kind = plain.get("type") or plain.get("data_source_type")
    system = None if kind in (None, "") else _system(catalog, kind, path)
    stored = _stored(plain, path, catalog)
    if system is None:
        system = _system(catalog, stored.type if stored else None, path)
    side = Side(path, system)
    if stored is not None:
        if stored.type.upper() != side.system.type.upper():
            raise InvalidRequest.field(
                f"{path}.type", kind, f"data source {stored.id} is of type {stored.type}"
            )
        if stored.expired:
            raise InvalidRequest.field(
                f"{path}.id", stored.id, f"data source {stored.name} is expired",
                guidance="Use another one.",
            )  # fmt: skip
        side.data_source = stored.id
    side.database = _text_of(plain, ("db", "database"), path)
    side.table = _text_of(plain, ("table",), path)
    side.uri = _text_of(plain, ("uri",), path)
    _read_connection(plain.get("connection"), side)
    options = plain.get("options")
    if options not in (None, ""):
        if not isinstance(options, dict):
            raise InvalidRequest.field(f"{path}.options", options, "must be an object")
        for name, part in options.items():
            if part is not None and not side.take_option(str(name), part, f"{path}.options.{name}"):
                side.unknown.append(f"{name_of}.options.{name}")
    words = SOURCE_WORDS if name_of == "source" else SINK_WORDS
    for name, part in value.items():
        plainly = plain_name(str(name))
        if plainly in _FIELDS or part in (None, ""):
            continue
        if plainly in words:
            side.words.append((words[plainly], f"{path}.{name}", part))
        elif not side.take_option(str(name), part, f"{path}.{name}"):
            side.unknown.append(f"{name_of}.{name}")
    _check_address(side)
    return side


def _stored(plain: Mapping[str, Any], path: str, catalog: Catalog) -> StoredSource | None:
    """The data source that the side points to by id or name; None beside a `connection`."""
    if plain.get("connection") is not None:
        if catalog.takes_connections:
            return None
        # The value may hold a password: it is not repeated.
        raise InvalidRequest.field(
            f"{path}.connection", None, "connections are not taken in a job's content",
            guidance="Create a data source and give its id.",
        )  # fmt: skip
    key = plain.get("id")
    if key in (None, ""):
        name = plain.get("data_source") or plain.get("name") or plain.get("ds")
        if name in (None, ""):
            raise InvalidRequest.field(
                f"{path}.id", key, "is missing", guidance="Give the data source's id, or its name."
            )
        named = catalog.stored(str(name))
        if named is None:
            raise InvalidRequest.field(f"{path}.name", name, "there is no data source of that name")
        return named
    try:
        number = whole(key)
    except ValueError:
        raise InvalidRequest.field(
            f"{path}.id", key, "must be the number of a data source"
        ) from None
    found = catalog.stored(number)
    if found is None:
        raise InvalidRequest.field(
            f"{path}.id", key, "there is no such data source",
            guidance="Create it first, or use the id of another one.",
        )  # fmt: skip
    return found


def _read_connection(given: Any, side: Side) -> None:
    path = f"{side.path}.connection"
    if given is None:
        return
    if not isinstance(given, dict):
        raise InvalidRequest.field(path, None, "must be an object of connection parameters")
    side.connection = {
        str(name): SecretStr(str(value)) for name, value in given.items() if value is not None
    }


def _text_of(plain: Mapping[str, Any], names: tuple[str, ...], path: str) -> str | None:
    for name in names:
        value = plain.get(name)
        if value in (None, ""):
            continue
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise InvalidRequest.field(f"{path}.{name}", value, "must be text")
        shown = str(value)
        if not is_storable(shown) or len(shown) > 4096:
            raise InvalidRequest.field(
                f"{path}.{name}",
                value,
                "must have at most 4096 characters, no NUL and no surrogate among them",
            )
        return shown
    return None


def _check_address(side: Side) -> None:
    kind = side.system.type
    if side.system.addressing == "uri":
        if side.uri is None:  # clients that know tables alone put the file there
            side.uri = "/".join(part for part in (side.database, side.table) if part) or None
        elif side.table is not None:
            raise InvalidRequest.field(
                f"{side.path}.table", side.table, f"{kind} is addressed by uri; leave table out"
            )
        side.table = side.database = None
        if side.uri is None:
            raise InvalidRequest.field(
                f"{side.path}.uri", None, "is missing",
                guidance="Name the file, relative to the data source's path.",
            )  # fmt: skip
        return
    if side.uri is not None:
        raise InvalidRequest.field(
            f"{side.path}.uri", side.uri, f"{kind} is addressed by db and table; leave uri out"
        )
    if side.table is None:
        raise InvalidRequest.field(
            f"{side.path}.table", None, "is missing", guidance="Name the table."
        )
    if side.database is not None and not side.system.databases:
        raise InvalidRequest.field(
            f"{side.path}.db", side.database, f"{kind} has no databases; leave db out"
        )
