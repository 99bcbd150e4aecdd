"""Records as the calls show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from exchangis.api.base import Base
from exchangis.connectors.base import Connector, Param
from exchangis.connectors.registry import connector
from exchangis.domain.clock import format_ms
from exchangis.domain.content_sides import Catalog
from exchangis.domain.content_ui import to_ui_text
from exchangis.domain.masking import MASK
from exchangis.domain.states import State
from exchangis.logs.reader import LogPage
from exchangis.store.datasources import DataSourceRecord
from exchangis.store.executions import ExecutionRecord, ExecutionStatus, TaskRecord
from exchangis.store.jobs import JobRecord

# The order in which the interface document prints the groups of call 4.
_GROUPS = (State.RUNNING, State.INITED, State.SCHEDULED, State.SUCCESS, State.FAILED,
           State.WAIT_FOR_RETRY, State.CANCELLED, State.UNDEFINED, State.TIMEOUT)  # fmt: skip
_VALUE_TYPES = {"text": "TEXT", "integer": "NUMBER", "boolean": "TEXT", "choice": "TEXT"}


def status_view(status: ExecutionStatus, base: Base) -> dict[str, Any]:
    """`data` of call 2."""
    view: dict[str, Any] = {"status": status.state.value, "progress": status.progress}
    if base.is_field:
        view["allTaskStatus"] = status.all_final
    return view


def task_view(task: TaskRecord, base: Base, zone: ZoneInfo) -> dict[str, Any]:
    """One task of call 3."""
    return {
        "taskId": base.task_id(task.id),
        "name": task.name,
        "status": task.state.value,
        "createTime": format_ms(task.created_at, zone),
        "launchTime": format_ms(task.launched_at, zone),
        "lastUpdateTime": format_ms(task.updated_at, zone),
        "engineType": task.engine,
        "linkisJobId": task.external_id,
        "linkisJobInfo": task.external_info,
        "executeUser": task.execute_user,
    }


def progress_view(
    status: ExecutionStatus, tasks: Sequence[TaskRecord], base: Base
) -> dict[str, Any]:
    """`data` of call 4: tasks by state; the field base leaves empty groups out."""
    groups: dict[str, list[dict[str, Any]]] = {
        base.group(state): [
            {
                "taskId": base.task_id(task.id),
                "name": task.name,
                "status": task.state.value,
                "progress": task.progress,
            }
            for task in tasks
            if task.state is state
        ]
        for state in _GROUPS
    }
    job: dict[str, Any] = {"status": status.state.value, "progress": status.progress}
    if base.is_field:
        groups = {name: members for name, members in groups.items() if members}
        job["total"] = len(tasks)
    return {"job": job | {"tasks": groups}}


def metrics_view(task: TaskRecord, base: Base) -> dict[str, Any]:
    """`data` of call 5; `metrics` is empty before the task runs."""
    metrics: dict[str, Any] = {}
    if task.launched_at is not None:
        metrics = {
            "resourceUsed": {"cpu": round(task.cpu, 2), "memory": base.memory(task.memory)},
            "traffic": {
                "source": task.source_type.lower(),
                "sink": task.sink_type.lower(),
                "flow": round(task.flow, 1),
            },
            "indicator": {
                "exchangedRecords": task.exchanged_records,
                "errorRecords": task.error_records,
                "ignoredRecords": task.ignored_records,
            },
        }
    return {
        "task": {
            "taskId": base.task_id(task.id),
            "name": task.name,
            "status": base.metrics_status(task.state),
            "metrics": metrics,
        }
    }


def log_view(page: LogPage) -> dict[str, Any]:
    """`data` of calls 6 and 7."""
    return {
        "endLine": page.end_line,
        "isEnd": page.is_end,
        "logs": {
            "all": "\n".join(page.all),
            "error": "\n".join(page.error),
            "warn": "\n".join(page.warn),
            "info": "\n".join(page.info),
        },
    }


def history_view(record: ExecutionRecord, zone: ZoneInfo) -> dict[str, Any]:
    """One execution of the history."""
    return {
        "jobExecutionId": record.execution_id,
        "jobId": record.job_id,
        "projectId": record.project_id,
        "name": record.job_name,
        "engineType": record.engine,
        "status": record.state.value,
        "progress": record.progress,
        "flow": round(record.flow, 1),
        "executeNode": record.execute_node,
        "createUser": record.created_by,
        "executeUser": record.execute_user,
        "createTime": format_ms(record.created_at, zone),
        "launchTime": format_ms(record.launched_at, zone),
        "lastUpdateTime": format_ms(record.updated_at, zone),
        "endTime": format_ms(record.ended_at, zone),
        "error": record.error,
    }


def job_summary(job: JobRecord, zone: ZoneInfo) -> dict[str, Any]:
    """A job in a list."""
    return {
        "id": job.id,
        "projectId": job.project_id,
        "jobName": job.name,
        "jobType": job.type,
        "engineType": job.engine,
        "jobDesc": job.description,
        "jobLabels": job.labels,
        "executeUser": job.execute_user or None,
        "proxyUser": job.execute_user or None,
        "executeNode": job.execute_node or None,
        "syncType": job.sync_type or None,
        "createUser": job.created_by,
        "createTime": format_ms(job.created_at, zone),
        "modifyUser": job.modified_by,
        "lastUpdateTime": format_ms(job.modified_at, zone),
    }


def job_view(job: JobRecord, catalog: Catalog, zone: ZoneInfo) -> dict[str, Any]:
    """A job with its content, in the form that deployed clients load."""
    content = to_ui_text(job.content, catalog)
    return job_summary(job, zone) | {
        "jobParams": job.params,
        "content": content,
        "jobContent": content,
    }


def _type_id(type_name: str) -> int:
    return connector(type_name).type_id


def data_source_item(record: DataSourceRecord, zone: ZoneInfo) -> dict[str, Any]:
    """A data source in a list."""
    return {
        "id": record.id,
        "name": record.name,
        "dataSourceName": record.name,
        "dataSourceTypeId": _type_id(record.type),
        "dataSourceType": record.type,
        "desc": record.description,
        "labels": record.label,
        "expire": record.expired,
        "versionId": record.version,
        "readAble": True,
        "writeAble": True,
        "authDbs": None,
        "authTbls": None,
        "createSystem": record.type,
        "createUser": record.created_by,
        "createTime": format_ms(record.created_at, zone),
        "modifyUser": record.modified_by,
        "modifyTime": format_ms(record.modified_at, zone),
    }


def masked_params(record: DataSourceRecord) -> dict[str, Any]:
    """`connectParams` as they are shown: secrets as ******."""
    return record.params | dict.fromkeys(record.secret_names, MASK)


def data_source_view(record: DataSourceRecord, zone: ZoneInfo) -> dict[str, Any]:
    """A data source with its parameters."""
    return {
        "id": record.id,
        "dataSourceName": record.name,
        "dataSourceTypeId": _type_id(record.type),
        "dataSourceType": record.type,
        "dataSourceDesc": record.description,
        "label": record.label,
        "connectParams": masked_params(record),
        "versionId": record.version,
        "expire": record.expired,
        "createSystem": record.type,
        "createUser": record.created_by,
        "createTime": format_ms(record.created_at, zone),
        "modifyUser": record.modified_by,
        "modifyTime": format_ms(record.modified_at, zone),
    }


def version_view(record: DataSourceRecord, zone: ZoneInfo) -> dict[str, Any]:
    """The version that there is: earlier ones are not kept."""
    return {
        "versionId": record.version,
        "datasourceId": record.id,
        "createUser": record.modified_by,
        "createTime": format_ms(record.modified_at, zone),
        "published": True,
        "connectParams": masked_params(record),
    }


def type_view(kind: Connector) -> dict[str, Any]:
    """A kind of data source."""
    by_uri = kind.capabilities.addressing == "uri"
    return {
        "id": kind.type_id,
        "name": kind.name,
        "title": kind.title,
        "classifier": "文件" if by_uri else "数据库",
        "struct_classifier": "半结构化" if by_uri else "结构化",
    }


def key_define(param: Param, position: int) -> dict[str, Any]:
    """A connection parameter as a field of deployed clients' forms.

    `dataSource` stays null: those clients take any text in it for an address to ask.
    """
    choices = ("true", "false") if param.kind == "boolean" else param.choices
    return {
        "id": position,
        "key": param.name,
        "name": param.name,
        "description": param.description,
        "valueType": "PASSWORD" if param.secret else _VALUE_TYPES[param.kind],
        "defaultValue": None if param.default is None else _text(param.default),
        "require": param.required,
        "valueRegex": f"^({'|'.join(choices)})$" if choices else None,
        "refId": None,
        "refValue": None,
        "dataSource": None,
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
