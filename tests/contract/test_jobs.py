"""Stored jobs, as issue and deployed clients use them, on both bases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.conftest import Api, Stage


def test_a_job_is_created_read_changed_copied_and_deleted(api: Api, stage: Stage) -> None:
    # As the web client sends it: the id is an empty string.
    body = {
        "id": "", "jobName": "orders", "jobType": "OFFLINE", "engineType": "DATAX",
        "jobLabels": "a,b", "jobDesc": "每天", "projectId": "12", "labels": {"route": ""},
    }  # fmt: skip
    created = api.post("/job", body)["data"]["result"]
    assert isinstance(created["id"], int)
    assert (created["jobName"], created["engineType"], created["jobType"]) == (
        "orders", "DATAX", "OFFLINE"
    )  # fmt: skip
    assert (created["projectId"], created["jobLabels"], created["jobDesc"]) == (12, "a,b", "每天")
    path = f"/job/{created['id']}"
    read = api.data(f"{path}?labels=")["result"]
    assert read == created
    assert read["jobParams"] is None
    assert read["content"] == read["jobContent"] == "[]"
    changed = api.put(path, {"id": created["id"], "jobName": "orders 2"})["data"]["result"]
    assert (changed["jobName"], changed["jobDesc"]) == ("orders 2", "每天")
    api.put(path, changed | {"jobDesc": ""})
    assert api.data(path)["result"]["jobDesc"] == ""
    copied = api.post(f"{path}/copy", {"jobName": "third", "jobLabels": "c"})["data"]["result"]
    assert copied["id"] != created["id"]
    assert (copied["jobName"], copied["jobLabels"]) == ("third", "c")
    assert api.post(f"{path}/copy")["data"]["result"]["jobName"] == "orders 2_copy"
    # Deployed clients send a body with DELETE.
    answer = api.call("DELETE", path, json={"labels": {"route": ""}})
    assert answer["data"] == {"id": created["id"]}
    api.get(path, expect=404)


def test_jobs_are_paged(api: Api) -> None:
    name = f"paged-{api.base.name}"
    ids = [
        api.post("/job", {"jobName": f"{name}%{n}", "projectId": 77})["data"]["result"]["id"]
        for n in range(3)
    ]
    query = f"labels=&projectId=77&jobType=OFFLINE&name={name}%25&current=1&size=2"
    page = api.data(f"/job?{query}")
    assert (page["total"], [job["id"] for job in page["result"]]) == (3, ids[:0:-1])
    assert page["result"][0]["engineType"] == "NATIVE"
    assert api.data(f"/job?name={name}_")["total"] == 0
    assert api.data(f"/job?name={name}&jobType=STREAM&projectId=")["total"] == 0
    api.get("/job?size=1001", expect=400)
    api.get("/job?projectId=x", expect=400)


def content_forms(stage: Stage) -> list[Any]:
    subs = stage.content()
    return [subs, {"subJobs": subs}, json.dumps(subs), json.dumps({"subJobs": subs})]


@pytest.mark.parametrize("name", ["content", "jobContent"])
@pytest.mark.parametrize("form", range(4))
def test_a_content_comes_in_every_form_and_is_given_back_for_editing(
    api: Api, stage: Stage, name: str, form: int
) -> None:
    job = api.post("/job", {"jobName": "c"})["data"]["result"]["id"]
    body = {name: content_forms(stage)[form], "projectId": "1", "labels": {"route": ""}}
    saved = api.client.put(
        f"{api.base.prefix}/job/{job}/content", json=body, headers={"save-from": "save"}
    ).json()
    assert saved["status"] == 0 and saved["data"]["problems"] == []
    read = api.data(f"/job/{job}")["result"]
    assert read["content"] == read["jobContent"]
    subs = json.loads(read["content"])["subJobs"]
    assert [sub["subJobName"] for sub in subs] == ["test-1", "test-2"]
    assert subs[0]["dataSourceIds"]["source"]["ds"] == "shop"
    # What is given back may be saved again, and executed.
    api.put(f"/job/{job}/content", {"content": read["content"]})
    assert api.data(f"/job/{job}")["result"]["content"] == read["content"]
    api.post(f"/job/{job}/execute")


def test_a_draft_is_kept_and_its_problems_are_told(api: Api, stage: Stage) -> None:
    job = api.post("/job", {"jobName": "draft"})["data"]["result"]["id"]
    draft = [{"subJobName": "a", "dataSources": {"source_id": "HIVE.22.test.psn"}}]
    data = api.put(f"/job/{job}/content", {"content": draft})["data"]
    assert data["problems"] and data["problems"][0]["field"].startswith("content[0]")
    assert json.loads(data["result"]["content"])["subJobs"][0]["subJobName"] == "a"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "content"),
        ({"content": "{"}, "content"),
        ({"content": [1]}, "content"),
        ({"content": [], "jobContent": [{}]}, "jobContent"),
        ({"contents": []}, "contents"),
        (
            {"content": [{"source": {"connection": {"password": "hunter22"}}}]},
            "content[0].source.connection",
        ),
    ],
)
def test_a_content_that_is_none_is_refused(api: Api, body: Any, field: str) -> None:
    job = api.post("/job", {"jobName": "c"})["data"]["result"]["id"]
    answer = api.put(f"/job/{job}/content", body, expect=400)
    assert answer["data"]["errors"][0]["field"].startswith(field)
    assert "hunter22" not in json.dumps(answer)


def test_how_a_job_is_executed_is_saved(api: Api) -> None:
    job = api.post("/job", {"jobName": "c"})["data"]["result"]["id"]
    body = {
        "executeNode": "n1", "jobParams": '{"day": "1", "n": 2}', "proxyUser": "hadoop",
        "syncType": "FULL", "projectId": "1", "labels": {"route": ""},
    }  # fmt: skip
    api.put(f"/job/{job}/config", body)
    read = api.data(f"/job/{job}")["result"]
    assert json.loads(read["jobParams"]) == {"day": "1", "n": "2"}
    assert (read["proxyUser"], read["executeUser"]) == ("hadoop", "hadoop")
    assert (read["executeNode"], read["syncType"]) == ("n1", "FULL")
    api.put(f"/job/{job}/config", {"jobParams": "{}"})
    assert api.data(f"/job/{job}")["result"]["jobParams"] is None
    api.put(f"/job/{job}/config", {"syncType": "HALF"}, expect=400)
    api.put(f"/job/{job}/config", {"jobParams": "[1]"}, expect=400)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (None, "body"),
        ({}, "jobName"),
        ({"jobName": "  "}, "jobName"),
        ({"jobName": "a\nb"}, "jobName"),
        ({"jobName": "x" * 256}, "jobName"),
        ({"jobName": 5}, "jobName"),
        ({"jobName": "a", "jobType": "SOMETIMES"}, "jobType"),
        ({"jobName": "a", "engineType": "WARP"}, "engineType"),
        ({"jobName": "a", "projectId": "x"}, "projectId"),
        ({"jobName": "a", "projectId": 2**63}, "projectId"),
        ({"jobName": "a", "jobDesc": "\x00"}, "jobDesc"),
        ({"jobName": "a", "jobNmae": "b"}, "jobNmae"),
        ({"jobName": "a", "proxyUser": "a", "executeUser": "b"}, "proxyUser"),
        ({"jobName": "a", "proxyUser": "a" * 129}, "proxyUser"),
        ({"jobName": "a", "jobLabels": "a" * 1025}, "jobLabels"),
    ],
)
def test_a_wrong_job_is_refused_by_name(api: Api, body: Any, field: str) -> None:
    answer = api.post("/job", body, expect=400)
    assert answer["data"]["errors"][0]["field"] == field


def test_what_a_job_may_name_is_listed(api: Api) -> None:
    assert api.data("/job/engineType?labels=")["result"][0] == "NATIVE"
    assert "DATAX" in api.data("/job/engineType")["result"]
    assert api.data("/job/Executor")["result"] == ["enjoyyin"]
    verify = {one["funcName"]: one["paramNames"] for one in api.data("/job/func/verify")["data"]}
    assert verify["like"] == ["value"] and verify["is not null"] == []
    transform = {one["funcName"] for one in api.data("/job/func/transform?_=1")["data"]}
    assert {"ex_substr", "ex_pad", "ex_replace", "ex_filter"} <= transform
