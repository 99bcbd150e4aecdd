"""Data sources: created, tested for real, and never giving a secret back."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.contract.conftest import Api, Stage
from tests.services import PASSWORD, Service, free_port

_NUMBERS = itertools.count(1)


def new(api: Api, kind: str, **params: Any) -> dict[str, Any]:
    body = {
        "dataSourceName": f"ds-{next(_NUMBERS)}", "dataSourceType": kind, "connectParams": params,
        "dataSourceDesc": "d", "label": "l", "comment": "更新", "createIdentify": "",
        "labels": {"route": ""},
    }  # fmt: skip
    answer = api.post("/datasources", body)
    assert isinstance(answer["data"]["id"], int)
    return body | {"id": answer["data"]["id"]}


def test_a_data_source_is_created_read_changed_and_deleted(api: Api) -> None:
    made = new(api, "MYSQL", host="db.example", port=3306, username="u", password=PASSWORD)
    path = f"/datasources/{made['id']}"
    info = api.data(f"{path}?labels=&versionId=1")["info"]
    assert (info["dataSourceName"], info["dataSourceDesc"]) == (made["dataSourceName"], "d")
    assert (info["dataSourceType"], info["dataSourceTypeId"], info["label"]) == ("MYSQL", 1, "l")
    assert info["connectParams"]["password"] == "******"
    assert info["connectParams"]["host"] == "db.example"
    # As a form does: everything back as it came, one field changed.
    changed = info["connectParams"] | {"username": "v"}
    api.put(path, info | {"connectParams": changed, "dataSourceTypeId": 1})
    info = api.data(path)["info"]
    assert info["connectParams"] == changed
    assert info["versionId"] == 2
    api.put(path, {"connectParams": changed | {"password": ""}})
    assert "password" not in api.data(path)["info"]["connectParams"]
    (version,) = api.data(f"{path}/versions")["versions"]
    assert (version["versionId"], version["datasourceId"]) == (3, made["id"])
    api.call("DELETE", path, json={"labels": {"route": ""}})
    api.get(path, expect=404)


def test_data_sources_are_listed(api: Api) -> None:
    made = [new(api, "MYSQL", host=f"h{n}", username="u") for n in range(3)]
    name = made[0]["dataSourceName"]
    data = api.post("/datasources/query", {"page": 1, "pageSize": 2, "typeId": "1", "name": ""})
    rows = data["data"]["list"]
    assert [row["id"] for row in rows] == [made[2]["id"], made[1]["id"]]
    assert data["data"]["total"] >= 3
    assert rows[0]["readAble"] and rows[0]["writeAble"] and rows[0]["versionId"]
    found = api.post("/datasources/query", {"page": 1, "pageSize": 1000, "name": name})["data"]
    assert found["total"] >= 1
    assert api.post("/datasources/query")["status"] == 0
    for body in ({"pageSize": 0}, {"page": 0}, {"typeId": 4040}, {"typeId": "HIVEISH"}, {"x": 1}):
        api.post("/datasources/query", body, expect=400)


def test_types_and_their_parameters_are_listed(api: Api) -> None:
    kinds = {
        kind["name"]: kind["id"] for kind in api.data("/datasources/type?labels=&t=_1")["list"]
    }
    assert {"MYSQL", "POSTGRESQL", "SQLITE", "DUCKDB", "CSV", "JSONL", "PARQUET"} <= set(kinds)
    assert next(iter(kinds)) == "MYSQL"
    for name in (str(kinds["MYSQL"]), "MYSQL"):
        keys = {k["key"]: k for k in api.data(f"/datasources/types/{name}/keydefines")["list"]}
        assert keys["password"]["valueType"] == "PASSWORD"
        assert keys["host"]["require"] and keys["port"]["valueType"] == "NUMBER"
        assert all(key["dataSource"] is None for key in keys.values())
    api.get("/datasources/types/4040/keydefines", expect=400)


def test_an_expired_data_source_serves_no_new_execution(api: Api, stage: Stage) -> None:
    made = new(api, "CSV", path=str(stage.folder))
    api.put(f"/datasources/{made['id']}/expire", {"labels": {"route": ""}})
    content = stage.content(1)
    content[0]["sink"]["id"] = made["id"]
    answer = api.post("/job/execute", {"content": content}, expect=400)
    assert "expired" in answer["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dataSourceName": ""}, "dataSourceName"),
        ({"dataSourceName": "a\tb"}, "dataSourceName"),
        ({"dataSourceType": "WARP"}, "dataSourceType"),
        ({"dataSourceType": None}, "dataSourceType"),
        ({"dataSourceTypeId": 4040}, "dataSourceTypeId"),
        ({"connectParams": []}, "connectParams"),
        ({"connectParams": {}}, "connectParams.host"),
        ({"connectParams": {"host": "h", "port": "x"}}, "connectParams.port"),
        ({"connectParams": {"host": "h", "allowLoadLocalInfile": True}},
         "connectParams.allowLoadLocalInfile"),
        ({"connectParams": {"host": "h", "params": {"queryInterceptors": "x"}}},
         "connectParams.queryInterceptors"),
        ({"connectParams": {"host": "h", "username": "u", "password": "******"}},
         "connectParams.password"),
        ({"connectParam": {}}, "connectParam"),
    ],
)  # fmt: skip
def test_a_wrong_data_source_is_refused_by_name(
    api: Api, change: dict[str, Any], field: str
) -> None:
    body = {"dataSourceName": f"w-{next(_NUMBERS)}", "dataSourceType": "MYSQL",
            "connectParams": {"host": "h"}}  # fmt: skip
    answer = api.post("/datasources", body | change, expect=400)
    assert field in [error["field"] for error in answer["data"]["errors"]]


def test_a_name_is_taken_once(api: Api, stage: Stage) -> None:
    made = new(api, "CSV", path=str(stage.folder))
    body = {key: made[key] for key in ("dataSourceName", "dataSourceType", "connectParams")}
    api.post("/datasources", body, expect=409)


def test_the_connection_test_is_real(api: Api, stage: Stage) -> None:
    labels = {"labels": {"route": ""}}
    good = api.put(f"/datasources/SQLITE/{stage.source_id}/connect", labels)
    assert good["data"]["server"].startswith("SQLite")
    # Deployed clients: the id first, then the version.
    again = api.put(f"/datasources/{stage.source_id}/1/connect?_=1", labels)
    assert again["data"] == good["data"]
    api.put(f"/datasources/MYSQL/{stage.source_id}/connect", expect=400)
    api.put("/datasources/SQLITE/4040404/connect", expect=404)
    api.put(f"/datasources/{'9' * 30}/1/connect", expect=400)
    assert api.data(f"/datasources/SQLITE/{stage.source_id}/dbs") == {"dbs": ["main"]}
    tables = api.data(f"/datasources/SQLITE/{stage.source_id}/dbs/main/tables")
    assert tables == {"tbs": ["orders"]}


def test_a_failed_connection_says_why_and_tells_no_secret(api: Api) -> None:
    port = free_port()
    made = new(api, "MYSQL", host="127.0.0.1", port=port, username="u", password="hunter22")
    answer = api.put(f"/datasources/MYSQL/{made['id']}/connect", expect=400)
    assert str(port) in answer["message"]
    assert "hunter22" not in json.dumps(answer)


def test_a_stored_secret_is_sent_only_where_it_was_stored_for(api: Api, mariadb: Service) -> None:
    made = new(api, "MYSQL", **mariadb.params)
    api.put(f"/datasources/MYSQL/{made['id']}/connect")
    masked = api.data(f"/datasources/{made['id']}")["info"]["connectParams"]
    assert masked["password"] == "******"
    body = {"dataSourceName": made["dataSourceName"], "dataSourceTypeId": "1",
            "createSystem": "MYSQL", "connectParams": masked}  # fmt: skip
    assert "MariaDB" in api.post("/datasources/op/connect", body)["data"]["server"]
    elsewhere = body | {"connectParams": masked | {"host": "localhost"}}
    answer = api.post("/datasources/op/connect", elsewhere, expect=400)
    assert answer["data"]["errors"][0]["field"] == "connectParams.password"
    # A change that keeps the mask keeps the secret.
    api.put(f"/datasources/{made['id']}", {"connectParams": masked, "dataSourceDesc": "new"})
    api.put(f"/datasources/MYSQL/{made['id']}/connect")
    wrong = masked | {"password": "not this"}
    answer = api.post("/datasources/op/connect", body | {"connectParams": wrong}, expect=400)
    assert "not this" not in json.dumps(answer)


@pytest.mark.parametrize("change", [{"host": "elsewhere.example"}, {"port": 3307}])
def test_a_kept_password_follows_to_no_other_server(api: Api, change: dict[str, Any]) -> None:
    made = new(api, "MYSQL", host="db.example", port=3306, username="u", password=PASSWORD)
    path = f"/datasources/{made['id']}"
    masked = api.data(path)["info"]["connectParams"] | change
    answer = api.put(path, {"connectParams": masked}, expect=400)
    assert answer["data"]["errors"][0]["field"] == "connectParams.password"
    assert api.data(path)["info"]["connectParams"]["host"] == "db.example"
    api.put(path, {"connectParams": masked | {"password": "entered again"}})
    assert api.data(path)["info"]["connectParams"] == masked


def test_no_answer_holds_a_password(api: Api) -> None:
    made = new(
        api, "POSTGRESQL", host="127.0.0.1", port=1, database="d", username="u", password=PASSWORD
    )
    answers = [
        api.get(f"/datasources/{made['id']}"),
        api.get(f"/datasources/{made['id']}/versions"),
        api.post("/datasources/query", {}),
        api.put(f"/datasources/POSTGRESQL/{made['id']}/connect", expect=400),
        api.post("/datasources", {"dataSourceName": "x", "connectParams": PASSWORD}, expect=400),
        api.post("/datasources", {"password": PASSWORD}, expect=400),
    ]
    for answer in answers:
        assert PASSWORD not in json.loads(json.dumps(answer)).__repr__()
        assert json.dumps(PASSWORD)[1:-1] not in json.dumps(answer)
