"""Logs: calls 6 and 7 of the interface document (contract, "Logs")."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from exchangis.api import views
from exchangis.api.answers import LogData
from exchangis.api.base import Base
from exchangis.api.calls import Calls
from exchangis.api.values import ExecutionId, Flag, Id, Number, Text
from exchangis.domain.errors import InvalidRequest
from exchangis.logs import field
from exchangis.logs.reader import LogPage, LogQuery, keywords
from exchangis.service.services import Services

_LINES = "2026-01-03 09:00:00.000 INFO  Task 5 (test-1): Running."


def _query(
    base: Base,
    from_line: int | None,
    page_size: int | None,
    ignore: str | None,
    only: str | None,
    last_rows: int | None,
    tail: bool | None,
) -> LogQuery:
    query = LogQuery(
        from_line=from_line or 0,
        page_size=100 if page_size is None else page_size,
        only_keywords=keywords(only),
        ignore_keywords=keywords(ignore),
        last_rows=last_rows,
        tail=bool(tail),
    )
    # With lastRows all other parameters are ignored, wrong ones too.
    return field.to_core(query) if base.is_field and not last_rows else query


def log_routes(services: Services, base: Base) -> Calls:
    """The calls on one base."""
    calls = Calls(base, "logs")
    logs = services.logs
    texts = {"all": _LINES, "error": "", "warn": "", "info": _LINES}
    example = {"endLine": 99, "isEnd": False, "logs": texts}

    def shown(page: LogPage) -> dict[str, Any]:
        return views.log_view(field.from_core(page) if base.is_field else page)

    @calls.add(
        "GET", "/job/execution/{jobExecutionId}/log", "Log of an execution",
        data=LogData, example=example,
    )  # fmt: skip
    def job_log(
        jobExecutionId: ExecutionId,
        fromLine: Number = None,
        pageSize: Number = None,
        ignoreKeywords: Text = None,
        onlyKeywords: Text = None,
        lastRows: Number = None,
        enableTail: Flag = None,
    ) -> Any:
        """What happened to the job (call 6): submitted, generated, each task's ways, and its end.

        Ask for `fromLine = endLine + 1` next, until `isEnd`. Defaults: fromLine 0, pageSize 100
        (1..10,000 lines looked at). `onlyKeywords` and `ignoreKeywords` are separated by commas.
        `lastRows` > 0 gives the last lines and makes the others void; `enableTail` gives the
        newest `pageSize` lines.
        """
        query = _query(base, fromLine, pageSize, ignoreKeywords, onlyKeywords, lastRows, enableTail)
        return shown(logs.job_log(jobExecutionId, query))

    @calls.add(
        "GET", "/task/execution/{taskId}/log", "Log of a task",
        prints="/job/execution/{taskId}/log",
        data=LogData, example=example,
    )  # fmt: skip
    def task_log(
        taskId: Id,
        jobExecutionId: Annotated[str, Query(max_length=4096)],
        fromLine: Number = None,
        pageSize: Number = None,
        ignoreKeywords: Text = None,
        onlyKeywords: Text = None,
        lastRows: Number = None,
        enableTail: Flag = None,
    ) -> Any:
        """The engine's own log of the task, over all attempts (call 7); see the job's log."""
        if not jobExecutionId.strip():
            raise InvalidRequest.field("jobExecutionId", jobExecutionId, "is required")
        query = _query(base, fromLine, pageSize, ignoreKeywords, onlyKeywords, lastRows, enableTail)
        return shown(logs.task_log(taskId, jobExecutionId, query))

    return calls
