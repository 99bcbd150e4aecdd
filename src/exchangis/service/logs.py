"""Reading the logs of executions and tasks (contract, "Logs")."""

from __future__ import annotations

from exchangis.logs.reader import LogPage, LogQuery, LogReader
from exchangis.service.executions import ExecutionService
from exchangis.store.database import Database


class LogService:
    """Pages of logs; unknown ids are NotFound."""

    def __init__(self, database: Database, executions: ExecutionService) -> None:
        self._reader = LogReader(database)
        self._executions = executions

    def job_log(self, execution_id: str, query: LogQuery) -> LogPage:
        """A page of an execution's job log."""
        self._executions.status(execution_id)
        return self._reader.job_log(execution_id, query)

    def task_log(self, task_id: int, execution_id: str, query: LogQuery) -> LogPage:
        """A page of the log of a task of that execution."""
        self._executions.task(task_id, execution_id)
        return self._reader.task_log(task_id, query)
