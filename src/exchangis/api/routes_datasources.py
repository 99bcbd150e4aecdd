"""Data sources: creating, changing, testing and browsing them. Secrets never come back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Path

from exchangis.api import views
from exchangis.api.answers import (
    ConnectData,
    DatabasesData,
    DataSourceData,
    DataSourceListData,
    DataSourceSavedData,
    DataSourceTypesData,
    IdData,
    KeyDefinesData,
    TablesData,
    VersionsData,
)
from exchangis.api.base import Base
from exchangis.api.bodies import DataSourceBody, DataSourceQueryBody, LabelsBody
from exchangis.api.calls import Calls
from exchangis.api.routes_executions import page_of
from exchangis.api.users import User
from exchangis.api.values import LARGEST, Id
from exchangis.connectors.base import Connector
from exchangis.domain.errors import InvalidRequest
from exchangis.service.datasources import all_connectors, find_type
from exchangis.service.services import Services
from exchangis.store.datasources import DataSourceRecord

# Deployed web clients have an icon for these alone and stop listing at the first other one.
_ICONS = ("MYSQL", "HIVE", "ORACLE", "MONGODB", "ELASTICSEARCH", "SFTP")
_PARAMS = {"host": "127.0.0.1", "port": 3306, "username": "ann", "database": "shop"}
_SEND = {
    "dataSourceName": "shop", "dataSourceType": "MYSQL", "dataSourceDesc": "",
    "connectParams": _PARAMS | {"password": "..."},
}  # fmt: skip
_TIMES = {
    "createSystem": "MYSQL", "createUser": "ann", "createTime": "2026-01-03 09:00:00",
    "modifyUser": "ann", "modifyTime": "2026-01-03 09:00:00",
}  # fmt: skip
_ITEM = {
    "id": 1, "name": "shop", "dataSourceName": "shop", "dataSourceTypeId": 1,
    "dataSourceType": "MYSQL", "desc": "", "labels": "", "expire": False, "versionId": 1,
    "readAble": True, "writeAble": True, "authDbs": None, "authTbls": None,
} | _TIMES  # fmt: skip
_DETAIL = {
    "id": 1, "dataSourceName": "shop", "dataSourceTypeId": 1, "dataSourceType": "MYSQL",
    "dataSourceDesc": "", "label": "", "connectParams": _PARAMS | {"password": "******"},
    "versionId": 1, "expire": False,
} | _TIMES  # fmt: skip
_VERSION = {
    "versionId": 1, "datasourceId": 1, "createUser": "ann", "createTime": "2026-01-03 09:00:00",
    "published": True, "connectParams": _PARAMS | {"password": "******"},
}  # fmt: skip
_TYPE = {"id": 1, "name": "MYSQL", "title": "MySQL / MariaDB", "classifier": "数据库",
         "struct_classifier": "结构化"}  # fmt: skip
_KEY = {
    "id": 1, "key": "host", "name": "host", "description": "Host name or address",
    "valueType": "TEXT", "defaultValue": None, "require": True, "valueRegex": None, "refId": None,
    "refValue": None, "dataSource": None,
}  # fmt: skip

TypeName = Annotated[str, Path(max_length=64, examples=["MYSQL"])]


def _kind(body: DataSourceBody) -> Connector:
    return find_type(body.dataSourceTypeId, body.dataSourceType, body.createSystem)


def _saved(record: DataSourceRecord) -> dict[str, Any]:
    return {"id": record.id, "versionId": record.version}


def data_source_routes(services: Services, base: Base) -> Calls:
    """The calls on one base."""
    calls = Calls(base, "data sources")
    sources = services.data_sources
    zone = services.settings.zone
    answered = {"server": "MariaDB 10.11"}

    @calls.add(
        "GET", "/datasources/type", "Types of data sources",
        data=DataSourceTypesData, example={"list": [_TYPE]}, problems=(),
    )  # fmt: skip
    def data_source_types() -> Any:
        """Every installed connector."""
        kinds = sorted(all_connectors(), key=lambda kind: (kind.name not in _ICONS, kind.type_id))
        return {"list": [views.type_view(kind) for kind in kinds]}

    @calls.add(
        "GET", "/datasources/types/{typeId}/keydefines", "Parameters of a type",
        data=KeyDefinesData, example={"list": [_KEY]},
    )  # fmt: skip
    def key_defines(typeId: TypeName) -> Any:
        """Which `connectParams` a type takes; `typeId` is its number or its name."""
        params = find_type(typeId).params
        return {"list": [views.key_define(param, n + 1) for n, param in enumerate(params)]}

    @calls.add(
        "POST", "/datasources/query", "Data sources",
        data=DataSourceListData, example={"list": [_ITEM], "total": 1}, problems=(400,),
    )  # fmt: skip
    def query_data_sources(
        body: Annotated[
            DataSourceQueryBody | None, Body(examples=[{"page": 1, "pageSize": 10, "name": ""}])
        ] = None,
    ) -> Any:
        """Data sources whose name holds `name`, newest first."""
        wanted = body or DataSourceQueryBody()
        page = sources.query(
            kind=find_type(wanted.typeId) if wanted.typeId not in (None, "") else None,
            name=(wanted.name or "").strip() or None,
            **page_of(wanted.page, wanted.pageSize, ("page", "pageSize")),
        )
        return {
            "list": [views.data_source_item(record, zone) for record in page.items],
            "total": page.total,
        }

    @calls.add(
        "POST", "/datasources/op/connect", "Test a connection before saving it",
        data=ConnectData, example=answered, problems=(400, 429),
    )  # fmt: skip
    def test_unsaved(body: Annotated[DataSourceBody, Body(examples=[_SEND])]) -> Any:
        """Connect for real; nothing is stored."""
        name = body.dataSourceName
        return {"server": sources.test_unsaved(_kind(body), body.connectParams or {}, name)}

    @calls.add(
        "POST", "/datasources", "Create a data source",
        data=DataSourceSavedData, example={"id": 1, "versionId": 1}, problems=(400, 409),
    )  # fmt: skip
    def create_data_source(
        user: User, body: Annotated[DataSourceBody, Body(examples=[_SEND])]
    ) -> Any:
        """Create a data source. Its secrets are encrypted, and shown to nobody."""
        if not (body.dataSourceName or "").strip():
            raise InvalidRequest.field("dataSourceName", body.dataSourceName, "is required")
        record = sources.create(
            user,
            kind=_kind(body),
            name=(body.dataSourceName or "").strip(),
            values=body.connectParams or {},
            description=body.dataSourceDesc or "",
            label=body.label or "",
        )
        return _saved(record)

    @calls.add(
        "GET", "/datasources/{id}", "A data source",
        data=DataSourceData, example={"info": _DETAIL},
    )  # fmt: skip
    def get_data_source(id: Id) -> Any:  # noqa: A002
        """The data source; secrets show as ******."""
        return {"info": views.data_source_view(sources.get(id), zone)}

    @calls.add(
        "PUT", "/datasources/{id}", "Change a data source",
        data=DataSourceSavedData, example={"id": 1, "versionId": 2}, problems=(400, 404, 409),
    )  # fmt: skip
    def update_data_source(
        id: Id,  # noqa: A002
        user: User,
        body: Annotated[DataSourceBody, Body(examples=[_SEND])],
    ) -> Any:
        """Change what is given. A secret that is absent or ****** stays; an empty one goes."""
        typed = body.dataSourceTypeId not in (None, "") or body.dataSourceType or body.createSystem
        record = sources.update(
            id,
            user,
            kind=_kind(body) if typed else None,
            name=None if body.dataSourceName is None else body.dataSourceName.strip(),
            values=body.connectParams,
            description=body.dataSourceDesc,
            label=body.label,
        )
        return _saved(record)

    @calls.add("DELETE", "/datasources/{id}", "Delete a data source", data=IdData,
               example={"id": 1})  # fmt: skip
    def delete_data_source(id: Id) -> Any:  # noqa: A002
        """Remove it with its secrets. Jobs that name it can be executed no more."""
        sources.delete(id)
        return {"id": id}

    @calls.add("PUT", "/datasources/{id}/expire", "Expire a data source", data=IdData,
               example={"id": 1})  # fmt: skip
    def expire_data_source(id: Id, user: User, _body: LabelsBody | None = None) -> Any:  # noqa: A002
        """Keep it, but let no new execution use it."""
        sources.expire(id, user)
        return {"id": id}

    @calls.add(
        "PUT", "/datasources/{type}/{id}/connect", "Test a stored data source",
        data=ConnectData, example=answered, problems=(400, 404, 429),
    )  # fmt: skip
    def test_stored(type: TypeName, id: Id, _body: LabelsBody | None = None) -> Any:  # noqa: A002
        """Connect for real. Deployed clients call it as `/datasources/{id}/{versionId}/connect`:
        a number in the first place is the data source's id.
        """
        if type.isascii() and type.isdecimal():
            if int(type) > LARGEST:
                raise InvalidRequest.field("id", type, "is too large a number")
            return {"server": sources.test(int(type))}
        return {"server": sources.test(id, type)}

    @calls.add(
        "GET", "/datasources/{id}/versions", "Versions of a data source",
        data=VersionsData, example={"versions": [_VERSION]},
    )  # fmt: skip
    def versions(id: Id) -> Any:  # noqa: A002
        """The present version: earlier ones are not kept."""
        return {"versions": [views.version_view(sources.get(id), zone)]}

    @calls.add(
        "GET", "/datasources/{type}/{id}/dbs", "Databases in a data source",
        data=DatabasesData, example={"dbs": ["shop"]}, problems=(400, 404, 429),
    )  # fmt: skip
    def databases(type: TypeName, id: Id) -> Any:  # noqa: A002
        """Names of its databases (schemas), asked for now."""
        return {"dbs": sources.databases(id, type)}

    @calls.add(
        "GET", "/datasources/{type}/{id}/dbs/{db}/tables", "Tables in a database",
        data=TablesData, example={"tbs": ["orders"]}, problems=(400, 404, 429),
    )  # fmt: skip
    def tables(type: TypeName, id: Id, db: Annotated[str, Path(max_length=1024)]) -> Any:  # noqa: A002
        """Names of its tables, asked for now."""
        return {"tbs": sources.tables(id, type, db)}

    return calls
