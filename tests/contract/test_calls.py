"""The seven calls, each from the interface document's own text and examples, on both bases."""

from __future__ import annotations

import re
from typing import Any

import pytest

from exchangis.domain.states import State
from tests.contract.conftest import DOCUMENTED, SUCCESS, Api, Stage

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_GROUPS = ["running", "Inited", "Scheduled", "Success", "Failed", "WaitForRetry", "Cancelled",
           "Undefined", "Timeout"]  # fmt: skip


# --- 1. execute -----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, {}, {"permitPartialFailures": True}, {"labels": {"a": ""}}])
def test_execute_answers_the_id_of_a_stored_execution(
    api: Api, stage: Stage, job: int, body: Any
) -> None:
    wakes = len(stage.wakes)
    answer = api.post(f"/job/{job}/execute", body)
    assert answer["method"] == f"{DOCUMENTED}/job/{{id}}/execute"
    assert answer["message"] == SUCCESS
    assert list(answer["data"]) == ["jobExecutionId"]
    execution_id = answer["data"]["jobExecutionId"]
    assert isinstance(execution_id, str)
    record = stage.services.executions.get(execution_id)
    assert (record.state, record.job_id) == (State.INITED, job)
    assert record.permit_partial is bool(body and body.get("permitPartialFailures"))
    assert len(stage.wakes) == wakes + 1


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
@pytest.mark.parametrize("kind", ["application/json;charset=UTF-8", None])
def test_execute_takes_an_absent_and_an_empty_body(
    api: Api, job: int, content: bytes, kind: str | None
) -> None:
    headers = {"content-type": kind} if kind else {}
    api.call("POST", f"/job/{job}/execute", content=content, headers=headers)


def test_submitting_twice_gives_two_executions(api: Api, job: int) -> None:
    first, second = (api.post(f"/job/{job}/execute")["data"]["jobExecutionId"] for _ in "ab")
    assert first != second


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"permitPartialFailures": "true"}, "permitPartialFailures"),
        ({"permitPartialFailures": 1}, "permitPartialFailures"),
        ({"permitPartialFailure": True}, "permitPartialFailure"),
        ({"strict": "yes"}, "strict"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"jobParams": "{"}, "jobParams"),
        ([], "body"),
        ("x", "body"),
        (7, "body"),
    ],
)
def test_execute_refuses_by_name(api: Api, job: int, body: Any, field: str) -> None:
    answer = api.post(f"/job/{job}/execute", body, expect=400)
    assert answer["data"]["errors"][0]["field"] == field
    assert field in answer["message"]
    assert answer["method"] == f"{DOCUMENTED}/job/{{id}}/execute"


def test_execute_takes_our_own_options(api: Api, stage: Stage) -> None:
    content = stage.content(1)
    content[0]["source"]["table"] = "${table}"
    job = api.post("/job", {"jobName": "v", "content": content, "jobParams": {"table": "a"}})
    job_id = job["data"]["result"]["id"]
    body = {"timeout": 1.5, "strict": True, "jobParams": '{"table": "orders"}'}
    execution_id = api.post(f"/job/{job_id}/execute", body)["data"]["jobExecutionId"]
    record = stage.services.executions.get(execution_id)
    assert (record.timeout_ms, record.strict) == (1500, True)
    submission = stage.services.store.executions.submission(execution_id)
    assert submission.params == '{"table": "orders"}'


def test_an_empty_content_is_refused_at_execute(api: Api) -> None:
    for content in (None, "", "[]", [], {"subJobs": []}):
        job = api.post("/job", {"jobName": "empty", "content": content})["data"]["result"]["id"]
        answer = api.post(f"/job/{job}/execute", expect=400)
        assert answer["data"]["errors"][0]["field"] == "content"


def test_a_content_that_cannot_run_is_refused_with_its_place(api: Api, stage: Stage) -> None:
    for change, field in (
        ({"source": {"type": "SQLITE", "id": 4040, "table": "t"}}, "content[0].source.id"),
        ({"source": {"type": "CSV", "id": stage.source_id, "uri": "t"}}, "content[0].source.type"),
        ({"engineType": "WARP"}, "content[0].engineType"),
        ({"mode": "upsert"}, "content[0].mode"),
        ({"columns": [{"from": "a", "transformers": ["no_such"]}]}, "content[0].columns[0]"),
        ({"sink": stage.content(1)[0]["sink"] | {"header": "perhaps"}},
         "content[0].sink.options.header"),
    ):  # fmt: skip
        content = [stage.content(1)[0] | change]
        answer = api.post("/job/execute", {"content": content}, expect=400)
        assert answer["data"]["errors"][0]["field"].startswith(field), answer
        assert field in answer["message"]


def test_a_content_is_executed_without_a_job(api: Api, stage: Stage) -> None:
    body = {
        "jobName": "once", "engineType": "datax", "proxyUser": "hadoop",
        "permitPartialFailures": True, "jobContent": {"subJobs": stage.content()},
    }  # fmt: skip
    answer = api.post("/job/execute", body)
    assert answer["method"] == f"{DOCUMENTED}/job/execute"
    record = stage.services.executions.get(answer["data"]["jobExecutionId"])
    assert (record.job_id, record.job_name, record.execute_user) == (None, "once", "hadoop")
    assert record.permit_partial


# --- 2. status ------------------------------------------------------------------------------


def test_status_is_as_printed(api: Api, stage: Stage, execution: str) -> None:
    answer = api.get(f"/job/execution/{execution}/status?labels=")
    assert answer["method"] == f"{DOCUMENTED}/job/execution/{{id}}/status"
    assert answer["message"] == SUCCESS
    expected: dict[str, Any] = {"status": "Inited", "progress": 0.0}
    if api.base.is_field:
        expected["allTaskStatus"] = False
    assert answer["data"] == expected


def test_status_follows_the_execution_to_its_end(api: Api, stage: Stage, execution: str) -> None:
    path = f"/job/execution/{execution}/status"
    seen = [api.data(path)]
    stage.generate(execution)
    seen.append(api.data(path))
    first, second = stage.run(execution)
    stage.report(first, 0.5)
    seen.append(api.data(path))
    stage.finish(first, State.SUCCESS)
    seen.append(api.data(path))
    stage.finish(second, State.SUCCESS)
    seen.append(api.data(path))
    assert [one["status"] for one in seen] == [
        "Inited", "Scheduled", "Running", "Running", "Success"
    ]  # fmt: skip
    progress = [one["progress"] for one in seen]
    assert progress == sorted(progress) and progress[2] == 0.25 and progress[-1] == 1.0
    assert all(one < 1 for one in progress[:-1])
    assert api.data(f"/job/{execution}/allTaskStatus") == {"allTaskStatus": True}
    if api.base.is_field:
        assert [one["allTaskStatus"] for one in seen] == [False] * 4 + [True]


def test_all_task_status_waits_for_tasks_that_are_being_stopped(
    api: Api, stage: Stage, execution: str
) -> None:
    stage.generate(execution)
    first, second = stage.run(execution)
    stage.finish(first, State.FAILED, error="no such table", error_code="source_failed")
    assert api.data(f"/job/execution/{execution}/status")["status"] == "Failed"
    assert api.data(f"/job/{execution}/allTaskStatus") == {"allTaskStatus": False}
    stage.finish(second, State.CANCELLED)
    assert api.data(f"/job/{execution}/allTaskStatus") == {"allTaskStatus": True}


# --- 3. tasklist ----------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["tasklist", "taskList"])
def test_the_tasks_are_listed_once_the_job_runs(
    api: Api, stage: Stage, execution: str, spelling: str
) -> None:
    path = f"/job/execution/{execution}/{spelling}"
    assert api.data(path) == {"tasks": []}
    stage.generate(execution)
    assert api.data(path) == {"tasks": []}
    first, second = stage.run(execution, 1) + stage.claims[execution][1:]
    answer = api.get(path)
    assert answer["method"] == f"{DOCUMENTED}/job/execution/{{jobExecutionId}}/tasklist"
    tasks = answer["data"]["tasks"]
    assert [task["status"] for task in tasks] == ["Running", "Scheduled"]
    task = tasks[0]
    assert list(task) == [
        "taskId", "name", "status", "createTime", "launchTime", "lastUpdateTime", "engineType",
        "linkisJobId", "linkisJobInfo", "executeUser",
    ]  # fmt: skip
    assert task["taskId"] == (str(first.task_id) if api.base.is_field else first.task_id)
    assert (task["name"], task["engineType"]) == ("test-1", "sqoop")
    assert (task["linkisJobId"], task["linkisJobInfo"]) == (None, None)
    assert task["executeUser"] == "enjoyyin"
    assert all(_TIME.fullmatch(task[k]) for k in ("createTime", "launchTime", "lastUpdateTime"))
    assert tasks[1]["launchTime"] is None
    stage.queue.mark_running([(second, [])], now=1)
    stage.finish(first, State.SUCCESS)
    stage.finish(second, State.SUCCESS)
    assert [t["status"] for t in api.data(path)["tasks"]] == ["Success", "Success"]


# --- 4. progress ----------------------------------------------------------------------------


def test_progress_groups_tasks_by_state(api: Api, stage: Stage, execution: str) -> None:
    path = f"/job/execution/{execution}/progress"
    empty: dict[str, Any] = {} if api.base.is_field else {name: [] for name in _GROUPS}
    for _ in range(2):
        job = api.data(path)["job"]
        assert job["tasks"] == empty
        if job["status"] == "Inited":
            stage.generate(execution)
    assert job["status"] == "Scheduled"
    first, second = stage.run(execution, 1) + stage.claims[execution][1:]
    stage.report(first, 0.2)
    answer = api.get(path)
    assert answer["method"] == f"{DOCUMENTED}/job/execution/{{jobExecutionId}}/progress"
    job = answer["data"]["job"]
    assert (job["status"], job["progress"]) == ("Running", 0.1)
    name = "Running" if api.base.is_field else "running"
    entry = job["tasks"][name][0]
    task_id: Any = str(first.task_id) if api.base.is_field else first.task_id
    assert entry == {"taskId": task_id, "name": "test-1", "status": "Running", "progress": 0.2}
    assert job["tasks"]["Scheduled"][0]["name"] == "test-2"
    if api.base.is_field:
        assert set(job["tasks"]) == {"Running", "Scheduled"}
    else:
        assert list(job["tasks"]) == _GROUPS
        assert all(job["tasks"][group] == [] for group in _GROUPS[3:])
    assert second.task_id


# --- 5. metrics -----------------------------------------------------------------------------


def test_metrics_are_as_printed(api: Api, stage: Stage, execution: str) -> None:
    stage.generate(execution)
    first, second = stage.run(execution, 1) + stage.claims[execution][1:]
    stage.report(
        first, 0.2, cpu=1.5, memory=2**30, flow=100.0, exchanged_records=109345, error_records=5,
        ignored_records=6,
    )  # fmt: skip
    body = {"jobExecutionId": execution, "labels": {"route": ""}}
    answer = api.post(f"/task/execution/{first.task_id}/metrics", body)
    assert answer["method"] == f"{DOCUMENTED}/task/execution/{{taskId}}/metrics"
    assert answer["data"]["task"] == {
        "taskId": str(first.task_id) if api.base.is_field else first.task_id,
        "name": "test-1",
        "status": "Running" if api.base.is_field else "running",
        "metrics": {
            "resourceUsed": {"cpu": 1.5, "memory": 1024.0 if api.base.is_field else 1.0},
            "traffic": {"source": "sqlite", "sink": "csv", "flow": 100.0},
            "indicator": {"exchangedRecords": 109345, "errorRecords": 5, "ignoredRecords": 6},
        },
    }
    waiting = api.post(f"/task/execution/{second.task_id}/metrics", body)["data"]["task"]
    assert waiting["metrics"] == {}
    assert waiting["status"] == ("Scheduled" if api.base.is_field else "scheduled")


def test_metrics_need_the_tasks_own_execution(
    api: Api, stage: Stage, job: int, execution: str
) -> None:
    stage.generate(execution)
    (task, *_) = stage.run(execution)
    other = api.post(f"/job/{job}/execute")["data"]["jobExecutionId"]
    path = f"/task/execution/{task.task_id}/metrics"
    assert api.post(path, {"jobExecutionId": other}, expect=404)["status"] == 1
    for body in (None, {}, {"jobExecutionId": ""}, {"jobExecutionId": 5}, {"jobExecutionId": None}):
        answer = api.post(path, body, expect=400)
        assert answer["data"]["errors"][0]["field"] in ("jobExecutionId", "body")


# --- kill, history, deletion ------------------------------------------------------------------


def test_kill_of_waiting_work_is_at_once_and_twice_is_no_error(api: Api, execution: str) -> None:
    path = f"/job/execution/{execution}/kill"
    assert api.post(path, {"labels": {"route": ""}})["data"]["status"] == "Cancelled"
    assert api.post(path)["data"]["status"] == "Cancelled"
    log = api.data(f"/job/execution/{execution}/log")
    assert "Kill requested by enjoyyin" in log["logs"]["all"] and log["isEnd"]


def test_kill_of_running_work_is_cancelled_when_it_has_ended(
    api: Api, stage: Stage, execution: str
) -> None:
    stage.generate(execution)
    claims = stage.run(execution)
    path = f"/job/execution/{execution}/kill"
    assert api.post(path)["data"]["status"] == "Running"
    assert len(stage.queue.stops()) >= 2
    for claim in claims:
        stage.finish(claim, State.CANCELLED)
    assert api.data(f"/job/execution/{execution}/status")["status"] == "Cancelled"


def test_kill_of_what_has_ended_is_a_conflict(api: Api, stage: Stage, execution: str) -> None:
    stage.generate(execution)
    for claim in stage.run(execution):
        stage.finish(claim, State.SUCCESS)
    answer = api.post(f"/job/execution/{execution}/kill", expect=409)
    assert "Success" in answer["message"]


def test_an_execution_is_deleted_once_it_has_ended(api: Api, stage: Stage, execution: str) -> None:
    answer = api.post(f"/job/{execution}/deleteJob", expect=409)
    assert "Inited" in answer["message"]
    api.post(f"/job/execution/{execution}/kill")
    api.post(f"/job/{execution}/deleteJob", {"labels": {"route": ""}})
    api.get(f"/job/execution/{execution}/status", expect=404)
    api.get(f"/job/execution/{execution}/log", expect=404)


def test_the_history_is_paged_and_filtered(api: Api, stage: Stage) -> None:
    name = f"history-{api.base.name}"
    ids = [
        api.post("/job/execute", {"jobName": name, "content": stage.content(1)})["data"][
            "jobExecutionId"
        ]
        for _ in range(3)
    ]
    api.post(f"/job/execution/{ids[0]}/kill")
    empty = "labels=&jobExecutionId=&jobId=&status=&launchStartTime=&launchEndTime="
    page = api.data(f"/job/listJobs?{empty}&jobName={name}&current=1&size=2")
    assert (page["total"], [row["jobExecutionId"] for row in page["jobList"]]) == (3, ids[:0:-1])
    row = page["jobList"][0]
    assert (row["name"], row["status"], row["progress"]) == (name, "Inited", 0.0)
    assert row["executeUser"] == row["createUser"] == "enjoyyin"
    assert _TIME.fullmatch(row["createTime"])
    page = api.data(f"/job/listJobs?jobName={name}&status=Cancelled&current=&size=")
    assert [row["jobExecutionId"] for row in page["jobList"]] == ids[:1]
    page = api.data(f"/job/listJobs?jobName={name}&current=99999999999999&size=1000")
    assert (page["total"], page["jobList"]) == (3, [])
    assert api.data(f"/job/listJobs?jobExecutionId={ids[2]}")["total"] == 1
    assert api.data(f"/job/listJobs?jobName={name}&launchStartTime=1")["total"] == 0
    for query, field in (
        ("status=running", "status"), ("size=0", "size"), ("size=1001", "size"),
        ("current=0", "current"), ("current=-5", "current"), ("current=x", "current"),
        ("jobId=99999999999999999999", "jobId"), ("launchStartTime=1e99", "launchStartTime"),
    ):  # fmt: skip
        answer = api.get(f"/job/listJobs?{query}", expect=400)
        assert answer["data"]["errors"][0]["field"] == field


# --- what is not there ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/job/execution/{}/status"),
        ("GET", "/job/execution/{}/tasklist"),
        ("GET", "/job/execution/{}/taskList"),
        ("GET", "/job/execution/{}/progress"),
        ("GET", "/job/execution/{}/log"),
        ("POST", "/job/execution/{}/kill"),
        ("GET", "/job/{}/allTaskStatus"),
        ("POST", "/job/{}/deleteJob"),
    ],
)
@pytest.mark.parametrize(
    "execution_id", ["nobody", "0", "a" * 3000, "%00", "%F0%9F%98%80", "%ff", "a%3Fb%23", "'--"]
)
def test_an_unknown_execution_is_not_found(
    api: Api, verb: str, path: str, execution_id: str
) -> None:
    answer = api.call(verb, path.format(execution_id), expect=404)
    assert answer["method"].startswith(DOCUMENTED)


@pytest.mark.parametrize("task_id", ["0", "4040404", "9223372036854775807"])
def test_an_unknown_task_is_not_found(api: Api, execution: str, task_id: str) -> None:
    api.post(f"/task/execution/{task_id}/metrics", {"jobExecutionId": execution}, expect=404)
    api.get(f"/task/execution/{task_id}/log?jobExecutionId={execution}", expect=404)


@pytest.mark.parametrize("task_id", ["x", "-1", "1.5", "9223372036854775808", "9" * 400, "%00"])
def test_a_task_id_of_the_wrong_kind_is_refused(api: Api, execution: str, task_id: str) -> None:
    answer = api.post(
        f"/task/execution/{task_id}/metrics", {"jobExecutionId": execution}, expect=400
    )
    assert answer["data"]["errors"][0]["field"] == "taskId"


@pytest.mark.parametrize("job_id", ["4040404", "9223372036854775807"])
def test_an_unknown_job_is_not_found(api: Api, job_id: str) -> None:
    api.post(f"/job/{job_id}/execute", expect=404)
    api.get(f"/job/{job_id}", expect=404)
    api.call("DELETE", f"/job/{job_id}", expect=404)
