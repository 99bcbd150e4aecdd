"""Stored jobs, and what a job may name: engines, users, functions."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Body

from exchangis.api import views
from exchangis.api.answers import (
    FunctionsData,
    IdData,
    JobData,
    JobListData,
    NamesData,
    SavedContentData,
)
from exchangis.api.base import Base
from exchangis.api.bodies import (
    JobBody,
    JobConfigBody,
    JobContentBody,
    JobCopyBody,
)
from exchangis.api.calls import Calls
from exchangis.api.routes_executions import one_content, one_user, page_of
from exchangis.api.users import User
from exchangis.api.values import Id, Number, Text
from exchangis.domain.errors import InvalidRequest
from exchangis.engine.functions import functions
from exchangis.engine.validators import validators
from exchangis.service.planning import known_engines
from exchangis.service.services import Services
from exchangis.store.jobs import JobFields, JobRecord

_SUMMARY = {
    "id": 1, "projectId": None, "jobName": "orders", "jobType": "OFFLINE", "engineType": "NATIVE",
    "jobDesc": "", "jobLabels": "", "executeUser": None, "proxyUser": None, "executeNode": None,
    "syncType": None, "createUser": "ann", "createTime": "2026-01-03 09:00:00",
    "modifyUser": "ann", "lastUpdateTime": "2026-01-03 09:00:00",
}  # fmt: skip
_JOB = _SUMMARY | {"jobParams": None, "content": "[]", "jobContent": "[]"}
_CONTENT = [
    {
        "subJobName": "orders",
        "dataSources": {
            "source_id": "MYSQL.1.shop.orders",
            "sink_id": "POSTGRESQL.2.public.orders",
        },
        "params": {
            "sources": [],
            "sinks": [{"config_key": "write_type", "config_value": "INSERT", "sort": 1}],
        },
        "transforms": {"type": "MAPPING", "mapping": []},
        "settings": [
            {"config_key": "exchangis.datax.setting.max.parallelism", "config_value": "2"}
        ],
    }
]


def _fields(body: JobBody | JobConfigBody | JobCopyBody) -> JobFields:
    """What the body says of the job's own fields; null leaves a field as it is."""
    given = {
        "project_id": body.projectId,
        "name": _stripped(getattr(body, "jobName", None)),
        "type": getattr(body, "jobType", None) or None,
        "engine": _stripped(getattr(body, "engineType", None)) or None,
        "description": getattr(body, "jobDesc", None),
        "labels": getattr(body, "jobLabels", None),
        "execute_user": one_user(
            getattr(body, "executeUser", None), getattr(body, "proxyUser", None)
        ),
        "execute_node": getattr(body, "executeNode", None),
        "sync_type": getattr(body, "syncType", None),
    }
    return cast(JobFields, {name: value for name, value in given.items() if value is not None})


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip()


def job_routes(services: Services, base: Base) -> Calls:
    """The calls on one base."""
    calls = Calls(base, "jobs")
    jobs, zone, aliases = services.jobs, services.settings.zone, services.settings.engine_aliases

    def shown(job: JobRecord) -> dict[str, Any]:
        return {"result": views.job_view(job, services.catalog, zone)}

    @calls.add(
        "GET", "/job/engineType", "Engines",
        data=NamesData, example={"result": ["NATIVE", "DATAX", "SQOOP"]}, problems=(),
    )  # fmt: skip
    def engine_types() -> Any:
        """Names that a job may give as `engineType`, aliases included."""
        return {"result": known_engines(aliases)}

    @calls.add(
        "GET", "/job/Executor", "Users that jobs may run for",
        data=NamesData, example={"result": ["ann"]}, problems=(),
    )  # fmt: skip
    def executors(user: User) -> Any:
        """Names that a job may give as `proxyUser`."""
        return {"result": [user]}

    @calls.add(
        "GET", "/job/func/verify", "Validators of columns",
        data=FunctionsData, example={"data": [{"funcName": "like", "paramNames": ["value"]}]},
        problems=(),
    )  # fmt: skip
    def verify_functions() -> Any:
        """Conditions that a column mapping may set; a row that fails one is dirty."""
        return {
            "data": [
                {
                    "funcName": one["name"],
                    "paramNames": [] if "null" in one["name"] else ["value"],
                    "description": one["description"],
                }
                for one in validators()
            ]
        }

    @calls.add(
        "GET", "/job/func/transform", "Transformers of columns",
        data=FunctionsData,
        example={"data": [{"funcName": "ex_pad", "paramNames": ["direction", "length", "text"]}]},
        problems=(),
    )  # fmt: skip
    def transform_functions() -> Any:
        """Functions that a column mapping may apply."""
        return {"data": functions()}

    @calls.add(
        "GET", "/job", "Jobs",
        data=JobListData, example={"result": [_SUMMARY], "total": 1}, problems=(400,),
    )  # fmt: skip
    def list_stored_jobs(
        projectId: Number = None,
        jobType: Text = None,
        name: Text = None,
        current: Number = None,
        size: Number = None,
    ) -> Any:
        """Jobs whose name holds `name`, newest first."""
        page = jobs.query(
            project_id=projectId,
            type_name=jobType,
            name=(name or "").strip() or None,
            **page_of(current, size),
        )
        return {
            "result": [views.job_summary(job, zone) for job in page.items],
            "total": page.total,
        }

    @calls.add("POST", "/job", "Create a job", data=JobData, example={"result": _JOB})
    def create_job(
        user: User,
        body: Annotated[
            JobBody,
            Body(examples=[{"jobName": "orders", "engineType": "NATIVE", "content": _CONTENT}]),
        ],
    ) -> Any:
        """Create a job. A content may be a draft; executing it says what it lacks."""
        if not (body.jobName or "").strip():
            raise InvalidRequest.field("jobName", body.jobName, "is required")
        fields = _fields(body)
        fields.setdefault("engine", "NATIVE")
        job = jobs.create(
            user,
            sub_jobs=one_content(body.content, body.jobContent),
            variables=body.jobParams,
            **fields,
        )
        return shown(job)

    @calls.add("GET", "/job/{id}", "A job", data=JobData, example={"result": _JOB})
    def get_job(id: Id) -> Any:  # noqa: A002
        """The job with its content, as `content` and as `jobContent`."""
        return shown(jobs.get(id))

    @calls.add("PUT", "/job/{id}", "Change a job", data=JobData, example={"result": _JOB})
    def update_job(
        id: Id,  # noqa: A002
        user: User,
        body: Annotated[JobBody, Body(examples=[{"jobName": "orders", "jobDesc": "every day"}])],
    ) -> Any:
        """Change the fields that are given."""
        job = jobs.update(
            id,
            user,
            sub_jobs=one_content(body.content, body.jobContent),
            variables=body.jobParams,
            **_fields(body),
        )
        return shown(job)

    @calls.add("DELETE", "/job/{id}", "Delete a job", data=IdData, example={"id": 1})
    def delete_job(id: Id) -> Any:  # noqa: A002
        """Remove the job; its executions stay in the history."""
        jobs.delete(id)
        return {"id": id}

    @calls.add(
        "PUT", "/job/{id}/content", "Save a job's content",
        data=SavedContentData, example={"result": _JOB, "problems": []},
    )  # fmt: skip
    def save_content(
        id: Id,  # noqa: A002
        user: User,
        body: Annotated[JobContentBody, Body(examples=[{"content": _CONTENT}])],
    ) -> Any:
        """Replace the content. `problems` lists what an execution would refuse as it is now."""
        content = one_content(body.content, body.jobContent)
        if content is None:
            raise InvalidRequest.field("content", None, "is required")
        job = jobs.update(id, user, sub_jobs=content)
        problems = [
            {"field": one.field, "value": one.value, "reason": one.reason}
            for one in jobs.problems(job)
        ]
        return {**shown(job), "problems": problems}

    @calls.add(
        "PUT", "/job/{id}/config", "Save how a job is executed",
        data=JobData, example={"result": _JOB},
    )  # fmt: skip
    def save_config(
        id: Id,  # noqa: A002
        user: User,
        body: Annotated[
            JobConfigBody,
            Body(examples=[{"proxyUser": "ann", "syncType": "FULL", "jobParams": '{"day": "1"}'}]),
        ],
    ) -> Any:
        """Change executing user and node, kind of synchronisation, and variables."""
        return shown(jobs.update(id, user, variables=body.jobParams, **_fields(body)))

    @calls.add("POST", "/job/{id}/copy", "Copy a job", data=JobData, example={"result": _JOB})
    def copy_job(
        id: Id,  # noqa: A002
        user: User,
        body: Annotated[JobCopyBody | None, Body(examples=[{"jobName": "orders_2"}])] = None,
    ) -> Any:
        """A second job with the same content."""
        fields = _fields(body) if body is not None else JobFields()
        if not fields.get("name"):
            fields.pop("name", None)
        return shown(jobs.copy(id, user, **fields))

    return calls
