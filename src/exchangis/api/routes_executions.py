"""Executing and following: calls 1 to 5 of the interface document, kill and history."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body

from exchangis.api import views
from exchangis.api.answers import (
    AllTaskStatusData,
    ExecutedData,
    HistoryData,
    MetricsData,
    NoData,
    ProgressData,
    StatusData,
    TaskListData,
)
from exchangis.api.base import Base
from exchangis.api.bodies import (
    Content,
    ExecuteBody,
    ExecuteContentBody,
    LabelsBody,
    MetricsBody,
)
from exchangis.api.calls import Calls
from exchangis.api.users import User
from exchangis.api.values import ExecutionId, Id, Number, Text
from exchangis.domain.content_variables import read_variables
from exchangis.domain.errors import InvalidRequest
from exchangis.service.executions import ExecuteOptions, Submitted, state_of
from exchangis.service.services import Services
from exchangis.store.executions import HistoryFilter

_ID = "1xk5v7q2c0nrd8t4m6w9zb3hja"
_TASK = {
    "taskId": 5, "name": "test-1", "status": "Inited", "createTime": "2022-01-03 09:00:00",
    "launchTime": None, "lastUpdateTime": "2022-01-03 09:00:00", "engineType": "sqoop",
    "linkisJobId": None, "linkisJobInfo": None, "executeUser": "enjoyyin",
}  # fmt: skip
_GROUPS: dict[str, list[Any]] = {
    name: []
    for name in ("Inited", "Scheduled", "Success", "Failed", "WaitForRetry", "Cancelled",
                 "Undefined", "Timeout")
}  # fmt: skip
_METRICS = {
    "resourceUsed": {"cpu": 0.8, "memory": 0.2},
    "traffic": {"source": "mysql", "sink": "postgresql", "flow": 100000.0},
    "indicator": {"exchangedRecords": 109345, "errorRecords": 5, "ignoredRecords": 5},
}
_RUN = {
    "jobExecutionId": _ID, "jobId": 1, "projectId": None, "name": "orders", "engineType": "NATIVE",
    "status": "Success", "progress": 1.0, "flow": 100000.0, "executeNode": "", "createUser": "ann",
    "executeUser": "ann", "createTime": "2026-01-03 09:00:00", "launchTime": "2026-01-03 09:00:00",
    "lastUpdateTime": "2026-01-03 09:01:00", "endTime": "2026-01-03 09:01:00", "error": None,
}  # fmt: skip


def one_content(content: Content, job_content: Content) -> Content:
    """The content under either of its names; both may be given if they say the same."""
    if content is not None and job_content is not None and content != job_content:
        raise InvalidRequest.field(
            "jobContent", None, "differs from content", guidance="Send one of the two."
        )
    return job_content if content is None else content


def one_user(execute_user: str | None, proxy_user: str | None) -> str | None:
    """On whose behalf, under either of its names."""
    if execute_user is not None and proxy_user is not None and execute_user != proxy_user:
        raise InvalidRequest.field(
            "proxyUser", proxy_user, "differs from executeUser", guidance="Send one of the two."
        )
    return proxy_user if execute_user is None else execute_user


def _options(body: ExecuteBody | None) -> ExecuteOptions:
    if body is None:
        return ExecuteOptions()
    return ExecuteOptions(
        permit_partial_failures=bool(body.permitPartialFailures),
        strict=bool(body.strict),
        timeout=body.timeout,
        variables=read_variables(body.jobParams),
    )


def execution_routes(services: Services, base: Base) -> Calls:
    """The calls on one base."""
    calls = Calls(base, "executions")
    executions = services.executions
    zone = services.settings.zone
    # SQLite answers such a read from memory; a database server is waited for in a thread.
    quick = services.store.database.dialect == "sqlite"

    @calls.add(
        "POST", "/job/execute", "Execute a content",
        data=ExecutedData, example={"jobExecutionId": _ID},
    )  # fmt: skip
    def execute_content(
        user: User,
        body: Annotated[
            ExecuteContentBody,
            Body(examples=[{"jobName": "orders", "content": [{
                "subJobName": "orders",
                "source": {"type": "MYSQL", "id": 1, "db": "shop", "table": "orders"},
                "sink": {"type": "PARQUET", "id": 2, "uri": "orders.parquet"},
            }]}]),
        ],
    ) -> Any:  # fmt: skip
        """Execute a content that is not stored as a job. Answers at once; tasks come later."""
        work = Submitted(
            content=one_content(body.content, body.jobContent),
            engine=body.engineType or "NATIVE",
            job_name=body.jobName or "adhoc",
            execute_user=one_user(body.executeUser, body.proxyUser) or user,
            project_id=body.projectId,
            execute_node=body.executeNode or "",
        )
        return {"jobExecutionId": executions.execute(work, _options(body), user)}

    @calls.add(
        "POST", "/job/{id}/execute", "Execute a job",
        data=ExecutedData, example={"jobExecutionId": _ID},
    )  # fmt: skip
    def execute_job(
        id: Id,  # noqa: A002 - the document's name
        user: User,
        body: Annotated[
            ExecuteBody | None, Body(examples=[{"permitPartialFailures": True}])
        ] = None,
    ) -> Any:
        """Execute a stored job (call 1). Executing it twice gives two executions."""
        return {"jobExecutionId": executions.execute_job(id, _options(body), user)}

    @calls.add(
        "GET", "/job/execution/{jobExecutionId}/status", "Status of an execution",
        prints="/job/execution/{id}/status",
        data=StatusData,
        example={"status": "Running", "progress": 0.1}
        | ({"allTaskStatus": False} if base.is_field else {}),
        problems=(404,), inline=quick,
    )  # fmt: skip
    def status(jobExecutionId: ExecutionId) -> Any:
        """State and progress (call 2)."""
        return views.status_view(executions.status(jobExecutionId), base)

    @calls.add(
        "GET", "/job/execution/{jobExecutionId}/tasklist", "Tasks of an execution",
        also=("/job/execution/{jobExecutionId}/taskList",),
        data=TaskListData,
        example={"tasks": [_TASK | {"taskId": base.task_id(5)}]},
        problems=(404,),
    )  # fmt: skip
    def task_list(jobExecutionId: ExecutionId) -> Any:
        """The tasks, in the order of the content (call 3); empty before the job is Running."""
        tasks = executions.tasks(jobExecutionId)
        return {"tasks": [views.task_view(task, base, zone) for task in tasks]}

    running = {"taskId": base.task_id(5), "name": "test-1", "status": "Running", "progress": 0.1}
    groups: dict[str, Any] = (
        {"Running": [running]} if base.is_field else {"running": [running], **_GROUPS}
    )

    @calls.add(
        "GET", "/job/execution/{jobExecutionId}/progress", "Progress of an execution",
        data=ProgressData,
        example={"job": {"status": "Running", "progress": 0.1, "tasks": groups}
                 | ({"total": 1} if base.is_field else {})},
        problems=(404,),
    )  # fmt: skip
    def progress(jobExecutionId: ExecutionId) -> Any:
        """Progress of the job and of its tasks by state (call 4); none before it is Running."""
        now, tasks = executions.progress(jobExecutionId)
        return views.progress_view(now, tasks, base)

    @calls.add(
        "POST", "/task/execution/{taskId}/metrics", "Metrics of a task",
        data=MetricsData,
        example={"task": {"taskId": base.task_id(5), "name": "test-1",
                          "status": "Running" if base.is_field else "running",
                          "metrics": _METRICS}},
    )  # fmt: skip
    def metrics(
        taskId: Id, body: Annotated[MetricsBody, Body(examples=[{"jobExecutionId": _ID}])]
    ) -> Any:
        """Resources, traffic and counts of a task (call 5); `{}` before the task runs."""
        return views.metrics_view(executions.task(taskId, body.jobExecutionId), base)

    @calls.add(
        "POST", "/job/execution/{jobExecutionId}/kill", "Kill an execution",
        data=StatusData, example={"status": "Running", "progress": 0.4}, problems=(404, 409),
    )  # fmt: skip
    def kill(jobExecutionId: ExecutionId, user: User, _body: LabelsBody | None = None) -> Any:
        """Ask for its end, on whatever server it runs. It is Cancelled when the work has ended.

        Killing twice is no error; an execution that ended otherwise is a conflict.
        """
        executions.kill(jobExecutionId, user)
        return views.status_view(executions.status(jobExecutionId), base)

    @calls.add(
        "GET", "/job/listJobs", "History of executions",
        data=HistoryData, example={"jobList": [_RUN], "total": 1}, problems=(400,),
    )  # fmt: skip
    def list_jobs(
        jobExecutionId: Text = None,
        jobId: Number = None,
        jobName: Text = None,
        status: Text = None,
        launchStartTime: Number = None,
        launchEndTime: Number = None,
        projectId: Number = None,
        current: Number = None,
        size: Number = None,
    ) -> Any:
        """Executions, newest first; times are milliseconds, `current` counts pages from 1."""
        wanted = HistoryFilter(
            execution_id=(jobExecutionId or "").strip() or None,
            job_id=jobId,
            job_name=(jobName or "").strip() or None,
            state=state_of(status),
            launched_from_ms=launchStartTime,
            launched_to_ms=launchEndTime,
            project_id=projectId,
        )
        page = executions.history(wanted, **page_of(current, size))
        return {
            "jobList": [views.history_view(record, zone) for record in page.items],
            "total": page.total,
        }

    @calls.add(
        "POST", "/job/{jobExecutionId}/deleteJob", "Delete an execution from the history",
        data=NoData, example={}, problems=(404, 409),
    )  # fmt: skip
    def delete_execution(jobExecutionId: ExecutionId, _body: LabelsBody | None = None) -> Any:
        """Remove a finished execution with its tasks and logs."""
        executions.delete(jobExecutionId)
        return {}

    @calls.add(
        "GET", "/job/{jobExecutionId}/allTaskStatus", "Whether everything has ended",
        data=AllTaskStatusData, example={"allTaskStatus": True}, problems=(404,),
        inline=quick,
    )  # fmt: skip
    def all_task_status(jobExecutionId: ExecutionId) -> Any:
        """Whether the job and all its tasks are final."""
        return {"allTaskStatus": executions.status(jobExecutionId).all_final}

    return calls


def page_of(
    current: int | None, size: int | None, names: tuple[str, str] = ("current", "size")
) -> dict[str, int]:
    """Page number and size with their defaults; InvalidRequest in the call's own names."""
    page, count = (1 if current is None else current), (10 if size is None else size)
    if page < 1:
        raise InvalidRequest.field(names[0], page, "must be at least 1")
    if not 1 <= count <= 1000:
        raise InvalidRequest.field(names[1], count, "must be between 1 and 1000")
    return {"page": page, "size": count}
